# SPDX-License-Identifier: MIT


"""Locks of open files: flock."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need, Wait

SH, EX, UN, NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB


@pytest.mark.parametrize(
    ("held", "wanted", "free"), [(SH, SH, True), (SH, EX, False), (EX, SH, False), (EX, EX, False)]
)
def test_locks_of_two_open_files_exclude_each_other(
    pair: Pair, held: int, wanted: int, free: bool
) -> None:
    pair.same(lambda t: t.make(b"f"))
    one = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    two = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.flock(one[t], held))
    if free:
        pair.same(lambda t: t.flock(two[t], wanted | NB))
    else:
        pair.fails(errno.EAGAIN, lambda t: t.flock(two[t], wanted | NB))
    pair.same(lambda t: t.flock(one[t], UN))
    pair.same(lambda t: t.flock(two[t], UN))
    pair.same(lambda t: t.flock(two[t], wanted | NB))


def test_a_lock_is_converted(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    one = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.flock(one[t], SH))
    pair.same(lambda t: t.flock(two[t], SH))
    pair.fails(errno.EAGAIN, lambda t: t.flock(one[t], EX | NB))
    pair.same(lambda t: t.flock(two[t], UN))
    pair.same(lambda t: t.flock(one[t], EX | NB))
    pair.fails(errno.EAGAIN, lambda t: t.flock(two[t], SH | NB))


def test_a_lock_belongs_to_the_open_file_and_ends_with_it(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    one = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    twin = pair.each(lambda t: t.dup(one[t]))
    two = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.flock(one[t], EX))
    pair.same(lambda t: t.flock(twin[t], EX | NB))
    pair.same(lambda t: t.close(one[t]))
    pair.fails(errno.EAGAIN, lambda t: t.flock(two[t], EX | NB))
    # A descriptor of another open file takes nothing with it.
    pair.same(lambda t: t.close(t.open(b"f", os.O_RDONLY)))
    pair.fails(errno.EAGAIN, lambda t: t.flock(two[t], EX | NB))
    pair.same(lambda t: t.close(twin[t]))
    # The kernel releases it after close(2) has returned.
    pair.same(lambda t: t.flock(two[t], EX))


@pytest.mark.parametrize("operation", [0, SH | EX, 3, UN | EX])
def test_an_operation_that_makes_no_sense_is_einval(pair: Pair, operation: int) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.fails(errno.EINVAL, lambda t: t.flock(fd[t], operation))


def test_a_directory_is_locked_too(pair: Pair, need: Need) -> None:
    need.kernel("it keeps the locks on directories itself")
    one = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    pair.either(lambda t: t.flock(one[t], EX | NB))
    pair.either(lambda t: t.flock(two[t], EX | NB))


def test_locks_on_the_mount_and_on_the_source_exclude_each_other(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f")
    here, there = mnt.open(b"f", os.O_RDWR), src.open(b"f", os.O_RDWR)
    mnt.flock(here, EX)
    with pytest.raises(BlockingIOError):
        src.flock(there, SH | NB)
    mnt.flock(here, UN)
    src.flock(there, EX | NB)
    with pytest.raises(BlockingIOError):
        mnt.flock(here, SH | NB)
    src.flock(there, SH)
    mnt.flock(here, SH | NB)


def test_a_lock_waits_until_it_is_free(mnt: Tree, eventually: Wait) -> None:
    mnt.make(b"f")
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.flock(fd, EX)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("flock", theirs, EX)
    assert eventually(waiting.blocked)
    # It holds up nobody else.
    mnt.make(b"g", b"data")
    assert mnt.content(b"g") == b"data"
    assert not waiting.done()
    mnt.flock(fd, UN)
    waiting.result()
    with pytest.raises(BlockingIOError):
        mnt.flock(fd, SH | NB)


def test_a_lock_that_is_waited_for_on_the_source_is_given_by_the_mount(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    mnt.make(b"f")
    fd = src.open(b"f", os.O_RDWR)
    src.flock(fd, EX)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("flock", theirs, SH)
    assert eventually(waiting.blocked)
    src.flock(fd, UN)
    waiting.result()


def test_waiting_ends_with_a_signal(mnt: Tree, eventually: Wait, need: Need) -> None:
    need.kernel("it is the kernel that delivers signals")
    mnt.make(b"f")
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.flock(fd, EX)
    other = mnt.process()
    theirs = other.open(b"f", os.O_RDWR)
    waiting = other.start("flock", theirs, EX)
    assert eventually(waiting.blocked)
    waiting.interrupt()
    with pytest.raises(InterruptedError):
        waiting.result()
    # It took nothing, and can take it later.
    mnt.flock(fd, UN)
    mnt.flock(fd, EX | NB)
    mnt.flock(fd, UN)
    other.flock(theirs, EX)


def test_locks_are_gone_with_their_process(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"f")
    other = mnt.process()
    other.flock(other.open(b"f", os.O_RDWR), EX)
    here, there = mnt.open(b"f", os.O_RDWR), src.open(b"f", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        mnt.flock(here, EX | NB)
    other.kill()
    mnt.flock(here, EX)
    mnt.flock(here, UN)
    assert eventually(lambda: src.flock(there, EX | NB) is None)


def test_a_process_that_waits_can_be_killed(mnt: Tree, eventually: Wait) -> None:
    mnt.make(b"f")
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.flock(fd, EX)
    other = mnt.process()
    if not hasattr(other, "pid"):
        pytest.skip("needs a process: without a kernel there is none to kill")
    waiting = other.start("flock", other.open(b"f", os.O_RDWR), EX)
    assert eventually(waiting.blocked)
    other.kill()
    mnt.flock(fd, UN)
    # It did not take the lock with it into its grave.
    another = mnt.open(b"f", os.O_RDWR)

    def take() -> bool:
        try:
            mnt.flock(another, EX | NB)
        except BlockingIOError:
            return False
        return True

    assert eventually(take)
