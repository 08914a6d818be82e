# SPDX-License-Identifier: MIT


"""Copying without a way through the program: copy_file_range."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

DATA = bytes(i % 251 for i in range(300_000))


def test_it_copies_what_it_says(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", DATA))
    one = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR | os.O_CREAT))

    def copy(t: Tree) -> int:
        done = 0
        while some := t.copy_file_range(one[t], done, two[t], done, len(DATA) - done):
            done += some
        return done

    assert pair.same(copy) == len(DATA)
    assert pair.same(lambda t: t.content(b"b")) == DATA


def test_it_moves_the_positions_only_where_no_offset_is_given(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"0123456789"))
    pair.same(lambda t: t.make(b"b", b".........."))
    one = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR))
    assert pair.same(lambda t: t.copy_file_range(one[t], None, two[t], 5, 3)) == 3
    assert pair.same(lambda t: t.copy_file_range(one[t], 8, two[t], None, 2)) == 2
    assert pair.same(lambda t: t.read(one[t], 1)) == b"3"
    assert pair.same(lambda t: t.lseek(two[t], 0, os.SEEK_CUR)) == 2
    assert pair.same(lambda t: t.content(b"b")) == b"89...012.."


def test_it_ends_at_the_end(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    one = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR | os.O_CREAT))
    assert pair.same(lambda t: t.copy_file_range(one[t], 2, two[t], 0, 100)) == 2
    assert pair.same(lambda t: t.copy_file_range(one[t], 4, two[t], 0, 100)) == 0
    assert pair.same(lambda t: t.copy_file_range(one[t], 400, two[t], 0, 100)) == 0
    assert pair.same(lambda t: t.content(b"b")) == b"ta"


def test_it_copies_within_a_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    assert pair.same(lambda t: t.copy_file_range(fd[t], 0, fd[t], 6, 3)) == 3
    assert pair.same(lambda t: t.content(b"f")) == b"0123450129"
    pair.fails(errno.EINVAL, lambda t: t.copy_file_range(fd[t], 0, fd[t], 2, 5))


def test_what_was_read_before_is_not_kept(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"a" * 10_000))
    pair.same(lambda t: t.make(b"b", b"b" * 10_000))
    one = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR))
    pair.same(lambda t: t.pread(two[t], 10_000, 0))
    pair.same(lambda t: t.copy_file_range(one[t], 0, two[t], 3000, 4000))
    assert (
        pair.same(lambda t: t.pread(two[t], 10_000, 0)) == b"b" * 3000 + b"a" * 4000 + b"b" * 3000
    )
    assert pair.same(lambda t: t.fstat(two[t]).st_size) == 10_000


def test_it_sees_what_was_just_written(pair: Pair) -> None:
    one = pair.each(lambda t: t.open(b"a", os.O_RDWR | os.O_CREAT))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR | os.O_CREAT))
    pair.same(lambda t: t.write(one[t], b"fresh"))
    assert pair.same(lambda t: t.copy_file_range(one[t], 0, two[t], 0, 5)) == 5
    assert pair.same(lambda t: t.pread(two[t], 10, 0)) == b"fresh"


def test_it_needs_the_right_descriptors(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.make(b"b"))
    reader = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    writer = pair.each(lambda t: t.open(b"b", os.O_WRONLY))
    appender = pair.each(lambda t: t.open(b"b", os.O_WRONLY | os.O_APPEND))
    directory = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    pair.fails(errno.EBADF, lambda t: t.copy_file_range(writer[t], 0, writer[t], 10, 1))
    pair.fails(errno.EBADF, lambda t: t.copy_file_range(reader[t], 0, reader[t], 10, 1))
    pair.fails(errno.EBADF, lambda t: t.copy_file_range(reader[t], 0, appender[t], 10, 1))
    pair.fails(errno.EISDIR, lambda t: t.copy_file_range(directory[t], 0, writer[t], 10, 1))


def test_it_moves_the_times_of_the_target(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.make(b"b"))
    one = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR))
    copy = lambda t: t.copy_file_range(one[t], 0, two[t], 0, 4)  # noqa: E731
    assert pair.same(lambda t: t.moved(b"b", lambda: copy(t))) == ["mtime", "ctime"]


def test_from_the_mount_to_elsewhere_and_back(mnt: Tree, src: Tree, need: Need) -> None:
    need.kernel("two trees without a kernel share no descriptors")
    mnt.make(b"a", b"there")
    one, two = mnt.open(b"a", os.O_RDWR), src.open(b"b", os.O_RDWR | os.O_CREAT)
    try:
        copied = mnt.copy_file_range(one, 0, two, 0, 5)
    except OSError as error:
        # Two file systems: a kernel before 5.3 or after 5.19 does not copy between them.
        if error.errno != errno.EXDEV:
            raise
        copied = 0
    assert src.content(b"b") == b"there"[:copied]
