# SPDX-License-Identifier: MIT
"""The callbacks that the library carries requests out with, as far as libfuse 2.9 has them too.

Owns the translation between the library's arguments and operations over a PathView.  Does not own
paths (:mod:`xloop.pathview`), nor what macOS adds (:mod:`.extensions`).

**Removed while open.**  The library knows files by path.  When an open one is removed it renames it to
``.fuse_hidden`` and 16 hexadecimal digits, and removes that after the last close.  Here that rename does
not happen: the file is really removed, and the view keeps the node under the hidden name for the library
alone.  If something is to be renamed onto an open file the library hides that first, too, and does
not say which of the two it is about: then the file is gone a moment before the other takes its place.

**Locks** are not among the callbacks: macFUSE's kernel keeps them by itself, and does not ask.

**The umask** is not, either: macOS applies it before it asks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable
from typing import Any, TypeVar

from xloop.errors import errno_of
from xloop.fuselib import fill, until_error
from xloop.latency import Calls
from xloop.pathview import PathView
from xloop.types import Caller, HandleId, Opened, SetAttr

from . import abi
from .negotiate import Terms

__all__ = ["Callbacks"]

T = TypeVar("T")

_ALL = ctypes.c_char * (1 << 30)  # never made, only looked through
_NO_ID = 0xFFFFFFFF
_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")

#: The one attribute that is read and written in pieces.
_RESOURCE_FORK = b"com.apple.ResourceFork"
_XATTR_CREATE, _XATTR_REPLACE = 2, 4  # of macOS; the contract has 1 and 2

# sys/fcntl.h: what VNOP_ALLOCATE passes on; and linux/falloc.h, whose numbers the contract uses.
_PREALLOCATE, _FROM_PEOF = 0x01, 0x10
_KEEP_SIZE = 1


class Callbacks:
    """The callbacks of one mount.  *binding*: mfusepy."""

    def __init__(self, view: PathView, binding: Any, get_context: Any, terms: Terms) -> None:
        self._view = view
        self.calls = Calls()
        self._context = get_context
        self._file = binding.fuse_file_info.from_address
        self._table_type = abi.table_type(binding)
        self._keep: list[Any] = []
        self.init = terms.init

    def table(self) -> ctypes.Structure:
        """Return the library's ``struct fuse_operations``; it is valid while this object lives."""
        table: Any = self._table_type()
        fields: Any = self._table_type._fields_
        for name, kind, *_ in fields:
            method = getattr(self, name, None)
            if callable(method) and kind is not ctypes.c_void_p:
                function = kind(self._guarded(self.calls.counted(name, method)))
                self._keep.append(function)
                setattr(table, name, function)
        # Paths are not wanted where there is a handle; and a time may be left as it is.
        table.flag_nullpath_ok = table.flag_nopath = table.flag_utime_omit_ok = 1
        self._keep.append(table)
        made: ctypes.Structure = table
        return made

    @staticmethod
    def _guarded(method: Callable[..., int]) -> Callable[..., int]:
        """Return *method* such that no exception leaves it: it would end up nowhere."""

        def call(*args: Any) -> int:
            try:
                return method(*args)
            except BaseException as exc:  # noqa: BLE001  # errno_of logs what is a bug
                number = errno_of(exc)
                if number == errno.EOPNOTSUPP:
                    number = errno.ENOTSUP  # two numbers on macOS; the other is about sockets
                elif number == errno.ESTALE:
                    number = errno.ENOENT  # this kernel does not look a name up again
                return -number

        return call

    def _caller(self) -> Caller:
        context = self._context().contents
        return Caller(context.uid, context.gid, context.pid)

    def _handle(self, info: int | None) -> HandleId | None:
        return HandleId(self._file(info).fh) if info else None

    # -- attributes ---------------------------------------------------------------------

    def getattr(self, path: bytes, address: int) -> int:
        return self._getattr(path, address, None)

    def fgetattr(self, path: bytes | None, address: int, info: int | None) -> int:
        return self._getattr(path, address, self._handle(info))

    def _getattr(self, path: bytes | None, address: int, handle: HandleId | None) -> int:
        view = self._view
        attr = view.getattr(self._caller(), path, handle)
        if path is not None and attr.nlink and view.is_kept(path):
            # The library takes one off for its hidden name, which does not exist.
            attr = attr._replace(nlink=attr.nlink + 1)
        packed = abi.packed_stat(attr)
        ctypes.memmove(address, packed, len(packed))
        return 0

    def _setattr(self, path: bytes | None, changes: SetAttr, info: int | None = None) -> int:
        self._view.setattr(self._caller(), path, changes, self._handle(info))
        return 0

    def chmod(self, path: bytes, mode: int) -> int:
        return self._setattr(path, SetAttr(mode=mode & 0o7777))

    def chown(self, path: bytes, uid: int, gid: int) -> int:
        changes = SetAttr(uid=None if uid == _NO_ID else uid, gid=None if gid == _NO_ID else gid)
        return self._setattr(path, changes)

    def truncate(self, path: bytes, size: int) -> int:
        return self._setattr(path, SetAttr(size=size))

    def ftruncate(self, path: bytes | None, size: int, info: int | None) -> int:
        return self._setattr(path, SetAttr(size=size), info)

    def utimens(self, path: bytes, times: int) -> int:
        changes = SetAttr(atime=abi.read_time(times), mtime=abi.read_time(times, 1))
        return self._setattr(path, changes)

    def access(self, path: bytes, mask: int) -> int:
        self._view.access(self._caller(), path, mask & 7)
        return 0

    def readlink(self, path: bytes, buffer: int, size: int) -> int:
        target = self._view.readlink(self._caller(), path)[: size - 1]
        ctypes.memmove(buffer, target + b"\0", len(target) + 1)
        return 0

    def statfs(self, path: bytes | None, buffer: int) -> int:
        packed = abi.packed_statvfs(self._view.statfs(self._caller(), path))
        ctypes.memmove(buffer, packed, len(packed))
        return 0

    # -- names --------------------------------------------------------------------------

    def mknod(self, path: bytes, mode: int, rdev: int) -> int:
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        self._view.mknod(self._caller(), path, mode, rdev & 0xFFFFFFFF, 0)
        return 0

    def mkdir(self, path: bytes, mode: int) -> int:
        self._view.mkdir(self._caller(), path, mode & 0o7777, 0)
        return 0

    def symlink(self, target: bytes, path: bytes) -> int:
        self._view.symlink(self._caller(), path, target)
        return 0

    def link(self, path: bytes, newpath: bytes) -> int:
        self._view.link(self._caller(), path, newpath)
        return 0

    def rmdir(self, path: bytes) -> int:
        self._view.rmdir(self._caller(), path)
        return 0

    def unlink(self, path: bytes) -> int:
        if self._view.drop(_last(path)):
            return 0
        try:
            self._view.unlink(self._caller(), path)
        except FileNotFoundError:
            # The library removes what it believes that it has hidden: the name went with the last handle.
            if not _HIDDEN.fullmatch(_last(path)):
                raise
        return 0

    def rename(self, path: bytes, newpath: bytes) -> int:
        caller = self._caller()
        if self._hides(caller, path, newpath):
            self._hide(caller, path, _last(newpath))
        else:
            self._view.rename(caller, path, newpath)
        return 0

    def _hides(self, caller: Caller, path: bytes, newpath: bytes) -> bool:
        """Tell whether a rename is the library's own: of a file that is open, beside itself."""
        if not _HIDDEN.fullmatch(_last(newpath)) or _above(path) != _above(newpath):
            return False
        return self._view.is_open(caller, path)

    def _hide(self, caller: Caller, path: bytes, hidden: bytes) -> None:
        self._view.keep(caller, path, hidden)
        try:
            self._view.unlink(caller, path)
        except BaseException:
            self._view.drop(hidden)
            raise

    # -- files --------------------------------------------------------------------------

    @staticmethod
    def _opened(opened: Opened, info: Any) -> int:
        info.fh = opened.handle
        info.keep_cache = opened.keep_cache
        info.direct_io = opened.direct_io
        info.nonseekable = opened.nonseekable
        return 0

    def open(self, path: bytes, address: int) -> int:
        info = self._file(address)
        return self._opened(self._view.open(self._caller(), path, info.flags), info)

    def create(self, path: bytes, mode: int, address: int) -> int:
        info = self._file(address)
        opened = self._view.create(self._caller(), path, info.flags, mode & 0o7777, 0)
        return self._opened(opened, info)

    def read(self, path: bytes | None, buffer: int, size: int, offset: int, info: int) -> int:
        data = self._view.read(self._caller(), HandleId(self._file(info).fh), offset, size)
        if not isinstance(data, bytes):
            data = bytes(data)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    def write(self, path: bytes | None, buffer: int, size: int, offset: int, address: int) -> int:
        info = self._file(address)
        data = memoryview(_ALL.from_address(buffer)).cast("B")[:size]
        return self._view.write(
            self._caller(), HandleId(info.fh), offset, data, cached=bool(info.writepage)
        )

    def flush(self, path: bytes | None, address: int) -> int:
        info = self._file(address)
        self._view.flush(self._caller(), HandleId(info.fh), info.lock_owner)
        return 0

    def release(self, path: bytes | None, info: int) -> int:
        self._view.release(HandleId(self._file(info).fh))
        return 0

    def fsync(self, path: bytes | None, datasync: int, info: int) -> int:
        self._view.fsync(self._caller(), HandleId(self._file(info).fh), bool(datasync))
        return 0

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, info: int) -> int:
        # fcntl(F_PREALLOCATE).  From the end of what the file has; or at a place on the disk.
        if mode & (_PREALLOCATE | _FROM_PEOF) != _PREALLOCATE | _FROM_PEOF or offset:
            raise OSError(errno.ENOTSUP, "only space behind the file's own can be asked for")
        caller, handle = self._caller(), HandleId(self._file(info).fh)
        end = self._view.getattr(caller, None, handle).blocks * 512
        self._view.fallocate(caller, handle, _KEEP_SIZE, end, length)
        return 0

    # -- directories --------------------------------------------------------------------

    def opendir(self, path: bytes, address: int) -> int:
        info = self._file(address)
        info.fh = self._view.opendir(self._caller(), path, info.flags).handle
        return 0

    def readdir(
        self,
        path: bytes | None,
        buffer: int,
        filler: Callable[[int, bytes, Any, int], int],
        offset: int,
        info: int,
    ) -> int:
        handle = HandleId(self._file(info).fh)
        for entry in until_error(self._view.readdir(self._caller(), handle, offset)):
            packed = abi.packed_entry(entry.ino, entry.type)
            if filler(buffer, entry.name, packed, entry.offset):
                break
        return 0

    def releasedir(self, path: bytes | None, info: int) -> int:
        self._view.releasedir(HandleId(self._file(info).fh))
        return 0

    def fsyncdir(self, path: bytes | None, datasync: int, info: int) -> int:
        self._view.fsyncdir(self._caller(), HandleId(self._file(info).fh), bool(datasync))
        return 0

    # -- extended attributes ------------------------------------------------------------

    def getxattr(
        self, path: bytes, name: bytes, buffer: int | None, size: int, position: int
    ) -> int:
        _check_position(name, position)
        value = self._view.getxattr(self._caller(), path, name)
        if name == _RESOURCE_FORK:
            if not size or not buffer:
                return len(value)
            value = value[position : position + size]
        return fill(value, buffer, size)

    def setxattr(
        self, path: bytes, name: bytes, address: int, size: int, options: int, position: int
    ) -> int:
        _check_position(name, position)
        view, caller = self._view, self._caller()
        value = ctypes.string_at(address, size) if size else b""
        flags = bool(options & _XATTR_CREATE) | bool(options & _XATTR_REPLACE) << 1
        if name == _RESOURCE_FORK and not flags & 1:
            # It is written like a file: what lies before and behind stays.
            try:
                old = view.getxattr(caller, path, name)
            except OSError as exc:
                if exc.errno != _enoattr():
                    raise
                old = b""
            value = old[:position].ljust(position, b"\0") + value + old[position + size :]
        view.setxattr(caller, path, name, value, flags)
        return 0

    def listxattr(self, path: bytes, buffer: int | None, size: int) -> int:
        names = self._view.listxattr(self._caller(), path)
        return fill(b"".join(name + b"\0" for name in names), buffer, size)

    def removexattr(self, path: bytes, name: bytes) -> int:
        self._view.removexattr(self._caller(), path, name)
        return 0


def _enoattr() -> int:
    """Return the error for an attribute that is not set: ENODATA is another number on macOS."""
    return int(getattr(errno, "ENOATTR", None) or errno.ENODATA)


def _check_position(name: bytes, position: int) -> None:
    if position and name != _RESOURCE_FORK:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
