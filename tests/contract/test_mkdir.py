# SPDX-License-Identifier: MIT


"""Making directories: mkdir."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair

if TYPE_CHECKING:
    from tests.conftest import Need


@pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o777, 0o700, 0o1777, 0o555, 0])
def test_mkdir_applies_the_umask_once(pair: Pair, mode: int, umask: int) -> None:
    pair.same(lambda t: setattr(t, "umask", umask))
    pair.same(lambda t: t.mkdir(b"d", mode))
    assert pair.same(lambda t: t.facts(b"d")).mode == mode & ~umask
    pair.same(lambda t: t.chmod(b"d", 0o755))


def test_mkdir_makes_an_empty_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    assert pair.same(lambda t: t.facts(b"d")).type == stat.S_IFDIR
    assert pair.same(lambda t: sorted(n.name for n in t.scandir(b"d"))) == [b".", b".."]
    assert pair.same(lambda t: t.lstat(b"d/..").st_ino == t.lstat(b".").st_ino)


def test_mkdir_on_a_taken_name_is_eexist(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    for name in (b"f", b"d", b"d/", b"dangling", b"dangling/", b".", b"d/.", b"d/.."):
        pair.fails(errno.EEXIST, lambda t: t.mkdir(name))


def test_mkdir_where_it_cannot_be(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENOENT, lambda t: t.mkdir(b"no/d"))
    pair.fails(errno.ENOTDIR, lambda t: t.mkdir(b"f/d"))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.mkdir(b"n" * 256))
    pair.fails(errno.ENOENT, lambda t: t.mkdir(b""))


def test_mkdir_takes_slashes_at_the_end(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d///"))
    assert pair.same(lambda t: t.listdir()) == [b"d"]


def test_mkdir_moves_the_times_of_the_parent(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    assert pair.same(lambda t: t.moved(b"d", lambda: t.mkdir(b"d/e"))) == ["mtime", "ctime"]


def test_mkdir_in_a_removed_directory_is_enoent(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    inside = pair.each(lambda t: t.at(b"d"))
    pair.same(lambda t: t.rmdir(b"d"))
    for call in ("mkdir", "make"):
        pair.fails(errno.ENOENT, lambda t: getattr(inside[t], call)(b"x"))
    pair.fails(errno.ENOENT, lambda t: inside[t].symlink(b"x", b"l"))


def test_mkdir_needs_the_right_to_write_the_parent(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].mkdir(b"d"))
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: other[t].mkdir(b"d"))
    assert pair.same(lambda t: t.facts(b"d"))[3:5] == (1001, 1001)
