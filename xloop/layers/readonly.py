# SPDX-License-Identifier: MIT
"""The read-only layer: :class:`ReadOnly`.

Owns what "read-only" means: everything that :class:`~xloop.ops.Op` does not call harmless is
refused, with the error that a file system mounted read-only gives.  Does not own the kernel's
``ro`` mount flag, which a backend sets besides.

Access times are not its business: the source's own mount decides whether reading moves them.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Final, NoReturn

from xloop.layers.base import Layer
from xloop.ops import Mutates, Op, Operations
from xloop.types import Caller, Entry, HandleId, Ino, Opened

__all__ = ["ReadOnly"]

# Written out: os.O_ACCMODE does not exist on every system.  The fourth value, 3, asks for write
# permission as well (open(2)).
_O_ACCMODE: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR

_READING_IOCTLS: Final = frozenset(
    {
        0x80086601,  # FS_IOC_GETFLAGS
        0x80046601,  # FS_IOC32_GETFLAGS
        0x80087601,  # FS_IOC_GETVERSION
        0x80047601,  # FS_IOC32_GETVERSION
        0x801C581F,  # FS_IOC_FSGETXATTR
    }
)
_WRITING_IOCTLS: Final = frozenset(
    {
        0x40086602,  # FS_IOC_SETFLAGS
        0x40046602,  # FS_IOC32_SETFLAGS
        0x40087602,  # FS_IOC_SETVERSION
        0x40047602,  # FS_IOC32_SETVERSION
        0x401C5820,  # FS_IOC_FSSETXATTR
    }
)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class ReadOnly(Layer):
    """Shows :attr:`inner`, and refuses every change to it with EROFS.

    Making a name that is already there fails with EEXIST, as on a real read-only mount:
    ``mkdir -p`` depends on it.
    """

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        if flags & _O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise _error(errno.EROFS)
        return super().open(caller, ino, flags, kill_suidgid=kill_suidgid)

    def create(
        self,
        caller: Caller,
        parent: Ino,
        name: bytes,
        flags: int,
        mode: int,
        umask: int,
        *,
        kill_suidgid: bool = False,
    ) -> tuple[Entry, Opened]:
        entry = self._existing(caller, parent, name)
        try:
            if flags & os.O_EXCL:
                raise _error(errno.EEXIST)
            if stat.S_ISDIR(entry.attr.mode):
                raise _error(errno.EISDIR)
            if stat.S_ISLNK(entry.attr.mode):
                raise _error(errno.ELOOP)
            return entry, self.open(caller, entry.ino, flags & ~os.O_CREAT)
        except BaseException:
            self.forget(entry.ino, 1)
            raise

    def mkdir(self, caller: Caller, parent: Ino, name: bytes, mode: int, umask: int) -> NoReturn:
        self._no_new_name(caller, parent, name)

    def mknod(
        self, caller: Caller, parent: Ino, name: bytes, mode: int, rdev: int, umask: int
    ) -> NoReturn:
        self._no_new_name(caller, parent, name)

    def symlink(self, caller: Caller, parent: Ino, name: bytes, target: bytes) -> NoReturn:
        self._no_new_name(caller, parent, name)

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> NoReturn:
        self._no_new_name(caller, newparent, newname)

    def access(self, caller: Caller, ino: Ino, mask: int) -> None:
        if mask & os.W_OK:
            mode = self.getattr(caller, ino, None).mode
            # A FIFO, a socket or a device may be written to: that changes no file system.
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
                raise _error(errno.EROFS)
        super().access(caller, ino, mask)

    def ioctl(
        self, caller: Caller, ino: Ino, handle: HandleId, command: int, data: bytes, out_size: int
    ) -> bytes:
        if command in _WRITING_IOCTLS:
            raise _error(errno.EROFS)
        if command not in _READING_IOCTLS:
            # Programs try commands just to see (isatty does): refused as by a file that does not
            # know them, never passed on to find out what they do.
            raise _error(errno.ENOTTY)
        return super().ioctl(caller, ino, handle, command, data, out_size)

    def _existing(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        """Look *name* up.  EROFS where it is not there: then it would have to be made."""
        try:
            return self.lookup(caller, parent, name)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            raise _error(errno.EROFS) from None

    def _no_new_name(self, caller: Caller, parent: Ino, name: bytes) -> NoReturn:
        self.forget(self._existing(caller, parent, name).ino, 1)
        raise _error(errno.EEXIST)


def _refuse(self: ReadOnly, *args: Any, **kwargs: Any) -> NoReturn:
    """Refused: it changes the file system."""
    raise _error(errno.EROFS)


# Denied by default: what the table does not call harmless, and what has no row in it at all.
_HARMLESS = frozenset(op.value for op in Op if op.mutates is Mutates.NO)
for _name, _member in vars(Operations).items():
    if (
        callable(_member)
        and not _name.startswith("_")
        and _name not in _HARMLESS
        and _name not in vars(ReadOnly)
    ):
        setattr(ReadOnly, _name, _refuse)
