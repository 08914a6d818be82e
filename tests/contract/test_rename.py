# SPDX-License-Identifier: MIT


"""Moving names: rename, with the flags of renameat2."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree
from xloop.testing.tree import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT

if TYPE_CHECKING:
    from tests.conftest import Need


def test_rename_moves_the_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    number = pair.each(lambda t: t.lstat(b"a").st_ino)
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.listdir()) == [b"b"]
    assert pair.same(lambda t: t.content(b"b")) == b"data"
    assert pair.same(lambda t: t.lstat(b"b").st_ino == number[t])
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"a"))


def test_rename_into_another_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"e"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    pair.same(lambda t: t.rename(b"d/f", b"e/g"))
    assert pair.same(lambda t: t.snapshot())


def test_rename_replaces_a_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"new"))
    pair.same(lambda t: t.make(b"b", b"old"))
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.listdir()) == [b"b"]
    assert pair.same(lambda t: t.content(b"b")) == b"new"


def test_rename_keeps_a_replaced_file_usable_through_its_handle(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"new"))
    pair.same(lambda t: t.make(b"b", b"old"))
    fd = pair.each(lambda t: t.open(b"b", os.O_RDWR))
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"old"
    assert pair.same(lambda t: t.fstat(fd[t]).st_nlink) == 0
    pair.same(lambda t: t.ftruncate(fd[t], 1))
    assert pair.same(lambda t: t.content(b"b")) == b"new"


def test_rename_keeps_a_moved_file_usable_through_its_handle(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"a", b"data"))
    fd = pair.each(lambda t: t.open(b"a", os.O_RDWR))
    pair.same(lambda t: t.rename(b"a", b"d/b"))
    pair.same(lambda t: t.make(b"a", b"another"))
    pair.same(lambda t: t.pwrite(fd[t], b"more", 4))
    pair.same(lambda t: t.ftruncate(fd[t], 6))
    pair.same(lambda t: t.fchmod(fd[t], 0o600))
    assert pair.same(lambda t: t.content(b"d/b")) == b"datamo"
    assert pair.same(lambda t: t.content(b"a")) == b"another"
    assert pair.same(lambda t: t.facts(b"d/b")).mode == 0o600
    assert pair.same(lambda t: t.facts(b"a")).mode == 0o644


def test_rename_of_a_file_that_has_another_name_lowers_the_count(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"one"))
    pair.same(lambda t: t.make(b"b", b"two"))
    pair.same(lambda t: t.link(b"b", b"c"))
    assert pair.same(lambda t: t.lstat(b"c").st_nlink) == 2
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.lstat(b"c").st_nlink) == 1
    assert pair.same(lambda t: t.content(b"c")) == b"two"


def test_rename_to_another_name_of_the_same_file_does_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.link(b"a", b"b"))
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.listdir()) == [b"a", b"b"]
    assert pair.same(lambda t: t.lstat(b"a").st_nlink) == 2
    pair.same(lambda t: t.rename(b"a", b"a"))


def test_rename_moves_a_directory_with_all_that_is_in_it(pair: Pair) -> None:
    for path in (b"d", b"d/e", b"d/e/f", b"x"):
        pair.same(lambda t: t.mkdir(path))
    pair.same(lambda t: t.make(b"d/e/f/file", b"data"))
    pair.same(lambda t: t.content(b"d/e/f/file"))
    pair.same(lambda t: t.rename(b"d/e", b"x/y"))
    assert pair.same(lambda t: t.content(b"x/y/f/file")) == b"data"
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"d/e/f/file"))
    assert pair.same(lambda t: t.lstat(b"x/y/..").st_ino == t.lstat(b"x").st_ino)
    assert pair.same(lambda t: t.listdir(b"x/y")) == [b"f"]


def test_rename_moves_a_directory_under_our_feet(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/inner"))
    inner = pair.each(lambda t: t.at(b"d/inner"))
    pair.same(lambda t: t.rename(b"d", b"moved"))
    pair.same(lambda t: inner[t].make(b"file", b"data"))
    assert pair.same(lambda t: t.content(b"moved/inner/file")) == b"data"
    assert pair.same(lambda t: inner[t].listdir()) == [b"file"]


def test_rename_replaces_an_empty_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"a"))
    pair.same(lambda t: t.make(b"a/f"))
    pair.same(lambda t: t.mkdir(b"b"))
    pair.same(lambda t: t.rename(b"a", b"b"))
    assert pair.same(lambda t: t.listdir(b"b")) == [b"f"]


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        (b"nothing", b"x", errno.ENOENT),
        (b"nothing", b"file", errno.ENOENT),
        (b"file", b"no/x", errno.ENOENT),
        (b"file", b"file/x", errno.ENOTDIR),
        (b"file/x", b"y", errno.ENOTDIR),
        (b"file", b"dir", errno.EISDIR),
        (b"dir", b"file", errno.ENOTDIR),
        (b"dir", b"full", errno.ENOTEMPTY),
        (b"dir", b"dir/sub", errno.EINVAL),
        (b"full", b"full/sub/deep", errno.EINVAL),
        (b"full/sub", b"full", errno.ENOTEMPTY),
        (b"file", b"new/", errno.ENOTDIR),
        (b"file/", b"new", errno.ENOTDIR),
        (b".", b"new", errno.EBUSY),
        (b"dir/.", b"new", errno.EBUSY),
        (b"dir/..", b"new", errno.EBUSY),
        (b"dir", b".", errno.EBUSY),
        (b"dir", b"full/..", errno.EBUSY),
        (b"file", b"n" * 256, errno.ENAMETOOLONG),
        (b"n" * 256, b"new", errno.ENAMETOOLONG),
        (b"loop/x", b"new", errno.ELOOP),
        (b"", b"new", errno.ENOENT),
        (b"file", b"", errno.ENOENT),
    ],
)
def test_rename_that_cannot_be_changes_nothing(
    pair: Pair, old: bytes, new: bytes, number: int
) -> None:
    pair.same(lambda t: t.make(b"file", b"data"))
    pair.same(lambda t: t.mkdir(b"dir"))
    pair.same(lambda t: t.mkdir(b"full"))
    pair.same(lambda t: t.mkdir(b"full/sub"))
    pair.same(lambda t: t.symlink(b"loop", b"loop"))
    before = pair.same(lambda t: t.snapshot())
    pair.fails(number, lambda t: t.rename(old, new))
    assert pair.same(lambda t: t.snapshot()) == before


def test_rename_takes_a_slash_after_a_directory(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"a"))
    pair.same(lambda t: t.rename(b"a/", b"b/"))
    assert pair.same(lambda t: t.listdir()) == [b"b"]


def test_rename_of_a_link_moves_the_link(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.rename(b"l", b"m"))
    assert pair.same(lambda t: t.readlink(b"m")) == b"f"
    pair.same(lambda t: t.rename(b"f", b"m"))
    assert pair.same(lambda t: t.facts(b"m")).type == stat.S_IFREG


def test_rename_moves_the_times_of_both_directories(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"e"))
    for name in (b"d/1", b"d/2", b"d/3"):
        pair.same(lambda t: t.make(name))
    both = ["mtime", "ctime"]
    assert pair.same(lambda t: t.moved(b"d", lambda: t.rename(b"d/1", b"e/1"))) == both
    assert pair.same(lambda t: t.moved(b"e", lambda: t.rename(b"d/2", b"e/2"))) == both
    assert pair.same(lambda t: t.moved(b"d", lambda: t.rename(b"d/3", b"d/4"))) == both


def test_rename_moves_ctime_of_the_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    fd = pair.each(lambda t: t.open(b"a", os.O_RDONLY))
    # Not everywhere: on the source's file system as it is.
    pair.same(lambda t: t.moved(fd[t], lambda: t.rename(b"a", b"b")))


def test_rename_changes_the_link_counts_of_the_directories(pair: Pair) -> None:
    for path in (b"d", b"e", b"d/sub"):
        pair.same(lambda t: t.mkdir(path))
    pair.same(lambda t: (t.lstat(b"d").st_nlink, t.lstat(b"e").st_nlink))
    pair.same(lambda t: t.rename(b"d/sub", b"e/sub"))
    pair.same(lambda t: (t.lstat(b"d").st_nlink, t.lstat(b"e").st_nlink))


# -- flags ------------------------------------------------------------------------------------


def test_noreplace_moves_to_a_new_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.same(lambda t: t.rename(b"a", b"b", RENAME_NOREPLACE))
    assert pair.same(lambda t: t.content(b"b")) == b"data"


def test_noreplace_never_replaces(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"a"))
    pair.same(lambda t: t.make(b"b", b"b"))
    pair.same(lambda t: t.mkdir(b"d"))
    for new in (b"b", b"a", b"d", b"."):
        pair.fails(errno.EEXIST, lambda t: t.rename(b"a", new, RENAME_NOREPLACE))
    assert pair.same(lambda t: (t.content(b"a"), t.content(b"b"))) == (b"a", b"b")


def test_noreplace_sees_what_was_made_behind_the_mount(mnt: Tree, src: Tree) -> None:
    # The kernel checks what it knows first; the file system must check what is.
    mnt.make(b"a", b"mine")
    with pytest.raises(FileNotFoundError):
        mnt.lstat(b"b")
    src.make(b"b", b"theirs")
    with pytest.raises(FileExistsError):
        mnt.rename(b"a", b"b", RENAME_NOREPLACE)
    assert src.content(b"b") == b"theirs"


@pytest.mark.parametrize(
    ("left", "right"), [("file", "file"), ("dir", "dir"), ("file", "dir"), ("link", "dir")]
)
def test_exchange_swaps_whatever_is_there(pair: Pair, left: str, right: str) -> None:
    def build(t: Tree) -> None:
        for name, kind in ((b"a", left), (b"d/b", right)):
            if kind == "file":
                t.make(name, name)
            elif kind == "dir":
                t.mkdir(name)
                t.make(name + b"/in", name)
            else:
                t.symlink(name, name)

    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(build)
    numbers = pair.each(lambda t: (t.lstat(b"a").st_ino, t.lstat(b"d/b").st_ino))
    pair.same(lambda t: t.rename(b"a", b"d/b", RENAME_EXCHANGE))
    assert pair.same(lambda t: (t.lstat(b"d/b").st_ino, t.lstat(b"a").st_ino) == numbers[t])
    pair.same(lambda t: t.snapshot())


def test_exchange_keeps_open_files_apart(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"one"))
    pair.same(lambda t: t.make(b"b", b"two"))
    one = pair.each(lambda t: t.open(b"a", os.O_RDWR))
    two = pair.each(lambda t: t.open(b"b", os.O_RDWR))
    pair.same(lambda t: t.rename(b"a", b"b", RENAME_EXCHANGE))
    pair.same(lambda t: t.pwrite(one[t], b"ONE", 0))
    pair.same(lambda t: t.ftruncate(two[t], 1))
    assert pair.same(lambda t: (t.content(b"a"), t.content(b"b"))) == (b"t", b"ONE")


def test_exchange_with_nothing_is_enoent(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    pair.fails(errno.ENOENT, lambda t: t.rename(b"a", b"b", RENAME_EXCHANGE))
    pair.fails(errno.ENOENT, lambda t: t.rename(b"b", b"a", RENAME_EXCHANGE))
    assert pair.same(lambda t: t.content(b"a")) == b"data"


def test_exchange_with_an_ancestor_is_einval(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/e"))
    pair.fails(errno.EINVAL, lambda t: t.rename(b"d", b"d/e", RENAME_EXCHANGE))
    pair.fails(errno.EINVAL, lambda t: t.rename(b"d/e", b"d", RENAME_EXCHANGE))


@pytest.mark.parametrize("flags", [3, 6, 8, 1 << 20])
def test_flags_that_make_no_sense_are_einval(pair: Pair, flags: int) -> None:
    pair.same(lambda t: t.make(b"a", b"a"))
    pair.same(lambda t: t.make(b"b", b"b"))
    pair.fails(errno.EINVAL, lambda t: t.rename(b"a", b"b", flags))
    assert pair.same(lambda t: (t.content(b"a"), t.content(b"b"))) == (b"a", b"b")


def test_whiteout_leaves_a_whiteout_or_is_refused(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a", b"data"))
    refused = pair.either(lambda t: t.rename(b"a", b"b", RENAME_WHITEOUT))
    pair.same(lambda t: t.listdir())
    if refused is None:
        assert pair.same(lambda t: t.facts(b"a"))[::6] == (stat.S_IFCHR, 0)
    else:
        assert pair.same(lambda t: t.content(b"a")) == b"data"


# -- rights -----------------------------------------------------------------------------------


def test_rename_needs_the_right_to_write_both_directories(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.mkdir(b"mine"))
    pair.same(lambda t: t.mkdir(b"free"))
    pair.same(lambda t: t.chmod(b"free", 0o777))
    pair.same(lambda t: t.make(b"mine/f"))
    pair.same(lambda t: t.make(b"free/g"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].rename(b"mine/f", b"free/f"))
    pair.fails(errno.EACCES, lambda t: other[t].rename(b"free/g", b"mine/g"))
    pair.same(lambda t: other[t].rename(b"free/g", b"free/h"))


def test_rename_of_a_directory_needs_the_right_to_write_it(pair: Pair, need: Need) -> None:
    # Its ".." changes.
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.mkdir(b"to"))
    pair.same(lambda t: t.chmod(b"to", 0o777))
    pair.same(lambda t: t.mkdir(b"d"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].rename(b"d", b"to/d"))
    pair.same(lambda t: other[t].rename(b"d", b"e"))


def test_rename_under_load_loses_no_file(mnt: Tree) -> None:
    for i in range(50):
        mnt.make(b"%d" % i, b"%d" % i)

    def shuffle(t: Tree, step: int) -> None:
        for i in range(150):
            t.rename(b"%d" % (i * step % 50), b"%d" % (i * (step + 4) % 50), RENAME_EXCHANGE)

    calls = [mnt.start("rename", b"%d" % i, b"%d" % (49 - i), RENAME_EXCHANGE) for i in range(25)]
    shuffle(mnt, 3)
    for call in calls:
        call.result()
    assert sorted(mnt.content(b"%d" % i) for i in range(50)) == sorted(b"%d" % i for i in range(50))
