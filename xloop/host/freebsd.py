# SPDX-License-Identifier: MIT
"""The functions of :class:`xloop.host.base.Host` on FreeBSD, 13.1 or later.

Owns what FreeBSD has beyond POSIX.  Does not own what it shares with macOS (:mod:`xloop.host.posix`).

**References** are O_PATH descriptors, as on Linux: they need no right to the object and act on nothing.
So nothing is held by its name here.  Most system calls take one with an empty name (AT_EMPTY_PATH), and
open(2) opens it again (O_EMPTY_PATH), whatever became of its names.  Only link(2) wants a name:
by descriptor it is root's.

**Extended attributes** have two namespaces, "user" and "system"; the prefix tells which, as on Linux.

**Record locks** belong to processes and to nothing else, and all clients are served by one: EOPNOTSUPP.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from ctypes import c_char_p, c_int, c_size_t, c_ssize_t, c_uint, c_ulong, c_void_p
from typing import TYPE_CHECKING, Any

from xloop.host import posix
from xloop.host.base import Descriptor
from xloop.types import TimeOrNow

assert not TYPE_CHECKING or sys.platform != "win32"

__all__ = ["FreeBSDHost", "split_names"]

_os: Any = os  # type checkers know nothing of FreeBSD

# sys/fcntl.h
_O_PATH, _O_RESOLVE_BENEATH, _O_EMPTY_PATH = 0x00400000, 0x00800000, 0x02000000
_AT_EACCESS, _AT_NOFOLLOW, _AT_EMPTY = 0x0100, 0x0200, 0x4000
# sys/extattr.h
_NAMESPACES = {b"user": 1, b"system": 2}
# sys/unistd.h, sys/fcntl.h: SPACECTL_DEALLOC; linux/falloc.h: PUNCH_HOLE | KEEP_SIZE
_SPACECTL_DEALLOC, _PUNCH_HOLE = 1, 3


class FreeBSDHost(posix.PosixHost):
    """FreeBSD.  *library*: its C library, as ctypes has loaded it."""

    O_DIRECT = 0x00010000
    directory_flags = (_O_PATH | 0x00020000,)  # O_DIRECTORY
    at_nofollow = _AT_NOFOLLOW

    def __init__(self, library: Any = None) -> None:
        library = ctypes.CDLL(None, use_errno=True) if library is None else library
        super().__init__(library)

        def define(name: str, result: Any, *arguments: Any) -> Any:
            function = library[name]
            function.restype, function.argtypes = result, list(arguments)
            return function

        named = (c_int, c_char_p)
        self._fchmodat = define("fchmodat", c_int, *named, c_uint, c_int)
        self._fchownat = define("fchownat", c_int, *named, c_uint, c_uint, c_int)
        self._chflagsat = define("chflagsat", c_int, *named, c_ulong, c_int)
        self._faccessat = define("faccessat", c_int, *named, c_int, c_int)
        self._readlinkat = define("readlinkat", c_ssize_t, *named, c_void_p, c_size_t)
        attribute = (c_int, c_int, c_char_p)
        self._extattr_get_fd = define("extattr_get_fd", c_ssize_t, *attribute, c_void_p, c_size_t)
        self._extattr_set_fd = define("extattr_set_fd", c_ssize_t, *attribute, c_void_p, c_size_t)
        self._extattr_delete_fd = define("extattr_delete_fd", c_int, *attribute)
        self._extattr_list_fd = define(
            "extattr_list_fd", c_ssize_t, c_int, c_int, c_void_p, c_size_t
        )
        self._copy_file_range = define(
            "copy_file_range", c_ssize_t, c_int, c_void_p, c_int, c_void_p, c_size_t, c_uint
        )
        try:
            # FreeBSD 14
            self._fspacectl = define("fspacectl", c_int, c_int, c_int, c_void_p, c_int, c_void_p)
        except AttributeError:
            self._fspacectl = None

    # -- references ---------------------------------------------------------------------

    def open_ref(self, dir_ref: int, name: bytes) -> Descriptor:
        flags = _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | _O_RESOLVE_BENEATH
        directory = self._entered(dir_ref)
        ref = posix.Reference(os.open(name, flags, dir_fd=directory))
        return ref.at(directory, name, self._identity(os.fstat(ref)))

    def reopen(self, ref: int, flags: int) -> Descriptor:
        flags = flags & ~(self._reopen_strips | os.O_NOFOLLOW) | os.O_CLOEXEC | _O_EMPTY_PATH
        opened = os.open(b"", flags, dir_fd=ref)
        return ref.twin(opened) if isinstance(ref, posix.Reference) else Descriptor(opened)

    def open_dir(self, ref: int, flags: int = 0) -> Descriptor:
        flags |= os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | _O_EMPTY_PATH
        return posix.Listing(os.open(b"", flags, dir_fd=ref))

    # -- open files ---------------------------------------------------------------------

    def fdatasync(self, fd: int) -> None:
        _os.fdatasync(fd)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        if mode == 0:
            _os.posix_fallocate(fd, offset, length)
        elif mode != _PUNCH_HOLE:
            raise posix.error(errno.EOPNOTSUPP, f"nothing is like fallocate mode {mode:#x} here")
        elif self._fspacectl is None:
            raise posix.error(errno.EOPNOTSUPP, "holes are punched by fspacectl(2), of FreeBSD 14")
        else:
            # struct spacectl_range: r_offset r_len
            span = (ctypes.c_int64 * 2)(offset, length)
            if self._fspacectl(fd, _SPACECTL_DEALLOC, span, 0, None):
                raise posix.failed()

    def copy_file_range(
        self, fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        at_in, at_out = ctypes.c_int64(offset_in), ctypes.c_int64(offset_out)
        copied = self._copy_file_range(
            fd_in, ctypes.byref(at_in), fd_out, ctypes.byref(at_out), length, flags
        )
        if copied < 0:
            raise posix.failed()
        return int(copied)

    # -- attributes ---------------------------------------------------------------------

    def chmod(self, ref: int, mode: int) -> None:
        if self._fchmodat(ref, b"", mode, _AT_EMPTY):
            raise posix.failed()

    def chown(self, ref: int, uid: int, gid: int) -> None:
        if self._fchownat(ref, b"", uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, _AT_EMPTY):
            raise posix.failed()

    def chflags(self, ref: int, flags: int) -> None:
        if self._chflagsat(ref, b"", flags, _AT_EMPTY):
            raise posix.failed()

    def truncate(self, ref: int, size: int) -> None:
        os.ftruncate(self.reopen(ref, os.O_WRONLY), size)

    def utimens(self, ref: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
        if self._utimensat(ref, b"", self._timespecs(atime, mtime), _AT_EMPTY):
            raise posix.failed()

    def access(self, ref: int, mask: int) -> None:
        if self._faccessat(ref, b"", mask, _AT_EACCESS | _AT_EMPTY):
            raise posix.failed()

    def readlink(self, ref: int) -> bytes:
        buffer = ctypes.create_string_buffer(4096)
        size = self._readlinkat(ref, b"", buffer, len(buffer))
        if size < 0:
            raise posix.failed()
        return buffer.raw[:size]

    # O_PATH descriptors take no extattr calls: an open file is needed, and so the right to read.

    def _attributed(self, ref: int) -> Descriptor:
        mode = os.fstat(ref).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise posix.error(errno.EPERM)  # opening a FIFO or a device acts on it
        return self.reopen(ref, os.O_RDONLY | os.O_NONBLOCK)

    @staticmethod
    def _attribute(name: bytes) -> tuple[int, bytes]:
        """Return the namespace and the name in it.  EOPNOTSUPP: there is no such namespace."""
        prefix, _, rest = name.partition(b".")
        if prefix not in _NAMESPACES or not rest:
            raise posix.error(errno.EOPNOTSUPP)
        return _NAMESPACES[prefix], rest

    def getxattr(self, ref: int, name: bytes) -> bytes:
        space, rest = self._attribute(name)
        fd = self._attributed(ref)
        size = self._extattr_get_fd(fd, space, rest, None, 0)
        if size < 0:
            raise posix.failed()
        # One byte more than it was: an answer that fills the buffer may have been cut short.
        buffer = ctypes.create_string_buffer(size + 1)
        got = self._extattr_get_fd(fd, space, rest, buffer, size + 1)
        if got < 0:
            raise posix.failed()
        if got > size:
            return self.getxattr(ref, name)
        return buffer.raw[:got]

    def setxattr(self, ref: int, name: bytes, value: bytes, flags: int) -> None:
        space, rest = self._attribute(name)
        fd = self._attributed(ref)
        if flags:
            # There are no such flags: look first.  Somebody may be in between, on the source.
            there = self._extattr_get_fd(fd, space, rest, None, 0) >= 0
            if there and flags == 1:
                raise posix.error(errno.EEXIST)
            if not there and flags == 2:
                raise posix.failed()
        if self._extattr_set_fd(fd, space, rest, value, len(value)) < 0:
            raise posix.failed()

    def listxattr(self, ref: int) -> list[bytes]:
        try:
            fd = self._attributed(ref)
        except PermissionError as exc:
            if exc.errno == errno.EPERM:
                return []  # of what has no data none is told
            raise
        names = []
        for prefix, space in _NAMESPACES.items():
            size = self._extattr_list_fd(fd, space, None, 0)
            if size < 0:
                if ctypes.get_errno() == errno.EPERM:
                    continue  # "system" is root's
                raise posix.failed()
            buffer = ctypes.create_string_buffer(size + 256)
            got = self._extattr_list_fd(fd, space, buffer, size + 256)
            if got < 0:
                raise posix.failed()
            names += [prefix + b"." + name for name in split_names(buffer.raw[:got])]
        return names

    def removexattr(self, ref: int, name: bytes) -> None:
        space, rest = self._attribute(name)
        if self._extattr_delete_fd(self._attributed(ref), space, rest):
            raise posix.failed()


def split_names(listed: bytes) -> list[bytes]:
    """Return the names in what extattr_list_fd(2) has filled: each after a byte with its length."""
    names = []
    at = 0
    while at < len(listed):
        length = listed[at]
        names.append(listed[at + 1 : at + 1 + length])
        at += 1 + length
    return names
