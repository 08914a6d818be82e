# SPDX-License-Identifier: MIT
"""Backing files: letting the kernel read, write and map the source's files by itself.

Owns which inode has which backing id, and when passthrough must not be offered.  Does not own
the descriptors: those are the file system's.

The kernel's rules (fs/fuse/iomode.c, passthrough.c; Linux 6.9 and newer): while an inode is open
with passthrough, every further open must be too, and with the same backing id; an inode that
is open without must not be opened with.  A wrong answer makes open(2) fail with EIO.  So the
first open decides for as long as any lasts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading

from xloop.host import host
from xloop.types import HandleId, Ino

from . import abi

__all__ = ["Passthrough"]

#: In place of a backing id: the inode is open, and its data comes through us.
_SERVED = 0


class _Use:
    __slots__ = ("backing_id", "opens", "writers")

    def __init__(self, backing_id: int) -> None:
        self.backing_id = backing_id
        self.opens = 0
        self.writers: set[HandleId] = set()


class Passthrough:
    """The backing files of one connection."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._uses: dict[Ino, _Use] = {}
        #: Device -> why its files cannot be passed through.
        self.refused: dict[int, str] = {}
        self.registered = 0
        #: Inodes that are open for writing with passthrough.  A write to a mapping of such a file
        #: moves its mtime and nobody is told: its attributes must not be believed for any time.
        self.written: set[Ino] = set()

    def opened(self, ino: Ino, handle: HandleId, fd: int | None, flags: int) -> int:
        """Note one more open of *ino* and return its backing id, or 0 for an open that we serve.

        *fd*: the real file that the open offers; None: it offers none.
        """
        with self._lock:
            use = self._uses.get(ino)
            if use is None:
                use = _Use(_SERVED if fd is None else self._register(fd, flags))
                self._uses[ino] = use
            use.opens += 1
            if use.backing_id and flags & os.O_ACCMODE != os.O_RDONLY:
                use.writers.add(handle)
                self.written.add(ino)
            return use.backing_id

    def released(self, ino: Ino, handle: HandleId) -> None:
        """Note that an open of *ino* is over."""
        with self._lock:
            use = self._uses.get(ino)
            if use is None:
                return
            use.opens -= 1
            if handle in use.writers:
                use.writers.discard(handle)
                if not use.writers:
                    self.written.discard(ino)
            if use.opens:
                return
            del self._uses[ino]
            if use.backing_id:
                self._close(use.backing_id)

    def _register(self, fd: int, flags: int) -> int:
        st = os.fstat(fd)
        if st.st_dev in self.refused:
            return _SERVED
        if flags & os.O_ACCMODE != os.O_RDONLY and st.st_mode & (stat.S_ISUID | stat.S_ISGID):
            # Whether a write clears these bits depends on who writes (CAP_FSETID), and a backing
            # file is written with the rights of the one who registered it.
            return _SERVED
        try:
            # The kernel keeps what is registered until the last open is over.  So not the open file
            # itself: its flock would outlive its close, and a writer keep the file from being
            # executed.  A reference is enough: what a user reads and writes with is opened anew.
            ref = host.reopen_ref(fd)
            request = bytearray(abi.BACKING_MAP.pack(ref, 0, 0))
            # Bits that are set later, while the file is open, are cleared by everybody's write: the
            # safe side.
            with host.without_fsetid():
                backing_id: int = fcntl.ioctl(
                    self._connection, abi.DEV_IOC_BACKING_OPEN, request, True
                )
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
                self.refused[st.st_dev] = _reason(exc)
            return _SERVED
        self.registered += 1
        return backing_id

    def _close(self, backing_id: int) -> None:
        self.registered -= 1
        try:
            fcntl.ioctl(
                self._connection, abi.DEV_IOC_BACKING_CLOSE, backing_id.to_bytes(4, "little")
            )
        except OSError as exc:
            # ENOTCONN, ENODEV: the connection is gone, and took its backing files along.
            if exc.errno not in (errno.ENOTCONN, errno.ENODEV, errno.ENOENT, errno.EPERM):
                raise


def _reason(exc: OSError) -> str:
    if exc.errno == errno.ELOOP:
        return "the source is itself a stacked file system (another FUSE mount, overlay on overlay)"
    if exc.errno == errno.EPERM:
        return "the kernel allows it to CAP_SYS_ADMIN only"
    return f"the kernel refused: {exc.strerror}"
