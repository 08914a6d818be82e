# SPDX-License-Identifier: MIT


"""Making symbolic links: symlink."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need, Place


@pytest.mark.parametrize(
    "target",
    [
        b"f",
        b"../x",
        b"/etc/passwd",
        b"a/b/../c//",
        b"\xff\xfe",
        b"with space\n",
        b"n" * 256,
        b"x/" * 2000,
    ],
    ids=["name", "up", "absolute", "messy", "bytes", "blank", "long name", "long"],
)
def test_symlink_keeps_its_text_as_it_is(pair: Pair, target: bytes) -> None:
    pair.same(lambda t: t.symlink(target, b"l"))
    assert pair.same(lambda t: t.readlink(b"l")) == target
    assert pair.same(lambda t: t.lstat(b"l").st_size) == len(target)


def test_symlink_text_ends_where_a_path_must(pair: Pair) -> None:
    pair.same(lambda t: t.symlink(b"x" * 4095, b"longest"))
    assert pair.same(lambda t: t.readlink(b"longest")) == b"x" * 4095
    pair.fails(errno.ENAMETOOLONG, lambda t: t.symlink(b"x" * 4096, b"too long"))
    pair.fails(errno.ENOENT, lambda t: t.symlink(b"", b"empty"))


def test_symlink_is_made_with_all_rights_whatever_the_umask(pair: Pair) -> None:
    pair.same(lambda t: setattr(t, "umask", 0o777))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    assert pair.same(lambda t: t.facts(b"l"))[:2] == (stat.S_IFLNK, 0o777)


def test_symlink_on_a_taken_name_is_eexist(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"nothing", b"l"))
    for name in (b"f", b"l", b"."):
        pair.fails(errno.EEXIST, lambda t: t.symlink(b"x", name))
    pair.fails(errno.ENOENT, lambda t: t.symlink(b"x", b"no/l"))
    pair.fails(errno.ENOTDIR, lambda t: t.symlink(b"x", b"f/l"))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.symlink(b"x", b"n" * 256))


def test_symlink_moves_the_times_of_the_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    assert pair.same(lambda t: t.moved(b"d", lambda: t.symlink(b"x", b"d/l"))) == ["mtime", "ctime"]


def test_symlink_belongs_to_its_maker(pair: Pair, need: Need) -> None:
    need.root("somebody else has to make it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.as_user(1001, 1002).symlink(b"x", b"l"))
    assert pair.same(lambda t: t.facts(b"l"))[3:5] == (1001, 1002)


def test_a_link_out_of_the_tree_leads_where_it_leads_natively(
    mnt: Tree, ref: Tree, need: Need, place: Place
) -> None:
    need.kernel("who follows a link is the kernel of the program that asks")
    (place.ref.parent / "outside").write_bytes(b"outside")
    absolute = os.fsencode(place.ref.parent / "outside")
    for t in (mnt, ref):
        t.symlink(absolute, b"l")
        assert t.content(b"l") == b"outside"


def test_a_link_is_followed_in_the_middle_of_a_path(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    pair.same(lambda t: t.symlink(b"d", b"l"))
    pair.same(lambda t: t.symlink(b"l/f", b"m"))
    assert pair.same(lambda t: t.content(b"l/f")) == b"data"
    assert pair.same(lambda t: t.content(b"m")) == b"data"
    assert pair.same(lambda t: t.listdir(b"l")) == [b"f"]
    pair.same(lambda t: t.make(b"l/new"))
    assert pair.same(lambda t: t.listdir(b"d")) == [b"f", b"new"]
