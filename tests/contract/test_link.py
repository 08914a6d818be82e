# SPDX-License-Identifier: MIT


"""More names for one file: link."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair

if TYPE_CHECKING:
    from tests.conftest import Need


def test_link_gives_the_same_file_another_name(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.link(b"a", b"d/b"))
    assert pair.same(lambda t: os.path.samestat(t.lstat(b"a"), t.lstat(b"d/b")))
    pair.same(lambda t: t.append(b"d/b", b"more"))
    assert pair.same(lambda t: t.content(b"a")) == b"datamore"


def test_link_counts_show_under_every_name_at_once(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"0"))
    for i in range(1, 6):
        pair.same(lambda t: t.link(b"0", b"%d" % i))
        for j in range(i + 1):
            assert pair.same(lambda t: t.lstat(b"%d" % j).st_nlink) == i + 1


def test_link_changes_neither_owner_nor_mode(pair: Pair, need: Need) -> None:
    need.root("only root gives files away")
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.chown(b"a", 1001, 1002))
    pair.same(lambda t: t.chmod(b"a", 0o6751))
    before = pair.same(lambda t: t.facts(b"a"))
    pair.same(lambda t: t.link(b"a", b"b"))
    assert pair.same(lambda t: t.facts(b"b")) == before._replace(nlink=2)


def test_link_to_a_taken_name_is_eexist(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.make(b"b", b"b"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    for name in (b"a", b"b", b"d", b"dangling", b".", b"d/.."):
        pair.fails(errno.EEXIST, lambda t: t.link(b"a", name))


def test_link_of_a_directory_is_eperm(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.fails(errno.EPERM, lambda t: t.link(b"d", b"e"))


def test_link_of_what_cannot_be(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    pair.fails(errno.ENOENT, lambda t: t.link(b"nothing", b"b"))
    pair.fails(errno.ENOENT, lambda t: t.link(b"a", b"no/b"))
    pair.fails(errno.ENOENT, lambda t: t.link(b"a", b"b/"))
    pair.fails(errno.ENOTDIR, lambda t: t.link(b"a/x", b"b"))
    pair.fails(errno.ENOTDIR, lambda t: t.link(b"a", b"a/b"))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.link(b"a", b"n" * 256))


def test_link_of_a_link_is_a_link_unless_it_is_followed(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.link(b"l", b"m"))
    assert pair.same(lambda t: t.readlink(b"m")) == b"f"
    assert pair.same(lambda t: t.lstat(b"l").st_nlink) == 2
    pair.same(lambda t: t.link(b"l", b"g", follow=True))
    assert pair.same(lambda t: t.facts(b"g")).type == stat.S_IFREG
    assert pair.same(lambda t: t.lstat(b"f").st_nlink) == 2


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_link_of_a_special_file(pair: Pair, kind: int) -> None:
    pair.same(lambda t: t.mknod(b"x", kind | 0o644))
    pair.same(lambda t: t.link(b"x", b"y"))
    assert pair.same(lambda t: t.facts(b"y"))[::2][:2] == (kind, 2)


def test_link_moves_ctime_of_the_file_and_the_times_of_the_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.link(b"f", b"d/1"))) == ["ctime"]
    assert pair.same(lambda t: t.moved(b"d", lambda: t.link(b"f", b"d/2"))) == ["mtime", "ctime"]


def test_link_of_an_unlinked_open_file_is_enoent(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.unlink(b"f"))
    pair.fails(errno.ENOENT, lambda t: t.link_fd(fd[t], b"g"))


def test_link_gives_an_open_file_another_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.rename(b"f", b"g"))
    pair.same(lambda t: t.link_fd(fd[t], b"h"))
    assert pair.same(lambda t: t.content(b"h")) == b"data"
    assert pair.same(lambda t: t.fstat(fd[t]).st_nlink) == 2


def test_link_needs_the_right_to_write_the_directory(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: other[t].make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.fails(errno.EACCES, lambda t: other[t].link(b"f", b"d/f"))
    pair.same(lambda t: other[t].link(b"f", b"g"))
    assert pair.same(lambda t: t.facts(b"g")).uid == 1001
