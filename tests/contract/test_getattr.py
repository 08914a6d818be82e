# SPDX-License-Identifier: MIT


"""What stat tells: getattr, and the birth time: statx."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import LONG_AGO, Pair, Tree, facts

if TYPE_CHECKING:
    from tests.conftest import Wait


def _everything(t: Tree) -> None:
    t.mkdir(b"dir")
    t.make(b"file", b"x" * 5000)
    t.symlink(b"file", b"symlink")
    t.mknod(b"fifo", stat.S_IFIFO | 0o640)
    t.mknod(b"socket", stat.S_IFSOCK | 0o640)
    t.link(b"file", b"link")


NAMES = [b"dir", b"file", b"symlink", b"fifo", b"socket", b"link", b"."]


@pytest.mark.parametrize("name", NAMES)
def test_getattr_of_every_type_is_the_native_one(pair: Pair, name: bytes) -> None:
    pair.same(_everything)
    pair.same(lambda t: t.facts(name))


@pytest.mark.parametrize("name", NAMES)
def test_getattr_is_what_the_source_says(
    mnt: Tree, src: Tree, name: bytes, eventually: Wait
) -> None:
    _everything(src)
    for path in NAMES[:-1]:
        src.age(path)

    def told(st: os.stat_result) -> tuple[object, ...]:
        times = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
        return (facts(st), st.st_size, st.st_blocks, st.st_blksize, *times)

    # The top is known already, as it was before.
    assert eventually(lambda: told(mnt.lstat(name)) == told(src.lstat(name)))


def test_stat_follows_a_link_and_lstat_does_not(pair: Pair) -> None:
    pair.same(_everything)
    assert pair.same(lambda t: facts(t.stat(b"symlink"))).type == stat.S_IFREG
    assert pair.same(lambda t: facts(t.lstat(b"symlink"))).type == stat.S_IFLNK
    assert pair.same(lambda t: t.lstat(b"symlink").st_size) == len(b"file")


def test_fstat_tells_the_same_as_lstat(pair: Pair) -> None:
    pair.same(_everything)
    for name in (b"dir", b"file"):

        def both(t: Tree) -> bool:
            through = t.with_fd(name, os.O_RDONLY, t.fstat)
            return (
                tuple(through) == tuple(t.lstat(name))
                and through.st_blocks == t.lstat(name).st_blocks
            )

        assert pair.same(both)


def test_size_grows_with_each_write(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_WRONLY | os.O_CREAT))
    for i in range(1, 6):
        pair.same(lambda t: t.write(fd[t], b"x" * 1000))
        assert pair.same(lambda t: t.fstat(fd[t]).st_size) == 1000 * i
        assert pair.same(lambda t: t.lstat(b"f").st_size) == 1000 * i


def test_blocks_tell_how_much_is_really_allocated(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"dense", b"x" * 100_000))
    pair.same(lambda t: t.make(b"sparse"))
    pair.same(lambda t: t.truncate(b"sparse", 100_000_000))
    for name in (b"dense", b"sparse"):
        pair.same(lambda t: t.with_fd(name, os.O_RDONLY, t.fsync))
    assert pair.same(lambda t: t.lstat(b"dense").st_blocks) * 512 >= 100_000
    assert pair.same(lambda t: t.lstat(b"sparse").st_blocks) * 512 < 100_000
    assert pair.same(lambda t: t.lstat(b"sparse").st_size) == 100_000_000


def test_nlink_of_a_directory_counts_its_subdirectories(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    before = pair.same(lambda t: t.lstat(b"d").st_nlink)
    pair.same(lambda t: t.mkdir(b"d/one"))
    pair.same(lambda t: t.mkdir(b"d/two"))
    pair.same(lambda t: t.make(b"d/file"))
    after = pair.same(lambda t: t.lstat(b"d").st_nlink)
    pair.same(lambda t: t.rmdir(b"d/one"))
    assert pair.same(lambda t: t.lstat(b"d").st_nlink) in (after, after - 1)
    assert after in (before, before + 2)


def test_the_whole_tree_is_one_device(pair: Pair) -> None:
    pair.same(_everything)
    assert pair.same(lambda t: len({t.lstat(name).st_dev for name in NAMES})) == 1


def test_times_have_nanoseconds(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.utime(b"f", LONG_AGO, LONG_AGO + 1))
    assert pair.same(lambda t: t.lstat(b"f").st_atime_ns) == LONG_AGO
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == LONG_AGO + 1


def test_reading_moves_atime_as_relatime_says(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.age(b"f"))
    # It is not after mtime, so it moves, and then for a day no more.
    assert pair.same(lambda t: t.moved(b"f", lambda: t.content(b"f"))) == ["atime"]
    assert pair.same(lambda t: t.moved(b"f", lambda: t.content(b"f"))) == []


def test_reading_a_directory_moves_its_atime(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.age(b"d"))
    assert pair.same(lambda t: t.moved(b"d", lambda: t.listdir(b"d"))) == ["atime"]


def test_following_a_link_moves_its_atime(pair: Pair) -> None:
    pair.same(lambda t: t.symlink(b"target", b"l"))
    pair.same(lambda t: t.age(b"l"))
    assert pair.same(lambda t: t.moved(b"l", lambda: t.readlink(b"l"))) == ["atime"]


def test_looking_moves_no_time(pair: Pair) -> None:
    pair.same(_everything)

    def look(t: Tree) -> None:
        t.lstat(b"file")
        t.listxattr(b"file")
        t.access(b"file", os.R_OK)
        t.close(t.open(b"file", os.O_RDWR))

    assert pair.same(lambda t: t.moved(b"file", lambda: look(t))) == []
