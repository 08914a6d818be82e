# SPDX-License-Identifier: MIT


"""Making and opening a file in one step: create."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

NEW = os.O_RDWR | os.O_CREAT


@pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o666, 0o600, 0o777, 0o4755, 0o2755, 0])
def test_create_applies_the_umask_once(pair: Pair, mode: int, umask: int) -> None:
    pair.same(lambda t: setattr(t, "umask", umask))
    pair.same(lambda t: t.close(t.open(b"f", NEW, mode)))
    assert pair.same(lambda t: t.facts(b"f")).mode == mode & ~umask


def test_a_created_file_is_usable_whatever_its_mode(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", NEW, 0))
    assert pair.same(lambda t: t.write(fd[t], b"data")) == 4
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"data"


def test_create_opens_what_is_there(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data", 0o640))
    fd = pair.each(lambda t: t.open(b"f", NEW, 0o777))
    assert pair.same(lambda t: t.read(fd[t], 10)) == b"data"
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o640


def test_o_excl_makes_a_new_file_or_fails(pair: Pair) -> None:
    pair.same(lambda t: t.close(t.open(b"f", NEW | os.O_EXCL)))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"f", b"dangling", b"l", b"d"):
        pair.fails(errno.EEXIST, lambda t: t.open(name, NEW | os.O_EXCL))
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"nothing"))


def test_o_excl_sees_what_was_made_behind_the_mount(mnt: Tree, src: Tree) -> None:
    with pytest.raises(FileNotFoundError):
        mnt.lstat(b"f")
    src.make(b"f", b"theirs")
    with pytest.raises(FileExistsError):
        mnt.open(b"f", NEW | os.O_EXCL)
    assert src.content(b"f") == b"theirs"


def test_create_makes_the_target_of_a_dangling_link(pair: Pair) -> None:
    pair.same(lambda t: t.symlink(b"target", b"l"))
    pair.same(lambda t: t.make(b"l", b"data"))
    assert pair.same(lambda t: t.content(b"target")) == b"data"
    assert pair.same(lambda t: t.facts(b"l")).type == stat.S_IFLNK


def test_create_where_it_cannot_be(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.fails(errno.ENOENT, lambda t: t.open(b"no/f", NEW))
    pair.fails(errno.ENOTDIR, lambda t: t.open(b"f/f", NEW))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.open(b"n" * 256, NEW))
    for path in (b"d", b"d/", b".", b"d/..", b"new/"):
        pair.fails(errno.EISDIR, lambda t: t.open(path, NEW))
    assert pair.same(lambda t: t.listdir()) == [b"d", b"f"]


def test_create_for_reading_only(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY | os.O_CREAT))
    assert pair.same(lambda t: t.read(fd[t], 10)) == b""
    pair.fails(errno.EBADF, lambda t: t.write(fd[t], b"x"))


def test_create_with_o_append_appends(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", NEW | os.O_APPEND | os.O_EXCL))
    pair.same(lambda t: t.write(fd[t], b"one"))
    pair.same(lambda t: t.append(b"f", b"two"))
    pair.same(lambda t: t.write(fd[t], b"three"))
    assert pair.same(lambda t: t.content(b"f")) == b"onetwothree"


def test_create_moves_the_times_of_the_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))

    def create(t: Tree) -> None:
        t.close(t.open(b"d/f", NEW))

    assert pair.same(lambda t: t.moved(b"d", lambda: create(t))) == ["mtime", "ctime"]
    # Opening it again does not.
    assert pair.same(lambda t: t.moved(b"d", lambda: create(t))) == []


def test_a_created_file_belongs_to_its_maker(pair: Pair, need: Need) -> None:
    need.root("somebody else has to make it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.as_user(1001, 1002, umask=0o027).make(b"f", b"data", 0o666))
    made = pair.same(lambda t: t.facts(b"f"))
    assert (made.uid, made.gid, made.mode) == (1001, 1002, 0o640)


def test_create_does_not_open_what_the_caller_may_not(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.make(b"f", b"secret", 0o600))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    for flags in (NEW, os.O_RDONLY | os.O_CREAT, NEW | os.O_TRUNC):
        pair.fails(errno.EACCES, lambda t: other[t].open(b"f", flags))
    assert pair.same(lambda t: t.content(b"f")) == b"secret"


def test_create_needs_the_right_to_write_the_directory(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    other = pair.each(lambda t: t.as_user(1001, 1001, (1002,)))
    pair.fails(errno.EACCES, lambda t: other[t].open(b"f", NEW))
    # A supplementary group gives the right.
    pair.same(lambda t: t.chown(b".", 0, 1002))
    pair.same(lambda t: t.chmod(b".", 0o770))
    pair.same(lambda t: other[t].make(b"f"))
    made = pair.same(lambda t: t.facts(b"f"))
    assert (made.uid, made.gid) == (1001, 1001)
