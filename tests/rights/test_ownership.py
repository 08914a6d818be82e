# SPDX-License-Identifier: MIT
"""What is made through a mount that root serves belongs to whoever made it, from the first moment."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from rights.support import ACCESS, ALICE, BOB, DEFAULT, OTHERS, STAFF, TEAM, acl, watching
from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

#: One way for each kind of object: (tree, path, mode).
MAKE: dict[str, Callable[[Tree, bytes, int], object]] = {
    "file": lambda t, p, m: t.close(t.open(p, os.O_WRONLY | os.O_CREAT | os.O_EXCL, m)),
    "directory": lambda t, p, m: t.mkdir(p, m),
    "symlink": lambda t, p, m: t.symlink(b"target", p),
    "fifo": lambda t, p, m: t.mknod(p, stat.S_IFIFO | m),
}


@pytest.fixture(autouse=True)
def _others_make_things(need: Need) -> None:
    need.root("several users have to make things")


@pytest.fixture(params=MAKE)
def make(request: pytest.FixtureRequest) -> Callable[[Tree, bytes, int], object]:
    return MAKE[request.param]


Make = Callable[[Tree, bytes, int], object]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_it_belongs_to_who_made_it(pair: Pair, make: Make, umask: int) -> None:
    pair.same(lambda t: t.chmod(b".", 0o777))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, umask=umask))
    pair.same(lambda t: make(alice[t], b"x", 0o666))
    made = pair.same(lambda t: t.facts(b"x"))
    assert (made.uid, made.gid) == (ALICE, STAFF)
    if made.type != stat.S_IFLNK:
        assert made.mode == 0o666 & ~umask


def test_root_makes_what_is_roots(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.chown(b".", ALICE, STAFF))
    pair.same(lambda t: make(t, b"x", 0o666))
    assert pair.same(lambda t: t.facts(b"x"))[3:5] == (0, 0)


def test_in_a_setgid_directory_it_gets_the_directorys_group(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.chown(b".", 0, TEAM))
    pair.same(lambda t: t.chmod(b".", 0o2777))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF))
    pair.same(lambda t: make(alice[t], b"x", 0o755))
    made = pair.same(lambda t: t.facts(b"x"))
    assert (made.uid, made.gid) == (ALICE, TEAM)
    assert bool(made.mode & stat.S_ISGID) == (made.type == stat.S_IFDIR)


@pytest.mark.parametrize("member", [True, False], ids=["member", "stranger"])
def test_a_setgid_file_in_a_setgid_directory_needs_the_group(
    pair: Pair, make: Make, member: bool
) -> None:
    pair.same(lambda t: t.chown(b".", 0, TEAM))
    pair.same(lambda t: t.chmod(b".", 0o2777))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, (TEAM,) if member else (), umask=0))
    pair.same(lambda t: make(alice[t], b"x", 0o2775))
    pair.same(lambda t: t.facts(b"x"))


def test_a_supplementary_group_opens_the_directory(pair: Pair, make: Make) -> None:
    pair.same(lambda t: t.chown(b".", 0, TEAM))
    pair.same(lambda t: t.chmod(b".", 0o770))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, (OTHERS, TEAM)))
    pair.same(lambda t: make(alice[t], b"x", 0o644))
    assert pair.same(lambda t: t.facts(b"x"))[3:5] == (ALICE, STAFF)
    bob = pair.each(lambda t: t.as_user(BOB, STAFF, (OTHERS,)))
    pair.fails(errno.EACCES, lambda t: make(bob[t], b"y", 0o644))


@pytest.mark.parametrize("through", ["user", "group"])
def test_an_acl_entry_opens_the_directory(pair: Pair, make: Make, through: str) -> None:
    if through == "user":
        rights = acl(7, 5, 0, users=[(ALICE, 7)], mask=7)
    else:
        rights = acl(7, 5, 0, groups=[(TEAM, 7)], mask=7)
    pair.same(lambda t: t.setxattr(b".", ACCESS, rights))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, (OTHERS, TEAM)))
    pair.same(lambda t: make(alice[t], b"x", 0o644))
    assert pair.same(lambda t: t.facts(b"x"))[3:5] == (ALICE, STAFF)
    bob = pair.each(lambda t: t.as_user(BOB, STAFF, (OTHERS,)))
    pair.fails(errno.EACCES, lambda t: make(bob[t], b"y", 0o644))


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_default_acl_takes_the_place_of_the_umask(pair: Pair, make: Make, umask: int) -> None:
    pair.same(lambda t: t.chmod(b".", 0o777))
    rights = acl(7, 5, 4, users=[(BOB, 6)], groups=[(TEAM, 7)], mask=7)
    pair.same(lambda t: t.setxattr(b".", DEFAULT, rights))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, umask=umask))
    pair.same(lambda t: make(alice[t], b"x", 0o666))
    made = pair.same(lambda t: t.facts(b"x"))
    assert (made.uid, made.gid) == (ALICE, STAFF)
    kept = pair.same(lambda t: sorted(t.listxattr(b"x", follow=False)))
    if made.type != stat.S_IFLNK:
        assert made.mode == 0o664
        assert kept == ([ACCESS, DEFAULT] if made.type == stat.S_IFDIR else [ACCESS])
        pair.same(lambda t: [t.getxattr(b"x", name, follow=False) for name in kept])


def test_nothing_is_changed_afterwards(mnt: Tree, src: Tree, make: Make) -> None:
    """The source sees it being made, and after that no chown, chmod or setxattr: inotify tells."""
    mnt.mkdir(b"d")
    mnt.chown(b"d", 0, TEAM)
    mnt.chmod(b"d", 0o2777)
    mnt.setxattr(b"d", DEFAULT, acl(7, 5, 0, users=[(BOB, 6)], mask=7))
    alice = mnt.as_user(ALICE, STAFF, umask=0o027)
    with watching(src.path + b"/d") as watch:  # type: ignore[attr-defined]
        make(alice, b"d/x", 0o666)
        assert watch.made(b"x") == ["made"]
        # And the watch does see a change.
        src.lchown(b"d/x", BOB, TEAM)
        assert watch.made(b"x") == ["changed"]


def test_an_unnamed_file_belongs_to_who_made_it(pair: Pair) -> None:
    pair.same(lambda t: t.chown(b".", 0, TEAM))
    pair.same(lambda t: t.chmod(b".", 0o2777))
    pair.same(lambda t: t.setxattr(b".", DEFAULT, acl(7, 5, 0, users=[(BOB, 6)], mask=7)))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF, umask=0o077))
    fd = pair.each(lambda t: alice[t].open(b".", os.O_RDWR | os.O_TMPFILE, 0o666))
    made = pair.same(lambda t: t.fstat(fd[t])[:1] + t.fstat(fd[t])[3:6])
    assert made[2:] == (ALICE, TEAM)
    pair.same(lambda t: t.fgetxattr(fd[t], ACCESS))


def test_a_device_is_made_as_root_only(pair: Pair, need: Need) -> None:
    need.source("devices", lambda t: t.mknod(b"probe", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    pair.same(lambda t: t.chmod(b".", 0o777))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF))
    number = os.makedev(1, 3)
    pair.fails(errno.EPERM, lambda t: alice[t].mknod(b"x", stat.S_IFCHR | 0o666, number))
    pair.same(lambda t: t.mknod(b"x", stat.S_IFCHR | 0o644, number))
    pair.same(lambda t: t.facts(b"x"))


def test_a_whiteout_needs_no_privilege_natively_and_here(pair: Pair, need: Need) -> None:
    def leave_one(tree: Tree) -> None:
        tree.make(b"p")
        tree.rename(b"p", b"q", 4)

    need.source("whiteouts", leave_one)
    pair.same(lambda t: t.chmod(b".", 0o777))
    alice = pair.each(lambda t: t.as_user(ALICE, STAFF))
    pair.same(lambda t: alice[t].make(b"a"))
    pair.either(lambda t: alice[t].rename(b"a", b"b", 4))
    pair.same(lambda t: sorted((n, t.facts(n)) for n in t.listdir()))


def test_a_hard_link_changes_no_owner(pair: Pair) -> None:
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.as_user(ALICE, STAFF).make(b"f"))
    pair.same(lambda t: t.as_user(ALICE, TEAM).link(b"f", b"g"))
    assert pair.same(lambda t: t.facts(b"g"))[3:5] == (ALICE, STAFF)


def test_many_users_at_once_never_mix(pair: Pair) -> None:
    """The identity belongs to the thread that serves: all at once is when it would be another's."""
    pair.same(lambda t: t.chmod(b".", 0o777))
    users = [(3000 + i, 4000 + i, 0o7 * (i % 2)) for i in range(8)]
    from concurrent.futures import ThreadPoolExecutor

    def work(tree: Tree, uid: int, gid: int, umask: int) -> None:
        somebody = tree.as_user(uid, gid, umask=umask)
        for n in range(12):
            for kind, make in MAKE.items():
                make(somebody, b"%d-%d-%s" % (uid, n, kind.encode()), 0o666)

    def all_at_once(tree: Tree) -> None:
        with ThreadPoolExecutor(len(users)) as pool:
            for job in [pool.submit(work, tree, *user) for user in users]:
                job.result()

    pair.same(all_at_once)
    pair.same(lambda t: {n: t.facts(n) for n in t.listdir()})
