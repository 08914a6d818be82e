# SPDX-License-Identifier: MIT


"""Removing names: unlink."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need


def test_unlink_removes_the_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.unlink(b"f"))
    assert pair.same(lambda t: t.listdir()) == []
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"f"))
    pair.fails(errno.ENOENT, lambda t: t.unlink(b"f"))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG])
def test_unlink_removes_every_type(pair: Pair, kind: int) -> None:
    pair.same(lambda t: t.mknod(b"x", kind | 0o644))
    pair.same(lambda t: t.unlink(b"x"))
    assert pair.same(lambda t: t.exists(b"x")) is False


def test_unlink_of_a_directory_is_eisdir(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    for path in (b"d", b"d/", b".", b"..", b"d/.", b"d/.."):
        pair.fails(errno.EISDIR, lambda t: t.unlink(path))


def test_unlink_with_a_slash_is_enotdir_for_a_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.symlink(b"d", b"l"))
    pair.fails(errno.ENOTDIR, lambda t: t.unlink(b"f/"))
    error = pair.either(lambda t: t.unlink(b"l/"))
    assert isinstance(error, OSError)
    assert pair.same(lambda t: t.listdir()) == [b"d", b"f", b"l"]


def test_unlink_of_a_link_leaves_its_target(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    pair.same(lambda t: t.unlink(b"l"))
    pair.same(lambda t: t.unlink(b"dangling"))
    assert pair.same(lambda t: t.content(b"f")) == b"data"


def test_unlink_keeps_data_readable_through_an_open_handle(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.unlink(b"f"))
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"data"
    assert pair.same(lambda t: t.pwrite(fd[t], b"more", 4)) == 4
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"datamore"
    assert pair.same(lambda t: t.fstat(fd[t]).st_nlink) == 0


def test_unlink_of_an_open_file_hides_nothing_in_the_directory(pair: Pair, src: Tree) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    fd = pair.each(lambda t: t.open(b"d/f", os.O_RDWR))
    pair.same(lambda t: t.unlink(b"d/f"))
    assert pair.same(lambda t: t.listdir(b"d")) == []
    assert src.listdir(b"d") == []
    # A .fuse_hidden file would be in the way.
    pair.same(lambda t: t.rmdir(b"d"))
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"data"


def test_unlink_lowers_the_link_count_under_the_other_names(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.link(b"a", b"b"))
    pair.same(lambda t: t.link(b"a", b"c"))
    assert [pair.same(lambda t: t.lstat(n).st_nlink) for n in (b"a", b"b", b"c")] == [3, 3, 3]
    pair.same(lambda t: t.unlink(b"b"))
    assert [pair.same(lambda t: t.lstat(n).st_nlink) for n in (b"a", b"c")] == [2, 2]
    pair.same(lambda t: t.unlink(b"a"))
    assert pair.same(lambda t: t.lstat(b"c").st_nlink) == 1


def test_unlink_of_one_name_leaves_the_others_usable(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.link(b"a", b"b"))
    fd = pair.each(lambda t: t.open(b"a", os.O_RDWR))
    pair.same(lambda t: t.unlink(b"a"))
    pair.same(lambda t: t.pwrite(fd[t], b"more", 4))
    assert pair.same(lambda t: t.content(b"b")) == b"datamore"
    pair.same(lambda t: t.truncate(b"b", 2))
    assert pair.same(lambda t: t.fstat(fd[t]).st_size) == 2


def test_unlink_moves_the_times_of_the_directory_and_ctime_of_the_file(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"d/1", b"d/2"):
        pair.same(lambda t: t.make(name))
    pair.same(lambda t: t.link(b"d/2", b"two"))
    assert pair.same(lambda t: t.moved(b"d", lambda: t.unlink(b"d/1"))) == ["mtime", "ctime"]
    assert pair.same(lambda t: t.moved(b"two", lambda: t.unlink(b"d/2"))) == ["ctime"]


def test_unlink_needs_the_right_to_write_the_directory(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.chmod(b"d/f", 0o666))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].unlink(b"d/f"))
    pair.same(lambda t: t.chmod(b"d", 0o777))
    pair.same(lambda t: other[t].unlink(b"d/f"))


def test_unlink_in_a_read_only_directory_is_eacces_for_an_ordinary_user(
    pair: Pair, need: Need
) -> None:
    need.ordinary_user("root may write to every directory")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.chmod(b"d", 0o555))
    pair.fails(errno.EACCES, lambda t: t.unlink(b"d/f"))
    pair.same(lambda t: t.chmod(b"d", 0o755))


def test_unlink_of_thousands_while_open(pair: Pair) -> None:
    fds = []
    for i in range(200):
        pair.same(lambda t: t.make(b"%d" % i, b"%d" % i))
        fds.append(pair.each(lambda t: t.open(b"%d" % i, os.O_RDONLY)))
        pair.same(lambda t: t.unlink(b"%d" % i))
    for i, fd in enumerate(fds):
        assert pair.same(lambda t: t.read(fd[t], 10)) == b"%d" % i
