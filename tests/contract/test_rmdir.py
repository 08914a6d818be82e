# SPDX-License-Identifier: MIT


"""Removing directories: rmdir."""

from __future__ import annotations

import errno
import os

from xloop.testing import Pair


def test_rmdir_removes_an_empty_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.rmdir(b"d"))
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"d"))
    pair.fails(errno.ENOENT, lambda t: t.rmdir(b"d"))


def test_rmdir_of_a_full_directory_is_enotempty(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.fails(errno.ENOTEMPTY, lambda t: t.rmdir(b"d"))
    pair.same(lambda t: t.unlink(b"d/f"))
    pair.same(lambda t: t.symlink(b"x", b"d/l"))
    pair.fails(errno.ENOTEMPTY, lambda t: t.rmdir(b"d/"))
    pair.same(lambda t: t.unlink(b"d/l"))
    pair.same(lambda t: t.rmdir(b"d/"))


def test_rmdir_of_anything_else_is_enotdir(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.symlink(b"d", b"l"))
    for path in (b"f", b"f/", b"l", b"f/x"):
        pair.fails(errno.ENOTDIR, lambda t: t.rmdir(path))
    pair.either(lambda t: t.rmdir(b"l/"))
    assert pair.same(lambda t: t.listdir()) == [b"d", b"f", b"l"]


def test_rmdir_of_dots(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.fails(errno.EINVAL, lambda t: t.rmdir(b"d/."))
    pair.fails(errno.ENOTEMPTY, lambda t: t.rmdir(b"d/.."))
    pair.fails(errno.EINVAL, lambda t: t.rmdir(b"."))


def test_rmdir_of_an_open_directory_leaves_it_empty(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    fd = pair.each(lambda t: t.open(b"d", os.O_RDONLY | os.O_DIRECTORY))
    pair.same(lambda t: t.rmdir(b"d"))
    pair.same(lambda t: t.fstat(fd[t]).st_nlink)
    # Some give nothing, some ENOENT; never somebody else's names.
    pair.either(lambda t: t.getdents(fd[t]))


def test_rmdir_lowers_the_link_count_of_the_parent(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/e"))
    pair.same(lambda t: t.lstat(b"d").st_nlink)
    pair.same(lambda t: t.rmdir(b"d/e"))
    pair.same(lambda t: t.lstat(b"d").st_nlink)


def test_rmdir_moves_the_times_of_the_parent(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/e"))
    assert pair.same(lambda t: t.moved(b"d", lambda: t.rmdir(b"d/e"))) == ["mtime", "ctime"]


def test_a_removed_directory_may_be_made_again(pair: Pair) -> None:
    for i in range(20):
        pair.same(lambda t: t.mkdir(b"d"))
        pair.same(lambda t: t.make(b"d/%d" % i))
        assert pair.same(lambda t: t.listdir(b"d")) == [b"%d" % i]
        pair.same(lambda t: t.unlink(b"d/%d" % i))
        pair.same(lambda t: t.rmdir(b"d"))
