# SPDX-License-Identifier: MIT


"""Changes behind the mount: on the source, by somebody who knows nothing of it.

The mount follows, within its cache timeouts, which are short here.  It never shows another file's data,
a wrong type or an error that stays.  No test asserts how long it takes.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Tree

if TYPE_CHECKING:
    from tests.conftest import Need, Wait

pytestmark = pytest.mark.forgetful

#: What an operation on something that is gone may answer.
GONE = (errno.ENOENT, errno.ESTALE)


# -- names --------------------------------------------------------------------------------------


def test_a_new_name_is_seen(mnt: Tree, src: Tree, eventually: Wait) -> None:
    assert not mnt.exists(b"f")
    assert mnt.listdir() == []
    src.make(b"f", b"data")
    assert eventually(lambda: mnt.content(b"f") == b"data")
    assert eventually(lambda: mnt.listdir() == [b"f"])


def test_a_removed_name_is_gone(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"f", b"data")
    mnt.mkdir(b"d")
    mnt.listdir()
    src.unlink(b"f")
    src.rmdir(b"d")
    assert eventually(lambda: not mnt.exists(b"f") and not mnt.exists(b"d"))
    assert eventually(lambda: mnt.listdir() == [])


def test_a_renamed_file_is_found_under_its_new_name(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"a", b"data")
    mnt.lstat(b"a")
    src.rename(b"a", b"b")
    assert eventually(lambda: mnt.content(b"b") == b"data" and not mnt.exists(b"a"))


def test_a_listing_that_was_kept_follows(mnt: Tree, src: Tree, eventually: Wait) -> None:
    for i in range(20):
        src.make(b"%d" % i)
        assert eventually(lambda: len(mnt.listdir()) == i + 1)
    for i in range(20):
        src.unlink(b"%d" % i)
        assert eventually(lambda: len(mnt.listdir()) == 19 - i)


def test_what_goes_between_listing_and_looking_is_simply_gone(mnt: Tree, src: Tree) -> None:
    for i in range(50):
        src.make(b"%d" % i)
    fd = mnt.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    names = mnt.getdents(fd)
    for i in range(50):
        src.unlink(b"%d" % i)
    for name in names:
        try:
            mnt.open(name.name, os.O_RDONLY)
        except OSError as error:
            assert error.errno in GONE  # noqa: PT017


# -- contents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"DATA", b"longer data", b"", b"x" * 100_000], ids=len)
def test_new_contents_are_read(mnt: Tree, src: Tree, eventually: Wait, data: bytes) -> None:
    mnt.make(b"f", b"data")
    assert mnt.content(b"f") == b"data"
    src.make(b"f", data)
    assert eventually(lambda: mnt.content(b"f") == data)
    assert eventually(lambda: mnt.lstat(b"f").st_size == len(data))


def test_new_contents_are_read_through_an_open_descriptor(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    mnt.make(b"f", b"data")
    fd = mnt.open(b"f", os.O_RDONLY)
    assert mnt.pread(fd, 20, 0) == b"data"
    for data in (b"more data", b"less", b"another 100", b""):
        src.make(b"f", data)

        def follows() -> bool:
            # What is stale is checked when attributes are asked for.
            mnt.fstat(fd)
            return mnt.pread(fd, 20, 0) == data

        assert eventually(follows)


def test_two_writers_of_different_places_lose_nothing(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f", b"." * 10_000)
    here, there = mnt.open(b"f", os.O_RDWR), src.open(b"f", os.O_RDWR)
    mnt.pread(here, 10_000, 0)
    for i in range(20):
        src.pwrite(there, b"s%02d" % i, i * 20)
        mnt.pwrite(here, b"m%02d" % i, i * 20 + 10)
    data = src.content(b"f")
    assert data[:400] == b"".join(b"s%02d.......m%02d......." % (i, i) for i in range(20))


def test_the_end_follows(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"f", b"data")
    fd = mnt.open(b"f", os.O_RDONLY)
    src.append(b"f", b"more")
    assert eventually(lambda: mnt.lseek(fd, 0, os.SEEK_END) == 8)


# -- attributes ---------------------------------------------------------------------------------


def test_new_attributes_are_seen(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"f", b"data")
    mnt.lstat(b"f")
    src.chmod(b"f", 0o611)
    assert eventually(lambda: mnt.facts(b"f").mode == 0o611)
    src.utime(b"f", 1_000, 2_000)
    assert eventually(lambda: mnt.lstat(b"f").st_mtime_ns == 2_000)
    src.link(b"f", b"g")
    assert eventually(lambda: mnt.lstat(b"f").st_nlink == 2)
    src.unlink(b"g")
    assert eventually(lambda: mnt.lstat(b"f").st_nlink == 1)


def test_new_extended_attributes_are_seen_at_once(mnt: Tree, src: Tree, need: Need) -> None:
    def attempt(t: Tree) -> None:
        t.make(b"f")
        t.setxattr(b"f", b"user.a", b"")

    need.source("user extended attributes", attempt)
    mnt.make(b"f")
    for value in (b"1", b"2", b"longer"):
        src.setxattr(b"f", b"user.a", value)
        assert mnt.getxattr(b"f", b"user.a") == value
    src.removexattr(b"f", b"user.a")
    assert mnt.listxattr(b"f") == []


def test_rights_taken_away_are_gone(mnt: Tree, src: Tree, eventually: Wait, need: Need) -> None:
    need.root("somebody else has to try it")
    mnt.make(b"f", b"data", 0o644)
    other = mnt.as_user(1001, 1001)
    assert other.content(b"f") == b"data"
    src.chmod(b"f", 0o600)

    def refused() -> bool:
        try:
            other.content(b"f")
        except PermissionError:
            return True
        return False

    assert eventually(refused)


# -- one thing in the place of another ------------------------------------------------------------


def _make(t: Tree, name: bytes, kind: str) -> None:
    if kind == "file":
        t.make(name, b"new")
    elif kind == "dir":
        t.mkdir(name)
        t.make(name + b"/inside", b"new")
    elif kind == "link":
        t.symlink(b"new", name)
    else:
        t.mknod(name, stat.S_IFIFO | 0o644)


KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_what_replaces_it_is_shown_as_what_it_is(
    mnt: Tree, src: Tree, eventually: Wait, before: str, after: str
) -> None:
    _make(mnt, b"x", before)
    assert mnt.facts(b"x").type == KINDS[before]
    keeper = mnt.open(b"x", os.O_PATH | os.O_NOFOLLOW)
    src.rename(b"x", b"old")
    if before == "dir":
        src.unlink(b"old/inside")
        src.rmdir(b"old")
    else:
        src.unlink(b"old")
    _make(src, b"x", after)
    assert eventually(lambda: mnt.facts(b"x").type == KINDS[after])
    if after == "file":
        assert eventually(lambda: mnt.content(b"x") == b"new")
    elif after == "dir":
        assert eventually(lambda: mnt.content(b"x/inside") == b"new")
    elif after == "link":
        assert eventually(lambda: mnt.readlink(b"x") == b"new")
    # Whoever holds the old one holds the old one, or nothing.
    try:
        assert stat.S_IFMT(mnt.fstat(keeper).st_mode) == KINDS[before]
    except OSError as error:
        assert error.errno in GONE  # noqa: PT017


def test_a_number_that_is_used_again_is_another_file(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    # Many file systems give the number of a removed file to the next one.
    for i in range(15):
        src.make(b"f", b"%d" % i)
        assert eventually(lambda: mnt.content(b"f") == b"%d" % i)
        fd = mnt.open(b"f", os.O_RDONLY)
        src.unlink(b"f")
        src.make(b"f", b"new %d" % i)
        # The descriptor has the old one, for ever.
        assert mnt.pread(fd, 20, 0) == b"%d" % i
        assert eventually(lambda: mnt.content(b"f") == b"new %d" % i)
        assert mnt.pread(fd, 20, 0) == b"%d" % i
        mnt.close(fd)
        src.unlink(b"f")


def test_a_number_that_is_used_again_without_being_held(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    for i in range(20):
        _make(src, b"x", "file" if i % 2 else "dir")
        assert eventually(lambda: mnt.facts(b"x").type == KINDS["file" if i % 2 else "dir"])
        if i % 2:
            src.unlink(b"x")
        else:
            src.unlink(b"x/inside")
            src.rmdir(b"x")


def test_a_file_saved_as_editors_do_it_is_read(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"f", b"0")
    fd = mnt.open(b"f", os.O_RDONLY)
    for i in range(1, 10):
        src.make(b"f.new", b"%d" % i)
        src.rename(b"f.new", b"f")
        assert eventually(lambda: mnt.content(b"f") == b"%d" % i)
    assert mnt.pread(fd, 10, 0) == b"0"


def test_two_files_that_change_places(mnt: Tree, src: Tree, eventually: Wait) -> None:
    mnt.make(b"a", b"one")
    mnt.make(b"b", b"other")
    fd = mnt.open(b"a", os.O_RDWR)
    src.rename(b"a", b"b", 2)
    assert mnt.pread(fd, 10, 0) == b"one"
    assert mnt.pwrite(fd, b"ONE", 0) == 3
    mnt.fsync(fd)
    assert src.content(b"b") == b"ONE"
    assert src.content(b"a") == b"other"
    assert eventually(lambda: (mnt.content(b"a"), mnt.content(b"b")) == (b"other", b"ONE"))


def test_a_link_that_points_elsewhere_is_followed_there(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    mnt.make(b"a", b"a")
    mnt.make(b"b", b"b")
    mnt.symlink(b"a", b"l")
    assert mnt.content(b"l") == b"a"
    src.symlink(b"b", b"new")
    src.rename(b"new", b"l")
    assert eventually(lambda: mnt.readlink(b"l") == b"b" and mnt.content(b"l") == b"b")


# -- directories --------------------------------------------------------------------------------


def test_a_directory_that_is_renamed_takes_its_users_along(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    mnt.mkdir(b"d")
    mnt.make(b"d/f", b"data")
    inside = mnt.at(b"d")
    fd = inside.open(b"f", os.O_RDWR)
    src.rename(b"d", b"moved")
    src.mkdir(b"d")
    src.make(b"d/f", b"somebody else's")
    # It is the same directory, or nothing: never the new one.
    mnt.pwrite(fd, b"DATA", 0)
    mnt.fsync(fd)
    assert src.content(b"moved/f") == b"DATA"

    def follows() -> bool:
        return inside.content(b"f") == b"DATA"

    assert eventually(follows)
    assert eventually(lambda: mnt.content(b"d/f") == b"somebody else's")
    assert eventually(lambda: mnt.content(b"moved/f") == b"DATA")


def test_a_name_deep_below_a_renamed_directory_is_found(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    for path in (b"a", b"a/b", b"a/b/c"):
        mnt.mkdir(path)
    mnt.make(b"a/b/c/f", b"data")
    deep = mnt.at(b"a/b/c")
    src.rename(b"a", b"z")
    assert eventually(lambda: mnt.content(b"z/b/c/f") == b"data")
    assert eventually(lambda: deep.content(b"f") == b"data")
    deep.make(b"g", b"new")
    assert src.content(b"z/b/c/g") == b"new"


def test_a_directory_that_is_gone_takes_nothing_more(mnt: Tree, src: Tree) -> None:
    mnt.mkdir(b"d")
    inside = mnt.at(b"d")
    fd = mnt.open(b"d", os.O_RDONLY | os.O_DIRECTORY)
    src.rmdir(b"d")
    src.mkdir(b"d")
    for call in (
        lambda: inside.make(b"f"),
        lambda: inside.mkdir(b"e"),
        lambda: inside.symlink(b"x", b"l"),
    ):
        with pytest.raises(OSError) as raised:  # noqa: PT011
            call()
        assert raised.value.errno in GONE
    try:
        names = {name.name for name in mnt.getdents(fd)}
    except OSError as error:
        assert error.errno in GONE  # noqa: PT017
    else:
        assert names <= {b".", b".."}
    assert src.listdir(b"d") == []


def test_a_tree_that_is_thrown_away_and_made_again(mnt: Tree, src: Tree, eventually: Wait) -> None:
    # As a checkout of another branch does it.
    def build(step: int) -> None:
        for i in range(5):
            src.mkdir(b"d%d" % i)
            for j in range(5):
                src.make(b"d%d/f%d" % (i, j), b"%d-%d-%d" % (step, i, j))

    def wipe() -> None:
        for i in range(5):
            for name in src.listdir(b"d%d" % i):
                src.unlink(b"d%d/%b" % (i, name))
            src.rmdir(b"d%d" % i)

    for step in range(5):
        build(step)
        assert eventually(lambda: mnt.snapshot() == src.snapshot())
        wipe()
    assert eventually(lambda: mnt.listdir() == [])


# -- open files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["unlinked", "renamed", "replaced"])
def test_an_open_file_is_worked_on_whatever_became_of_its_name(
    mnt: Tree, src: Tree, way: str
) -> None:
    mnt.make(b"f", b"data")
    fd = mnt.open(b"f", os.O_RDWR)
    keeper = src.open(b"f", os.O_RDONLY)
    if way == "unlinked":
        src.unlink(b"f")
    elif way == "renamed":
        src.rename(b"f", b"g")
    else:
        src.make(b"g", b"other")
        src.rename(b"g", b"f")
    assert mnt.pread(fd, 10, 0) == b"data"
    assert mnt.pwrite(fd, b"more", 4) == 4
    mnt.fchmod(fd, 0o600)
    mnt.futime(fd, 1_000, 2_000)
    mnt.ftruncate(fd, 6)
    mnt.fsync(fd)
    st = src.fstat(keeper)
    assert (stat.S_IMODE(st.st_mode), st.st_size, st.st_mtime_ns > 0) == (0o600, 6, True)
    assert src.pread(keeper, 10, 0) == b"datamo"
    if way == "replaced":
        assert src.content(b"f") == b"other"


def test_a_file_that_is_gone_and_not_open_is_estale_or_still_itself(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f", b"data")
    path = mnt.open(b"f", os.O_PATH)
    number = src.lstat(b"f").st_ino
    src.unlink(b"f")
    src.mkdir(b"another")
    for _ in range(2):
        try:
            st = mnt.fstat(path)
        except OSError as error:
            assert error.errno in GONE  # noqa: PT017
        else:
            assert stat.S_ISREG(st.st_mode)
            assert st.st_nlink in (0, 1)
    assert number
    # And everybody else goes on.
    mnt.make(b"f", b"new")
    assert mnt.content(b"f") == b"new"
