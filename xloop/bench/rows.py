# SPDX-License-Identifier: MIT
"""The rows of single operations, and the table of all rows.

Owns what each row does.  Does not own when, where and how often it is done
(:mod:`xloop.bench.measure`), nor the work of whole programs (:mod:`xloop.bench.workloads`).

A row works in a directory that holds what the rows which it needs have left there, and what lies
inside of its ``with timed(amount)`` is measured.  Each finds files that nobody but itself has
touched since: no row is measured on what another subject has warmed up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from random import Random

__all__ = ["DATA", "FULL", "METADATA", "QUICK", "WORKLOADS", "Row", "Sizes", "Timed", "operations"]

METADATA = "metadata"
DATA = "data"
WORKLOADS = "workloads"

PAGE = 4096
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything there is."""

    files: int  #: of the rows of metadata
    big: int  #: bytes of the file of the rows of data
    ios: int  #: random reads, and random writes
    tree: int  #: files in the tree that is unpacked
    repository: int  #: files in the git repository
    headers: int  #: included by each C file

    def shared_by(self, clients: int) -> Sizes:
        """Return what each of so many clients gets: files of its own, but a part of the data."""
        return replace(self, big=max(self.big // clients, min(self.big, 4 * CHUNK)))

    def bytes_for(self, rows: Sequence[Row], subjects: int, clients: int) -> int:
        """Return about how much room *rows* take on so many subjects."""
        # A small file takes a page or two of a tmpfs and a block of a disk, and an inode besides.
        small, names = 8192, {row.name for row in rows}
        own = self.files * small * clients if any(row.group == METADATA for row in rows) else 0
        if any(row.group == DATA for row in rows):
            own += max(self.big, self.shared_by(clients).big * clients)
        shared = 16 << 20
        if any("tar" in row.programs for row in rows):
            own += self.tree * small
            shared += self.tree * small
        if "git-status" in names:
            own += self.repository * small * 2
            shared += self.repository * small * 3
        return own * subjects + shared


FULL = Sizes(files=1000, big=64 << 20, ios=2000, tree=20_000, repository=2000, headers=300)
QUICK = Sizes(files=200, big=8 << 20, ios=500, tree=600, repository=200, headers=40)

#: Given to a row: what is done inside of ``with timed(amount)`` is measured.
Timed = Callable[[float], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is measured."""

    name: str  #: for --only and --json
    title: str
    group: str
    unit: str  #: "us" an operation, "MB/s", or "s" in all
    do: Callable[[str, Sizes, Timed], None]
    needs: tuple[str, ...] = ()  #: the rows whose work it finds there
    programs: tuple[str, ...] = ()
    fresh: bool = False  #: right after mounting, so that nothing is in a cache of the mount


def _paths(top: str, sizes: Sizes) -> list[str]:
    return [f"{top}/file{number}" for number in range(sizes.files)]


def _each(paths: Iterable[str], use: Callable[[str], object]) -> None:
    for path in paths:
        use(path)


def _on_each(
    use: Callable[[str], object], *, known: bool = True
) -> Callable[[str, Sizes, Timed], None]:
    """Return a row that uses the path of each file once.

    *known*: each has just been looked at, which does not count; else chance would say which are believed still.
    """

    def do(top: str, sizes: Sizes, timed: Timed) -> None:
        paths = _paths(top, sizes)
        if known:
            _each(paths, os.stat)
        with timed(len(paths)):
            _each(paths, use)

    return do


_BLOCK = b"x" * PAGE


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _open_write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, _BLOCK)
    os.close(fd)


def _open_read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, PAGE)
    os.close(fd)


def _stat_cached(top: str, sizes: Sizes, timed: Timed) -> None:
    """Few files, many times: else a slow machine would measure attributes that have timed out."""
    paths = _paths(top, sizes)[:20]
    again = max(1, sizes.files // len(paths))
    _each(paths, os.stat)
    with timed(len(paths) * again):
        for _ in range(again):
            _each(paths, os.stat)


def _stat_missing(top: str, sizes: Sizes, timed: Timed) -> None:
    paths = [path + ".missing" for path in _paths(top, sizes)]
    with timed(len(paths)):
        _each(paths, os.path.exists)


def _list_all(top: str) -> None:
    with os.scandir(top) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


def _scandir_cold(top: str, sizes: Sizes, timed: Timed) -> None:
    with timed(sizes.files):
        _list_all(top)


def _scandir_warm(top: str, sizes: Sizes, timed: Timed) -> None:
    """Right after the same, which does not count: else chance would say how much is still believed."""
    _list_all(top)
    with timed(sizes.files):
        _list_all(top)


def _rename(top: str, sizes: Sizes, timed: Timed) -> None:
    paths = _paths(top, sizes)
    _each(paths, os.stat)
    with timed(len(paths)):
        for path in paths:
            os.rename(path, path + ".new")
    for path in paths:
        os.rename(path + ".new", path)


def _sequential_write(top: str, sizes: Sizes, timed: Timed) -> None:
    data = Random(1).randbytes(CHUNK)
    # Closing is part of it: a file system that delays writing has to do it then.
    with timed(sizes.big), open(f"{top}/big", "wb", buffering=0) as file:
        for _ in range(sizes.big // CHUNK):
            file.write(data)


def _sequential_read(top: str, sizes: Sizes, timed: Timed) -> None:
    buffer = bytearray(CHUNK)
    with timed(sizes.big), open(f"{top}/big", "rb", buffering=0) as file:
        while file.readinto(buffer):
            continue


def _seek_and_read(fd: int, length: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def _seek_and_write(fd: int, data: bytes, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)


# Windows has no pread and no pwrite.
_pread: Callable[[int, int, int], bytes] = getattr(os, "pread", _seek_and_read)
_pwrite: Callable[[int, bytes, int], int] = getattr(os, "pwrite", _seek_and_write)


def _offsets(sizes: Sizes) -> list[int]:
    rng = Random(1)
    return [rng.randrange(sizes.big // PAGE) * PAGE for _ in range(sizes.ios)]


def _random_read(top: str, sizes: Sizes, timed: Timed) -> None:
    offsets = _offsets(sizes)
    with timed(PAGE * len(offsets)):
        fd = os.open(f"{top}/big", os.O_RDONLY)
        for offset in offsets:
            _pread(fd, PAGE, offset)
        os.close(fd)


def _random_write(top: str, sizes: Sizes, timed: Timed) -> None:
    offsets = _offsets(sizes)
    with timed(PAGE * len(offsets)):
        fd = os.open(f"{top}/big", os.O_WRONLY)
        for offset in offsets:
            _pwrite(fd, _BLOCK, offset)
        os.close(fd)


def _metadata(name: str, title: str, do: Callable[[str, Sizes, Timed], None], *needs: str) -> Row:
    return Row(name, title, METADATA, "us", do, needs)


def _data(name: str, title: str, do: Callable[[str, Sizes, Timed], None], *needs: str) -> Row:
    return Row(name, title, DATA, "MB/s", do, needs)


#: In the order in which they are done.
_OPERATIONS = (
    _metadata("create", "create+close", _on_each(_create, known=False)),
    _metadata("stat", "stat, cached", _stat_cached, "create"),
    _metadata("missing", "stat of a missing name", _stat_missing, "create"),
    _metadata("open", "open+close", _on_each(_open), "create"),
    _metadata("open-write", "open+write 4 KiB+close", _on_each(_open_write), "create"),
    _metadata("open-read", "open+read 4 KiB+close", _on_each(_open_read), "create", "open-write"),
    _metadata("chmod", "chmod", _on_each(lambda path: os.chmod(path, 0o640)), "create"),
    replace(
        _metadata("scandir-cold", "scandir+stat, just mounted", _scandir_cold, "create"), fresh=True
    ),
    _metadata("scandir-warm", "scandir+stat, again", _scandir_warm, "create"),
    _metadata("rename", "rename", _rename, "create"),
    _metadata("unlink", "unlink", _on_each(os.unlink), "create"),
    _data("write", "sequential write", _sequential_write),
    _data("read", "sequential read", _sequential_read, "write"),
    _data("random-read", "random 4 KiB read", _random_read, "write"),
    _data("random-write", "random 4 KiB write", _random_write, "write"),
)


def operations() -> Mapping[str, Row]:
    """Return the rows of single operations by name, in the order in which they are done."""
    return {row.name: row for row in _OPERATIONS}
