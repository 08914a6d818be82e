# SPDX-License-Identifier: MIT
"""Windows: directories that are being read, and how a name in one is spelled.

Owns the cookies of entries.  Does not own names in their stored form (:mod:`xloop.host.windows_names`).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xloop.host import windows_abi as abi
from xloop.host import windows_api as api
from xloop.host import windows_refs
from xloop.host.base import Descriptor
from xloop.host.windows_names import decode, encode
from xloop.types import DirEntry

assert not TYPE_CHECKING or sys.platform == "win32"

__all__ = ["open_dir", "read_dir", "seek_dir", "spelling"]


class _Directory(api.Handle):
    """A directory that is being read.

    Windows knows no position from which a listing could be taken up again.  So the cookie of an entry
    is its place among the names that were handed out; going back lists anew and leaves those out.
    """

    names: list[bytes]
    skip: frozenset[bytes]
    restart: bool


def open_dir(ref: int, flags: int = 0) -> Descriptor:
    wanted = abi.FILE_LIST_DIRECTORY | abi.FILE_READ_ATTRIBUTES
    directory: Descriptor = api.nt_open(ref, b"", wanted, abi.FILE_DIRECTORY_FILE, kind=_Directory)
    seek_dir(directory, 0)
    return directory


def seek_dir(fd: int, offset: int) -> None:
    assert isinstance(fd, _Directory)
    fd.names = fd.names[:offset] if offset else []
    fd.skip = frozenset(fd.names)
    fd.restart = True


def read_dir(fd: int, buffer: bytearray) -> list[DirEntry]:
    assert isinstance(fd, _Directory)
    entries: list[DirEntry] = []
    while not entries:
        restart, fd.restart = fd.restart, False
        size = api.query_directory(fd, buffer, restart=restart)
        records = list(_records(buffer, size))
        if restart and (not records or records[0].name != b"."):
            # The root of a volume has neither, and every directory is to have both.
            ino = windows_refs.statx(fd).ino
            dots = (DirEntry(name, ino, stat.S_IFDIR >> 12, 0) for name in (b".", b".."))
            records = [*dots, *records]
        elif not size:
            break
        for record in records:
            if record.name not in fd.skip:
                fd.names.append(record.name)
                entries.append(record._replace(offset=len(fd.names)))
    return entries


def _records(buffer: bytearray, size: int) -> Iterator[DirEntry]:
    at = 0
    while size:
        record = abi.ID_FULL_DIR.unpack_from(buffer, at)
        following, attributes, length, tag, ino = record[0], *record[8:12]
        start = at + abi.ID_FULL_DIR.size
        kind = (
            windows_refs.type_of(attributes, tag) >> 12
        )  # where there is a tag it takes the place of EaSize
        yield DirEntry(decode(bytes(buffer[start : start + length])), ino, kind, 0)
        if not following:
            return
        at += following


def spelling(dir_ref: int, name: bytes) -> bytes:
    directory = api.nt_open(dir_ref, b"", abi.FILE_LIST_DIRECTORY, abi.FILE_DIRECTORY_FILE)
    buffer = bytearray(1024)
    size = api.query_directory(directory, buffer, restart=True, name=encode(name))
    for record in _records(buffer, size):
        return record.name
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
