# SPDX-License-Identifier: MIT


"""Stable storage: fsync and fdatasync, fsyncdir, syncfs."""

from __future__ import annotations

import errno
import os

import pytest

from xloop.testing import Pair


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "syncfs"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_fsync_takes_a_descriptor_of_any_mode(pair: Pair, call: str, flags: int) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", flags))
    pair.same(lambda t: getattr(t, call)(fd[t]))
    assert pair.same(lambda t: t.content(b"f")) == b"data"


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "syncfs"])
def test_fsync_takes_a_directory(pair: Pair, call: str) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"d", b"."):
        fd = pair.each(lambda t: t.open(name, os.O_RDONLY | os.O_DIRECTORY))
        pair.same(lambda t: getattr(t, call)(fd[t]))


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "syncfs"])
def test_fsync_of_an_o_path_descriptor_is_ebadf(pair: Pair, call: str) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_PATH))
    pair.fails(errno.EBADF, lambda t: getattr(t, call)(fd[t]))


def test_fsync_of_an_unlinked_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.unlink(b"f"))
    pair.same(lambda t: t.pwrite(fd[t], b"more", 4))
    pair.same(lambda t: t.fsync(fd[t]))
    pair.same(lambda t: t.fdatasync(fd[t]))
