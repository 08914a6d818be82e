# SPDX-License-Identifier: MIT


"""Reading directories: opendir, readdir, readdirplus, releasedir."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Name, Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

DIR = os.O_RDONLY | os.O_DIRECTORY


def _fill(t: Tree, count: int) -> None:
    for i in range(count):
        t.make(b"name-%05d" % i)


def _names(entries: list[Name]) -> list[bytes]:
    return [entry.name for entry in entries]


@pytest.mark.parametrize("count", [0, 1, 2, 100, 1500])
def test_readdir_gives_each_name_once(mnt: Tree, src: Tree, count: int) -> None:
    _fill(src, count)
    names = _names(mnt.scandir())
    assert len(names) == count + 2
    assert sorted(names) == sorted([b".", b"..", *(b"name-%05d" % i for i in range(count))])


@pytest.mark.parametrize("size", [300, 1000, 4096, 100_000])
def test_readdir_gives_each_name_once_whatever_the_buffer(mnt: Tree, src: Tree, size: int) -> None:
    _fill(src, 500)
    fd = mnt.open(b".", DIR)
    names: list[bytes] = []
    while some := mnt.getdents(fd, size):
        names += _names(some)
    assert sorted(names) == sorted([b".", b"..", *(b"name-%05d" % i for i in range(500))])
    # And at the end it stays at the end.
    assert mnt.getdents(fd, size) == []


def test_readdir_of_long_names(mnt: Tree, src: Tree) -> None:
    # 255 bytes: few to a page, and more room than any other.
    names = [b"%03d" % i + b"\xff" * 252 for i in range(200)]
    for name in names:
        src.make(name)
    assert mnt.listdir() == sorted(names)


def test_readdir_tells_number_and_type(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"file"))
    pair.same(lambda t: t.mkdir(b"dir"))
    pair.same(lambda t: t.symlink(b"file", b"link"))
    pair.same(lambda t: t.mknod(b"fifo", stat.S_IFIFO | 0o644))
    pair.same(lambda t: t.mknod(b"socket", stat.S_IFSOCK | 0o644))
    pair.same(lambda t: t.link(b"file", b"again"))

    def told(t: Tree) -> list[tuple[bytes, int]]:
        for entry in t.scandir():
            if entry.name not in (b".", b".."):
                assert entry.ino == t.lstat(entry.name).st_ino
        return sorted((entry.name, entry.type) for entry in t.scandir())

    pair.same(told)


def test_readdir_tells_the_numbers_of_the_dots(mnt: Tree) -> None:
    mnt.mkdir(b"d")
    mnt.mkdir(b"d/e")
    numbers = {entry.name: entry.ino for entry in mnt.scandir(b"d/e")}
    assert numbers[b"."] == mnt.lstat(b"d/e").st_ino
    assert numbers[b".."] == mnt.lstat(b"d").st_ino


def test_rewind_shows_what_came_since(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"one"))
    fd = pair.each(lambda t: t.open(b".", DIR))
    assert pair.same(lambda t: len(t.getdents(fd[t]))) == 3
    pair.same(lambda t: t.make(b"two"))
    pair.same(lambda t: t.unlink(b"one"))
    pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_SET))
    assert pair.same(lambda t: sorted(_names(t.getdents(fd[t])))) == [b".", b"..", b"two"]


def test_seekdir_goes_on_after_any_entry(mnt: Tree, src: Tree) -> None:
    _fill(src, 300)
    fd = mnt.open(b".", DIR)
    entries: list[Name] = []
    while some := mnt.getdents(fd, 2000):
        entries += some
    assert len({entry.offset for entry in entries}) == len(entries)
    for i in (0, 1, 7, 150, 298, 300, 3):
        mnt.lseek(fd, entries[i].offset, os.SEEK_SET)
        following = mnt.getdents(fd, 2000)
        assert following[0].name == entries[i + 1].name
    mnt.lseek(fd, entries[-1].offset, os.SEEK_SET)
    assert mnt.getdents(fd, 2000) == []


def test_telldir_gives_the_offset_of_the_last_entry(mnt: Tree, src: Tree) -> None:
    _fill(src, 300)
    fd = mnt.open(b".", DIR)
    entries = mnt.getdents(fd, 2000)
    assert mnt.lseek(fd, 0, os.SEEK_CUR) == entries[-1].offset


@pytest.mark.parametrize("size", [400, 4096])
def test_removing_what_was_read_skips_nothing(mnt: Tree, src: Tree, size: int) -> None:
    # As rm -r does it: an offset that is an index skips as many as were removed.
    _fill(src, 500)
    fd = mnt.open(b".", DIR)
    seen: list[bytes] = []
    while some := mnt.getdents(fd, size):
        for name in _names(some):
            if name not in (b".", b".."):
                mnt.unlink(name)
                seen.append(name)
    assert sorted(seen) == sorted(b"name-%05d" % i for i in range(500))
    assert mnt.listdir() == []


def test_what_is_there_throughout_is_read_once_whatever_comes_and_goes(
    mnt: Tree, src: Tree
) -> None:
    _fill(src, 300)
    fd = mnt.open(b".", DIR)
    seen: list[bytes] = []
    step = 0
    while some := mnt.getdents(fd, 1000):
        seen += _names(some)
        for _ in range(10):
            src.make(b"new-%05d" % step)
            mnt.make(b"fresh-%05d" % step)
            if step >= 5:
                mnt.unlink(b"new-%05d" % (step - 5))
            step += 1
        assert step < 5000, "it never ends"
    stable = [name for name in seen if name.startswith(b"name-")]
    assert sorted(stable) == sorted(b"name-%05d" % i for i in range(300))


def test_two_readers_do_not_disturb_each_other(mnt: Tree, src: Tree) -> None:
    _fill(src, 200)
    one, two = mnt.open(b".", DIR), mnt.open(b".", DIR)
    first: list[bytes] = []
    second: list[bytes] = []
    while some := mnt.getdents(one, 1000):
        first += _names(some)
        second += _names(mnt.getdents(two, 500))
    while some := mnt.getdents(two, 500):
        second += _names(some)
    assert first == second


def test_a_listing_is_never_stale(pair: Pair) -> None:
    # The kernel may keep a listing for as long as nothing changed, and not an entry longer.
    for i in range(30):
        pair.same(lambda t: t.make(b"%d" % i))
        assert len(pair.same(lambda t: t.listdir())) == i + 1
    for i in range(30):
        pair.same(lambda t: t.rename(b"%d" % i, b"moved%d" % i))
        assert b"moved%d" % i in pair.same(lambda t: t.listdir())
    for i in range(30):
        pair.same(lambda t: t.unlink(b"moved%d" % i))
        assert len(pair.same(lambda t: t.listdir())) == 29 - i


def test_what_was_listed_can_be_used_at_once(mnt: Tree, src: Tree) -> None:
    # What readdirplus looked up is as good as looked up by name.
    for i in range(100):
        src.make(b"%d" % i, b"%d" % i)
    for name in mnt.listdir():
        assert mnt.lstat(name).st_size == len(name)
        assert mnt.content(name) == name


def test_readdir_of_anything_else_is_enotdir(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.fails(errno.ENOTDIR, lambda t: t.getdents(fd[t]))
    path = pair.each(lambda t: t.open(b".", os.O_PATH))
    pair.fails(errno.EBADF, lambda t: t.getdents(path[t]))


def test_readdir_needs_the_right_to_read_and_no_other(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: t.chmod(b"d", 0o711))
    pair.fails(errno.EACCES, lambda t: other[t].scandir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o744))
    assert pair.same(lambda t: other[t].listdir(b"d")) == [b"f"]


def test_readdir_of_an_ordinary_user_needs_the_right_to_read_and_no_other(
    pair: Pair, need: Need
) -> None:
    need.ordinary_user("root may read everything")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.chmod(b"d", 0o300))
    pair.fails(errno.EACCES, lambda t: t.scandir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o400))
    assert pair.same(lambda t: t.listdir(b"d")) == [b"f"]
    pair.same(lambda t: t.chmod(b"d", 0o700))


def test_many_directories_are_open_at_once(mnt: Tree, src: Tree) -> None:
    fds = []
    for i in range(100):
        src.mkdir(b"%d" % i)
        src.make(b"%d/f%d" % (i, i))
        fds.append(mnt.open(b"%d" % i, DIR))
    for i, fd in enumerate(fds):
        assert b"f%d" % i in _names(mnt.getdents(fd))


def test_a_renamed_directory_goes_on_being_read(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    fd = pair.each(lambda t: t.open(b"d", DIR))
    pair.same(lambda t: t.rename(b"d", b"e"))
    pair.same(lambda t: t.make(b"e/g"))
    pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_SET))
    assert pair.same(lambda t: sorted(_names(t.getdents(fd[t])))) == [b".", b"..", b"f", b"g"]
