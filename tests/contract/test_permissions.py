# SPDX-License-Identifier: MIT


"""Who owns what is made, and who may do what: umask, setgid and sticky directories, ACLs."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

Make = Callable[[Tree, bytes], object]
MAKERS: dict[str, Make] = {
    "create": lambda t, name: t.make(name, b"", 0o666),
    "mkdir": lambda t, name: t.mkdir(name, 0o777),
    "mknod": lambda t, name: t.mknod(name, stat.S_IFREG | 0o666),
    "fifo": lambda t, name: t.mknod(name, stat.S_IFIFO | 0o666),
    "symlink": lambda t, name: t.symlink(b"x", name),
}
EACH_MAKER = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(autouse=True)
def _there_are_others(need: Need) -> None:
    need.root("somebody else has to act")


@EACH_MAKER
def test_what_is_made_belongs_to_its_maker(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: make(t.as_user(1001, 1002, (5, 6), umask=0o027), b"x"))
    made = pair.same(lambda t: t.facts(b"x"))
    assert (made.uid, made.gid) == (1001, 1002)


@EACH_MAKER
def test_what_is_made_in_a_setgid_directory_has_its_group(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chown(b"d", 0, 2000))
    pair.same(lambda t: t.chmod(b"d", 0o2777))
    for user, groups in ((1001, ()), (1002, (2000,)), (0, ())):
        pair.same(lambda t: make(t.as_user(user, user, groups), b"d/%d" % user))
        made = pair.same(lambda t: t.facts(b"d/%d" % user))
        assert (made.uid, made.gid) == (user, 2000)
        # A directory hands it on; a file does not.
        is_dir = made.type == stat.S_IFDIR
        assert bool(made.mode & stat.S_ISGID) == is_dir


@pytest.mark.parametrize("member", [False, True])
def test_setgid_of_a_new_file_is_for_members_of_the_group(pair: Pair, member: bool) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chown(b"d", 0, 2000))
    pair.same(lambda t: t.chmod(b"d", 0o2777))
    other = pair.each(lambda t: t.as_user(1001, 1001, (2000,) if member else (), umask=0))
    pair.same(lambda t: t_close(other[t], b"d/f", 0o2775))
    pair.same(lambda t: other[t].mknod(b"d/g", stat.S_IFREG | 0o2775))
    for name in (b"d/f", b"d/g"):
        assert bool(pair.same(lambda t: t.facts(name)).mode & stat.S_ISGID) == member


def t_close(t: Tree, name: bytes, mode: int) -> None:
    t.close(t.open(name, os.O_RDWR | os.O_CREAT, mode))


def test_chmod_sets_setgid_only_for_members_of_the_group(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", 1001, 2000))
    stranger = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: stranger[t].chmod(b"f", 0o2755))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o755
    member = pair.each(lambda t: t.as_user(1001, 1001, (2000,)))
    pair.same(lambda t: member[t].chmod(b"f", 0o2755))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o2755


def test_chown_by_the_owner_is_to_ones_own_groups(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", 1001, 1001))
    owner = pair.each(lambda t: t.as_user(1001, 1001, (2000,)))
    pair.same(lambda t: owner[t].chown(b"f", -1, 2000))
    assert pair.same(lambda t: t.facts(b"f")).gid == 2000
    pair.same(lambda t: owner[t].chown(b"f", 1001, 1001))
    pair.fails(errno.EPERM, lambda t: owner[t].chown(b"f", -1, 3000))
    pair.fails(errno.EPERM, lambda t: owner[t].chown(b"f", 1002, -1))
    stranger = pair.each(lambda t: t.as_user(1002, 2000))
    pair.fails(errno.EPERM, lambda t: stranger[t].chown(b"f", -1, 2000))


def test_chown_by_the_owner_clears_suid_and_sgid(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", 1001, 1001))
    pair.same(lambda t: t.chmod(b"f", 0o6755))
    owner = pair.each(lambda t: t.as_user(1001, 1001, (2000,)))
    pair.same(lambda t: owner[t].chown(b"f", -1, 2000))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o755


# -- sticky directories -------------------------------------------------------------------------


def test_in_a_sticky_directory_one_removes_ones_own(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chown(b"d", 3000, 3000))
    pair.same(lambda t: t.chmod(b"d", 0o1777))
    mine = pair.each(lambda t: t.as_user(1001, 1001))
    theirs = pair.each(lambda t: t.as_user(1002, 1002))
    keeper = pair.each(lambda t: t.as_user(3000, 3000))
    for name in (b"d/a", b"d/b", b"d/c"):
        pair.same(lambda t: mine[t].make(name, name, 0o666))
    pair.same(lambda t: mine[t].mkdir(b"d/sub"))
    pair.same(lambda t: theirs[t].make(b"d/own"))
    pair.fails(errno.EPERM, lambda t: theirs[t].unlink(b"d/a"))
    pair.fails(errno.EPERM, lambda t: theirs[t].rmdir(b"d/sub"))
    pair.fails(errno.EPERM, lambda t: theirs[t].rename(b"d/a", b"d/x"))
    pair.fails(errno.EPERM, lambda t: theirs[t].rename(b"d/own", b"d/a"))
    pair.same(lambda t: mine[t].unlink(b"d/a"))
    pair.same(lambda t: keeper[t].unlink(b"d/b"))
    pair.same(lambda t: t.unlink(b"d/c"))
    pair.same(lambda t: theirs[t].rename(b"d/own", b"d/mine"))
    pair.same(lambda t: t.snapshot())


# -- the umask, and default ACLs, before which it gives way ---------------------------------------


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as the kernel takes it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"


@pytest.fixture
def _acls(need: Need) -> None:
    def attempt(t: Tree) -> None:
        t.make(b"acl")
        t.setxattr(
            b"acl", ACCESS, _acl((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 4, NOBODY))
        )

    need.source("POSIX ACLs", attempt)


@pytest.mark.usefixtures("_acls")
def test_an_acl_lets_in_whom_it_names(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data", 0o600))
    acl = _acl(
        (USER_OBJ, 6, NOBODY),
        (USER, 4, 1001),
        (GROUP_OBJ, 0, NOBODY),
        (GROUP, 6, 2000),
        (MASK, 6, NOBODY),
        (OTHER, 0, NOBODY),
    )
    pair.same(lambda t: t.setxattr(b"f", ACCESS, acl))
    assert pair.same(lambda t: t.getxattr(b"f", ACCESS)) == acl
    # The group bits of the mode are the mask.
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o660
    named = pair.each(lambda t: t.as_user(1001, 9999))
    member = pair.each(lambda t: t.as_user(1002, 9999, (2000,)))
    stranger = pair.each(lambda t: t.as_user(1003, 9999))
    assert pair.same(lambda t: named[t].content(b"f")) == b"data"
    pair.fails(errno.EACCES, lambda t: named[t].append(b"f", b"x"))
    pair.same(lambda t: member[t].append(b"f", b"more"))
    pair.fails(errno.EACCES, lambda t: stranger[t].content(b"f"))
    # chmod changes the mask, and so what the named may.
    pair.same(lambda t: t.chmod(b"f", 0o640))
    pair.fails(errno.EACCES, lambda t: member[t].append(b"f", b"x"))
    pair.same(lambda t: t.getxattr(b"f", ACCESS))


@pytest.mark.usefixtures("_acls")
@EACH_MAKER
def test_a_default_acl_takes_the_place_of_the_umask(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o777))
    default = _acl(
        (USER_OBJ, 7, NOBODY),
        (USER, 6, 1001),
        (GROUP_OBJ, 5, NOBODY),
        (MASK, 7, NOBODY),
        (OTHER, 1, NOBODY),
    )
    pair.same(lambda t: t.setxattr(b"d", DEFAULT, default))
    other = pair.each(lambda t: t.as_user(1002, 1002, umask=0o777))
    pair.same(lambda t: make(other[t], b"d/x"))
    pair.same(lambda t: t.facts(b"d/x"))
    pair.either(lambda t: t.getxattr(b"d/x", ACCESS, follow=False))
    pair.either(lambda t: t.getxattr(b"d/x", DEFAULT, follow=False))


@pytest.mark.usefixtures("_acls")
def test_a_minimal_acl_is_the_mode(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(
        lambda t: t.setxattr(
            b"f", ACCESS, _acl((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 1, NOBODY))
        )
    )
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o651
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", ACCESS))
    assert pair.same(lambda t: t.listxattr(b"f")) == []


@pytest.mark.usefixtures("_acls")
def test_an_acl_that_makes_no_sense_is_einval(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    for bad in (b"x", _acl((USER_OBJ, 6, NOBODY)), struct.pack("<I", 3)):
        error = pair.either(lambda t: t.setxattr(b"f", ACCESS, bad))
        assert isinstance(error, OSError)
    error = pair.either(
        lambda t: t.setxattr(
            b"f", DEFAULT, _acl((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 1, NOBODY))
        )
    )
    assert isinstance(error, OSError)


@pytest.mark.usefixtures("_acls")
def test_an_acl_is_set_by_the_owner(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", mode=0o666))
    pair.same(lambda t: t.chown(b"f", 1001, 2000))
    plain = _acl((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 6, NOBODY), (OTHER, 6, NOBODY))
    stranger = pair.each(lambda t: t.as_user(1002, 1002))
    pair.fails(errno.EPERM, lambda t: stranger[t].setxattr(b"f", ACCESS, plain))
    owner = pair.each(lambda t: t.as_user(1001, 1001))
    # One who is not in the group loses the setgid bit on the way, as with chmod.
    pair.same(lambda t: t.chmod(b"f", 0o2770))
    pair.same(lambda t: owner[t].setxattr(b"f", ACCESS, plain))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o666


# -- suid programs on a mount ---------------------------------------------------------------------


def test_bits_of_a_file_stay_when_its_name_moves(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chmod(b"f", 0o6755))
    pair.same(lambda t: t.rename(b"f", b"g"))
    pair.same(lambda t: t.link(b"g", b"h"))
    assert pair.same(lambda t: t.facts(b"h")).mode == 0o6755


def test_users_at_the_same_time_stay_themselves(pair: Pair) -> None:
    # Identities belong to threads: what one does must not run as another.
    pair.same(lambda t: t.chmod(b".", 0o777))
    users = [1001 + i for i in range(8)]
    trees = {user: pair.mnt.as_user(user, user + 100, (user + 200,)) for user in users}
    calls = []
    for i in range(10):
        for user, tree in trees.items():
            calls.append(pair.mnt.start("lstat", b"."))
            tree.make(b"%d-%d" % (user, i), b"data", 0o600)
    for call in calls:
        call.result()
    for user in users:
        for i in range(10):
            made = pair.mnt.facts(b"%d-%d" % (user, i))
            assert (made.uid, made.gid) == (user, user + 100)
