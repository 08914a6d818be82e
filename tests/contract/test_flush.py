# SPDX-License-Identifier: MIT


"""Closing descriptors: flush, once for each, and release, after the last."""

from __future__ import annotations

import errno
import os

from xloop.testing import Pair, Tree
from xloop.testing.tree import F_UNLCK, F_WRLCK


def test_close_of_a_duplicate_leaves_the_file_open(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    for _ in range(5):
        pair.same(lambda t: t.close(t.dup(fd[t])))
    pair.same(lambda t: t.pwrite(fd[t], b"more", 4))
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"datamore"


def test_close_of_any_descriptor_drops_the_record_locks_of_its_process(pair: Pair) -> None:
    # Of all the traps of POSIX locks the one that programs depend on: a file system that spares
    # the kernel the request at close must not offer that to a file with locks.
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.setlk(fd[t], F_WRLCK))
    other = pair.each(lambda t: t.process())
    theirs = pair.each(lambda t: other[t].open(b"f", os.O_RDWR))
    assert pair.same(lambda t: other[t].getlk(theirs[t], F_WRLCK)).type == F_WRLCK
    pair.same(lambda t: t.close(t.open(b"f", os.O_RDONLY)))
    assert pair.same(lambda t: other[t].getlk(theirs[t], F_WRLCK)).type == F_UNLCK


def test_close_of_any_descriptor_drops_the_locks_on_the_source_too(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f", b"data")
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.setlk(fd, F_WRLCK)
    other = src.process()
    theirs = other.open(b"f", os.O_RDWR)
    assert other.getlk(theirs, F_WRLCK).type == F_WRLCK
    mnt.close(mnt.open(b"f", os.O_RDONLY))
    assert other.getlk(theirs, F_WRLCK).type == F_UNLCK


def test_a_closed_descriptor_is_ebadf(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.close(fd[t]))
    pair.fails(errno.EBADF, lambda t: t.pread(fd[t], 10, 0))
    pair.fails(errno.EBADF, lambda t: t.close(fd[t]))
