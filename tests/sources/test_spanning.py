# SPDX-License-Identifier: MIT
"""A source that spans several file systems, and one that has volumes of its own: btrfs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sources.conftest import run
from xloop.testing import NativeTree, Pair, Tree

if TYPE_CHECKING:
    from sources.conftest import Lab, Show


def populate(top: Path) -> None:
    """Make files and hard links of them: on two empty file systems of a kind with equal numbers."""
    (top / "d").mkdir()
    for i in range(20):
        (top / f"f{i}").write_bytes(b"%d of %s" % (i, os.fsencode(top)))
        os.link(top / f"f{i}", top / "d" / f"hard{i}")


@pytest.fixture
def source(lab: Lab) -> Path:
    """A directory with two empty tmpfs, an ext4, a bind mount and a single file bound into it."""
    top = lab.directory("source")
    populate(top)
    for name in ("one", "two", "disk", "bound"):
        (top / name).mkdir()
    (top / "file").touch()
    for name in ("one", "two"):
        lab.mount("-t", "tmpfs", "tmpfs", point=top / name)
        populate(top / name)
    lab.bind(lab.disk("ext4"), top / "disk")
    populate(top / "disk")
    other = lab.directory("other")
    populate(other)
    lab.bind(other, top / "bound")
    lab.bind(other / "f3", top / "file")
    return top


def test_one_number_is_one_file(source: Path, show: Show) -> None:
    """By (st_dev, st_ino), as tar and rsync tell hard links, there are as many as natively."""

    def groups(top: Path) -> set[frozenset[str]]:
        found: dict[tuple[int, int], set[str]] = {}
        for where, directories, files in os.walk(top):
            for name in [*directories, *files]:
                path = os.path.join(where, name)
                st = os.lstat(path)
                found.setdefault((st.st_dev, st.st_ino), set()).add(os.path.relpath(path, top))
        return {frozenset(names) for names in found.values()}

    point = show(source)
    assert groups(point) == groups(source)
    assert (
        len({os.lstat(os.path.join(w, n)).st_dev for w, _, fs in os.walk(point) for n in fs}) == 1
    )


def test_the_contents_are_each_ones_own(source: Path, show: Show) -> None:
    for passthrough in (None, False):
        point = show(source, passthrough=passthrough)
        done = subprocess.run(["diff", "-r", source, point], capture_output=True, check=False)
        assert done.stdout == b""


def test_what_crosses_is_refused_as_natively(source: Path, show: Show) -> None:
    trees: list[Tree] = [NativeTree(str(show(source))), NativeTree(str(source))]
    pair = Pair(*trees)
    pair.fails(errno.EXDEV, lambda t: t.rename(b"one/f1", b"two/x"))
    pair.fails(errno.EXDEV, lambda t: t.rename(b"one/f1", b"two/f1", 2))
    pair.fails(errno.EXDEV, lambda t: t.link(b"one/f1", b"two/x"))
    pair.fails(errno.EXDEV, lambda t: t.link(b"f1", b"disk/x"))
    pair.fails(errno.EBUSY, lambda t: t.rmdir(b"one"))
    pair.fails(errno.EBUSY, lambda t: t.rename(b"one", b"three"))
    pair.fails(errno.EBUSY, lambda t: t.unlink(b"file"))
    for tree in trees:
        tree.shut()


def test_within_each_it_works(source: Path, show: Show) -> None:
    mnt = NativeTree(str(show(source)))
    for top in (b"one", b"two", b"disk", b"bound"):
        mnt.make(top + b"/new", top)
        mnt.rename(top + b"/new", top + b"/d/new")
        mnt.link(top + b"/d/new", top + b"/linked")
        assert mnt.lstat(top + b"/linked").st_ino == mnt.lstat(top + b"/d/new").st_ino
        assert mnt.content(top + b"/linked") == top
        listed = {name.name: name.ino for name in mnt.scandir(top + b"/d")}
        assert all(mnt.lstat(top + b"/d/" + name).st_ino == listed[name] for name in [b"new"])
        statvfs = os.statvfs(source / os.fsdecode(top))
        assert mnt.statvfs(top).f_blocks == statvfs.f_blocks
    mnt.shut()


def test_a_copy_from_one_to_the_other_is_made(source: Path, show: Show) -> None:
    point = show(source)
    with open(point / "one" / "f1", "rb") as one, open(point / "disk" / "copy", "wb") as two:
        assert os.copy_file_range(one.fileno(), two.fileno(), 4096) > 0
    assert (source / "disk" / "copy").read_bytes() == (source / "one" / "f1").read_bytes()


def test_something_mounted_later_is_seen_and_gone_again(lab: Lab, source: Path, show: Show) -> None:
    """What is mounted on the source while it is shown is what is found there, as natively."""
    point = show(source, entry_timeout=0, attr_timeout=0)
    assert (point / "d" / "hard1").exists()
    lab.mount("-t", "tmpfs", "tmpfs", point=source / "d")
    (source / "d" / "later").write_bytes(b"later")
    assert os.listdir(point / "d") == ["later"]
    assert (point / "d" / "later").read_bytes() == b"later"
    # Lazily: what the mount knows of it, it holds by descriptors, and so it is busy.
    run("umount", "-l", source / "d")
    assert (point / "d" / "hard1").exists()


# -- btrfs ----------------------------------------------------------------------------------


@pytest.fixture
def volumes(lab: Lab) -> Path:
    """A btrfs with two subvolumes, one in the other, and a snapshot: each numbers from 256."""
    if shutil.which("btrfs") is None:
        pytest.skip("btrfs-progs is not installed")
    top = lab.disk("btrfs")
    for name in ("a", "a/inner"):
        run("btrfs", "subvolume", "create", top / name)
        populate(top / name)
    run("btrfs", "subvolume", "snapshot", top / "a", top / "b")
    populate_marker = top / "b" / "f1"
    populate_marker.write_bytes(b"changed in the snapshot")
    return top


def test_subvolumes_do_not_share_numbers(volumes: Path, show: Show) -> None:
    test_one_number_is_one_file(volumes, show)
    test_the_contents_are_each_ones_own(volumes, show)


def test_subvolumes_are_borders_as_natively(volumes: Path, show: Show) -> None:
    trees: list[Tree] = [NativeTree(str(show(volumes))), NativeTree(str(volumes))]
    pair = Pair(*trees)
    pair.fails(errno.EXDEV, lambda t: t.link(b"a/f1", b"b/x"))
    pair.either(lambda t: t.rename(b"a/f1", b"b/x"))
    pair.either(lambda t: t.rmdir(b"a/inner"))
    for tree in trees:
        tree.shut()


def test_a_subvolume_alone_can_be_shown(volumes: Path, show: Show) -> None:
    point = show(volumes / "a")
    assert (point / "f1").read_bytes() == (volumes / "a" / "f1").read_bytes()
    assert stat.S_ISDIR(os.stat(point / "inner").st_mode)
    inner = {os.lstat(point / "inner" / f"f{i}").st_ino for i in range(20)}
    outer = {os.lstat(point / f"f{i}").st_ino for i in range(20)}
    assert not inner & outer


def test_extents_are_shared_through_the_mount(volumes: Path, show: Show) -> None:
    """copy_file_range(2) asks the source, and btrfs clones: nothing is read or written."""
    data = os.urandom(1 << 22)
    (volumes / "a" / "big").write_bytes(data)
    os.sync()
    point = show(volumes)
    with open(point / "a" / "big", "rb") as one, open(point / "a" / "copy", "wb") as two:
        assert os.copy_file_range(one.fileno(), two.fileno(), len(data)) == len(data)
    assert (point / "a" / "copy").read_bytes() == data
    usage = run("btrfs", "filesystem", "du", "--raw", "-s", volumes / "a" / "copy")
    assert usage.splitlines()[-1].split()[1] == "0", usage  # nothing exclusive
