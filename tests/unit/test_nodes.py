# SPDX-License-Identifier: MIT
"""NodeTable: identity, lookup counts, and descriptors as a cache."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from xloop.host import host
from xloop.nodes import Node, NodeTable
from xloop.types import ROOT_INO, Attr, Ino


@pytest.fixture
def table(tmp_path: Path) -> NodeTable:
    return NodeTable(host.open_root(str(tmp_path)), budget=16)


def _lookup(table: NodeTable, name: str, parent: Node | None = None, *, pin: bool = False) -> Node:
    parent = parent or table.root
    ref = table.ref(parent)
    fd = host.open_ref(ref, name.encode()) if pin else None
    return table.intern(host.statx(ref, name.encode()), parent, name.encode(), fd)


def test_hard_links_are_one_node(table: NodeTable, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    assert _lookup(table, "a") is _lookup(table, "b")
    assert table.root.nlookup == 1


def test_a_number_is_gone_when_its_count_is_zero(table: NodeTable, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    ino = _lookup(table, "a").ino
    assert _lookup(table, "a").ino == ino
    table.forget(ino, 1)
    assert table[ino].nlookup == 1
    table.forget(ino, 1)
    with pytest.raises(OSError, match="Stale") as caught:
        table[ino]
    assert caught.value.errno == errno.ESTALE
    assert _lookup(table, "a").nlookup == 1


def test_a_file_that_takes_over_a_number_gets_another_one(table: NodeTable) -> None:
    """While somebody knows the old one; and both are found by what they are."""
    attr = host.statx(table.root.fd or 0)._replace(mode=0o100644, ino=77, has_btime=True)
    old = table.intern(attr._replace(btime=1), table.root, b"a", None)
    new = table.intern(attr._replace(btime=2), table.root, b"a", None)
    assert old.ino == 77
    assert new.ino != old.ino
    assert table.find(attr._replace(btime=2)) is new
    table.forget(old.ino, 1)
    assert table.find(attr._replace(btime=2)) is new
    table.forget(new.ino, 1)
    assert table.find(attr._replace(btime=2)) is None
    assert len(table) == 1


def test_numbers_of_other_devices_are_not_inode_numbers(table: NodeTable) -> None:
    attr = host.statx(table.root.fd or 0)._replace(mode=0o100644, ino=77)
    here = table.intern(attr, table.root, b"a", None)
    there = table.intern(attr._replace(dev=attr.dev + 1), table.root, b"b", None)
    # The root of a file system has a small number too, and there may be a 1 in it.
    first = table.intern(attr._replace(ino=1), table.root, b"c", None)
    assert len({ROOT_INO, here.ino, there.ino, first.ino}) == 4
    assert table.find(attr._replace(dev=attr.dev + 1)) is there
    assert table.find(attr._replace(ino=1)) is first


def test_a_node_takes_less_than_300_bytes(table: NodeTable) -> None:
    """As many are known as a large tree has entries."""
    attr = host.statx(table.root.fd or 0)._replace(mode=0o100644)
    count = 100_000
    tracemalloc.start()
    try:
        for number in range(count):
            # Made anew as system calls make them: nothing is shared by accident.
            dev = int(str(attr.dev))
            fresh = attr._replace(ino=10**7 + number, dev=dev, btime=attr.btime + number)
            table.intern(fresh, table.root, b"name-%07d.txt" % number, None)
        assert tracemalloc.get_traced_memory()[0] / count < 300
    finally:
        tracemalloc.stop()


def test_the_root_is_never_forgotten(table: NodeTable) -> None:
    table.forget(ROOT_INO, 1000)
    assert table[ROOT_INO] is table.root


def test_names_that_lead_in_a_circle_lead_nowhere(table: NodeTable, tmp_path: Path) -> None:
    """Learnt while directories changed places: the one before, the other after."""
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    a = _lookup(table, "a")
    b = _lookup(table, "b", a)
    c = _lookup(table, "c", b)
    table.renamed(a, b, b"a")
    for node in a, b, c:
        node.fd = None  # as when room was needed
    for node in a, b, c:
        with pytest.raises(OSError, match="Stale") as caught:
            table.ref(node)
        assert caught.value.errno == errno.ESTALE
    table.renamed(a, table.root, b"a")
    assert host.statx(table.ref(c)).ino == c.st_ino


def test_a_new_file_is_another_node_though_name_and_number_may_be_the_same(
    table: NodeTable, tmp_path: Path
) -> None:
    for round_ in range(50):
        path = tmp_path / "a"
        path.write_text(str(round_))
        node = _lookup(table, "a")
        path.unlink()
        path.write_text("another")
        again = _lookup(table, "a")
        assert again is not node
        with pytest.raises(OSError, match="Stale"):
            table.ref(node)


def test_a_descriptor_keeps_an_object_that_has_no_name(table: NodeTable, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    node = _lookup(table, "a")
    table.ref(node)
    (tmp_path / "a").unlink()
    table.removed(node, table.root, b"a", last=True)
    for number in range(100):
        (tmp_path / f"other{number}").touch()
        table.ref(_lookup(table, f"other{number}"))
    assert host.statx(table.ref(node)).size == 5


def test_descriptors_stay_within_the_budget(table: NodeTable, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        (tmp_path / f"f{number}").touch()
        _lookup(table, f"f{number}", pin=True)
    assert table.descriptors <= table.budget
    assert len(os.listdir("/proc/self/fd")) - before <= table.budget + 2
    assert len(table) == 201


def test_a_node_that_lost_its_descriptor_opens_itself_again(
    table: NodeTable, tmp_path: Path
) -> None:
    deep = tmp_path
    node = table.root
    names = [f"d{number}" for number in range(60)]
    for name in names:
        deep = deep / name
        deep.mkdir()
        node = _lookup(table, name, node, pin=True)
    (deep / "file").write_text("x" * 7)
    leaf = _lookup(table, "file", node)
    assert host.statx(table.ref(leaf)).size == 7
    assert table.descriptors <= table.budget


def test_a_tree_may_be_deeper_than_the_interpreters_stack(tmp_path: Path) -> None:
    table = NodeTable(host.open_root(str(tmp_path)), budget=16)
    node = table.root
    for _ in range(3000):
        ref = table.ref(node)
        host.mkdir(ref, b"d", 0o755)
        node = _lookup(table, "d", node)
    assert table.ref(node) is not None
    # Innermost first: rmtree() and rm refuse or recurse at this depth.
    at: Node | None = node
    while at is not None and at.parent is not None:
        host.rmdir(table.ref(at.parent), b"d")
        at = at.parent


def test_a_node_follows_its_rename(table: NodeTable, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    node = _lookup(table, "a")
    os.rename(tmp_path / "a", tmp_path / "b")
    table.renamed(node, table.root, b"b")
    assert host.statx(table.ref(node)).size == 5


def test_what_was_replaced_behind_our_back_is_stale_not_something_else(
    table: NodeTable, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / "secret").write_text("another's")
    node = _lookup(table, "a")
    os.rename(tmp_path / "secret", tmp_path / "a")
    with pytest.raises(OSError, match="Stale"):
        table.ref(node)
    os.unlink(tmp_path / "a")
    os.symlink("/etc/passwd", tmp_path / "a")
    with pytest.raises(OSError, match="Stale"):
        table.ref(node)


def test_a_sweep_lets_go_of_files_that_nobody_uses(table: NodeTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "gone").write_text("x")
    (tmp_path / "dir").mkdir()
    file, gone, folder = (_lookup(table, name) for name in ("file", "gone", "dir"))
    for node in (file, gone, folder):
        table.ref(node)
    (tmp_path / "gone").unlink()
    table.removed(gone, table.root, b"gone", last=True)
    assert table.sweep()  # used since the last one: each has another round
    table.ref(file)
    assert table.sweep()
    assert file.fd is not None
    assert not table.sweep()
    assert file.fd is None
    # What has no name could not be opened again, and directories are wanted soon.
    assert gone.fd is not None
    assert folder.fd is not None
    assert host.statx(table.ref(file)).size == 1


def test_counts_stay_right_under_many_threads(table: NodeTable, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"f{number}").touch()

    def work() -> None:
        for turn in range(400):
            node = _lookup(table, f"f{turn % 8}", pin=turn % 3 == 0)
            table.ref(node)
            table.forget(node.ino, 1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(table) == 1
    assert table.descriptors == 0


def test_a_forgotten_number_is_refused(table: NodeTable) -> None:
    with pytest.raises(OSError, match="Stale"):
        table[Ino(12345)]


def test_attributes_have_all_their_fields(tmp_path: Path) -> None:
    # They are made without asking their class, which would count.
    attr = host.statx(host.open_root(str(tmp_path)))
    assert len(attr) == len(Attr._fields)
    assert attr.flags == 0
