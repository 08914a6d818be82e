# SPDX-License-Identifier: MIT
"""A mount can be mounted again with its owners translated, as a directory can: idmapped mounts.

The same is done to an idmapped copy of the mount and to one of the source's own file system
(mount_setattr(2), MOUNT_ATTR_IDMAP), whose twin of the directory has the same owners.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rights.support import ACCESS, ALICE, BOB, DEFAULT, STAFF, TEAM, acl
from xloop.testing import NativeTree, Pair, Tree

if TYPE_CHECKING:
    from rights.conftest import Show

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: ids are translated")

#: User and group N of the file system is shown as N + SHIFT, for N below COUNT.
SHIFT = 100_000
COUNT = 10_000

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _EMPTY, _AT_FDCWD, _MOVE_EMPTY = 1, 0x1000, -100, 4
_IDMAP = 0x100000


def _call(number: int, *args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def user_namespace() -> int:
    """Return a descriptor of a user namespace that maps as SHIFT and COUNT say."""
    waits = subprocess.Popen(
        ["unshare", "--user", "sh", "-c", "echo; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert waits.stdout is not None
        assert waits.stdout.readline() == b"\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{waits.pid}/{name}").write_text(f"0 {SHIFT} {COUNT}\n")
        return os.open(f"/proc/{waits.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        waits.communicate(b"\n")


def mount_idmapped(path: Path, point: Path) -> None:
    """Show the mount or directory at *path* at *point* too, with its owners translated."""
    point.mkdir()
    copy = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _CLONE | os.O_CLOEXEC)
    namespace = -1
    try:
        namespace = user_namespace()
        attr = struct.pack("=4Q", _IDMAP, 0, 0, namespace)
        try:
            _call(_MOUNT_SETATTR, copy, b"", _EMPTY, attr, ctypes.c_size_t(len(attr)))
        except OSError as error:
            if error.errno == errno.EINVAL and "mnt-" not in str(path):
                pytest.skip("the file system of the source cannot be idmapped")
            raise
        _call(_MOVE_MOUNT, copy, b"", _AT_FDCWD, os.fsencode(point), _MOVE_EMPTY)
    finally:
        for fd in (copy, namespace):
            if fd >= 0:
                os.close(fd)


@pytest.fixture(params=["passthrough", "served"])
def pair(request: pytest.FixtureRequest, work: Path, show: Show) -> Iterator[Pair]:
    """An idmapped copy of the mount, and one of the source's file system."""
    for name in ("source", "twin"):
        (work / name).mkdir()
        (work / name).chmod(0o777)
    passthrough = None if request.param == "passthrough" else False
    point = show(work / "source", allow_other=True, suid=True, dev=True, passthrough=passthrough)
    made: list[Tree] = []
    try:
        for path, name in ((point, "idmapped"), (work / "twin", "idmapped-twin")):
            mount_idmapped(path, work / name)
            made.append(NativeTree(str(work / name)))
        yield Pair(*made)
    finally:
        for tree in made:
            tree.shut()
        for name in ("idmapped", "idmapped-twin"):
            subprocess.run(["umount", "-l", work / name], check=False, capture_output=True)


def below(work: Path) -> list[Tree]:
    return [NativeTree(str(work / name)) for name in ("source", "twin")]


def test_what_is_made_is_stored_untranslated(pair: Pair, work: Path) -> None:
    alice = pair.each(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF, umask=0o027))
    pair.same(lambda t: alice[t].make(b"f", b"x", 0o666))
    pair.same(lambda t: alice[t].mkdir(b"d", 0o777))
    pair.same(lambda t: alice[t].symlink(b"f", b"l"))
    pair.same(lambda t: alice[t].mknod(b"p", stat.S_IFIFO | 0o666))
    fd = pair.each(lambda t: alice[t].open(b".", os.O_RDWR | os.O_TMPFILE, 0o666))
    pair.same(lambda t: alice[t].link_fd(fd[t], b"t"))
    names = [b"f", b"d", b"l", b"p", b"t"]
    shown = pair.same(lambda t: [t.facts(name) for name in names])
    assert {(made.uid, made.gid) for made in shown} == {(SHIFT + ALICE, SHIFT + STAFF)}
    for tree in below(work):
        stored = [tree.facts(name) for name in names]
        assert {(made.uid, made.gid) for made in stored} == {(ALICE, STAFF)}
        tree.shut()


def test_who_has_no_id_there_makes_nothing(pair: Pair, work: Path) -> None:
    """EOVERFLOW: the file could belong to nobody."""
    outsider = pair.each(lambda t: t.as_user(ALICE, STAFF))
    pair.fails(errno.EOVERFLOW, lambda t: outsider[t].make(b"f"))
    pair.fails(errno.EOVERFLOW, lambda t: outsider[t].mkdir(b"d"))
    pair.fails(errno.EOVERFLOW, lambda t: t.make(b"f"))  # root neither
    assert sorted(os.listdir(work / "source")) == []


def test_rights_go_by_the_ids_that_are_shown(pair: Pair) -> None:
    owner = pair.each(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF))
    pair.same(lambda t: owner[t].make(b"f", b"data", 0o600))
    pair.same(lambda t: owner[t].mkdir(b"d", 0o700))
    people = {
        "the owner": (SHIFT + ALICE, SHIFT + STAFF, ()),
        "who has the stored id": (ALICE, STAFF, ()),
        "another": (SHIFT + BOB, SHIFT + BOB, ()),
    }

    def attempts(tree: Tree) -> dict[tuple[str, str], object]:
        found: dict[tuple[str, str], object] = {}
        for who, identity in people.items():
            somebody = tree.as_user(*identity)
            calls: dict[str, Callable[[Tree], object]] = {
                "read": lambda t: t.content(b"f"),
                "list": lambda t: t.listdir(b"d"),
                "chmod": lambda t: t.chmod(b"f", 0o600),
                "touch": lambda t: t.utime(b"f", 5, 5),
                "access": lambda t: t.access(b"f", os.R_OK),
            }
            for what, call in calls.items():
                try:
                    found[who, what] = call(somebody)
                except OSError as error:
                    found[who, what] = errno.errorcode[error.errno or 0]
        return found

    found = pair.same(attempts)
    assert found["the owner", "read"] == b"data"
    assert found["who has the stored id", "read"] == "EACCES"


def test_chown_takes_the_ids_that_are_shown(pair: Pair, work: Path) -> None:
    pair.same(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF).make(b"f"))
    pair.same(lambda t: t.chown(b"f", SHIFT + BOB, SHIFT + TEAM))
    assert pair.same(lambda t: t.facts(b"f"))[3:5] == (SHIFT + BOB, SHIFT + TEAM)
    pair.either(lambda t: t.chown(b"f", ALICE, STAFF))
    for tree in below(work):
        assert tree.facts(b"f")[3:5] == (BOB, TEAM)
        tree.shut()


def test_acls_are_translated(pair: Pair, work: Path) -> None:
    owner = pair.each(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF))
    shown = acl(7, 0, 0, users=[(SHIFT + BOB, 7)], groups=[(SHIFT + TEAM, 5)], mask=7)
    pair.same(lambda t: owner[t].mkdir(b"d", 0o700))
    for kind in (ACCESS, DEFAULT):
        pair.same(lambda t: owner[t].setxattr(b"d", kind, shown))
        assert pair.same(lambda t: t.getxattr(b"d", kind)) == shown
        for tree in below(work):
            stored = acl(7, 0, 0, users=[(BOB, 7)], groups=[(TEAM, 5)], mask=7)
            assert tree.getxattr(b"d", kind) == stored
            tree.shut()
    pair.same(lambda t: t.as_user(SHIFT + BOB, SHIFT + BOB).make(b"d/f"))
    pair.fails(errno.EACCES, lambda t: t.as_user(BOB, BOB).listdir(b"d"))
    member = pair.each(lambda t: t.as_user(SHIFT + 3000, SHIFT + 3000, (SHIFT + TEAM,)))
    assert pair.same(lambda t: member[t].listdir(b"d")) == [b"f"]


def test_groups_work_as_they_are_shown(pair: Pair, work: Path) -> None:
    for tree in below(work):
        tree.mkdir(b"team")
        tree.chown(b"team", 0, TEAM)
        tree.chmod(b"team", 0o2770)
        tree.shut()
    member = pair.each(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF, (SHIFT + TEAM,)))
    pair.same(lambda t: member[t].make(b"team/f"))
    assert pair.same(lambda t: t.facts(b"team/f"))[3:5] == (SHIFT + ALICE, SHIFT + TEAM)
    stranger = pair.each(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF, (TEAM,)))
    pair.fails(errno.EACCES, lambda t: stranger[t].make(b"team/g"))


def test_the_bits_go_as_natively(pair: Pair, work: Path) -> None:
    for mode in (0o6777, 0o2777, 0o4777, 0o2767):
        for who in (ALICE, BOB):
            name = b"%o-%d" % (mode, who)
            for tree in below(work):
                tree.make(name, b"data")
                tree.chown(name, ALICE, TEAM)
                tree.chmod(name, mode)
                tree.shut()
            somebody = pair.each(lambda t: t.as_user(SHIFT + who, SHIFT + STAFF))
            pair.same(lambda t: somebody[t].append(name, b"more"))
            pair.same(lambda t: oct(t.facts(name).mode))


def test_the_mount_itself_goes_on_untranslated(pair: Pair, work: Path) -> None:
    pair.same(lambda t: t.as_user(SHIFT + ALICE, SHIFT + STAFF).make(b"f"))
    (point,) = work.glob("mnt-*")
    tree = NativeTree(str(point))
    assert tree.facts(b"f")[3:5] == (ALICE, STAFF)
    tree.as_user(BOB, STAFF).make(b"g")
    tree.shut()
    assert pair.mnt.facts(b"g")[3:5] == (SHIFT + BOB, SHIFT + STAFF)


def test_a_mount_where_the_source_checks_cannot_be_idmapped(work: Path, show: Show) -> None:
    """It would have to know who asks, and with translated ids the kernel does not say."""
    (work / "source").mkdir()
    point = show(work / "source", allow_other=True, default_permissions=False)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        mount_idmapped(point, work / "idmapped")
