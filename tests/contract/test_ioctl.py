# SPDX-License-Identifier: MIT


"""Flags and project numbers of inodes: ioctl FS_IOC_GETFLAGS, SETFLAGS, FSGETXATTR, FSSETXATTR."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need, Place

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
FSGETXATTR, FSSETXATTR = 0x801C581F, 0x401C5820
GETVERSION = 0x80087601
NODUMP, NOATIME, APPEND, IMMUTABLE = 0x40, 0x80, 0x20, 0x10


def _flags(t: Tree, fd: int) -> int:
    return int(struct.unpack("=I", t.ioctl(fd, GETFLAGS, bytes(8))[:4])[0])


def _set_flags(t: Tree, fd: int, flags: int) -> None:
    t.ioctl(fd, SETFLAGS, struct.pack("=Q", flags))


@pytest.fixture(autouse=True)
def _source_has_flags(need: Need) -> None:
    def attempt(t: Tree) -> None:
        t.make(b"probe")
        t.with_fd(b"probe", os.O_RDONLY, lambda fd: _set_flags(t, fd, _flags(t, fd)))

    need.source("inode flags", attempt)


@pytest.fixture
def _mutable_again(place: Place) -> Iterator[None]:
    yield
    from xloop.testing import NativeTree

    for path in (place.source, place.ref):
        tree = NativeTree(path)
        for name in tree.listdir():
            tree.with_fd(name, os.O_RDONLY, lambda fd: _set_flags(tree, fd, 0))
        tree.shut()


@pytest.mark.parametrize("name", [b"f", b"d"])
def test_flags_are_read_and_set(pair: Pair, src: Tree, name: bytes) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    fd = pair.each(lambda t: t.open(name, os.O_RDONLY))
    start = pair.same(lambda t: _flags(t, fd[t]))
    pair.same(lambda t: _set_flags(t, fd[t], start | NODUMP | NOATIME))
    assert pair.same(lambda t: _flags(t, fd[t])) == start | NODUMP | NOATIME
    assert (
        src.with_fd(name, os.O_RDONLY, lambda there: _flags(src, there)) == start | NODUMP | NOATIME
    )
    pair.same(lambda t: _set_flags(t, fd[t], start))
    assert pair.same(lambda t: _flags(t, fd[t])) == start


def test_fsxattr_is_read_and_set(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    got = pair.either(lambda t: t.ioctl(fd[t], FSGETXATTR, bytes(28)))
    if isinstance(got, OSError):
        pytest.skip(f"the file system of the source has no FSGETXATTR: {got.strerror}")
    fields = list(struct.unpack("=5I8s", got))
    fields[0] |= 0x80  # FS_XFLAG_NODUMP
    pair.either(lambda t: t.ioctl(fd[t], FSSETXATTR, struct.pack("=5I8s", *fields)))
    pair.same(lambda t: t.ioctl(fd[t], FSGETXATTR, bytes(28)))


@pytest.mark.usefixtures("_mutable_again")
def test_immutable_and_append_only_are_honoured_through_the_mount(pair: Pair, need: Need) -> None:
    need.root("only root makes files immutable")
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: _set_flags(t, fd[t], IMMUTABLE))
    pair.fails(errno.EPERM, lambda t: t.unlink(b"f"))
    pair.fails(errno.EPERM, lambda t: t.rename(b"f", b"g"))
    pair.fails(errno.EPERM, lambda t: t.link(b"f", b"g"))
    pair.fails(errno.EPERM, lambda t: t.chmod(b"f", 0o600))
    pair.fails(errno.EPERM, lambda t: t.open(b"f", os.O_WRONLY))
    pair.fails(errno.EPERM, lambda t: t.truncate(b"f", 0))
    pair.same(lambda t: _set_flags(t, fd[t], APPEND))
    pair.fails(errno.EPERM, lambda t: t.unlink(b"f"))
    pair.fails(errno.EPERM, lambda t: t.open(b"f", os.O_WRONLY))
    pair.same(lambda t: t.append(b"f", b"more"))
    pair.same(lambda t: _set_flags(t, fd[t], 0))
    assert pair.same(lambda t: t.content(b"f")) == b"datamore"
    pair.same(lambda t: t.unlink(b"f"))


def test_immutable_is_for_root(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: other[t].make(b"f"))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDONLY))
    start = pair.same(lambda t: _flags(t, fd[t]))
    pair.fails(errno.EPERM, lambda t: _set_flags(other[t], fd[t], start | IMMUTABLE))
    pair.same(lambda t: _set_flags(other[t], fd[t], start | NODUMP))


def test_flags_are_set_by_the_owner(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDONLY))
    error = pair.either(lambda t: _set_flags(other[t], fd[t], NODUMP))
    assert isinstance(error, OSError)
    assert error.errno in (errno.EPERM, errno.EACCES)


@pytest.mark.parametrize("command", [0x5401, 0x80045430, 0x80086699])
def test_a_command_that_files_do_not_know_is_enotty(pair: Pair, command: int) -> None:
    pair.same(lambda t: t.make(b"f"))
    for name in (b"f", b"."):
        fd = pair.each(lambda t: t.open(name, os.O_RDONLY))
        pair.fails(errno.ENOTTY, lambda t: t.ioctl(fd[t], command, bytes(64)))
