# SPDX-License-Identifier: MIT


"""Writing at the end: O_APPEND, which is exact whoever else appends."""

from __future__ import annotations

import os

from xloop.testing import Pair, Tree

APPEND = os.O_RDWR | os.O_APPEND


def test_append_goes_to_the_end_wherever_the_position_is(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123"))
    fd = pair.each(lambda t: t.open(b"f", APPEND))
    pair.same(lambda t: t.lseek(fd[t], 1, os.SEEK_SET))
    pair.same(lambda t: t.write(fd[t], b"45"))
    assert pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_CUR)) == 6
    # On Linux pwrite appends too.
    pair.same(lambda t: t.pwrite(fd[t], b"67", 0))
    assert pair.same(lambda t: t.content(b"f")) == b"01234567"
    assert pair.same(lambda t: t.pread(fd[t], 3, 2)) == b"234"


def test_two_appenders_lose_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    one = pair.each(lambda t: t.open(b"f", APPEND))
    two = pair.each(lambda t: t.open(b"f", APPEND))
    for i in range(20):
        pair.same(lambda t: t.write(one[t], b"a%d" % i))
        pair.same(lambda t: t.write(two[t], b"b%d" % i))
    pair.same(lambda t: t.content(b"f"))


def test_append_goes_to_the_end_that_the_source_has(mnt: Tree, src: Tree) -> None:
    # What the kernel believes to be the end is of no interest.
    mnt.make(b"f", b"start ")
    fd = mnt.open(b"f", APPEND)
    mnt.write(fd, b"one ")
    for _ in range(10):
        src.append(b"f", b"theirs ")
        mnt.write(fd, b"ours ")
    assert src.content(b"f") == b"start one " + b"theirs ours " * 10


def test_append_is_atomic_against_a_writer_on_the_source(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f")
    ours, theirs = mnt.open(b"f", APPEND), src.open(b"f", APPEND)
    calls = []
    for i in range(100):
        calls.append(mnt.start("write", ours, b"o%07d" % i))
        calls.append(src.start("write", theirs, b"t%07d" % i))
    for call in calls:
        assert call.result() == 8
    data = src.content(b"f")
    records = sorted(data[i : i + 8] for i in range(0, len(data), 8))
    assert records == sorted(b"%c%07d" % (c, i) for c in b"ot" for i in range(100))


def test_append_after_a_truncation(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fd = pair.each(lambda t: t.open(b"f", APPEND))
    pair.same(lambda t: t.write(fd[t], b"a"))
    pair.same(lambda t: t.truncate(b"f", 2))
    pair.same(lambda t: t.write(fd[t], b"b"))
    assert pair.same(lambda t: t.content(b"f")) == b"01b"
