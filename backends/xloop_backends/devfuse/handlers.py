# SPDX-License-Identifier: MIT
"""Requests of the kernel into operations, and their results into replies: one method an opcode.

Owns the translation.  Does not own what an operation means (:mod:`xloop.ops`), the threads that
call these methods (:mod:`.session`), writing (:mod:`.replies`), nor waiting: a lock that may
block is handed to *wait*.

A reply that the kernel no longer wants (the caller was killed meanwhile: ENOENT) undoes what the
kernel does not know of: the lookup count of an entry, the handle of an open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Protocol

from xloop.errors import errno_of
from xloop.host import host
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import (
    NOW,
    Attr,
    Caller,
    Entry,
    HandleId,
    Ino,
    LockRange,
    Opened,
    SetAttr,
)

from . import abi
from .abi import Init, Opcode
from .negotiate import Terms
from .pagecache import PageCache
from .passthrough import Passthrough
from .replies import Replies, split_timeout

__all__ = ["Handler", "Handlers"]

#: (descriptor that the request came in by, unique, nodeid, caller, body of the request)
Handler = Callable[[int, int, Ino, Caller, memoryview], None]

_OPEN_REPLY = abi.OPEN_REPLY
_CREATE_REPLY = abi.CREATE_REPLY
#: By the length of a name: packs an entry of a listing, without attributes and with.
_DIRENTS = abi.ByNameLength(abi.DIRENT)
_DIRENTS_UNTOLD = abi.ByNameLength(abi.DIRENTPLUS_UNTOLD)
_DIRENTS_PLUS = abi.ByNameLength(abi.DIRENTPLUS)


class Wait(Protocol):
    """Carries out a call that may block, away from the threads that serve, and replies to it.

    A call that returns True has replied itself.
    """

    def __call__(self, fd: int, unique: int, call: Callable[[], object]) -> None: ...


class Handlers(Replies):
    """The handlers of one connection."""

    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        terms: Terms,
        passthrough: Passthrough | None,
        wait: Wait,
        connection: int,
    ) -> None:
        super().__init__(operations, options, passthrough, connection)
        self.terms = terms
        self._wait = wait
        self._pages = PageCache()
        self._negative = options.negative_timeout > 0
        self._negative_timeout = split_timeout(options.negative_timeout)

    def table(self) -> list[Handler | None]:
        """Return the handlers by opcode; None for what this protocol has and we do not."""
        table: list[Handler | None] = [None] * (max(Opcode) + 1)
        for opcode in Opcode:
            table[opcode] = getattr(self, opcode.name.lower(), None)
        return table

    # -- nodes --------------------------------------------------------------------------

    def lookup(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        name = bytes(body[:-1])
        try:
            entry = self.ops.lookup(caller, nodeid, name)
        except FileNotFoundError:
            if not self._missing(fd, unique, nodeid, name):
                raise
        else:
            self._entry(fd, unique, entry)

    def _missing(self, fd: int, unique: int, directory: Ino, name: bytes) -> bool:
        """Reply that *name* is not there, where that may be believed; else return False."""
        if self._negative:
            self._no_entry(fd, unique, *self._negative_timeout)
        return self._negative

    def forget(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._forgotten(nodeid)
        self.ops.forget(nodeid, abi.FORGET_IN.unpack_from(body)[0])

    def _forgotten(self, ino: Ino) -> None:
        self._pages.forgotten(ino)
        if self.removals is not None:
            self.removals.forget(ino)
        if self.passthrough is not None:
            self.passthrough.forgotten(ino)

    def batch_forget(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        (count,) = abi.BATCH_FORGET_IN.unpack_from(body)
        start = abi.BATCH_FORGET_IN.size
        pairs = abi.FORGET_ONE.iter_unpack(body[start : start + count * abi.FORGET_ONE.size])
        forgets = [(Ino(ino), nlookup) for ino, nlookup in pairs]
        for ino, _ in forgets:
            self._forgotten(ino)
        self.ops.batch_forget(forgets)

    def getattr(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, fh = abi.GETATTR_IN.unpack_from(body)
        handle = HandleId(fh) if flags & abi.GETATTR_FH else None
        self._attr(fd, unique, nodeid, self.ops.getattr(caller, nodeid, handle))

    def statx(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, fh, _sx_flags, _sx_mask = abi.STATX_IN.unpack_from(body)
        handle = HandleId(fh) if flags & abi.GETATTR_FH else None
        attr = self.ops.statx(caller, nodeid, handle)
        seconds, nsec = self._attr_life(nodeid, attr)
        if not attr.nlink:
            attr, seconds, nsec = self._nameless(nodeid, attr, seconds, nsec)
        mask = abi.STATX_BASIC_STATS | (abi.STATX_BTIME if attr.has_btime else 0)
        self._send(
            fd,
            abi.STATX_REPLY.pack(
                abi.STATX_REPLY.size,
                0,
                unique,
                seconds,
                nsec,
                0,
                mask,
                attr.blksize,
                0,
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.mode,
                attr.ino,
                attr.size,
                attr.blocks,
                0,
                attr.atime,
                attr.atime_nsec,
                attr.btime,
                attr.btime_nsec,
                attr.ctime,
                attr.ctime_nsec,
                attr.mtime,
                attr.mtime_nsec,
                os.major(attr.rdev),
                os.minor(attr.rdev),
                0,
                0,
            ),
        )

    def setattr(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        (
            valid,
            fh,
            size,
            _lock_owner,
            atime,
            mtime,
            ctime,
            atime_nsec,
            mtime_nsec,
            ctime_nsec,
            mode,
            uid,
            gid,
        ) = abi.SETATTR_IN.unpack_from(body)
        changes = SetAttr()
        if valid & abi.FATTR_MODE:
            changes.mode = mode & 0o7777
        if valid & abi.FATTR_UID:
            changes.uid = uid
        if valid & abi.FATTR_GID:
            changes.gid = gid
        if valid & abi.FATTR_SIZE:
            changes.size = size
        if valid & abi.FATTR_ATIME_NOW:
            changes.atime = NOW
        elif valid & abi.FATTR_ATIME:
            changes.atime = atime * 1_000_000_000 + atime_nsec
        if valid & abi.FATTR_MTIME_NOW:
            changes.mtime = NOW
        elif valid & abi.FATTR_MTIME:
            changes.mtime = mtime * 1_000_000_000 + mtime_nsec
        changes.kill_suidgid = bool(valid & abi.FATTR_KILL_SUIDGID)
        handle = HandleId(fh) if valid & abi.FATTR_FH else None
        if valid & abi.FATTR_CTIME:
            attr = self._by_the_kernel(
                caller, nodeid, changes, handle, ctime * 1_000_000_000 + ctime_nsec
            )
        else:
            attr = self.ops.setattr(caller, nodeid, changes, handle)
        self._attr(fd, unique, nodeid, attr)

    def _by_the_kernel(
        self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None, ctime: int
    ) -> Attr:
        """Make *changes* of a kernel that keeps the times of files by itself, and has *ctime* for this one."""
        return self.ops.setattr(caller, ino, changes, handle)

    def access(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.ops.access(caller, nodeid, abi.ACCESS_IN.unpack_from(body)[0])
        self.ok(fd, unique)

    def readlink(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._send_data(fd, unique, self.ops.readlink(caller, nodeid))

    # -- names --------------------------------------------------------------------------

    def symlink(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        name, target = _strings(body, 2)
        self._entry(fd, unique, self.ops.symlink(caller, nodeid, name, target))

    def mknod(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        mode, rdev, umask = abi.MKNOD_IN.unpack_from(body)
        (name,) = _strings(body[abi.MKNOD_IN.size :], 1)
        self._entry(fd, unique, self.ops.mknod(caller, nodeid, name, mode, rdev, umask))

    def mkdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        mode, umask = abi.MKDIR_IN.unpack_from(body)
        (name,) = _strings(body[abi.MKDIR_IN.size :], 1)
        self._entry(fd, unique, self.ops.mkdir(caller, nodeid, name, mode, umask))

    def unlink(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.ops.unlink(caller, nodeid, bytes(body[:-1]))
        self.ok(fd, unique)

    def rmdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.ops.rmdir(caller, nodeid, bytes(body[:-1]))
        self.ok(fd, unique)

    def rename(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        (newdir,) = abi.RENAME_IN.unpack_from(body)
        name, newname = _strings(body[abi.RENAME_IN.size :], 2)
        self.ops.rename(caller, nodeid, name, newdir, newname, 0)
        self.ok(fd, unique)

    def rename2(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        newdir, flags = abi.RENAME2_IN.unpack_from(body)
        name, newname = _strings(body[abi.RENAME2_IN.size :], 2)
        self.ops.rename(caller, nodeid, name, newdir, newname, flags)
        self.ok(fd, unique)

    def link(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        (oldnode,) = abi.LINK_IN.unpack_from(body)
        (name,) = _strings(body[abi.LINK_IN.size :], 1)
        self._entry(fd, unique, self.ops.link(caller, oldnode, nodeid, name))

    # -- files --------------------------------------------------------------------------

    def _open_flags(
        self, ino: Ino, opened: Opened, flags: int, pid: int, mode: int | None = None
    ) -> tuple[int, int]:
        """Return the FOPEN flags and the backing id for an open by *pid*; *mode*: the file's, where known."""
        answer = abi.FOPEN_NONSEEKABLE if opened.nonseekable else 0
        if opened.no_flush and flags & os.O_ACCMODE == os.O_RDONLY:
            answer |= abi.FOPEN_NOFLUSH
        if self.passthrough is not None:
            wanted = None if opened.direct_io else opened.fd
            backing_id = self.passthrough.opened(
                ino, opened.handle, wanted, opened.ref, flags, pid, mode
            )
            if backing_id:
                if ino in self._written:
                    self._notify_attributes(ino)
                if opened.no_flush:
                    # Also of what is written: the kernel keeps no pages of it.
                    answer |= abi.FOPEN_NOFLUSH
                return answer | abi.FOPEN_PASSTHROUGH, backing_id
        if opened.direct_io:
            answer |= abi.FOPEN_DIRECT_IO
        elif opened.keep_cache or self._pages.keeps(ino, opened.fd, flags):
            answer |= abi.FOPEN_KEEP_CACHE
        return answer, 0

    def _close(self, ino: Ino, handle: HandleId) -> None:
        if self.passthrough is not None:
            self.passthrough.released(ino, handle)
        self.ops.release(ino, handle)

    def open(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, open_flags = abi.OPEN_IN.unpack_from(body)
        kill = bool(open_flags & abi.OPEN_KILL_SUIDGID)
        if flags & os.O_TRUNC:
            host.restore_fsetid()
        opened = self.ops.open(caller, nodeid, flags, kill_suidgid=kill)
        answer, backing_id = self._open_flags(nodeid, opened, flags, caller.pid)
        if not self._send(
            fd,
            _OPEN_REPLY.pack(_OPEN_REPLY.size, 0, unique, opened.handle, answer, backing_id),
        ):
            self._close(nodeid, opened.handle)

    def create(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, mode, umask, open_flags = abi.CREATE_IN.unpack_from(body)
        (name,) = _strings(body[abi.CREATE_IN.size :], 1)
        kill = bool(open_flags & abi.OPEN_KILL_SUIDGID)
        if flags & os.O_TRUNC or mode & stat.S_ISGID:
            host.restore_fsetid()
        entry, opened = self.ops.create(caller, nodeid, name, flags, mode, umask, kill_suidgid=kill)
        self._created(fd, unique, entry, opened, flags, caller.pid)

    def tmpfile(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, mode, umask, _open_flags = abi.CREATE_IN.unpack_from(body)
        entry, opened = self.ops.tmpfile(caller, nodeid, flags, mode, umask)
        self._created(fd, unique, entry, opened, flags, caller.pid)

    def _created(
        self, fd: int, unique: int, entry: Entry, opened: Opened, flags: int, pid: int
    ) -> None:
        answer, backing_id = self._open_flags(entry.ino, opened, flags, pid, entry.attr.mode)
        if not self._send(
            fd,
            _CREATE_REPLY.pack(
                _CREATE_REPLY.size,
                0,
                unique,
                entry.ino,
                0,
                *self._timeouts(entry),
                *entry.attr[:15],
                0,
                opened.handle,
                answer,
                backing_id,
            ),
        ):
            self._close(entry.ino, opened.handle)
            self.ops.forget(entry.ino, 1)

    def read(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, offset, size, _read_flags, _owner, _flags = abi.READ_IN.unpack_from(body)
        self._send_data(fd, unique, self.ops.read(caller, nodeid, HandleId(fh), offset, size))

    def write(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, offset, size, write_flags, _owner, _flags = abi.WRITE_IN.unpack_from(body)
        start = abi.WRITE_IN.size
        taken = self.ops.write(
            caller,
            nodeid,
            HandleId(fh),
            offset,
            body[start : start + size],
            cached=bool(write_flags & abi.WRITE_CACHE),
            kill_suidgid=bool(write_flags & abi.WRITE_KILL_SUIDGID),
        )
        self._send(fd, abi.WRITE_REPLY.pack(abi.WRITE_REPLY.size, 0, unique, taken))

    def flush(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, owner = abi.FLUSH_IN.unpack_from(body)
        self.ops.flush(caller, nodeid, HandleId(fh), owner)
        self.ok(fd, unique)

    def release(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._close(nodeid, HandleId(abi.RELEASE_IN.unpack_from(body)[0]))
        self.ok(fd, unique)

    def fsync(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        self.ops.fsync(caller, nodeid, HandleId(fh), bool(flags & abi.FSYNC_FDATASYNC))
        self.ok(fd, unique)

    def fallocate(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        fh, offset, length, mode = abi.FALLOCATE_IN.unpack_from(body)
        self.ops.fallocate(caller, nodeid, HandleId(fh), mode, offset, length)
        self.ok(fd, unique)

    def lseek(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, offset, whence = abi.LSEEK_IN.unpack_from(body)
        found = self.ops.lseek(caller, nodeid, HandleId(fh), offset, whence)
        self._send(fd, abi.LSEEK_REPLY.pack(abi.LSEEK_REPLY.size, 0, unique, found))

    def _copied(self, nodeid: Ino, caller: Caller, body: memoryview) -> int:
        fh_in, off_in, nodeid_out, fh_out, off_out, length, flags = (
            abi.COPY_FILE_RANGE_IN.unpack_from(body)
        )
        return self.ops.copy_file_range(
            caller,
            nodeid,
            HandleId(fh_in),
            off_in,
            Ino(nodeid_out),
            HandleId(fh_out),
            off_out,
            length,
            flags,
        )

    def copy_file_range(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        copied = self._copied(nodeid, caller, body)
        self._send(fd, abi.WRITE_REPLY.pack(abi.WRITE_REPLY.size, 0, unique, copied))

    def copy_file_range_64(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        copied = self._copied(nodeid, caller, body)
        self._send(fd, abi.LSEEK_REPLY.pack(abi.LSEEK_REPLY.size, 0, unique, copied))

    def ioctl(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, flags, command, _arg, in_size, out_size = abi.IOCTL_IN.unpack_from(body)
        if flags & abi.IOCTL_UNRESTRICTED:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))  # CUSE only
        start = abi.IOCTL_IN.size
        data = bytes(body[start : start + in_size])
        answer = self.ops.ioctl(caller, nodeid, HandleId(fh), command, data, out_size)
        if in_size:
            self._notify_attributes(nodeid)
        size = abi.IOCTL_REPLY.size + len(answer)
        self._send(fd, abi.IOCTL_REPLY.pack(size, 0, unique, 0, 0, 0, 0) + answer)

    def poll(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, _kh, _flags, events = abi.POLL_IN.unpack_from(body)
        ready = self.ops.poll(caller, nodeid, HandleId(fh), events)
        self._send(fd, abi.POLL_REPLY.pack(abi.POLL_REPLY.size, 0, unique, ready))

    # -- directories --------------------------------------------------------------------

    def opendir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        flags, _open_flags = abi.OPEN_IN.unpack_from(body)
        opened = self.ops.opendir(caller, nodeid, flags)
        answer = self._listing_flags(nodeid)
        if opened.cache_dir:
            answer |= abi.FOPEN_CACHE_DIR
        if opened.keep_cache:
            answer |= abi.FOPEN_KEEP_CACHE
        if not self._send(
            fd, _OPEN_REPLY.pack(_OPEN_REPLY.size, 0, unique, opened.handle, answer, 0)
        ):
            self.ops.releasedir(nodeid, opened.handle)

    def _listing_flags(self, directory: Ino) -> int:
        """Return the FOPEN flags by which the kernel may keep the listing of *directory*."""
        return 0

    def readdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, offset, size, _flags, _owner, _file_flags = abi.READ_IN.unpack_from(body)
        parts: list[bytes] = []
        append, packers = parts.append, _DIRENTS
        room = size
        try:
            for name, ino, kind, next_ in self.ops.readdir(caller, nodeid, HandleId(fh), offset):
                length = len(name)
                part = packers[length](ino, next_, length, kind, name)
                room -= len(part)
                if room < 0:
                    break
                append(part)
        except Exception as exc:
            if not parts:
                raise
            errno_of(exc)  # logs what is a bug; the next call meets it again
        self._send_data(fd, unique, b"".join(parts))

    def readdirplus(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        fh, offset, size, _flags, _owner, _file_flags = abi.READ_IN.unpack_from(body)
        parts: list[bytes] = []
        append = parts.append
        taken: list[tuple[Ino, int]] = []
        room = size
        try:
            for (name, ino, kind, next_), found in self.ops.readdirplus(
                caller, nodeid, HandleId(fh), offset
            ):
                length = len(name)
                if found is None:
                    part = _DIRENTS_UNTOLD[length](ino, next_, length, kind, name)
                else:
                    attr = found.attr[:15]
                    node = found.ino
                    told = self._timeouts(found)
                    part = _DIRENTS_PLUS[length](
                        node, 0, *told, *attr, 0, ino, next_, length, kind, name
                    )
                room -= len(part)
                if room < 0:
                    if found is not None:
                        self.ops.forget(found.ino, 1)
                    break
                if found is not None:
                    taken.append((found.ino, 1))
                append(part)
        except Exception as exc:
            if not parts:
                raise
            errno_of(exc)  # logs what is a bug; the next call meets it again
        if not self._send_data(fd, unique, b"".join(parts)):
            self.ops.batch_forget(taken)

    def releasedir(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        self.ops.releasedir(nodeid, HandleId(abi.RELEASE_IN.unpack_from(body)[0]))
        self.ok(fd, unique)

    def fsyncdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, flags = abi.FSYNC_IN.unpack_from(body)
        self.ops.fsyncdir(caller, nodeid, HandleId(fh), bool(flags & abi.FSYNC_FDATASYNC))
        self.ok(fd, unique)

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        (size,) = abi.GETXATTR_IN.unpack_from(body)
        (name,) = _strings(body[abi.GETXATTR_IN.size :], 1)
        self._xattr(fd, unique, size, self.ops.getxattr(caller, nodeid, name))

    def listxattr(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        (size,) = abi.GETXATTR_IN.unpack_from(body)
        names = self.ops.listxattr(caller, nodeid)
        self._xattr(fd, unique, size, b"".join(name + b"\0" for name in names))

    def _xattr(self, fd: int, unique: int, size: int, value: bytes) -> None:
        if size == 0:
            self._send(
                fd, abi.XATTR_SIZE_REPLY.pack(abi.XATTR_SIZE_REPLY.size, 0, unique, len(value))
            )
        elif len(value) > size:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        else:
            self._send_data(fd, unique, value)

    def setxattr(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        if self.terms.has(Init.SETXATTR_EXT):
            size, flags, extra = abi.SETXATTR_IN.unpack_from(body)
            rest = body[abi.SETXATTR_IN.size :]
        else:
            size, flags = abi.SETXATTR_IN_COMPAT.unpack_from(body)
            extra = 0
            rest = body[abi.SETXATTR_IN_COMPAT.size :]
        (name,) = _strings(rest, 1)
        start = len(name) + 1
        value = bytes(rest[start : start + size])
        kill = bool(extra & abi.SETXATTR_ACL_KILL_SGID)
        self.ops.setxattr(caller, nodeid, name, value, flags, acl_kill_sgid=kill)
        self._changed_xattr(nodeid, name)
        self.ok(fd, unique)

    def removexattr(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        name = bytes(body[:-1])
        self.ops.removexattr(caller, nodeid, name)
        self._changed_xattr(nodeid, name)
        self.ok(fd, unique)

    def _changed_xattr(self, ino: Ino, name: bytes) -> None:
        """Tell the kernel what else has changed with an extended attribute; it asks for attributes by itself."""

    # -- locks --------------------------------------------------------------------------

    def getlk(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        fh, owner, start, end, kind, pid, _flags = abi.LK_IN.unpack_from(body)
        lock = LockRange(kind, start, end, pid)
        found = self.ops.getlk(caller, nodeid, HandleId(fh), owner, lock)
        self._send(
            fd,
            abi.LK_REPLY.pack(
                abi.LK_REPLY.size, 0, unique, found.start, found.end, found.type, found.pid
            ),
        )

    def setlk(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._lock(nodeid, caller, body, wait=False)()
        self.ok(fd, unique)

    def setlkw(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        # Most locks are free: trying first spares them a thread.
        try:
            self._lock(nodeid, caller, body, wait=False)()
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            self._wait(fd, unique, self._lock(nodeid, caller, body, wait=True))
        else:
            self.ok(fd, unique)

    def _lock(
        self, nodeid: Ino, caller: Caller, body: memoryview, *, wait: bool
    ) -> Callable[[], None]:
        fh, owner, start, end, kind, pid, flags = abi.LK_IN.unpack_from(body)
        handle = HandleId(fh)
        if flags & abi.LK_FLOCK:
            operation = {
                fcntl.F_RDLCK: fcntl.LOCK_SH,
                fcntl.F_WRLCK: fcntl.LOCK_EX,
                fcntl.F_UNLCK: fcntl.LOCK_UN,
            }[kind]
            if not wait:
                operation |= fcntl.LOCK_NB
            return lambda: self.ops.flock(caller, nodeid, handle, operation)
        lock = LockRange(kind, start, end, pid)
        return lambda: self.ops.setlk(caller, nodeid, handle, owner, lock, wait=wait)

    # -- the whole ----------------------------------------------------------------------

    def statfs(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        st = self.ops.statfs(caller, nodeid)
        self._send(fd, abi.STATFS_REPLY.pack(abi.STATFS_REPLY.size, 0, unique, *st))

    def syncfs(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.ops.syncfs(caller, nodeid)
        self.ok(fd, unique)

    def destroy(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.ok(fd, unique)


def _strings(body: memoryview, count: int) -> list[bytes]:
    """Return the first *count* strings of *body*, each of which ends with a NUL."""
    return bytes(body).split(b"\0", count)[:count]
