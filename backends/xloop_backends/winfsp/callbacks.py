# SPDX-License-Identifier: MIT
"""The callbacks that WinFsp carries requests out with: its table of operations, over a PathView.

Owns the translation between WinFsp's arguments and operations.  Does not own paths (:mod:`xloop.pathview`) nor
layouts (:mod:`.abi`).

**What WinFsp does.**  It opens a file for each open of Windows, also where only its attributes are
wanted or it is to be deleted, and always for reading, writing or both: so an open for reading that the
source denies succeeds, and what reads is denied.  It never truncates or appends by a flag.  It renames
and deletes while the file is open, the delete before the release.  It asks ``readlink("/")`` whether there
are symbolic links (ENOSYS: none), and ``getattr("/.")`` whether we would follow links for it: we
would not, for it can do so itself.

**What is not in the table** WinFsp takes as not supported.  chmod and chown: Windows' permissions are access
control lists, and those are the source's.  The four for extended attributes.  mknod, link, lock, access,
ioctl: Windows has no such calls, or WinFsp answers them itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

from xloop.errors import errno_of
from xloop.latency import Calls
from xloop.pathview import PathView
from xloop.types import Caller, HandleId, Opened, SetAttr

from . import abi

__all__ = ["Callbacks"]

_ALL = ctypes.c_char * (1 << 30)  # never made, only looked through

#: Ids mean nothing here, and WinFsp tells them only with a few requests.
_CALLER = Caller(0, 0, 0)

#: The handle of a file that may not be read, but was opened for something else.  The core counts from 1.
_UNREADABLE = 0

_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Callbacks:
    """The callbacks of one mount.

    *case_sensitive*: as the operations say.  *on_init*: called with the ``fuse_conn_info`` that was agreed
    on, *on_destroy* at the end.  *source*: the root that absolute links of the source may lead below.
    """

    def __init__(
        self,
        view: PathView,
        on_init: Callable[[], None],
        *,
        case_sensitive: bool,
        read_only: bool,
        source: str | None = None,
    ) -> None:
        self._view = view
        self.calls = Calls()
        self._on_init = on_init
        self._case_sensitive = case_sensitive
        self._read_only = read_only
        self._source = (
            source.replace("\\", "/").rstrip("/").encode("utf-8", "surrogatepass")
            if source
            else None
        )
        self._file = abi.FileInfo.from_address
        self._has_flags = False
        self._keep: list[Any] = []
        #: What WinFsp offers, and what was asked for.
        self.capable = self.want = 0

    def table(self) -> abi.Operations:
        """Return WinFsp's ``struct fuse_operations``; it is valid while this object lives."""
        table = abi.Operations()
        for name, prototype in abi.Operations._fields_:  # type: ignore[misc]  # none has a bit width
            method = getattr(self, name, None)
            if method is not None:
                function = prototype(abi.failing(self.calls.counted(name, method), errno_of))
                self._keep.append(function)
                setattr(table, name, function)
        self._keep.append(table)
        return table

    # -- life ---------------------------------------------------------------------------

    def init(self, address: int) -> int:
        connection = abi.Connection.from_address(address)
        want = abi.READDIR_PLUS | abi.STAT_EX
        if self._read_only:
            # The option "ro" is ignored without a word.
            want |= abi.READ_ONLY
        if not self._case_sensitive:
            want |= abi.CASE_INSENSITIVE
        self.capable = connection.capable
        self.want = want & connection.capable
        connection.want |= self.want
        self._has_flags = bool(self.want & abi.STAT_EX)
        self._on_init()
        return 0

    def destroy(self, _data: int | None) -> int:
        return 0

    # -- attributes ---------------------------------------------------------------------

    def _getattr(self, path: bytes | None, address: int, handle: HandleId | None) -> int:
        attr = self._view.getattr(_CALLER, path, handle)
        data = abi.pack_stat(attr, flags=self._has_flags)
        ctypes.memmove(address, data, len(data))
        return 0

    def getattr(self, path: bytes, address: int) -> int:
        if path.endswith(b"/."):
            return -errno.ENOENT  # "would you follow a link for me?"
        return self._getattr(path, address, None)

    def fgetattr(self, path: bytes, address: int, info: int | None) -> int:
        return self._getattr(path, address, self._handle(info))

    def _handle(self, info: int | None) -> HandleId | None:
        """Return the handle in a ``struct fuse_file_info``, if there is one."""
        number = self._file(info).fh if info else abi.NO_HANDLE
        return None if number in (abi.NO_HANDLE, _UNREADABLE) else HandleId(number)

    def _readable(self, info: int) -> HandleId:
        handle = self._handle(info)
        if handle is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return handle

    def _setattr(self, path: bytes, changes: SetAttr, handle: HandleId | None = None) -> int:
        self._view.setattr(_CALLER, path, changes, handle)
        return 0

    def truncate(self, path: bytes, size: int) -> int:
        return self._setattr(path, SetAttr(size=size))

    def ftruncate(self, path: bytes, size: int, info: int | None) -> int:
        return self._setattr(path, SetAttr(size=size), self._handle(info))

    def utimens(self, path: bytes, address: int) -> int:
        atime, mtime = abi.times(address, 2)
        return self._setattr(path, SetAttr(atime=atime, mtime=mtime))

    def setcrtime(self, path: bytes, address: int) -> int:
        (crtime,) = abi.times(address, 1)
        return self._setattr(path, SetAttr(crtime=crtime))

    def chflags(self, path: bytes, flags: int) -> int:
        return self._setattr(path, SetAttr(flags=flags))

    def statfs(self, path: bytes, address: int) -> int:
        data = abi.pack_statvfs(self._view.statfs(_CALLER, path))
        ctypes.memmove(address, data, len(data))
        return 0

    def getpath(self, path: bytes, buffer: int, size: int, info: int | None) -> int:
        return self._text(self._view.getpath(_CALLER, path), buffer, size)

    def readlink(self, path: bytes, buffer: int, size: int) -> int:
        target = self._view.readlink(_CALLER, path)
        if self._source is not None:
            target = _below(self._source, target)
        return self._text(target, buffer, size)

    def _text(self, text: bytes, buffer: int, size: int) -> int:
        if len(text) >= size:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        ctypes.memmove(buffer, text + b"\0", len(text) + 1)
        return 0

    # -- names --------------------------------------------------------------------------

    def mkdir(self, path: bytes, mode: int) -> int:
        self._view.mkdir(_CALLER, path, mode, 0)
        return 0

    def unlink(self, path: bytes) -> int:
        self._view.unlink(_CALLER, path)
        return 0

    def rmdir(self, path: bytes) -> int:
        self._view.rmdir(_CALLER, path)
        return 0

    def symlink(self, target: bytes, path: bytes) -> int:
        self._view.symlink(_CALLER, path, target)
        return 0

    def rename(self, path: bytes, newpath: bytes) -> int:
        # WinFsp has looked whether something is there, and whether that may be replaced.
        self._view.rename(_CALLER, path, newpath)
        return 0

    # -- files --------------------------------------------------------------------------

    def _opened(self, opened: Opened, info: abi.FileInfo) -> int:
        info.fh = opened.handle
        if opened.direct_io:
            info.bits |= abi.DIRECT_IO
        return 0

    def create(self, path: bytes, mode: int, address: int) -> int:
        info = self._file(address)
        return self._opened(self._view.create(_CALLER, path, info.flags, mode, 0), info)

    def open(self, path: bytes, address: int) -> int:
        info = self._file(address)
        try:
            opened = self._view.open(_CALLER, path, info.flags & _ACCESS)
        except PermissionError:
            if info.flags & _ACCESS != os.O_RDONLY:
                raise
            info.fh = _UNREADABLE
            return 0
        return self._opened(opened, info)

    def read(self, path: bytes, buffer: int, size: int, offset: int, info: int) -> int:
        data = self._view.read(_CALLER, self._readable(info), offset, size)
        if not isinstance(data, bytes):
            data = bytes(data)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    def write(self, path: bytes, buffer: int, size: int, offset: int, info: int) -> int:
        data = memoryview(_ALL.from_address(buffer)).cast("B")[:size]
        return self._view.write(_CALLER, self._readable(info), offset, data)

    def flush(self, path: bytes, info: int) -> int:
        handle = self._handle(info)
        if handle is not None:
            self._view.flush(_CALLER, handle, 0)
        return 0

    def release(self, path: bytes, info: int) -> int:
        handle = self._handle(info)
        if handle is not None:
            self._view.release(handle)
        return 0

    def fsync(self, path: bytes, datasync: int, info: int) -> int:
        self._view.fsync(_CALLER, self._readable(info), bool(datasync))
        return 0

    # -- directories --------------------------------------------------------------------

    def opendir(self, path: bytes, address: int) -> int:
        info = self._file(address)
        return self._opened(self._view.opendir(_CALLER, path, 0), info)

    def readdir(
        self, path: bytes, buffer: int, fill: Callable[..., int], offset: int, info: int
    ) -> int:
        # All of it in one call: WinFsp keeps what it was given.  A filler that wants no more was asked
        # whether the directory is empty.
        view, handle, has_flags = self._view, self._readable(info), self._has_flags
        for entry, attr in view.readdirplus(_CALLER, handle, 0):
            stat = None if attr is None else abi.pack_stat(attr, flags=has_flags)
            if fill(buffer, entry.name, stat, 0):
                break
        return 0

    def releasedir(self, path: bytes, info: int) -> int:
        handle = self._handle(info)
        if handle is not None:
            self._view.releasedir(handle)
        return 0

    def fsyncdir(self, path: bytes, datasync: int, info: int) -> int:
        self._view.fsyncdir(_CALLER, self._readable(info), bool(datasync))
        return 0


def _below(source: bytes, target: bytes) -> bytes:
    """Return *target*, and where it lies below *source*, as a path from the root of the mount.

    An absolute link that leads elsewhere is told as it is: WinFsp finds nothing by it.
    """
    lower = target.lower()
    if lower == source.lower():
        return b"/"
    return target[len(source) :] if lower.startswith(source.lower() + b"/") else target
