# SPDX-License-Identifier: MIT
"""S_ISUID, S_ISGID and file capabilities go when, and only when, they go natively.

Each test does one thing to a file as many different people and compares what is left of the bits.
Through the mount it is a server with all capabilities that writes, and whether the kernel or the
server moves the data makes a difference: both are among the subjects.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from rights.support import ALICE, BOB, CAPABILITY, NET_RAW, OTHERS, STAFF, TEAM
from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

#: uid, gid, supplementary groups.
PEOPLE: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "owner": (ALICE, STAFF, ()),
    "owner in the group": (ALICE, TEAM, ()),
    "member": (BOB, TEAM, ()),
    "member by a supplementary group": (BOB, STAFF, (OTHERS, TEAM)),
    "stranger": (BOB, STAFF, ()),
    "stranger in root's group": (BOB, 0, ()),
}
MODES = (0o6777, 0o4777, 0o2777, 0o2767, 0o6767, 0o1777, 0o4666)
#: Those of them that say it all, for tests with many people.
TELLING = (0o6777, 0o6767, 0o4666)
#: Root's group is the server's own: what the server may must not count.
GROUPS = (TEAM, 0)

DATA = b"0123456789" * 1000


def write(tree: Tree, name: bytes) -> None:
    tree.with_fd(name, os.O_WRONLY, lambda fd: tree.pwrite(fd, b"new", 5))


def write_nothing(tree: Tree, name: bytes) -> None:
    tree.with_fd(name, os.O_WRONLY, lambda fd: tree.pwrite(fd, b"", 5))


def append(tree: Tree, name: bytes) -> None:
    tree.append(name, b"new")


def write_twice(tree: Tree, name: bytes) -> None:
    def both(fd: int) -> None:
        tree.write(fd, b"new")
        tree.write(fd, b"er")

    tree.with_fd(name, os.O_RDWR, both)


def truncate(tree: Tree, name: bytes) -> None:
    tree.truncate(name, 10)


def truncate_to_the_same(tree: Tree, name: bytes) -> None:
    tree.truncate(name, len(DATA))


def ftruncate(tree: Tree, name: bytes) -> None:
    tree.with_fd(name, os.O_WRONLY, lambda fd: tree.ftruncate(fd, 10))


def open_truncating(tree: Tree, name: bytes) -> None:
    tree.close(tree.open(name, os.O_WRONLY | os.O_TRUNC))


def create_truncating(tree: Tree, name: bytes) -> None:
    tree.make(name)


def open_only(tree: Tree, name: bytes) -> None:
    tree.close(tree.open(name, os.O_RDWR))


def allocate(tree: Tree, name: bytes) -> None:
    tree.with_fd(name, os.O_RDWR, lambda fd: tree.fallocate(fd, 0, 0, 20_000))


def punch(tree: Tree, name: bytes) -> None:
    tree.with_fd(name, os.O_RDWR, lambda fd: tree.fallocate(fd, 3, 0, 4096))


def copy_range(tree: Tree, name: bytes) -> None:
    def copy(fd: int) -> None:
        tree.with_fd(b"in", os.O_RDONLY, lambda i: tree.copy_file_range(i, 0, fd, 0, 5))

    tree.with_fd(name, os.O_RDWR, copy)


WAYS = (
    write,
    write_nothing,
    append,
    write_twice,
    truncate,
    truncate_to_the_same,
    ftruncate,
    open_truncating,
    create_truncating,
    open_only,
    allocate,
    punch,
    copy_range,
)


#: For these the kernel does not say whether the caller may keep the bits: /proc tells the server.
SERVER_ASKS = (allocate, punch, copy_range)


@pytest.fixture(autouse=True)
def _others_write(need: Need) -> None:
    need.root("several users have to write")


def outcome(call: Callable[[], object]) -> str | None:
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


Call = Callable[[Tree, Tree], dict[Any, Any]]


def same(pair: Pair, src: Tree, call: Call) -> dict[Any, Any]:
    """Compare what *call* makes of (tree, where files are made), and say only what differs.

    Files are made behind the mount: one that was just closed may still be open for the server, and
    what is open and passed through loses its bits by root's writes too.
    """
    mine, theirs = call(pair.mnt, src), call(pair.ref, pair.ref)
    differs = [
        f"{key}: {mine[key]}, natively {theirs[key]}" for key in theirs if mine[key] != theirs[key]
    ]
    assert not differs, "\n".join(differs)
    return theirs


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_bits_go_when_they_go_natively(
    pair: Pair, src: Tree, need: Need, way: Callable[[Tree, bytes], None]
) -> None:
    if way in SERVER_ASKS:
        need.kernel("its callers are processes with capabilities of their own")

    def what_is_left(tree: Tree, behind: Tree) -> dict[Any, Any]:
        left = {}
        behind.make(b"in", DATA)
        for who, identity in PEOPLE.items():
            somebody = tree.as_user(*identity)
            for group in GROUPS:
                for mode in TELLING:
                    name = b"%d-%o-%s" % (group, mode, who.encode())
                    behind.make(name, DATA)
                    behind.chown(name, ALICE, group)
                    behind.chmod(name, mode)
                    failed = outcome(lambda: way(somebody, name))
                    left[who, oct(mode), group] = failed, oct(tree.facts(name).mode)
        return left

    assert same(pair, src, what_is_left)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_root_keeps_the_bits_when_root_keeps_them_natively(
    pair: Pair, src: Tree, way: Callable[[Tree, bytes], None]
) -> None:
    def what_is_left(tree: Tree, behind: Tree) -> dict[Any, Any]:
        left = {}
        behind.make(b"in", DATA)
        for mode in MODES:
            name = b"%o" % mode
            behind.make(name, DATA)
            behind.chown(name, ALICE, TEAM)
            behind.chmod(name, mode)
            left[oct(mode)] = outcome(lambda: way(tree, name)), oct(tree.facts(name).mode)
        return left

    same(pair, src, what_is_left)


@pytest.mark.parametrize("who", ["root", "owner", "stranger"])
def test_file_capabilities_go_with_every_change_of_the_data(
    pair: Pair, src: Tree, who: str
) -> None:
    def what_is_left(tree: Tree, behind: Tree) -> dict[Any, Any]:
        left = {}
        behind.make(b"in", DATA)
        somebody = tree if who == "root" else tree.as_user(*PEOPLE[who])
        for way in WAYS:
            name = way.__name__.encode()
            behind.make(name, DATA)
            behind.chown(name, ALICE, TEAM)
            behind.chmod(name, 0o777)
            behind.setxattr(name, CAPABILITY, NET_RAW)
            failed = outcome(lambda: way(somebody, name))
            left[way.__name__] = failed, tree.listxattr(name)
        return left

    assert same(pair, src, what_is_left)["write"] == (None, [])


@pytest.mark.parametrize(
    ("uid", "gid"), [(-1, -1), (ALICE, TEAM), (BOB, -1), (-1, STAFF), (BOB, OTHERS)]
)
@pytest.mark.parametrize("who", ["root", "owner", "owner in the group", "stranger"])
def test_chown_clears_the_bits_as_natively(
    pair: Pair, src: Tree, who: str, uid: int, gid: int
) -> None:
    def what_is_left(tree: Tree, behind: Tree) -> dict[Any, Any]:
        left: dict[str, object] = {}
        somebody = tree if who == "root" else tree.as_user(*PEOPLE[who])
        for mode in MODES:
            name = b"%o" % mode
            behind.make(name, DATA)
            behind.chown(name, ALICE, TEAM)
            # Not writable for everybody: who could write might make the bits go anyway, and a
            # chown that changes nothing is not told from that.
            behind.chmod(name, mode & ~0o022)
            behind.setxattr(name, CAPABILITY, NET_RAW)
            failed = outcome(lambda: somebody.chown(name, uid, gid))
            left[oct(mode)] = failed, tree.facts(name)._replace(size=0), tree.listxattr(name)
        behind.mkdir(b"d")
        behind.chown(b"d", ALICE, TEAM)
        behind.chmod(b"d", 0o6777)
        left["directory"] = outcome(lambda: somebody.chown(b"d", uid, gid)), tree.facts(b"d")
        return left

    same(pair, src, what_is_left)


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("what", ["file", "directory"])
def test_chmod_lets_only_members_set_the_group_bit(pair: Pair, who: str, what: str) -> None:
    def what_is_left(tree: Tree) -> list[tuple[str | None, str]]:
        somebody = tree.as_user(*PEOPLE[who])
        tree.make(b"x") if what == "file" else tree.mkdir(b"x")
        tree.chown(b"x", ALICE, TEAM)
        left = []
        for mode in (0o2755, 0o6755, 0o2745, 0o1777, 0o4700, 0o755):
            failed = outcome(lambda: somebody.chmod(b"x", mode))
            left.append((failed, oct(tree.facts(b"x").mode)))
        return left

    pair.same(what_is_left)


@pytest.mark.parametrize("who", ["owner", "stranger", "member"])
def test_the_bits_that_are_set_while_the_file_is_open_go_too(pair: Pair, who: str) -> None:
    """What the kernel was handed when the file was opened still has no bits."""
    pair.same(lambda t: t.make(b"f", DATA, 0o777))
    pair.same(lambda t: t.chown(b"f", ALICE, TEAM))
    pair.same(lambda t: t.chmod(b"f", 0o777))
    somebody = pair.each(lambda t: t.as_user(*PEOPLE[who]))
    fd = pair.each(lambda t: somebody[t].open(b"f", os.O_RDWR))
    for mode in (0o6777, 0o4777, 0o2777):
        pair.same(lambda t: t.chmod(b"f", mode))
        pair.same(lambda t: somebody[t].pwrite(fd[t], b"x", 0))
        assert pair.same(lambda t: oct(t.facts(b"f").mode)) == oct(0o777)
    pair.same(lambda t: t.setxattr(b"f", CAPABILITY, NET_RAW))
    pair.same(lambda t: somebody[t].pwrite(fd[t], b"x", 0))
    assert pair.same(lambda t: t.listxattr(b"f")) == []


def test_a_descriptor_that_root_opened_writes_with_the_rights_of_who_uses_it(pair: Pair) -> None:
    """CAP_FSETID is asked of the writer, not of the opener."""
    pair.same(lambda t: t.make(b"f", DATA))
    pair.same(lambda t: t.chmod(b"f", 0o6755))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    stranger = pair.each(lambda t: t.as_user(*PEOPLE["stranger"]))
    pair.same(lambda t: t.pwrite(fd[t], b"x", 0))
    assert pair.same(lambda t: oct(t.facts(b"f").mode)) == oct(0o6755)
    pair.same(lambda t: stranger[t].pwrite(fd[t], b"x", 0))
    assert pair.same(lambda t: oct(t.facts(b"f").mode)) == oct(0o755)


@pytest.mark.parametrize("who", ["owner", "stranger"])
def test_a_mapping_clears_what_it_clears_natively(pair: Pair, need: Need, who: str) -> None:
    need.kernel("a mapping is the kernel's")
    pair.same(lambda t: t.make(b"f", DATA))
    pair.same(lambda t: t.chown(b"f", ALICE, TEAM))
    pair.same(lambda t: t.chmod(b"f", 0o6777))

    def change(tree: Tree) -> tuple[str, int]:
        somebody = tree.as_user(*PEOPLE[who])
        fd = somebody.open(b"f", os.O_RDWR)
        with mmap.mmap(fd, len(DATA)) as view:
            view[0] = view[0] ^ 1
            view.flush()
        return oct(tree.facts(b"f").mode), tree.content(b"f")[0]

    pair.same(change)


@pytest.fixture
def without_fsetid() -> Iterator[None]:
    """Take CAP_FSETID, and nothing else, out of this thread's effective set."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    after = (ctypes.c_uint32 * 6)(*before)
    after[0] &= ~(1 << 4)
    assert libc.capset(header, after) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.usefixtures("without_fsetid")
def test_root_without_the_capability_loses_the_bits_too(
    pair: Pair, need: Need, way: Callable[[Tree, bytes], None]
) -> None:
    need.kernel("it knows the capabilities of who calls")
    pair.same(lambda t: t.make(b"in", DATA))
    for mode in (0o6777, 0o2767):
        pair.same(lambda t: t.make(b"f", DATA))
        pair.same(lambda t: t.chmod(b"f", mode))
        pair.same(lambda t: outcome(lambda: way(t, b"f")))
        pair.same(lambda t: oct(t.facts(b"f").mode))
