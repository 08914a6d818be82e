# SPDX-License-Identifier: MIT


"""Changing a file's size: the size of setattr, which is truncate and ftruncate."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair

if TYPE_CHECKING:
    from tests.conftest import Need

SIZES = [0, 1, 4095, 4096, 4097, 10_000, 10_001, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_truncate_cuts_or_extends_with_zeros(pair: Pair, size: int) -> None:
    pair.same(lambda t: t.make(b"f", b"x" * 10_000))
    pair.same(lambda t: t.truncate(b"f", size))
    assert pair.same(lambda t: t.content(b"f")) == (b"x" * 10_000 + bytes(size))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_ftruncate_cuts_or_extends_with_zeros(pair: Pair, size: int) -> None:
    pair.same(lambda t: t.make(b"f", b"x" * 10_000))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.ftruncate(fd[t], size))
    assert pair.same(lambda t: t.fstat(fd[t]).st_size) == size
    assert pair.same(lambda t: t.pread(fd[t], 2_000_000, 0)) == (b"x" * 10_000 + bytes(size))[:size]


def test_what_was_cut_off_never_comes_back(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"secret" * 1000))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.pread(reader[t], 6000, 0))
    for cut in (4097, 100, 0):
        pair.same(lambda t: t.truncate(b"f", cut))
        pair.same(lambda t: t.truncate(b"f", 6000))
        assert pair.same(lambda t: t.pread(reader[t], 6000, cut)) == bytes(6000 - cut)


def test_truncate_of_what_has_no_size(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mknod(b"fifo", stat.S_IFIFO | 0o644))
    pair.fails(errno.EISDIR, lambda t: t.truncate(b"d", 0))
    pair.fails(errno.EINVAL, lambda t: t.truncate(b"fifo", 0))
    pair.fails(errno.ENOENT, lambda t: t.truncate(b"nothing", 0))
    pair.fails(errno.ENOTDIR, lambda t: t.truncate(b"f/x", 0))
    pair.fails(errno.EINVAL, lambda t: t.truncate(b"f", -1))


def test_ftruncate_needs_a_descriptor_for_writing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.fails(errno.EINVAL, lambda t: t.ftruncate(fd[t], 0))
    path = pair.each(lambda t: t.open(b"f", os.O_PATH))
    pair.fails(errno.EBADF, lambda t: t.ftruncate(path[t], 0))
    directory = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    pair.fails(errno.EINVAL, lambda t: t.ftruncate(directory[t], 0))
    writer = pair.each(lambda t: t.open(b"f", os.O_WRONLY))
    pair.fails(errno.EINVAL, lambda t: t.ftruncate(writer[t], -1))
    assert pair.same(lambda t: t.content(b"f")) == b"data"


def test_truncate_follows_a_link(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.truncate(b"l", 2))
    assert pair.same(lambda t: t.content(b"f")) == b"da"


def test_truncate_needs_the_right_to_write_and_ftruncate_does_not(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].truncate(b"f", 0))
    pair.same(lambda t: t.chmod(b"f", 0o622))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_WRONLY))
    pair.same(lambda t: t.chmod(b"f", 0o600))
    pair.same(lambda t: other[t].ftruncate(fd[t], 2))
    assert pair.same(lambda t: t.content(b"f")) == b"da"


def test_truncate_of_an_ordinary_user_needs_the_right_to_write(pair: Pair, need: Need) -> None:
    need.ordinary_user("root may write everything")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o444))
    pair.fails(errno.EACCES, lambda t: t.truncate(b"f", 0))
    pair.same(lambda t: t.chmod(b"f", 0o222))
    pair.same(lambda t: t.truncate(b"f", 2))
    pair.same(lambda t: t.chmod(b"f", 0o644))
    assert pair.same(lambda t: t.content(b"f")) == b"da"


def test_truncate_moves_mtime_and_ctime(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.age(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.truncate(b"f", 2))) == ["mtime", "ctime"]
    # Even when the size stays: what the source's file system does is right.
    pair.same(lambda t: t.moved(b"f", lambda: t.truncate(b"f", 2)))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.ftruncate(fd[t], 1))) == ["mtime", "ctime"]
    pair.same(lambda t: t.moved(b"f", lambda: t.ftruncate(fd[t], 1)))


@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o6777])
def test_truncate_by_others_clears_suid_and_sgid(pair: Pair, need: Need, mode: int) -> None:
    need.root("somebody else has to truncate")
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", mode))
    pair.same(lambda t: other[t].truncate(b"f", 2))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o777
    pair.same(lambda t: t.chmod(b"f", mode))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDWR))
    pair.same(lambda t: other[t].ftruncate(fd[t], 1))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o777


def test_truncate_makes_sparse_files(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.truncate(b"f", 1 << 40))
    assert pair.same(lambda t: t.lstat(b"f").st_size) == 1 << 40
    assert pair.same(lambda t: t.lstat(b"f").st_blocks) < 1000
    # As large as the file system has it, and then EFBIG.
    pair.either(lambda t: t.truncate(b"f", (1 << 63) - 1))
    pair.same(lambda t: t.lstat(b"f").st_size)


def test_truncate_is_seen_by_every_open_descriptor(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fds = [pair.each(lambda t: t.open(b"f", flags)) for flags in (os.O_RDONLY, os.O_RDWR)]
    pair.same(lambda t: t.truncate(b"f", 4))
    for fd in fds:
        assert pair.same(lambda t: t.fstat(fd[t]).st_size) == 4
        assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"0123"
