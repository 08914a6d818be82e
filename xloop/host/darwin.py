# SPDX-License-Identifier: MIT
"""The functions of :class:`xloop.host.base.Host` on macOS.

Owns what macOS has beyond POSIX, and how it differs.  Does not own what it shares with FreeBSD
(:mod:`xloop.host.posix`) nor prototypes and layouts (:mod:`xloop.host.darwin_libc`).

**References.**  Directories are opened to be searched (O_SEARCH), files and symbolic links for
notification (O_EVTONLY, O_SYMLINK): that keeps no volume from being unmounted.  It needs the right
to read all the same; what may not be read is held by its name.  An object that was moved by others
is found again by asking the kernel for a path of the descriptor (F_GETPATH), which is then
walked without following any link (O_NOFOLLOW_ANY) and must lead to the same object.

**Stable storage.**  fsync(2) hands data to the drive, and the drive may keep it in its cache.  Programs
that care ask for F_FULLFSYNC, but a file system in user space is told of both in the same way.  So
fsync is F_FULLFSYNC here, where the source has that; fdatasync is plain fsync(2).

**Names.**  Bytes in, bytes out: whether case and Unicode normalisation count is the source's affair.

**Identity of a thread.**  pthread_setugid_np(2), for root: a user and *one* group.  Whoever relies on
a second group is refused what he may do natively: fewer rights, never more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from xloop.host import darwin_libc as c
from xloop.host import posix
from xloop.host.base import Descriptor
from xloop.types import Attr, Caller, LockRange, StatFs

assert not TYPE_CHECKING or sys.platform != "win32"

__all__ = ["DarwinHost"]

_nothing: AbstractContextManager[object] = nullcontext()
_BILLION = 1_000_000_000
_END = 2**63 - 1
_PC_CASE_SENSITIVE = 11  # sys/unistd.h

# renameat2(2) and fallocate(2), whose numbers the contract uses.
_NOREPLACE, _EXCHANGE = 1, 2
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_XATTR_FLAGS = {0: 0, 1: c.XATTR_CREATE, 2: c.XATTR_REPLACE}

#: What F_FULLFSYNC and F_PUNCHHOLE say on a file system that has them not.
_ABSENT = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.stat = ctypes.create_string_buffer(c.STAT.size)


class _ActingAs:
    __slots__ = ("caller", "setugid")

    def __init__(self, setugid: Any, caller: Caller) -> None:
        self.setugid = setugid
        self.caller = caller

    def __enter__(self) -> None:
        if self.setugid(self.caller.uid, self.caller.gid):
            raise posix.failed()

    def __exit__(self, *_exc: object) -> None:
        if self.setugid(c.KAUTH_NONE, c.KAUTH_NONE):
            # Going on would be to serve others as somebody else.
            raise posix.failed()


class DarwinHost(posix.PosixHost):
    """macOS.  *libc*: its C library."""

    directory_flags = (c.O_SEARCH, c.O_EVTONLY | os.O_DIRECTORY)
    file_flags = c.O_EVTONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    link_flags = c.O_EVTONLY | c.O_SYMLINK
    OWNS_LOCKS = True
    # APFS and HFS+ count on, and setattrlist(2) lets everybody set the birth time of his files.
    REUSES_INO = False
    SEEK_HOLE = 3
    SEEK_DATA = 4
    utime_now = c.UTIME_NOW
    utime_omit = c.UTIME_OMIT
    at_nofollow = c.AT_SYMLINK_NOFOLLOW

    def __init__(self, libc: c.DarwinLibc | None = None) -> None:
        self._c = c.DarwinLibc() if libc is None else libc
        super().__init__(self._c)
        self._thread = _ThreadState()

    # -- references ---------------------------------------------------------------------

    def _find_again(self, ref: posix.Reference) -> tuple[Descriptor, bytes]:
        if ref.by_name:
            raise posix.error(errno.ESTALE)
        with contextlib.suppress(OSError):
            path = self._path_of(ref)
            above, _, name = path.rpartition(b"/")
            flags = c.O_SEARCH | c.O_NOFOLLOW_ANY | os.O_CLOEXEC
            directory = Descriptor(os.open(above or b"/", flags))
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            mine = os.fstat(ref)
            if (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino):
                return directory, name
        raise posix.error(errno.ESTALE)

    @staticmethod
    def _path_of(fd: int) -> bytes:
        return fcntl.fcntl(fd, c.F_GETPATH, bytes(c.MAXPATHLEN)).partition(b"\0")[0]

    def is_case_sensitive(self, ref: int) -> bool:
        # -1, as from a file system that does not say, counts as yes: nothing is joined by mistake.
        return os.fpathconf(ref, _PC_CASE_SENSITIVE) != 0

    def spelling(self, dir_ref: int, name: bytes) -> bytes:
        if self.is_case_sensitive(dir_ref):
            return name
        ref = self.open_ref(dir_ref, name)
        return name if ref.by_name else self._path_of(ref).rpartition(b"/")[2]

    def statx(self, ref: int, name: bytes = b"") -> Attr:
        # os.stat() tells the birth time as a float, which is too coarse to tell two files apart.
        buffer = self._thread.stat
        if name:
            ref = self._entered(ref)
            done = self._c.fstatat(ref, name, buffer, c.AT_SYMLINK_NOFOLLOW)
        elif (place := self._by_name(ref)) is None:
            done = self._c.fstat(ref, buffer)
        else:
            done = self._c.fstatat(place[0], place[1], buffer, c.AT_SYMLINK_NOFOLLOW)
        if done:
            raise posix.failed()
        st = c.Stat(*c.STAT.unpack(buffer.raw))
        return Attr(
            *(st.ino, st.size, st.blocks, st.atime, st.mtime, st.ctime),
            *(st.atime_nsec, st.mtime_nsec, st.ctime_nsec),
            *(st.mode, st.nlink, st.uid, st.gid, st.rdev, st.blksize, st.dev),
            st.btime,
            st.btime_nsec,
            # -1, or the epoch: what file systems say that keep none.
            st.btime > 0,
            st.flags,
        )

    # -- open files ---------------------------------------------------------------------

    def fsync(self, fd: int) -> None:
        try:
            fcntl.fcntl(fd, c.F_FULLFSYNC)
        except OSError as exc:
            if exc.errno not in _ABSENT:
                raise
            os.fsync(fd)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            raise posix.error(errno.EINVAL)
        if offset + length > _END:
            raise posix.error(errno.EFBIG)
        if mode == _PUNCH_HOLE | _KEEP_SIZE:
            self._punch_hole(fd, offset, length)
        elif mode in (0, _KEEP_SIZE):
            self._preallocate(fd, offset + length, keep_size=bool(mode))
        else:
            raise posix.error(errno.EOPNOTSUPP, f"macOS has nothing like fallocate mode {mode:#x}")

    @staticmethod
    def _preallocate(fd: int, end: int, *, keep_size: bool) -> None:
        found = os.fstat(fd)
        missing = end - found.st_blocks * 512
        if missing > 0:
            # Space is added behind what the file has, wherever its holes are: the sum is what counts.
            store = c.FSTORE.pack(c.F_ALLOCATEALL, c.F_PEOFPOSMODE, 0, missing, 0)
            fcntl.fcntl(fd, c.F_PREALLOCATE, store)
        if not keep_size and found.st_size < end:
            os.ftruncate(fd, end)

    @staticmethod
    def _punch_hole(fd: int, offset: int, length: int) -> None:
        # The kernel takes whole blocks only; what is left at both ends is written over.
        end = min(offset + length, os.fstat(fd).st_size)
        block = os.fstatvfs(fd).f_frsize
        first, last = -(-offset // block) * block, end // block * block
        if first < last:
            fcntl.fcntl(fd, c.F_PUNCHHOLE, c.FPUNCHHOLE.pack(0, 0, first, last - first))
        else:
            first = last = end
        for start, stop in ((offset, min(first, end)), (max(last, offset), end)):
            if start < stop:
                os.pwrite(fd, bytes(stop - start), start)

    # -- attributes ---------------------------------------------------------------------

    def setcrtime(self, ref: int, crtime: int) -> None:
        self._set_attribute(ref, c.ATTR_CMN_CRTIME, c.TIMESPEC.pack(*divmod(crtime, _BILLION)))

    def chflags(self, ref: int, flags: int) -> None:
        if self._by_name(ref) is not None:
            self._set_attribute(ref, c.ATTR_CMN_FLAGS, flags.to_bytes(4, sys.byteorder))
        elif self._c.fchflags(ref, flags):
            raise posix.failed()

    def _set_attribute(self, ref: int, common: int, value: bytes) -> None:
        wanted = c.pack_attrlist(common)
        place = self._by_name(ref)
        if place is None:
            done = self._c.fsetattrlist(ref, wanted, value, len(value), 0)
        else:
            done = self._c.setattrlistat(*place, wanted, value, len(value), c.FSOPT_NOFOLLOW)
        if done:
            raise posix.failed()

    def readlink(self, ref: int) -> bytes:
        if self._by_name(ref) is None and self._c.freadlink is not None:
            buffer = ctypes.create_string_buffer(c.MAXPATHLEN)
            size = self._c.freadlink(ref, buffer, c.MAXPATHLEN)
            if size < 0:
                raise posix.failed()
            return buffer.raw[:size]
        return super().readlink(ref)

    def statfs(self, ref: int) -> StatFs:
        # Not statvfs(3): its counts have 32 bits, and a disk has more blocks.
        buffer = ctypes.create_string_buffer(c.STATFS.size)
        if self._c.fstatfs(ref, buffer):
            raise posix.failed()
        bsize, iosize, blocks, bfree, bavail, files, ffree, *_ = c.STATFS.unpack(buffer.raw)
        return StatFs(blocks, bfree, bavail, files, ffree, iosize, 255, bsize)

    # There are no calls for extended attributes that take a directory and a name.  What cannot be
    # opened has none to be had: its owner may not read it, or it is a FIFO, a socket or a device.

    def _attributed(self, ref: int) -> int:
        if self._by_name(ref) is None:
            return ref
        kind = stat.S_IFMT(self.statx(ref).mode)
        raise posix.error(errno.EACCES if kind in (stat.S_IFREG, stat.S_IFDIR) else errno.EPERM)

    def getxattr(self, ref: int, name: bytes) -> bytes:
        fd = self._attributed(ref)
        size = self._c.fgetxattr(fd, name, None, 0, 0, 0)
        while size >= 0:
            buffer = ctypes.create_string_buffer(max(size, 1))
            got = self._c.fgetxattr(fd, name, buffer, size, 0, 0)
            if got >= 0:
                return buffer.raw[:got]
            if ctypes.get_errno() != errno.ERANGE:
                break
            size = self._c.fgetxattr(fd, name, None, 0, 0, 0)  # it has grown meanwhile
        raise posix.failed()

    def setxattr(self, ref: int, name: bytes, value: bytes, flags: int) -> None:
        if flags not in _XATTR_FLAGS:
            raise posix.error(errno.EINVAL)
        fd = self._attributed(ref)
        if self._c.fsetxattr(fd, name, value, len(value), 0, _XATTR_FLAGS[flags]):
            raise posix.failed()

    def listxattr(self, ref: int) -> list[bytes]:
        try:
            fd = self._attributed(ref)
        except PermissionError as exc:
            if exc.errno == errno.EPERM:
                return []  # a special file has none
            raise
        size = self._c.flistxattr(fd, None, 0, 0)
        while size >= 0:
            buffer = ctypes.create_string_buffer(max(size, 1))
            got = self._c.flistxattr(fd, buffer, size, 0)
            if got >= 0:
                return buffer.raw[:got].split(b"\0")[:-1]
            if ctypes.get_errno() != errno.ERANGE:
                break
            size = self._c.flistxattr(fd, None, 0, 0)
        raise posix.failed()

    def removexattr(self, ref: int, name: bytes) -> None:
        if self._c.fremovexattr(self._attributed(ref), name, 0):
            raise posix.failed()

    # -- names --------------------------------------------------------------------------

    def _rename_with(self, old: int, name: bytes, new: int, new_name: bytes, flags: int) -> None:
        wanted = {_NOREPLACE: c.RENAME_EXCL, _EXCHANGE: c.RENAME_SWAP}.get(flags)
        if wanted is None:
            raise posix.error(errno.EINVAL, "macOS has no rename flag of that kind")
        if self._c.renameatx_np(old, name, new, new_name, wanted):
            if ctypes.get_errno() == errno.ENOTSUP:
                raise posix.error(errno.EINVAL, "the source's file system has no such rename")
            raise posix.failed()

    # -- locks --------------------------------------------------------------------------

    @staticmethod
    def _pack_lock(lock: LockRange) -> bytes:
        length = 0 if lock.end >= _END else lock.end - lock.start + 1
        return c.FLOCK.pack(lock.start, length, 0, lock.type, os.SEEK_SET)

    def getlk(self, fd: int, lock: LockRange) -> LockRange:
        answer = fcntl.fcntl(fd, c.F_OFD_GETLK, self._pack_lock(lock))
        start, length, pid, kind, _ = c.FLOCK.unpack(answer)
        return LockRange(kind, start, start + length - 1 if length else _END, max(pid, 0))

    def setlk(self, fd: int, lock: LockRange, wait: bool) -> None:
        # fcntl.fcntl() starts again after EINTR (PEP 475): a wait ends only with the lock.
        command = c.F_OFD_SETLKW if wait else c.F_OFD_SETLK
        fcntl.fcntl(fd, command, self._pack_lock(lock))

    # -- identity of this thread --------------------------------------------------------

    def may_act_as_others(self) -> bool:
        return os.geteuid() == 0 and self._c.pthread_setugid_np is not None

    def acting_as(self, caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
        if self.is_self(caller):
            return _nothing
        if not self.may_act_as_others():
            raise posix.error(errno.EPERM, "only root can act as others, by pthread_setugid_np(2)")
        return _ActingAs(self._c.pthread_setugid_np, caller)
