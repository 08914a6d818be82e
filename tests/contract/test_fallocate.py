# SPDX-License-Identifier: MIT


"""Space: fallocate with its modes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 0x10, 0x20, 0x40


@pytest.fixture(autouse=True)
def _source_has_fallocate(need: Need) -> None:
    def attempt(t: Tree) -> None:
        fd = t.open(b"probe", os.O_RDWR | os.O_CREAT)
        t.fallocate(fd, 0, 0, 4096)
        t.close(fd)

    need.source("fallocate", attempt)


MODES = {
    "allocate": 0,
    "keep": KEEP_SIZE,
    "punch": PUNCH_HOLE | KEEP_SIZE,
    "collapse": COLLAPSE,
    "zero": ZERO,
    "zero-keep": ZERO | KEEP_SIZE,
    "insert": INSERT,
    "unshare": UNSHARE,
    "punch-alone": PUNCH_HOLE,
    "unknown": 0x80,
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_mode_does_what_it_does_natively(pair: Pair, mode: int) -> None:
    pair.same(lambda t: t.make(b"f", b"x" * 65536))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    # Read first: what the kernel keeps must not outlive it.
    pair.same(lambda t: t.pread(fd[t], 70_000, 0))
    pair.either(lambda t: t.fallocate(fd[t], mode, 8192, 16384))
    pair.same(lambda t: t.pread(fd[t], 100_000, 0))
    pair.either(lambda t: t.fallocate(fd[t], mode, 65536, 16384))
    pair.same(lambda t: t.pread(fd[t], 100_000, 0))
    pair.same(lambda t: t.fstat(fd[t]).st_size)
    pair.same(lambda t: t.fsync(fd[t]))
    pair.same(lambda t: t.fstat(fd[t]).st_blocks)


def test_a_punched_hole_reads_as_zeros_and_is_free(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"x" * 65536))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.fsync(fd[t]))
    before = pair.same(lambda t: t.fstat(fd[t]).st_blocks)
    if pair.either(lambda t: t.fallocate(fd[t], PUNCH_HOLE | KEEP_SIZE, 4096, 32768)) is not None:
        pytest.skip("the file system of the source punches no holes")
    pair.same(lambda t: t.fsync(fd[t]))
    assert pair.same(lambda t: t.content(b"f")) == b"x" * 4096 + bytes(32768) + b"x" * 28672
    assert pair.same(lambda t: t.fstat(fd[t]).st_blocks) < before


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (0, 0), (0, -1), (10, -10)])
def test_a_range_that_cannot_be_is_einval(pair: Pair, offset: int, length: int) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    pair.fails(errno.EINVAL, lambda t: t.fallocate(fd[t], 0, offset, length))


def test_a_range_beyond_what_a_file_may_have_is_efbig(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    error = pair.either(lambda t: t.fallocate(fd[t], KEEP_SIZE, (1 << 62), 1 << 62))
    assert isinstance(error, OSError)


def test_it_needs_a_file_open_for_writing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.fails(errno.EBADF, lambda t: t.fallocate(reader[t], 0, 0, 10))
    directory = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    pair.fails(errno.EBADF, lambda t: t.fallocate(directory[t], 0, 0, 10))


def test_it_moves_mtime_and_ctime(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"x" * 10_000))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    for mode, offset in ((0, 20_000), (KEEP_SIZE, 40_000), (KEEP_SIZE | PUNCH_HOLE, 0)):
        pair.same(lambda t: t.age(b"f"))
        pair.same(lambda t: t.moved(b"f", lambda: t.fallocate(fd[t], mode, offset, 4096)))


def test_it_clears_suid_for_others(pair: Pair, need: Need) -> None:
    need.root("somebody else has to do it")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o6777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDWR))
    pair.same(lambda t: other[t].fallocate(fd[t], 0, 0, 10_000))
    pair.same(lambda t: t.facts(b"f"))
