# SPDX-License-Identifier: MIT


"""Mapped files: shared and private, coherent with reads, writes and the source."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from xloop.testing import LONG_AGO, Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def _there_is_a_kernel(need: Need) -> None:
    need.kernel("it is the kernel that maps")


def _shared(t: Tree, name: bytes, size: int = 0) -> mmap.mmap:
    return t.with_fd(name, os.O_RDWR, lambda fd: mmap.mmap(fd, size))


def test_a_map_shows_the_file(pair: Pair) -> None:
    data = bytes(i % 251 for i in range(PAGE * 3 + 100))
    pair.same(lambda t: t.make(b"f", data))

    def read(t: Tree) -> bytes:
        with t.with_fd(b"f", os.O_RDONLY, lambda fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ)) as m:
            return m[:]

    assert pair.same(read) == data


def test_what_is_written_to_a_shared_map_is_read(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE * 2))

    def write(t: Tree) -> bytes:
        with _shared(t, b"f") as m:
            m[10:14] = b"data"
            m[PAGE + 10 : PAGE + 14] = b"more"
            # At once, through any descriptor: there is one page cache.
            return t.content(b"f")

    data = pair.same(write)
    assert data[10:14] + data[PAGE + 10 : PAGE + 14] == b"datamore"
    assert pair.same(lambda t: t.content(b"f")) == data


def test_what_is_written_shows_in_a_map(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE * 2))

    def read(t: Tree) -> bytes:
        with _shared(t, b"f") as m:
            before = m[:4]
            t.with_fd(b"f", os.O_WRONLY, lambda fd: t.pwrite(fd, b"data", 0))
            return before + m[:4]

    assert pair.same(read) == b"aaaadata"


def test_what_is_written_to_a_shared_map_reaches_the_source(mnt: Tree, src: Tree) -> None:
    mnt.make(b"f", b"a" * PAGE)
    with _shared(mnt, b"f") as m:
        m[:4] = b"data"
        m.flush()
        assert src.content(b"f")[:4] == b"data"
        m[:4] = b"more"
    fd = mnt.open(b"f", os.O_RDWR)
    mnt.fsync(fd)
    assert src.content(b"f")[:4] == b"more"


def test_a_map_of_what_is_open_for_appending_is_written_where_it_belongs(pair: Pair) -> None:
    """Whatever the file's mode has become: who has it open may write."""
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))

    def write(t: Tree) -> bytes:
        fd = t.open(b"f", os.O_RDWR | os.O_APPEND)
        t.fchmod(fd, 0)
        with mmap.mmap(fd, PAGE) as m:
            m[:4] = b"data"
            m.flush()
        t.fsync(fd)
        t.fchmod(fd, 0o600)
        return t.content(b"f")

    assert pair.same(write) == b"data" + b"a" * (PAGE - 4)


def test_a_private_map_changes_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))

    def write(t: Tree) -> bytes:
        fd = t.open(b"f", os.O_RDONLY)
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as m:
            m[:4] = b"data"
            return m[:4]

    assert pair.same(write) == b"data"
    assert pair.same(lambda t: t.content(b"f")[:4]) == b"aaaa"


def test_writing_to_a_map_moves_mtime_and_ctime(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))
    pair.same(lambda t: t.age(b"f"))
    # Asked for before, so that something is there that could be stale.
    assert pair.same(lambda t: t.lstat(b"f").st_mtime_ns) == LONG_AGO

    def write(t: Tree) -> list[str]:
        # Mapping it is one thing, and moves atime; writing to it is another.
        with _shared(t, b"f") as m:
            m[0]

            def change() -> None:
                m[:4] = b"data"
                m.flush()

            return t.moved(b"f", change)

    # tmpfs moves none; that a mount does is a known difference.
    assert pair.same(write) in (["mtime", "ctime"], [])


def test_a_map_outlives_its_descriptor_and_its_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))

    def use(t: Tree) -> bytes:
        with _shared(t, b"f") as m:
            t.unlink(b"f")
            t.make(b"f", b"another")
            m[:4] = b"data"
            m.flush()
            return m[:8]

    assert pair.same(use) == b"dataaaaa"
    assert pair.same(lambda t: t.content(b"f")) == b"another"


def test_a_map_beyond_a_truncated_end_is_sigbus(pair: Pair) -> None:
    program = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "m = mmap.mmap(fd, 0)\n"
        "os.ftruncate(fd, 0)\n"
        "m[0]\n"
    )

    def read(t: Tree) -> int:
        t.make(b"f", b"a" * PAGE)
        path = os.path.join(getattr(t, "path"), b"f")  # noqa: B009
        quiet = subprocess.DEVNULL
        return subprocess.run([sys.executable, "-S", "-c", program, path], stderr=quiet).returncode

    assert pair.same(read) == -7


def test_two_maps_of_two_descriptors_are_one(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))
    pair.same(lambda t: t.link(b"f", b"g"))

    def use(t: Tree) -> bytes:
        with _shared(t, b"f") as one, _shared(t, b"g") as two:
            one[:4] = b"data"
            return two[:4]

    assert pair.same(use) == b"data"


def test_a_map_follows_a_file_that_grows(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))

    def use(t: Tree) -> bytes:
        fd = t.open(b"f", os.O_RDWR)
        t.ftruncate(fd, PAGE * 2)
        with mmap.mmap(fd, PAGE * 2) as m:
            m[PAGE : PAGE + 4] = b"data"
            return t.pread(fd, 4, PAGE)

    assert pair.same(use) == b"data"


def test_a_map_needs_a_descriptor_that_reads_and_writes(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"a" * PAGE))

    def attempt(t: Tree, flags: int) -> None:
        fd = t.open(b"f", flags)
        mmap.mmap(fd, PAGE).close()

    for flags in (os.O_RDONLY, os.O_WRONLY):
        pair.fails(13, lambda t: attempt(t, flags))


def test_a_program_runs_from_the_mount(pair: Pair) -> None:
    def run(t: Tree) -> bytes:
        t.make(b"script", b"#!/bin/sh\necho from $1\n", 0o755)
        path = os.path.join(getattr(t, "path"), b"script")  # noqa: B009
        return subprocess.run([path, "there"], capture_output=True, check=True).stdout

    assert pair.same(run) == b"from there\n"
