# SPDX-License-Identifier: MIT
"""The descriptor half of a tree without a kernel: :class:`DescriptorCalls`.

Owns open file descriptions, their positions and access modes, and the owners of locks.  Does not
own paths: those are in :mod:`xloop.testing.inprocess`, which inherits from here.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from xloop.testing.flags import O_ACCMODE
from xloop.testing.ledger import Ledger
from xloop.testing.tree import F_RDLCK, F_UNLCK, F_WRLCK, SEEK_DATA, SEEK_HOLE, Held, Name
from xloop.testing.walk import Node, Walk, fail
from xloop.types import Caller, HandleId, Ino, LockRange, Opened, SetAttr, TimeOrNow

__all__ = ["Description", "DescriptorCalls", "Process"]

_TO_THE_END: Final = (1 << 63) - 1
_IOC_WRITE: Final = 1 << 30
_IOC_READ: Final = 2 << 30
#: What poll(2) finds ready on every regular file: IN, OUT, RDNORM, WRNORM.
_ALWAYS_READY: Final = 0x001 | 0x004 | 0x040 | 0x100


_owners = itertools.count(1)


class Process:
    """Who owns POSIX locks, and what it has open."""

    def __init__(self) -> None:
        self.owner = next(_owners)
        self.fds: set[int] = set()


@dataclass(eq=False)
class Description:
    """An open file description: what descriptors point to."""

    node: Node
    opened: Opened | None  #: None for O_PATH
    flags: int
    kept: bool  #: one lookup of the node is ours to forget
    position: int = 0
    descriptors: int = 1
    plus: bool = True
    owner: int = field(default_factory=lambda: next(_owners))

    @property
    def ino(self) -> Ino:
        return self.node.ino

    @property
    def handle(self) -> HandleId | None:
        return None if self.opened is None else self.opened.handle

    @property
    def readable(self) -> bool:
        return self.flags & O_ACCMODE in (os.O_RDONLY, os.O_RDWR)

    @property
    def writable(self) -> bool:
        return self.flags & O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


class DescriptorCalls:
    """The calls of Tree that take a descriptor."""

    ledger: Ledger
    _process: Process
    _descriptions: dict[int, Description]
    _numbers: Iterator[int]

    @property
    def _caller(self) -> Caller:
        raise NotImplementedError

    # -- the table ------------------------------------------------------------------------

    def _new(self, walk: Walk, node: Node, opened: Opened | None, flags: int) -> int:
        return self._number(Description(node, opened, flags, walk.keep(node)))

    def _number(self, description: Description) -> int:
        fd = next(self._numbers)
        self._descriptions[fd] = description
        self._process.fds.add(fd)
        return fd

    def _any(self, fd: int) -> Description:
        """Return what *fd* stands for, be it O_PATH."""
        return self._descriptions.get(fd) or fail(errno.EBADF)

    def _real(self, fd: int) -> Description:
        held = self._any(fd)
        return held if held.opened is not None else fail(errno.EBADF)

    def _file(self, fd: int) -> tuple[Ino, HandleId]:
        opened = self._real(fd).opened
        assert opened is not None
        return self._real(fd).ino, opened.handle

    def _for_reading(self, fd: int) -> Description:
        held = self._real(fd)
        if not held.readable:
            fail(errno.EBADF)
        if held.node.is_dir:
            fail(errno.EISDIR)
        return held

    def _for_writing(self, fd: int) -> Description:
        held = self._real(fd)
        return held if held.writable else fail(errno.EBADF)

    def dup(self, fd: int) -> int:
        held = self._any(fd)
        held.descriptors += 1
        return self._number(held)

    def close(self, fd: int) -> None:
        held = self._any(fd)
        del self._descriptions[fd]
        self._process.fds.discard(fd)
        held.descriptors -= 1
        is_dir = held.node.is_dir
        try:
            if held.opened is not None and not is_dir and not held.opened.no_flush:
                flush = self._caller, held.ino, held.opened.handle, self._process.owner
                self.ledger.flush(*flush)
        finally:
            if held.descriptors == 0:
                if held.opened is not None:
                    release = self.ledger.releasedir if is_dir else self.ledger.release
                    release(held.ino, held.opened.handle)
                if held.kept:
                    self.ledger.forget(held.ino, 1)

    # -- data -----------------------------------------------------------------------------

    def read(self, fd: int, size: int) -> bytes:
        data = self.pread(fd, size, self._any(fd).position)
        self._any(fd).position += len(data)
        return data

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._for_reading(fd)
        if offset < 0:
            fail(errno.EINVAL)
        return bytes(self.ledger.read(self._caller, *self._file(fd), offset, size))

    def write(self, fd: int, data: bytes) -> int:
        held = self._for_writing(fd)
        written = self._write(fd, data, held.position)
        if held.flags & os.O_APPEND:
            held.position = self._end(fd)
        else:
            held.position += written
        return written

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._for_writing(fd)
        if offset < 0:
            fail(errno.EINVAL)
        return self._write(fd, data, offset)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        if not data:
            return 0
        # What CAP_FSETID is to a kernel is root here.
        kill = self._caller.uid != 0
        where = self._caller, *self._file(fd), offset
        return self.ledger.write(*where, memoryview(data), kill_suidgid=kill)

    def _end(self, fd: int) -> int:
        return self.ledger.getattr(self._caller, *self._file(fd)).size

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        held = self._real(fd)
        if whence in (SEEK_DATA, SEEK_HOLE):
            if held.node.is_dir:
                fail(errno.EINVAL)
            place = self.ledger.lseek(self._caller, *self._file(fd), offset, whence)
        elif whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            base = {os.SEEK_SET: 0, os.SEEK_CUR: held.position}.get(whence)
            place = offset + (self._end(fd) if base is None else base)
        else:
            fail(errno.EINVAL)
        if place < 0:
            fail(errno.EINVAL)
        held.position = place
        return place

    def fsync(self, fd: int) -> None:
        self._sync(fd, False)

    def fdatasync(self, fd: int) -> None:
        self._sync(fd, True)

    def _sync(self, fd: int, datasync: bool) -> None:
        call = self.ledger.fsyncdir if self._real(fd).node.is_dir else self.ledger.fsync
        call(self._caller, *self._file(fd), datasync)

    def syncfs(self, fd: int) -> None:
        self.ledger.syncfs(self._caller, self._real(fd).ino)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        if offset < 0 or length <= 0:
            fail(errno.EINVAL)
        self._for_writing(fd)
        self.ledger.fallocate(self._caller, *self._file(fd), mode, offset, length)

    def copy_file_range(
        self, fd_in: int, offset_in: int | None, fd_out: int, offset_out: int | None, length: int
    ) -> int:
        source, target = self._for_reading(fd_in), self._for_writing(fd_out)
        if target.flags & os.O_APPEND:
            fail(errno.EBADF)
        at_in = source.position if offset_in is None else offset_in
        at_out = target.position if offset_out is None else offset_out
        if source.ino == target.ino and at_in < at_out + length and at_out < at_in + length:
            fail(errno.EINVAL)
        length = max(0, min(length, self._end(fd_in) - at_in))
        copied = 0
        if length:
            copied = self.ledger.copy_file_range(
                self._caller, *self._file(fd_in), at_in, *self._file(fd_out), at_out, length, 0
            )
        if offset_in is None:
            source.position += copied
        if offset_out is None:
            target.position += copied
        return copied

    def ioctl(self, fd: int, command: int, data: bytes) -> bytes:
        self._real(fd)
        size = command >> 16 & 0x3FFF
        given = data[:size] if command & _IOC_WRITE else b""
        room = size if command & _IOC_READ else 0
        answer = self.ledger.ioctl(self._caller, *self._file(fd), command, given, room)
        assert len(answer) <= room, "ioctl answered with more than there is room for"
        return answer + data[len(answer) :]

    def poll(self, fd: int, events: int) -> int:
        self._real(fd)
        try:
            return self.ledger.poll(self._caller, *self._file(fd), events)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return events & _ALWAYS_READY

    def getdents(self, fd: int, size: int = 32768) -> list[Name]:
        held = self._real(fd)
        if not held.node.is_dir:
            fail(errno.ENOTDIR)
        # Both ways in turn, as a kernel has it that decides by what is looked up afterwards.
        names = list(self._read_names(held, size, held.plus))
        held.plus = not held.plus
        if names:
            held.position = names[-1].offset
        elif size < 24:
            fail(errno.EINVAL)
        return names

    def _read_names(self, held: Description, room: int, plus: bool) -> Iterator[Name]:
        assert held.handle is not None
        where = self._caller, held.ino, held.handle, held.position
        if plus:
            for name, entry in self.ledger.readdirplus(*where):
                if entry is not None:
                    self.ledger.forget(entry.ino, 1)
                room -= len(name.name) + 24
                if room < 0:
                    return
                yield Name(*name)
        else:
            for name in self.ledger.readdir(*where):
                room -= len(name.name) + 24
                if room < 0:
                    return
                yield Name(*name)

    # -- attributes -----------------------------------------------------------------------

    def _change(self, fd: int, changes: SetAttr) -> None:
        ino, handle = self._file(fd)
        self.ledger.setattr(self._caller, ino, changes, handle)

    def _size(self, size: int) -> SetAttr:
        return SetAttr(size=size, kill_suidgid=self._caller.uid != 0)

    @staticmethod
    def _owners(uid: int, gid: int) -> SetAttr:
        return SetAttr(uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)

    def fchmod(self, fd: int, mode: int) -> None:
        self._change(fd, SetAttr(mode=mode & 0o7777))

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        self._change(fd, self._owners(uid, gid))

    def futime(self, fd: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
        self._real(fd)
        if atime is not None or mtime is not None:
            self._change(fd, SetAttr(atime=atime, mtime=mtime))

    def ftruncate(self, fd: int, size: int) -> None:
        held = self._real(fd)
        if size < 0 or not held.writable or not stat.S_ISREG(held.node.attr.mode):
            fail(errno.EINVAL)
        self._change(fd, self._size(size))

    # -- locks ----------------------------------------------------------------------------

    def flock(self, fd: int, operation: int) -> None:
        # LOCK_SH, LOCK_EX or LOCK_UN, LOCK_NB aside.
        if operation & ~4 not in (1, 2, 8):
            fail(errno.EINVAL)
        self.ledger.flock(self._caller, *self._file(fd), operation)

    def getlk(self, fd: int, kind: int, start: int = 0, length: int = 0, ofd: bool = False) -> Held:
        self._real(fd)
        lock = self._range(kind, start, length)
        if kind == F_UNLCK:
            fail(errno.EINVAL)
        owner = self._lock_owner(fd, ofd)
        found = self.ledger.getlk(self._caller, *self._file(fd), owner, lock)
        if found.type == F_UNLCK:
            return Held(F_UNLCK, start, length)
        to_the_end = found.end == _TO_THE_END
        return Held(found.type, found.start, 0 if to_the_end else found.end - found.start + 1)

    def setlk(
        self,
        fd: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        wait: bool = False,
        ofd: bool = False,
    ) -> None:
        held = self._real(fd)
        lock = self._range(kind, start, length)
        usable = {F_RDLCK: held.readable, F_WRLCK: held.writable}
        if not usable.get(kind, True):
            fail(errno.EBADF)
        owner = self._lock_owner(fd, ofd)
        self.ledger.setlk(self._caller, *self._file(fd), owner, lock, wait=wait)

    def _lock_owner(self, fd: int, ofd: bool) -> int:
        return self._real(fd).owner if ofd else self._process.owner

    @staticmethod
    def _range(kind: int, start: int, length: int) -> LockRange:
        first, end = start, start + length - 1
        if length == 0:
            end = _TO_THE_END
        elif length < 0:
            first, end = start + length, start - 1
        if kind not in (F_RDLCK, F_WRLCK, F_UNLCK) or first < 0:
            fail(errno.EINVAL)
        if end > _TO_THE_END:
            fail(errno.EOVERFLOW)
        return LockRange(kind, first, end)
