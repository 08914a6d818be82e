# SPDX-License-Identifier: MIT


"""Finding data and holes: lseek with SEEK_DATA and SEEK_HOLE; and positions."""

from __future__ import annotations

import errno
import os

import pytest

from xloop.testing import Pair, Tree
from xloop.testing.tree import SEEK_DATA, SEEK_HOLE

BLOCK = 65536


def _sparse(t: Tree) -> None:
    """Data, hole, data, hole, of one BLOCK each."""
    fd = t.open(b"f", os.O_RDWR | os.O_CREAT)
    t.pwrite(fd, b"x" * BLOCK, 0)
    t.pwrite(fd, b"x" * BLOCK, 2 * BLOCK)
    t.ftruncate(fd, 4 * BLOCK)
    t.fsync(fd)
    t.close(fd)


@pytest.mark.parametrize(
    "offset", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 1, 3 * BLOCK]
)
@pytest.mark.parametrize("whence", [SEEK_DATA, SEEK_HOLE])
def test_data_and_holes_are_found(pair: Pair, offset: int, whence: int) -> None:
    pair.same(_sparse)
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    found = pair.either(lambda t: t.lseek(fd[t], offset, whence))
    if not isinstance(found, OSError):
        assert pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_CUR)) == found


@pytest.mark.parametrize("whence", [SEEK_DATA, SEEK_HOLE])
def test_at_and_beyond_the_end_it_is_enxio(pair: Pair, whence: int) -> None:
    pair.same(_sparse)
    pair.same(lambda t: t.make(b"empty"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    empty = pair.each(lambda t: t.open(b"empty", os.O_RDONLY))
    for offset in (4 * BLOCK, 4 * BLOCK + 1, 1 << 40):
        pair.fails(errno.ENXIO, lambda t: t.lseek(fd[t], offset, whence))
    pair.fails(errno.ENXIO, lambda t: t.lseek(empty[t], 0, whence))
    pair.fails(errno.ENXIO, lambda t: t.lseek(fd[t], -1, whence))


def test_a_file_that_is_one_hole(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.truncate(b"f", BLOCK))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.either(lambda t: t.lseek(fd[t], 0, SEEK_DATA))
    assert pair.same(lambda t: t.lseek(fd[t], 0, SEEK_HOLE)) in (0, BLOCK)


def test_positions_are_set_from_start_here_and_end(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    for offset, whence, wanted in (
        (3, os.SEEK_SET, 3),
        (4, os.SEEK_CUR, 7),
        (-2, os.SEEK_CUR, 5),
        (-1, os.SEEK_END, 9),
        (10, os.SEEK_END, 20),
        (1 << 40, os.SEEK_SET, 1 << 40),
    ):
        assert pair.same(lambda t: t.lseek(fd[t], offset, whence)) == wanted
    pair.fails(errno.EINVAL, lambda t: t.lseek(fd[t], -1, os.SEEK_SET))
    pair.fails(errno.EINVAL, lambda t: t.lseek(fd[t], 0, 9))


def test_the_end_is_where_another_descriptor_put_it(pair: Pair, src: Tree) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.append(b"f", b"more"))
    assert pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_END)) == 8


def test_a_copy_may_find_all_holes(pair: Pair) -> None:
    pair.same(_sparse)

    def holes(t: Tree) -> list[int]:
        fd = t.open(b"f", os.O_RDONLY)
        found = [0]
        for whence in (SEEK_HOLE, SEEK_DATA, SEEK_HOLE):
            found.append(t.lseek(fd, found[-1], whence))
        return found

    pair.same(holes)
