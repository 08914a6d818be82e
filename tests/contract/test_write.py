# SPDX-License-Identifier: MIT


"""Writing data: write."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

DATA = bytes(i % 251 for i in range(1_500_001))


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 131072, 1 << 20, 1 << 21])
def test_write_in_pieces_gives_the_whole(mnt: Tree, src: Tree, size: int) -> None:
    data = DATA if size >= 4095 else DATA[:3000]
    fd = mnt.open(b"f", os.O_WRONLY | os.O_CREAT)
    for start in range(0, len(data), size):
        assert mnt.write(fd, data[start : start + size]) == len(data[start : start + size])
    mnt.close(fd)
    assert src.content(b"f") == data


def test_write_is_on_the_source_at_once(mnt: Tree, src: Tree) -> None:
    fd = mnt.open(b"f", os.O_RDWR | os.O_CREAT)
    mnt.write(fd, b"data")
    assert src.content(b"f") == b"data"
    mnt.pwrite(fd, b"more", 4)
    assert src.content(b"f") == b"datamore"


def test_write_at_any_offset(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"." * 10_000))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    for offset, data in ((0, b"a"), (4095, b"bb"), (9_999, b"cc"), (20_000, b"d" * 5000), (5, b"")):
        assert pair.same(lambda t: t.pwrite(fd[t], data, offset)) == len(data)
    pair.fails(errno.EINVAL, lambda t: t.pwrite(fd[t], b"x", -1))
    pair.same(lambda t: t.content(b"f"))


def test_write_moves_the_position(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    pair.same(lambda t: t.write(fd[t], b"0123456789"))
    assert pair.same(lambda t: t.lseek(fd[t], 0, os.SEEK_CUR)) == 10
    pair.same(lambda t: t.lseek(fd[t], 3, os.SEEK_SET))
    pair.same(lambda t: t.write(fd[t], b"abc"))
    pair.same(lambda t: t.pwrite(fd[t], b"Z", 0))
    pair.same(lambda t: t.write(fd[t], b"def"))
    assert pair.same(lambda t: t.content(b"f")) == b"Z12abcdef9"


def test_write_moves_mtime_and_ctime(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.age(b"f"))
    for _ in range(2):
        assert pair.same(lambda t: t.moved(b"f", lambda: t.pwrite(fd[t], b"D", 0))) == [
            "mtime",
            "ctime",
        ]
    # Through the descriptor too, and nothing more at the end.
    assert pair.same(lambda t: t.moved(fd[t], lambda: t.pwrite(fd[t], b"D", 0))) == [
        "mtime",
        "ctime",
    ]
    assert pair.same(lambda t: t.moved(b"f", lambda: t.close(fd[t]))) == []


def test_write_of_nothing_changes_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    pair.same(lambda t: t.age(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.pwrite(fd[t], b"", 100))) == []
    assert pair.same(lambda t: t.lstat(b"f").st_size) == 4


@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o6777, 0o2767, 0o6767])
def test_write_by_others_clears_suid_and_sgid(pair: Pair, need: Need, mode: int) -> None:
    need.root("somebody else has to write")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", mode))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDWR))
    assert pair.same(lambda t: t.facts(b"f")).mode == mode
    pair.same(lambda t: other[t].pwrite(fd[t], b"D", 0))
    assert pair.same(lambda t: t.facts(b"f")).mode & 0o4000 == 0
    assert pair.same(lambda t: t.content(b"f")) == b"Data"


def test_write_by_the_owner_clears_suid_too(pair: Pair, need: Need) -> None:
    need.root("somebody else has to write")
    pair.same(lambda t: t.chmod(b".", 0o777))
    owner = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: owner[t].make(b"f", b"data"))
    pair.same(lambda t: owner[t].chmod(b"f", 0o6755))
    pair.same(lambda t: owner[t].append(b"f", b"more"))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o755


def test_write_by_an_ordinary_owner_clears_suid(pair: Pair, need: Need) -> None:
    need.ordinary_user("root keeps the bits")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o6755))
    pair.same(lambda t: t.append(b"f", b"more"))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o755


def test_write_by_root_keeps_suid_and_sgid(pair: Pair, need: Need) -> None:
    need.root("others lose the bits")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o6777))
    pair.same(lambda t: t.append(b"f", b"more"))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o6777


def test_write_clears_file_capabilities(pair: Pair, need: Need) -> None:
    need.root("only root sets file capabilities")
    # Version 2, cap_net_raw, effective.
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.setxattr(b"f", b"security.capability", value))
    assert pair.same(lambda t: t.getxattr(b"f", b"security.capability")) == value
    pair.same(lambda t: t.append(b"f", b"more"))
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", b"security.capability"))


def test_many_writers_lose_nothing(mnt: Tree, src: Tree) -> None:
    fd = mnt.open(b"f", os.O_RDWR | os.O_CREAT)
    calls = [mnt.start("pwrite", fd, b"%04d" % i, i * 4) for i in range(100)]
    assert [call.result() for call in calls] == [4] * 100
    mnt.fsync(fd)
    assert src.content(b"f") == b"".join(b"%04d" % i for i in range(100))


def test_write_beyond_what_a_file_may_have_is_efbig(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    pair.either(lambda t: t.pwrite(fd[t], b"x", 1 << 44))
    pair.either(lambda t: t.pwrite(fd[t], b"x", (1 << 63) - 1))
    pair.same(lambda t: t.fstat(fd[t]).st_size)


def test_write_respects_the_limit_of_its_process(pair: Pair, need: Need) -> None:
    need.kernel("RLIMIT_FSIZE is the kernel's")
    import resource
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        assert pair.same(lambda t: t.pwrite(fd[t], b"x" * 100, 9_950)) == 50
        pair.fails(errno.EFBIG, lambda t: t.pwrite(fd[t], b"x", 10_000))
        pair.fails(errno.EFBIG, lambda t: t.ftruncate(fd[t], 20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert pair.same(lambda t: t.fstat(fd[t]).st_size) == 10_000
