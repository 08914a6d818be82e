# SPDX-License-Identifier: MIT


"""The file system as a whole: statfs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Wait


def test_statfs_tells_what_the_source_has(mnt: Tree, src: Tree, eventually: Wait) -> None:
    def fixed(t: Tree) -> tuple[int, ...]:
        fs = t.statvfs(b".")
        return fs.f_blocks, fs.f_frsize, fs.f_bsize, fs.f_files, fs.f_namemax

    assert fixed(mnt) == fixed(src)

    # Free space is everybody's: it may change in between.
    def free(t: Tree) -> tuple[int, ...]:
        fs = t.statvfs(b".")
        return fs.f_bfree, fs.f_bavail, fs.f_ffree

    assert eventually(lambda: free(mnt) == free(src))


def test_statfs_of_a_file_is_the_same(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"f", b"d"):
        pair.same(lambda t: t.statvfs(name).f_blocks == t.statvfs(b".").f_blocks)


def test_statfs_of_what_is_not_there(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENOENT, lambda t: t.statvfs(b"nothing"))
    pair.fails(errno.ENOTDIR, lambda t: t.statvfs(b"f/x"))


def test_statfs_sees_space_being_used(mnt: Tree, src: Tree, eventually: Wait) -> None:
    before = mnt.statvfs(b".").f_bfree
    fd = mnt.open(b"f", os.O_RDWR | os.O_CREAT)
    # So much that nobody else's doings hide it.
    mnt.fallocate(fd, 0, 0, 256 << 20)
    mnt.fsync(fd)
    used = (256 << 20) // mnt.statvfs(b".").f_frsize
    assert eventually(lambda: before - mnt.statvfs(b".").f_bfree > used // 2)
    assert src.statvfs(b".").f_bfree < before
