# SPDX-License-Identifier: MIT
"""Backing files: letting the kernel read, write and map the source's files by itself.

Owns which inode has which backing id, and when passthrough must not be offered.  Does not own
the descriptors: those are the file system's.

The kernel's rules (fs/fuse/iomode.c, passthrough.c; Linux 6.9 and newer): while an inode is open
with passthrough, every further open must be too, and with the same backing id; an inode that
is open without must not be opened with.  A wrong answer makes open(2) fail with EIO.  So the
first open decides for as long as any lasts.

A backing file stays registered for a moment after the last open: what was opened is often
opened again.  It holds the file like a reference does, and goes as references do: when the kernel
forgets the inode, and after some seconds without use, so that what others delete frees its space.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable

from xloop.host import host
from xloop.types import HandleId, Ino

from . import abi

__all__ = ["WITHOUT_FSETID", "Passthrough"]

#: In place of a backing id: the inode is open, and its data comes through us.
_SERVED = 0

#: Most backing files that are kept without an open: what is created in a second or two.  Closing one takes
#: as long as a small request, and is better done by the sweeper, when nobody waits.
_KEPT = 8192
#: Seconds after which one that nobody opened again is let go, twice that at most: as long as a reference is kept.
_SWEEP = 2.0
#: Seconds more, at most, for which a moment is awaited when nothing is asked: each that is closed meanwhile takes
#: the interpreter from who serves, and that costs ten times as much as closing it.
_PATIENCE = 8.0

#: What CAP_FSETID makes no difference to: neither changes what is in a file nor its mode.  A thread that has registered
#: a backing file has none until it is asked something else.  CREATE and OPEN see to it themselves.
WITHOUT_FSETID = frozenset(
    {
        abi.Opcode.LOOKUP,
        abi.Opcode.FORGET,
        abi.Opcode.BATCH_FORGET,
        abi.Opcode.GETATTR,
        abi.Opcode.STATX,
        abi.Opcode.READLINK,
        abi.Opcode.ACCESS,
        abi.Opcode.GETXATTR,
        abi.Opcode.LISTXATTR,
        abi.Opcode.OPEN,
        abi.Opcode.CREATE,
        abi.Opcode.READ,
        abi.Opcode.FLUSH,
        abi.Opcode.RELEASE,
        abi.Opcode.OPENDIR,
        abi.Opcode.READDIR,
        abi.Opcode.READDIRPLUS,
        abi.Opcode.RELEASEDIR,
        abi.Opcode.UNLINK,
        abi.Opcode.RMDIR,
        abi.Opcode.RENAME,
        abi.Opcode.RENAME2,
        abi.Opcode.STATFS,
    }
)

_SET_ID = stat.S_ISUID | stat.S_ISGID


class _Use:
    __slots__ = ("backing_id", "fresh", "maps", "opens")

    def __init__(self, backing_id: int) -> None:
        self.backing_id = backing_id
        self.opens = 0
        #: The opens that may map the file for writing.
        self.maps: set[HandleId] | None = None
        #: Used since the last sweep.
        self.fresh = True


class Passthrough:
    """The backing files of one connection."""

    def __init__(self, connection: int, lull: threading.Event) -> None:
        """*lull* is set while nothing is asked."""
        self._connection = connection
        self._lull = lull
        self._lock = threading.Lock()
        self._uses: dict[Ino, _Use] = {}
        #: Registered, and not open now; the longest unused first.  Not a dict: finding the first of one
        #: takes the longer the more have been taken from its front.
        self._kept: OrderedDict[Ino, _Use] = OrderedDict()
        self._sweeper: threading.Timer | None = None
        self._over = False
        #: Device -> why its files cannot be passed through.
        self.refused: dict[int, str] = {}
        self.registered = 0
        #: Inodes that are open for reading and writing with passthrough.  A write to a mapping of such
        #: a file moves its mtime and nobody is told: its attributes must not be believed for any
        #: time.  What is open for writing only cannot be mapped, and a write the kernel notices.
        self.written: set[Ino] = set()
        #: Inodes that are open for writing with passthrough, and the threads that opened them.
        self.writers: dict[Ino, dict[HandleId, int]] = {}
        #: Called with an inode and the thread that had opened it when one of these is closed.
        self.on_closed: Callable[[Ino, int], None] | None = None

    def opened(
        self,
        ino: Ino,
        handle: HandleId,
        fd: int | None,
        ref: int | None,
        flags: int,
        pid: int,
        mode: int | None = None,
    ) -> int:
        """Note one more open of *ino* by *pid*; return its backing id, or 0 for an open that we serve.

        *fd*: the real file that the open offers; None: it offers none.  *ref*: a reference to that, where there
        is one.  *mode*: the file's, where that is known.
        """
        access = flags & os.O_ACCMODE
        with self._lock:
            use = self._uses.get(ino)
            if use is None:
                use = self._first(ino, fd, ref, access, mode)
            use.opens += 1
            if access != os.O_RDONLY and use.backing_id:
                self.writers.setdefault(ino, {})[handle] = pid
            if access == os.O_RDWR and use.backing_id:
                if use.maps is None:
                    use.maps = set()
                use.maps.add(handle)
                self.written.add(ino)
            return use.backing_id

    def _first(
        self, ino: Ino, fd: int | None, ref: int | None, access: int, mode: int | None
    ) -> _Use:
        use = self._kept.pop(ino, None) if self._kept else None
        if fd is not None and access != os.O_RDONLY and mode is None:
            mode = os.fstat(fd).st_mode
        if fd is None or (access != os.O_RDONLY and mode is not None and mode & _SET_ID):
            # Whether a write clears these bits depends on who writes (CAP_FSETID), and a backing
            # file is written with the rights of the one who registered it.
            if use is not None:
                self._close(use.backing_id)
            use = _Use(_SERVED)
        elif use is None:
            use = _Use(self._register(fd, ref))
        self._uses[ino] = use
        return use

    def released(self, ino: Ino, handle: HandleId) -> None:
        """Note that an open of *ino* is over."""
        with self._lock:
            use = self._uses.get(ino)
            if use is None:
                return
            use.opens -= 1
            writers = self.writers.get(ino)
            if writers is not None and handle in writers:
                pid = writers.pop(handle)
                if not writers:
                    del self.writers[ino]
                if self.on_closed is not None:
                    self.on_closed(ino, pid)
            if use.maps is not None and handle in use.maps:
                use.maps.discard(handle)
                if not use.maps:
                    use.maps = None
                    self.written.discard(ino)
            if use.opens:
                return
            del self._uses[ino]
            if use.backing_id:
                self._keep(ino, use)

    def forgotten(self, ino: Ino) -> None:
        """Let go of *ino*, which the kernel may not know any more."""
        if ino in self._kept:
            with self._lock:
                use = self._kept.pop(ino, None)
                if use is not None:
                    self._close(use.backing_id)

    def _register(self, fd: int, ref: int | None) -> int:
        if self.refused and os.fstat(fd).st_dev in self.refused:
            return _SERVED
        try:
            # The kernel keeps what is registered until the last open is over.  So not the open file
            # itself: its flock would outlive its close, and a writer keep the file from being
            # executed.  A reference is enough: what a user reads and writes with is opened anew.
            if ref is None:
                ref = host.reopen_ref(fd)
            request = bytearray(abi.BACKING_MAP.pack(ref, 0, 0))
            # Bits that are set later, while the file is open, are cleared by everybody's write: the
            # safe side.  Not given back here: the next request that needs it has it restored, and most do not.
            host.drop_fsetid()
            backing_id: int = fcntl.ioctl(self._connection, abi.DEV_IOC_BACKING_OPEN, request, True)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
                self.refused[os.fstat(fd).st_dev] = _reason(exc)
            return _SERVED
        self.registered += 1
        return backing_id

    def _keep(self, ino: Ino, use: _Use) -> None:
        use.fresh = True
        self._kept[ino] = use
        if len(self._kept) > _KEPT:
            _, oldest = self._kept.popitem(last=False)
            self._close(oldest.backing_id)
        if self._sweeper is None:
            self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweeper = threading.Timer(_SWEEP, self._sweep)
        self._sweeper.daemon = True
        self._sweeper.start()

    def _sweep(self) -> None:
        self._lull.wait(_PATIENCE)
        unused = []
        with self._lock:
            for ino, use in list(self._kept.items()):
                if use.fresh:
                    use.fresh = False
                else:
                    del self._kept[ino]
                    unused.append(use.backing_id)
        for backing_id in unused:
            with self._lock:
                if self._over:
                    return  # the descriptor may be something else by now
                self._close(backing_id)
        with self._lock:
            self._sweeper = None
            if self._kept and not self._over:
                self._sweep_later()

    def close(self) -> None:
        """The connection is over, and the kernel has let go of everything."""
        with self._lock:
            self._over = True
            self._kept.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()

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
