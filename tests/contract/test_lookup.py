# SPDX-License-Identifier: MIT


"""Finding names: lookup, and forgetting what was found."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from xloop.testing import Pair, Tree


def test_lookup_of_a_missing_name_is_enoent(pair: Pair) -> None:
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"nothing"))
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"no/thing"))


def test_lookup_below_a_file_is_enotdir(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"file"))
    pair.fails(errno.ENOTDIR, lambda t: t.lstat(b"file/x"))
    pair.fails(errno.ENOTDIR, lambda t: t.lstat(b"file/"))
    pair.fails(errno.ENOTDIR, lambda t: t.lstat(b"file/."))
    pair.fails(errno.ENOTDIR, lambda t: t.lstat(b"file/.."))


def test_lookup_finds_a_name_as_soon_as_it_is_made(pair: Pair) -> None:
    for i in range(20):
        name = b"name%d" % i
        pair.fails(errno.ENOENT, lambda t: t.lstat(name))
        pair.same(lambda t: t.make(name))
        pair.same(lambda t: t.facts(name))
        pair.same(lambda t: t.unlink(name))
        pair.fails(errno.ENOENT, lambda t: t.lstat(name))


def test_lookup_is_exact_about_case_and_bytes(pair: Pair) -> None:
    # The two forms of the last letter are different names to POSIX.
    names = [b"name", b"Name", b"caf\xc3\xa9", b"cafe\xcc\x81", b"name ", b" name"]
    for name in names:
        pair.same(lambda t: t.make(name, name))
    for name in names:
        assert pair.same(lambda t: t.content(name)) == name


def test_lookup_of_dot_and_dotdot_stays_in_the_tree(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/e"))
    for here, there in (
        (b"d", b"d/."),
        (b"d", b"d/e/.."),
        (b".", b"d/e/../.."),
        (b"d/e", b"./d/./e/"),
    ):
        assert pair.same(lambda t: t.lstat(here).st_ino == t.lstat(there).st_ino)


def test_every_name_of_a_file_is_the_same_file(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.link(b"a", b"d/b"))
    assert pair.same(lambda t: os.path.samestat(t.lstat(b"a"), t.lstat(b"d/b")))


def test_no_two_files_share_a_number(mnt: Tree) -> None:
    seen = set()
    for i in range(30):
        mnt.mkdir(b"d%d" % i)
        for j in range(5):
            mnt.make(b"d%d/f%d" % (i, j))
            seen.add((mnt.lstat(b"d%d/f%d" % (i, j)).st_dev, mnt.lstat(b"d%d/f%d" % (i, j)).st_ino))
        seen.add((mnt.lstat(b"d%d" % i).st_dev, mnt.lstat(b"d%d" % i).st_ino))
    assert len(seen) == 180


def test_a_file_keeps_its_number_while_it_exists(mnt: Tree) -> None:
    mnt.mkdir(b"d")
    mnt.make(b"f")
    number = mnt.lstat(b"f").st_ino
    mnt.rename(b"f", b"d/g")
    mnt.link(b"d/g", b"h")
    mnt.unlink(b"d/g")
    mnt.chmod(b"h", 0o600)
    mnt.append(b"h", b"data")
    assert mnt.lstat(b"h").st_ino == number


def test_a_name_that_is_used_again_is_another_file(pair: Pair) -> None:
    fd = pair.each(lambda t: _made_and_open(t))
    pair.same(lambda t: t.unlink(b"f"))
    pair.same(lambda t: t.make(b"f", b"new"))
    assert pair.same(lambda t: t.lstat(b"f").st_ino == t.fstat(fd[t]).st_ino) is False
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"old"
    assert pair.same(lambda t: t.content(b"f")) == b"new"


def _made_and_open(t: Tree) -> int:
    t.make(b"f", b"old")
    return t.open(b"f", os.O_RDONLY)


def test_a_name_may_become_another_type(pair: Pair) -> None:
    # A number that is used again with another type would be EIO ever after.
    for _ in range(5):
        pair.same(lambda t: t.make(b"x", b"data"))
        assert pair.same(lambda t: t.facts(b"x")).type == stat.S_IFREG
        pair.same(lambda t: t.unlink(b"x"))
        pair.same(lambda t: t.mkdir(b"x"))
        assert pair.same(lambda t: t.facts(b"x")).type == stat.S_IFDIR
        pair.same(lambda t: t.rmdir(b"x"))
        pair.same(lambda t: t.symlink(b"y", b"x"))
        assert pair.same(lambda t: t.facts(b"x")).type == stat.S_IFLNK
        pair.same(lambda t: t.unlink(b"x"))
        pair.same(lambda t: t.mknod(b"x", stat.S_IFIFO | 0o644))
        assert pair.same(lambda t: t.facts(b"x")).type == stat.S_IFIFO
        pair.same(lambda t: t.unlink(b"x"))


@pytest.mark.parametrize("depth", [40, 41])
def test_forty_links_are_followed_and_no_more(pair: Pair, depth: int) -> None:
    pair.same(lambda t: t.make(b"0", b"found"))
    for i in range(depth):
        pair.same(lambda t: t.symlink(b"%d" % i, b"%d" % (i + 1)))
    last = b"%d" % depth
    if depth <= 40:
        assert pair.same(lambda t: t.content(last)) == b"found"
    else:
        pair.fails(errno.ELOOP, lambda t: t.content(last))


def test_links_to_themselves_are_eloop(pair: Pair) -> None:
    pair.same(lambda t: t.symlink(b"loop", b"loop"))
    pair.same(lambda t: t.symlink(b"b", b"a"))
    pair.same(lambda t: t.symlink(b"a", b"b"))
    for path in (b"loop", b"loop/x", b"a", b"b/x"):
        pair.fails(errno.ELOOP, lambda t: t.stat(path))
    assert pair.same(lambda t: t.readlink(b"loop")) == b"loop"


def test_many_nodes_are_found_and_forgotten(mnt: Tree, src: Tree) -> None:
    # In process, check_balanced() at the end demands a forget for each lookup.
    for i in range(300):
        src.make(b"%d" % i)
    for _ in range(3):
        for i in range(300):
            mnt.lstat(b"%d" % i)
