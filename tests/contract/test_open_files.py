# SPDX-License-Identifier: MIT


"""Open files whose names are gone or changed: every operation goes by the handle."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Each, Pair, Tree, facts

if TYPE_CHECKING:
    from tests.conftest import Need

Gone = Callable[[Tree], None]


def _unlinked(t: Tree) -> None:
    t.unlink(b"d/f")


def _renamed(t: Tree) -> None:
    t.rename(b"d/f", b"elsewhere")


def _replaced(t: Tree) -> None:
    t.make(b"other", b"other")
    t.rename(b"other", b"d/f")


def _under_a_moved_directory(t: Tree) -> None:
    t.rename(b"d", b"moved")


def _with_its_directory(t: Tree) -> None:
    t.unlink(b"d/f")
    t.rmdir(b"d")


def _under_a_name_that_is_somebody_elses(t: Tree) -> None:
    t.unlink(b"d/f")
    t.make(b"d/f", b"somebody else")


WAYS = [
    _unlinked,
    _renamed,
    _replaced,
    _under_a_moved_directory,
    _with_its_directory,
    _under_a_name_that_is_somebody_elses,
]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__.strip("_"))
def fd(request: pytest.FixtureRequest, pair: Pair) -> Each[int]:
    """A descriptor for a file that is no longer where it was opened."""
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"0123456789"))
    opened = pair.each(lambda t: t.open(b"d/f", os.O_RDWR))
    pair.same(request.param)
    return opened


def test_it_is_read_and_written(pair: Pair, fd: Each[int]) -> None:
    assert pair.same(lambda t: t.pread(fd[t], 20, 0)) == b"0123456789"
    assert pair.same(lambda t: t.pwrite(fd[t], b"abc", 8)) == 3
    assert pair.same(lambda t: t.pread(fd[t], 20, 0)) == b"01234567abc"
    pair.same(lambda t: t.fsync(fd[t]))


def test_fstat_tells_its_facts(pair: Pair, fd: Each[int]) -> None:
    pair.same(lambda t: facts(t.fstat(fd[t])))
    pair.same(lambda t: t.pwrite(fd[t], b"x" * 1000, 0))
    assert pair.same(lambda t: facts(t.fstat(fd[t]))).size == 1000


def test_fchmod_changes_it(pair: Pair, fd: Each[int]) -> None:
    pair.same(lambda t: t.fchmod(fd[t], 0o611))
    assert pair.same(lambda t: facts(t.fstat(fd[t]))).mode == 0o611


def test_fchown_changes_it(pair: Pair, fd: Each[int], need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.fchown(fd[t], 1001, 1002))
    assert pair.same(lambda t: facts(t.fstat(fd[t])))[3:5] == (1001, 1002)


def test_ftruncate_changes_it(pair: Pair, fd: Each[int]) -> None:
    pair.same(lambda t: t.ftruncate(fd[t], 3))
    assert pair.same(lambda t: t.pread(fd[t], 20, 0)) == b"012"
    pair.same(lambda t: t.ftruncate(fd[t], 5))
    assert pair.same(lambda t: t.pread(fd[t], 20, 0)) == b"012\0\0"


def test_futime_changes_it(pair: Pair, fd: Each[int]) -> None:
    pair.same(lambda t: t.futime(fd[t], 1_000, 2_000))
    assert pair.same(lambda t: t.fstat(fd[t]).st_mtime_ns) == 2_000


def test_fallocate_changes_it(pair: Pair, fd: Each[int]) -> None:
    pair.either(lambda t: t.fallocate(fd[t], 0, 0, 5000))
    pair.same(lambda t: t.fstat(fd[t]).st_size)


def test_its_attributes_are_set_and_read(pair: Pair, fd: Each[int]) -> None:
    pair.either(lambda t: t.fsetxattr(fd[t], b"user.a", b"v"))
    pair.either(lambda t: t.fgetxattr(fd[t], b"user.a"))
    pair.either(lambda t: t.flistxattr(fd[t]))
    pair.either(lambda t: t.fremovexattr(fd[t], b"user.a"))


def test_it_is_copied(pair: Pair, fd: Each[int]) -> None:
    target = pair.each(lambda t: t.open(b"copy", os.O_RDWR | os.O_CREAT))
    assert pair.same(lambda t: t.copy_file_range(fd[t], 0, target[t], 0, 10)) == 10
    assert pair.same(lambda t: t.content(b"copy")) == b"0123456789"


def test_the_rest_of_the_tree_is_untouched(pair: Pair, fd: Each[int]) -> None:
    before = pair.same(lambda t: t.snapshot())
    if any(len(value) > 1 and value[1] == b"0123456789" for value in before.values()):
        pytest.skip("the file still has a name: what is done to it shows there")
    pair.same(lambda t: t.pwrite(fd[t], b"abc", 0))
    pair.same(lambda t: t.fchmod(fd[t], 0))
    pair.same(lambda t: t.ftruncate(fd[t], 1))
    pair.either(lambda t: t.fsetxattr(fd[t], b"user.a", b"v"))
    assert pair.same(lambda t: t.snapshot()) == before


# -- what has no name can be opened and named again ---------------------------------------------


def _again(t: Tree, fd: int, flags: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", flags)


def test_an_unlinked_file_is_opened_again_through_proc(pair: Pair, need: Need) -> None:
    need.kernel("/proc is its own")
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.unlink(b"f"))

    def use(t: Tree) -> bytes:
        again = _again(t, fd[t], os.O_RDWR)
        try:
            os.pwrite(again, b"DA", 0)
            return t.pread(fd[t], 10, 0)
        finally:
            os.close(again)

    assert pair.same(use) == b"DAta"


def test_an_unlinked_file_is_changed_through_o_path_and_proc(pair: Pair, need: Need) -> None:
    need.kernel("/proc is its own")
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_PATH))
    pair.same(lambda t: t.unlink(b"f"))

    def use(t: Tree) -> object:
        os.chmod(f"/proc/self/fd/{fd[t]}", 0o600)
        os.truncate(f"/proc/self/fd/{fd[t]}", 2)
        os.utime(f"/proc/self/fd/{fd[t]}", ns=(1_000, 2_000))
        again = _again(t, fd[t], os.O_RDONLY)
        try:
            return facts(os.fstat(again)), os.fstat(again).st_mtime_ns, os.pread(again, 10, 0)
        finally:
            os.close(again)

    pair.same(use)


def test_a_removed_directory_stays_a_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    fd = pair.each(lambda t: t.open(b"d", os.O_RDONLY | os.O_DIRECTORY))
    pair.same(lambda t: t.rmdir(b"d"))
    pair.same(lambda t: t.make(b"d", b"a file now"))
    assert pair.same(lambda t: stat.S_ISDIR(t.fstat(fd[t]).st_mode))
    pair.same(lambda t: t.fchmod(fd[t], 0o700))
    assert pair.same(lambda t: stat.S_IMODE(t.fstat(fd[t]).st_mode)) == 0o700
    assert pair.same(lambda t: t.facts(b"d")).mode == 0o644


def test_an_unlinked_fifo_stays_a_fifo(pair: Pair) -> None:
    pair.same(lambda t: t.mknod(b"x", stat.S_IFIFO | 0o644))
    fd = pair.each(lambda t: t.open(b"x", os.O_PATH))
    pair.same(lambda t: t.unlink(b"x"))
    pair.same(lambda t: t.make(b"x", b"data"))
    assert pair.same(lambda t: facts(t.fstat(fd[t])))[:3] == (stat.S_IFIFO, 0o644, 0)


def test_a_deleted_current_directory_is_enoent(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    inside = pair.each(lambda t: t.at(b"d"))
    pair.same(lambda t: t.rmdir(b"d"))
    pair.fails(errno.ENOENT, lambda t: inside[t].lstat(b"x"))
    pair.fails(errno.ENOENT, lambda t: inside[t].make(b"x"))
    pair.same(lambda t: facts(inside[t].lstat(b".")))
