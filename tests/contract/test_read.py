# SPDX-License-Identifier: MIT


"""Reading data: read."""

from __future__ import annotations

import errno
import os

import pytest

from xloop.testing import Pair, Tree

DATA = bytes(i % 251 for i in range(1_500_001))


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 131072, 1 << 20, 1 << 21])
def test_read_in_pieces_gives_the_whole(mnt: Tree, src: Tree, size: int) -> None:
    data = DATA if size >= 4095 else DATA[:3000]
    src.make(b"f", data)
    fd = mnt.open(b"f", os.O_RDONLY)
    parts = []
    while part := mnt.read(fd, size):
        # Fewer bytes than asked for only at the end.
        assert len(part) == min(size, len(data) - size * len(parts))
        parts.append(part)
    assert b"".join(parts) == data


def test_read_at_any_offset(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", DATA))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    for offset, size in ((0, 1), (4095, 2), (1_000_000, 300_000), (len(DATA) - 1, 10), (7, 0)):
        assert pair.same(lambda t: t.pread(fd[t], size, offset)) == DATA[offset : offset + size]


def test_read_at_and_beyond_the_end_gives_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    for offset in (4, 5, 4096, 1 << 40, (1 << 62)):
        assert pair.same(lambda t: t.pread(fd[t], 10, offset)) == b""
    pair.fails(errno.EINVAL, lambda t: t.pread(fd[t], 10, -1))


def test_pread_leaves_the_position(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.pread(fd[t], 5, 5))
    assert pair.same(lambda t: t.read(fd[t], 3)) == b"012"


def test_read_gives_zeros_for_holes(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    pair.same(lambda t: t.pwrite(fd[t], b"end", 1_000_000))
    assert pair.same(lambda t: t.pread(fd[t], 1_000_000, 0)) == bytes(1_000_000)
    assert pair.same(lambda t: t.pread(fd[t], 10, 999_999)) == b"\0end"


def test_read_sees_what_another_descriptor_wrote(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * 10_000))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.pread(reader[t], 10_000, 0))
    writer = pair.each(lambda t: t.open(b"f", os.O_WRONLY))
    for i in range(5):
        pair.same(lambda t: t.pwrite(writer[t], b"%d" % i * 10, i * 2000))
        assert pair.same(lambda t: t.pread(reader[t], 10, i * 2000)) == b"%d" % i * 10
    pair.same(lambda t: t.ftruncate(writer[t], 100_000))
    assert len(pair.same(lambda t: t.pread(reader[t], 200_000, 0))) == 100_000


def test_read_beyond_two_and_four_gigabytes(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    for offset in ((1 << 31) - 2, (1 << 32) - 2, 1 << 33):
        pair.same(lambda t: t.pwrite(fd[t], b"data", offset))
        assert pair.same(lambda t: t.pread(fd[t], 10, offset)).startswith(b"data")
    assert pair.same(lambda t: t.fstat(fd[t]).st_size) == (1 << 33) + 4


def test_many_readers_of_one_descriptor_get_each_byte_once(mnt: Tree, src: Tree) -> None:
    src.make(b"f", b"".join(b"%04d" % i for i in range(400)))
    fd = mnt.open(b"f", os.O_RDONLY)
    calls = [mnt.start("pread", fd, 4, i * 4) for i in range(100)]
    assert [call.result() for call in calls] == [b"%04d" % i for i in range(100)]
