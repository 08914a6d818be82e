# SPDX-License-Identifier: MIT


"""Changing attributes: setattr, which is chmod, chown and utimensat (its size: test_truncate)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import LONG_AGO, Pair, Tree
from xloop.testing.tree import NOW

if TYPE_CHECKING:
    from tests.conftest import Need

# -- mode -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, 0o1, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777])
def test_chmod_sets_every_bit(pair: Pair, mode: int) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"f", b"d"):
        pair.same(lambda t: t.chmod(name, mode))
        assert pair.same(lambda t: t.facts(name)).mode == mode


def test_chmod_follows_a_link(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.chmod(b"l", 0o600))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o600
    assert pair.same(lambda t: t.facts(b"l")).mode == 0o777


def test_chmod_of_a_link_itself_is_eopnotsupp(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    error = pair.either(lambda t: t.lchmod(b"l", 0o600))
    if isinstance(error, OSError) and error.errno == errno.ENOSYS:
        pytest.skip("the kernel has no fchmodat2 (Linux 6.6)")
    assert isinstance(error, OSError)
    assert error.errno == errno.EOPNOTSUPP
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o644


def test_chmod_moves_ctime_only(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.chmod(b"f", 0o600))) == ["ctime"]


def test_chmod_shows_under_every_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.link(b"a", b"b"))
    for name in (b"a", b"b"):
        pair.same(lambda t: t.facts(name))
    pair.same(lambda t: t.chmod(b"a", 0o611))
    assert pair.same(lambda t: t.facts(b"b")).mode == 0o611


def test_fchmod_changes_the_open_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.with_fd(b"f", os.O_RDONLY, lambda fd: t.fchmod(fd, 0o640)))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o640


def test_fchmod_of_an_o_path_descriptor_is_ebadf(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_PATH))
    pair.fails(errno.EBADF, lambda t: t.fchmod(fd[t], 0o640))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_chmod_of_a_special_file_does_not_open_it(pair: Pair, kind: int) -> None:
    # Whoever opens a FIFO waits for its other end.
    pair.same(lambda t: t.mknod(b"x", kind | 0o644))
    pair.same(lambda t: t.chmod(b"x", 0o600))
    pair.same(lambda t: t.utime(b"x", LONG_AGO, LONG_AGO))
    assert pair.same(lambda t: t.facts(b"x")).mode == 0o600


# -- owner ------------------------------------------------------------------------------------


def test_chown_to_oneself_changes_nothing_but_ctime(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    call = lambda t: t.chown(b"f", os.geteuid(), os.getegid())  # noqa: E731
    assert pair.same(lambda t: t.moved(b"f", lambda: call(t))) == ["ctime"]


def test_chown_of_nobody_to_nobody_is_allowed(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", -1, -1))
    pair.same(lambda t: t.facts(b"f"))


def test_chown_sets_owner_and_group(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", 1001, 1002))
    assert pair.same(lambda t: t.facts(b"f"))[3:5] == (1001, 1002)
    pair.same(lambda t: t.chown(b"f", -1, 1003))
    pair.same(lambda t: t.chown(b"f", 1004, -1))
    assert pair.same(lambda t: t.facts(b"f"))[3:5] == (1004, 1003)


def test_chown_takes_every_number(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"f"))
    for number in (0, 1, 65534, 65536, 2**31, 2**32 - 2):
        pair.same(lambda t: t.chown(b"f", number, number))
        assert pair.same(lambda t: t.facts(b"f"))[3:5] == (number, number)


def test_chown_follows_a_link_and_lchown_does_not(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.chown(b"l", 1001, 1001))
    pair.same(lambda t: t.lchown(b"l", 1002, 1002))
    assert pair.same(lambda t: t.facts(b"f")).uid == 1001
    assert pair.same(lambda t: t.facts(b"l")).uid == 1002


def test_fchown_changes_the_open_file(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.with_fd(b"f", os.O_RDONLY, lambda fd: t.fchown(fd, 1001, 1002)))
    assert pair.same(lambda t: t.facts(b"f"))[3:5] == (1001, 1002)


@pytest.mark.parametrize("mode", [0o6755, 0o2644, 0o4644, 0o6777])
def test_chown_clears_suid_and_sgid_even_for_root(pair: Pair, need: Need, mode: int) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chmod(b"f", mode))
    pair.same(lambda t: t.chown(b"f", 1001, 1001))
    assert pair.same(lambda t: t.facts(b"f")).mode & stat.S_ISUID == 0
    pair.same(lambda t: t.chmod(b"f", mode))
    pair.same(lambda t: t.chown(b"f", -1, 1002))
    pair.same(lambda t: t.facts(b"f"))


def test_chown_leaves_the_bits_of_a_directory(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o7755))
    pair.same(lambda t: t.chown(b"d", 1001, 1001))
    assert pair.same(lambda t: t.facts(b"d")).mode == 0o7755


# -- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ns", [0, 1, LONG_AGO, 2**31 * 10**9 + 5, 4102444800 * 10**9 + 999_999_999]
)
def test_utime_keeps_every_nanosecond(pair: Pair, ns: int) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.utime(b"f", ns, ns + 7))
    assert pair.same(lambda t: (t.lstat(b"f").st_atime_ns, t.lstat(b"f").st_mtime_ns)) == (
        ns,
        ns + 7,
    )


def test_utime_may_lie_before_the_epoch(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.utime(b"f", -1_500_000_000, -86_400 * 365 * 10**9))
    assert pair.same(lambda t: t.lstat(b"f").st_atime_ns) == -1_500_000_000
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == -86_400 * 365 * 10**9


def test_utime_omit_leaves_a_time_alone(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.utime(b"f", 1_000, 2_000))
    pair.same(lambda t: t.utime(b"f", None, 3_000))
    assert pair.same(lambda t: (t.lstat(b"f").st_atime_ns, t.lstat(b"f").st_mtime_ns)) == (
        1_000,
        3_000,
    )
    pair.same(lambda t: t.utime(b"f", 4_000, None))
    assert pair.same(lambda t: (t.lstat(b"f").st_atime_ns, t.lstat(b"f").st_mtime_ns)) == (
        4_000,
        3_000,
    )


def test_utime_now_is_the_time_of_the_file_system(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    for atime, mtime, moved in ((NOW, None, "atime"), (None, NOW, "mtime")):
        pair.same(lambda t: t.age(b"f"))
        assert pair.same(lambda t: t.moved(b"f", lambda: t.utime(b"f", atime, mtime))) == [
            moved,
            "ctime",
        ]
    # Not before something that happened earlier on the same file system.
    pair.same(lambda t: t.make(b"earlier"))
    pair.same(lambda t: t.utime(b"f", NOW, NOW))
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns >= t.lstat(b"earlier").st_mtime_ns)


def test_utime_now_and_a_time_of_ones_own_at_once(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.age(b"f"))
    pair.same(lambda t: t.utime(b"f", NOW, 5_000))
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == 5_000
    assert pair.same(lambda t: t.lstat(b"f").st_atime_ns > LONG_AGO)


def test_utime_of_two_omits_does_not_even_look(pair: Pair) -> None:
    pair.same(lambda t: t.utime(b"nothing", None, None))
    pair.same(lambda t: t.make(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.utime(b"f", None, None))) == []


def test_utime_of_a_link_itself(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.utime(b"f", 1_000, 1_000))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.utime(b"l", 2_000, 3_000, follow=False))
    assert pair.same(lambda t: t.lstat(b"l").st_mtime_ns) == 3_000
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == 1_000
    pair.same(lambda t: t.utime(b"l", 4_000, 4_000))
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == 4_000


def test_futime_through_a_descriptor(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    for flags in (os.O_RDONLY, os.O_RDWR):
        pair.same(lambda t: t.with_fd(b"f", flags, lambda fd: t.futime(fd, 1_000 + flags, 2_000)))
        assert pair.same(lambda t: t.lstat(b"f").st_atime_ns) == 1_000 + flags


def test_a_time_that_was_set_stays_after_close(pair: Pair) -> None:
    # cp -p and tar do it in this order: a delayed mtime would overwrite theirs.
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    pair.same(lambda t: t.write(fd[t], b"data" * 5000))
    pair.same(lambda t: t.futime(fd[t], LONG_AGO, LONG_AGO))
    pair.same(lambda t: t.close(fd[t]))
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == LONG_AGO


@pytest.mark.parametrize("call", ["chmod", "chown", "utime"])
def test_setattr_of_what_is_not_there(pair: Pair, call: str) -> None:
    args = {"chmod": (0o600,), "chown": (-1, -1), "utime": (NOW, NOW)}[call]
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENOENT, lambda t: getattr(t, call)(b"nothing", *args))
    pair.fails(errno.ENOENT, lambda t: getattr(t, call)(b"dangling", *args))
    pair.fails(errno.ENOTDIR, lambda t: getattr(t, call)(b"f/x", *args))


def test_setattr_of_the_top_directory(pair: Pair) -> None:
    pair.same(lambda t: t.chmod(b".", 0o750))
    pair.same(lambda t: t.utime(b".", 1_000, 2_000))
    assert pair.same(lambda t: t.facts(b".")).mode == 0o750
    assert pair.same(lambda t: t.lstat(b".").st_mtime_ns) == 2_000


def _kept(t: Tree) -> object:
    return t.facts(b"f"), t.lstat(b"f").st_mtime_ns


def test_setattr_that_is_refused_changes_nothing(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.utime(b"f", 1_000, 1_000))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EPERM, lambda t: other[t].chmod(b"f", 0o777))
    pair.fails(errno.EPERM, lambda t: other[t].chown(b"f", 1001, -1))
    pair.fails(errno.EPERM, lambda t: other[t].utime(b"f", 1, 1))
    pair.fails(errno.EACCES, lambda t: other[t].utime(b"f", NOW, NOW))
    pair.fails(errno.EACCES, lambda t: other[t].truncate(b"f", 0))
    pair.same(_kept)
