# SPDX-License-Identifier: MIT


"""Record locks, of processes and of open files: setlk and getlk."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Held, Pair, Tree
from xloop.testing.tree import F_RDLCK, F_UNLCK, F_WRLCK

if TYPE_CHECKING:
    from tests.conftest import Need, Wait

BOTH = pytest.mark.parametrize("ofd", [False, True], ids=["posix", "ofd"])


class Two:
    """The file "f" in two trees, open in two processes each."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        pair.same(lambda t: t.make(b"f", b"x" * 1000))
        self.fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
        self.other = pair.each(lambda t: t.process())
        self.theirs = pair.each(lambda t: self.other[t].open(b"f", os.O_RDWR))

    def lock(self, *args: int, ofd: bool) -> None:
        self.pair.same(lambda t: t.setlk(self.fd[t], *args, ofd=ofd))

    def their_lock(self, *args: int, ofd: bool) -> None:
        self.pair.same(lambda t: self.other[t].setlk(self.theirs[t], *args, ofd=ofd))

    def their_lock_fails(self, *args: int, ofd: bool) -> None:
        self.pair.fails(errno.EAGAIN, lambda t: self.other[t].setlk(self.theirs[t], *args, ofd=ofd))

    def seen(self, *args: int, ofd: bool) -> Held:
        return self.pair.same(lambda t: self.other[t].getlk(self.theirs[t], *args, ofd=ofd))


@BOTH
@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        (F_RDLCK, F_RDLCK, True),
        (F_RDLCK, F_WRLCK, False),
        (F_WRLCK, F_RDLCK, False),
        (F_WRLCK, F_WRLCK, False),
    ],
)
def test_locks_of_two_processes_exclude_each_other(
    pair: Pair, ofd: bool, held: int, wanted: int, free: bool
) -> None:
    two = Two(pair)
    two.lock(held, 0, 10, ofd=ofd)
    if free:
        two.their_lock(wanted, 5, 10, ofd=ofd)
    else:
        two.their_lock_fails(wanted, 5, 10, ofd=ofd)
    two.their_lock(wanted, 10, 10, ofd=ofd)
    two.lock(F_UNLCK, ofd=ofd)
    two.their_lock(wanted, 5, 10, ofd=ofd)


@BOTH
def test_getlk_tells_what_is_in_the_way(pair: Pair, ofd: bool) -> None:
    two = Two(pair)
    assert two.seen(F_WRLCK, ofd=ofd).type == F_UNLCK
    two.lock(F_WRLCK, 10, 20, ofd=ofd)
    two.lock(F_RDLCK, 100, 0, ofd=ofd)
    assert two.seen(F_WRLCK, 0, 15, ofd=ofd) == Held(F_WRLCK, 10, 20)
    assert two.seen(F_RDLCK, 12, 1, ofd=ofd) == Held(F_WRLCK, 10, 20)
    assert two.seen(F_WRLCK, 500, 0, ofd=ofd) == Held(F_RDLCK, 100, 0)
    assert two.seen(F_RDLCK, 500, 0, ofd=ofd).type == F_UNLCK
    assert two.seen(F_WRLCK, 30, 70, ofd=ofd).type == F_UNLCK


@BOTH
def test_locks_of_one_owner_are_joined_split_and_converted(pair: Pair, ofd: bool) -> None:
    two = Two(pair)
    two.lock(F_WRLCK, 0, 100, ofd=ofd)
    two.lock(F_RDLCK, 40, 20, ofd=ofd)
    two.lock(F_UNLCK, 80, 10, ofd=ofd)
    for start, length, wanted in (
        (0, 40, F_WRLCK),
        (40, 20, F_RDLCK),
        (60, 20, F_WRLCK),
        (90, 10, F_WRLCK),
    ):
        assert two.seen(F_WRLCK, start, 1, ofd=ofd) == Held(wanted, start, length)
    assert two.seen(F_WRLCK, 80, 10, ofd=ofd).type == F_UNLCK
    two.lock(F_WRLCK, 40, 20, ofd=ofd)
    assert two.seen(F_WRLCK, 0, 1, ofd=ofd) == Held(F_WRLCK, 0, 80)


@BOTH
def test_ranges_reach_to_the_end_however_far_it_grows(pair: Pair, ofd: bool) -> None:
    two = Two(pair)
    two.lock(F_WRLCK, 500, 0, ofd=ofd)
    two.their_lock(F_WRLCK, 0, 500, ofd=ofd)
    two.their_lock_fails(F_WRLCK, 1 << 40, 10, ofd=ofd)
    # Backwards: the ten bytes before.
    two.their_lock_fails(F_WRLCK, 510, -10, ofd=ofd)


@BOTH
def test_a_lock_of_a_kind_needs_a_descriptor_of_that_kind(pair: Pair, ofd: bool) -> None:
    pair.same(lambda t: t.make(b"f"))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    writer = pair.each(lambda t: t.open(b"f", os.O_WRONLY))
    pair.same(lambda t: t.setlk(reader[t], F_RDLCK, ofd=ofd))
    pair.same(lambda t: t.setlk(reader[t], F_UNLCK, ofd=ofd))
    pair.same(lambda t: t.setlk(writer[t], F_WRLCK, ofd=ofd))
    pair.fails(errno.EBADF, lambda t: t.setlk(reader[t], F_WRLCK, ofd=ofd))
    pair.fails(errno.EBADF, lambda t: t.setlk(writer[t], F_RDLCK, ofd=ofd))
    pair.fails(errno.EINVAL, lambda t: t.setlk(reader[t], F_RDLCK, -1, 10, ofd=ofd))


def test_locks_of_a_process_belong_to_the_process(pair: Pair) -> None:
    two = Two(pair)
    again = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    two.lock(F_WRLCK, 0, 10, ofd=False)
    pair.same(lambda t: t.setlk(again[t], F_WRLCK, 5, 10))
    assert two.seen(F_WRLCK, ofd=False) == Held(F_WRLCK, 0, 15)


def test_locks_of_open_files_belong_to_the_open_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    one = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    twin = pair.each(lambda t: t.dup(one[t]))
    two = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.setlk(one[t], F_WRLCK, ofd=True))
    pair.same(lambda t: t.setlk(twin[t], F_WRLCK, ofd=True))
    pair.fails(errno.EAGAIN, lambda t: t.setlk(two[t], F_WRLCK, ofd=True))
    # A lock of the process is somebody else's.
    pair.fails(errno.EAGAIN, lambda t: t.setlk(one[t], F_WRLCK))
    pair.same(lambda t: t.close(one[t]))
    pair.fails(errno.EAGAIN, lambda t: t.setlk(two[t], F_WRLCK, ofd=True))
    pair.same(lambda t: t.close(twin[t]))
    pair.same(lambda t: t.setlk(two[t], F_WRLCK, wait=True, ofd=True))


@BOTH
def test_locks_on_the_mount_and_on_the_source_exclude_each_other(
    mnt: Tree, src: Tree, ofd: bool
) -> None:
    mnt.make(b"f", b"x" * 100)
    here = mnt.open(b"f", os.O_RDWR)
    other = src.process()
    there = other.open(b"f", os.O_RDWR)
    mnt.setlk(here, F_WRLCK, 0, 10, ofd=ofd)
    assert other.getlk(there, F_WRLCK) == Held(F_WRLCK, 0, 10)
    with pytest.raises(BlockingIOError):
        other.setlk(there, F_RDLCK, 5, 1)
    other.setlk(there, F_WRLCK, 50, 10)
    assert mnt.getlk(here, F_RDLCK, 0, 0, ofd=ofd) == Held(F_WRLCK, 50, 10)
    with pytest.raises(BlockingIOError):
        mnt.setlk(here, F_WRLCK, 0, 0, ofd=ofd)
    mnt.setlk(here, F_UNLCK, ofd=ofd)
    other.setlk(there, F_RDLCK, 5, 1)


@BOTH
def test_a_lock_waits_until_it_is_free(mnt: Tree, ofd: bool, eventually: Wait) -> None:
    mnt.make(b"f", b"x" * 100)
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.setlk(fd, F_WRLCK, 0, 10, ofd=ofd)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("setlk", theirs, F_WRLCK, 5, 10, True, ofd)
    assert eventually(waiting.blocked)
    mnt.make(b"g", b"data")
    assert mnt.content(b"g") == b"data"
    assert not waiting.done()
    mnt.setlk(fd, F_UNLCK, 0, 10, ofd=ofd)
    waiting.result()
    assert mnt.getlk(fd, F_WRLCK, ofd=ofd) == Held(F_WRLCK, 5, 10)


@BOTH
def test_waiting_for_a_lock_on_the_source(
    mnt: Tree, src: Tree, ofd: bool, eventually: Wait
) -> None:
    mnt.make(b"f", b"x" * 100)
    holder = src.process()
    held = holder.open(b"f", os.O_RDWR)
    holder.setlk(held, F_WRLCK, 0, 10)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("setlk", theirs, F_WRLCK, 0, 0, True, ofd)
    assert eventually(waiting.blocked)
    # Gone without a word, and its locks with it.
    holder.kill()
    waiting.result()


@BOTH
def test_waiting_ends_with_a_signal(mnt: Tree, ofd: bool, eventually: Wait, need: Need) -> None:
    need.kernel("it is the kernel that delivers signals")
    mnt.make(b"f", b"x" * 100)
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.setlk(fd, F_WRLCK, ofd=ofd)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("setlk", theirs, F_WRLCK, 0, 0, True, ofd)
    assert eventually(waiting.blocked)
    waiting.interrupt()
    with pytest.raises(InterruptedError):
        waiting.result()
    # It took nothing: somebody else can.
    mnt.setlk(fd, F_UNLCK, ofd=ofd)
    third = mnt.process()
    third.setlk(third.open(b"f", os.O_RDWR), F_WRLCK, 0, 0, True, ofd)
    assert other.getlk(theirs, F_WRLCK, ofd=ofd).type == F_WRLCK


def test_locks_are_gone_with_their_process(mnt: Tree, eventually: Wait) -> None:
    mnt.make(b"f")
    other = mnt.process()
    other.setlk(other.open(b"f", os.O_RDWR), F_WRLCK)
    fd = mnt.open(b"f", os.O_RDWR)
    assert mnt.getlk(fd, F_WRLCK).type == F_WRLCK
    other.kill()
    mnt.setlk(fd, F_WRLCK, wait=True)


def test_a_deadlock_is_found_or_can_be_interrupted(mnt: Tree, eventually: Wait, need: Need) -> None:
    # Natively EDEADLK.  A mount's locks are all its server's, whose kernel cannot see the circle; then
    # both wait, and a signal gets them out.
    need.kernel("it is the kernel that knows processes")
    mnt.make(b"f", b"x" * 100)
    one, two = mnt.process(), mnt.process()
    fd1, fd2 = one.open(b"f", os.O_RDWR), two.open(b"f", os.O_RDWR)
    one.setlk(fd1, F_WRLCK, 0, 1)
    two.setlk(fd2, F_WRLCK, 1, 1)
    first = one.start("setlk", fd1, F_WRLCK, 1, 1, True)
    assert eventually(first.blocked)
    second = two.start("setlk", fd2, F_WRLCK, 0, 1, True)
    assert eventually(lambda: second.blocked() or second.done())
    if not second.done():
        second.interrupt()
    with pytest.raises(OSError, match=r"deadlock|Interrupted"):
        second.result()
    two.setlk(fd2, F_UNLCK, 1, 1)
    first.result()


def test_many_that_wait_hold_up_nobody(mnt: Tree, eventually: Wait) -> None:
    # More than any number of threads that a server might set aside.
    mnt.make(b"f")
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.setlk(fd, F_WRLCK, ofd=True)
    fds = [mnt.open(b"f", os.O_RDWR) for _ in range(40)]
    waiting = [mnt.start("setlk", other, F_RDLCK, 0, 0, True, True) for other in fds]
    for call in waiting:
        assert eventually(call.blocked)
    mnt.make(b"g", b"data")
    assert mnt.content(b"g") == b"data"
    assert mnt.listdir() == [b"f", b"g"]
    mnt.setlk(fd, F_UNLCK, ofd=True)
    for call in waiting:
        call.result()


def test_a_lock_survives_unlink_and_rename(pair: Pair) -> None:
    two = Two(pair)
    two.lock(F_WRLCK, ofd=False)
    pair.same(lambda t: t.rename(b"f", b"g"))
    two.their_lock_fails(F_WRLCK, ofd=False)
    pair.same(lambda t: t.unlink(b"g"))
    two.their_lock_fails(F_WRLCK, ofd=False)
    two.lock(F_UNLCK, ofd=False)
    two.their_lock(F_WRLCK, ofd=False)
