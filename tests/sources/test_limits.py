# SPDX-License-Identifier: MIT
"""What a source refuses or ignores because of how it is mounted: full, read-only, atime."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sources.conftest import run
from xloop.testing import LONG_AGO, Pair, Tree

if TYPE_CHECKING:
    from sources.conftest import Lab, Show, Twins
    from tests.conftest import Wait


def made(lab: Lab, kind: str) -> Path:
    return lab.tmpfs("size=8m") if kind == "tmpfs" else lab.disk(kind)


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("passthrough", [None, False], ids=["auto", "served"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "btrfs"])
def test_a_full_source_is_enospc(
    lab: Lab, twins: Twins, eventually: Wait, kind: str, passthrough: bool | None
) -> None:
    where = made(lab, kind)
    pair = twins(where, passthrough=passthrough)
    mnt = pair.mnt
    fd = mnt.open(b"big", os.O_RDWR | os.O_CREAT)
    chunk = os.urandom(1 << 20)
    written = 0

    def fill() -> None:
        nonlocal written
        while written < 1 << 30:
            written += mnt.write(fd, chunk)
            mnt.fsync(fd)  # what a file system only promised, it says now

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fill()
    assert 4 << 20 < written < 1 << 30
    assert mnt.statvfs(b".").f_bavail * mnt.statvfs(b".").f_frsize < 4 << 20
    big = 100 << 20
    assert outcome(lambda: mnt.fallocate(fd, 0, written, big)) == "ENOSPC"
    # What was written is whole, and room that is given back can be used.
    assert mnt.pread(fd, 1 << 20, 0) == chunk
    mnt.close(fd)
    mnt.truncate(b"big", 0)
    mnt.unlink(b"big")

    def fits() -> bool:
        run("sync", "-f", where)  # some give room back with the next transaction
        mnt.make(b"small", chunk)
        return mnt.content(b"small") == chunk

    assert eventually(fits)


def test_a_source_without_room_for_names_is_enospc(lab: Lab, twins: Twins) -> None:
    pair = twins(lab.tmpfs("nr_inodes=60"))
    mnt = pair.mnt

    def fill() -> None:
        for i in range(100):
            mnt.make(b"%d" % i)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fill()
    for call in (
        lambda: mnt.mkdir(b"d"),
        lambda: mnt.symlink(b"x", b"l"),
        lambda: mnt.mknod(b"p", 0o010666),
        lambda: mnt.open(b".", os.O_RDWR | os.O_TMPFILE),
    ):
        assert outcome(call) == "ENOSPC"
    assert mnt.statvfs(b".").f_ffree == 0
    for name in (b"1", b"2", b"3", b"4", b"5"):
        mnt.unlink(name)
        mnt.make(name)


def changes(tree: Tree) -> dict[str, object]:
    calls: dict[str, Callable[[], object]] = {
        "make": lambda: tree.make(b"new"),
        "open what is there to make it": lambda: tree.close(
            tree.open(b"f", os.O_RDONLY | os.O_CREAT)
        ),
        "make exclusively what is there": lambda: tree.open(b"f", os.O_CREAT | os.O_EXCL),
        "write": lambda: tree.open(b"f", os.O_WRONLY),
        "truncate": lambda: tree.truncate(b"f", 0),
        "mkdir": lambda: tree.mkdir(b"new"),
        "mkdir of what is there": lambda: tree.mkdir(b"d"),
        "mknod": lambda: tree.mknod(b"new", 0o010666),
        "symlink": lambda: tree.symlink(b"x", b"new"),
        "link": lambda: tree.link(b"f", b"new"),
        "unlink": lambda: tree.unlink(b"f"),
        "unlink of nothing": lambda: tree.unlink(b"nothing"),
        "rmdir": lambda: tree.rmdir(b"d"),
        "rename": lambda: tree.rename(b"f", b"new"),
        "exchange": lambda: tree.rename(b"f", b"d", 2),
        "chmod": lambda: tree.chmod(b"f", 0o600),
        "chown": lambda: tree.chown(b"f", 1, 1),
        "utime": lambda: tree.utime(b"f", 0, 0),
        "setxattr": lambda: tree.setxattr(b"f", b"user.x", b"y"),
        "removexattr": lambda: tree.removexattr(b"f", b"user.x"),
        "O_TMPFILE": lambda: tree.open(b".", os.O_RDWR | os.O_TMPFILE),
        "access to write": lambda: tree.access(b"f", os.W_OK),
        "access to write a directory": lambda: tree.access(b"d", os.W_OK),
        "read": lambda: tree.content(b"f"),
        "list": lambda: tree.listdir(),
    }
    return {what: outcome(call) for what, call in calls.items()}


@pytest.mark.parametrize("how", ["bind", "whole"])
def test_a_source_that_is_read_only_is_erofs(
    lab: Lab, twins: Twins, eventually: Wait, how: str
) -> None:
    where = lab.disk("ext4")
    pair = twins(where)
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.mkdir(b"d"))
    # The mount through which the server looks, or the whole file system.
    options = "remount,bind,ro" if how == "bind" else "remount,ro"
    # The server may still have a file open that was closed just now: busy.
    assert eventually(lambda: run("mount", "-o", options, where) == "")
    mine, theirs = changes(pair.mnt), changes(pair.ref)
    # access(2) of the kernel looks at the mount that is asked, and that one is not read-only.
    if mine["access to write"] is None:
        for what in ("access to write", "access to write a directory"):
            assert theirs[what] == "EROFS"
            mine[what] = theirs[what]
    # A name that is not there is found missing before anybody asks whether it could be removed.
    assert (mine.pop("unlink of nothing"), theirs.pop("unlink of nothing")) == ("ENOENT", "EROFS")
    differs = {what: (mine[what], theirs[what]) for what in theirs if mine[what] != theirs[what]}
    assert not differs
    assert theirs["write"] == "EROFS"
    assert theirs["read"] == b"data"


@pytest.mark.parametrize("passthrough", [None, False], ids=["auto", "served"])
@pytest.mark.parametrize("option", ["relatime", "strictatime", "noatime", "nodiratime"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_reading_moves_the_time_of_access_as_the_source_says(
    lab: Lab, twins: Twins, kind: str, option: str, passthrough: bool | None
) -> None:
    where = lab.tmpfs(option) if kind == "tmpfs" else lab.disk("ext4", option)
    pair: Pair = twins(where, passthrough=passthrough)
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    expected = {
        "relatime": (True, False),
        "strictatime": (True, True),
        "noatime": (False, False),
        "nodiratime": (True, False),
    }
    reads: list[tuple[bytes, Callable[[Tree], object]]] = [
        (b"f", lambda t: t.content(b"f")),
        (b"d", lambda t: t.listdir(b"d")),
        (b"l", lambda t: t.readlink(b"l")),
    ]
    # Of the distant past everything but noatime moves it; of the future only strictatime does.
    future = time.time_ns() + 3600 * 10**9
    for name, read in reads:
        for when in (LONG_AGO, future):
            if when == future and name == b"l":
                continue  # the kernel has the target already, and does not ask again
            pair.same(lambda t: t.utime(name, when, LONG_AGO, follow=False))
            moved = pair.same(lambda t: t.moved(name, lambda: read(t)))
            if name == b"f":
                assert moved == (["atime"] if expected[option][when == future] else [])


def test_a_page_of_a_mapping_that_found_no_room_is_an_error(lab: Lab, show: Show) -> None:
    """The source takes a part of what the kernel brings at once; the kernel takes that for all."""
    where = lab.tmpfs("size=1536k")
    fd = os.open(show(where, passthrough=False) / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 2 << 20)
    with mmap.mmap(fd, 2 << 20) as mapped:
        mapped[:] = b"x" * (2 << 20)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            mapped.flush()
    os.close(fd)
