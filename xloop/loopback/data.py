# SPDX-License-Identifier: MIT
"""Loopback: opening files, and what is done with an open file.

Owns the life of an :class:`~xloop.loopback.base.OpenFile`.  Does not own locks, though a file
that is released takes its locks along.

Each open has a descriptor of its own with its own flags: sharing one would give a reader a
writer's rights, and O_APPEND to those who did not ask for it.
"""

from __future__ import annotations

import errno
import os

from xloop.host import Descriptor, host
from xloop.loopback.base import OpenFile, require_regular
from xloop.loopback.locks import Locks
from xloop.nodes import Node
from xloop.types import Caller, Entry, HandleId, Ino, Opened

__all__ = ["Data"]

# linux/fs.h.  Commands that read or change an inode's flags, and nothing beyond it: an ioctl is
# carried out with the server's rights, so what is not listed is not passed on.
_FS_IOCTLS = frozenset(
    {
        0x80086601,  # FS_IOC_GETFLAGS
        0x40086602,  # FS_IOC_SETFLAGS
        0x80087601,  # FS_IOC_GETVERSION
        0x80046601,  # the same three, from 32-bit programs
        0x40046602,
        0x80047601,
        0x801C581F,  # FS_IOC_FSGETXATTR
        0x401C5820,  # FS_IOC_FSSETXATTR
    }
)


class Data(Locks):
    def _opened(
        self, node: Node, fd: Descriptor, flags: int, ref: Descriptor | None = None
    ) -> Opened:
        if flags & host.O_DIRECT:
            # The source took the flag, so it can do it.  Our own buffers are not aligned.
            host.clear_status_flags(fd, host.O_DIRECT)
        # A real descriptor pins the node as well as a reference does.
        self.nodes.pin(node, fd)
        with self._files_lock:
            self._files.setdefault(node.ino, []).append(fd)
        if self._watch is not None:
            self._watch.opened()
        no_flush = not self._locking and not self._reports(node.dev, fd)
        handle = self.handles.add(OpenFile(node, fd, flags))
        return Opened(handle, fd=fd, ref=ref, no_flush=no_flush)

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        node = self.nodes[ino]
        require_regular(node)
        ref = self.nodes.ref(node)
        with self._as(caller), self._killing(kill_suidgid, caller, ref):
            fd = self._try_noatime(host.reopen, ref, flags)
        # Not where it is another open file of the node.
        return self._opened(node, fd, flags, ref if ref is node.fd else None)

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
        directory, ref = self._directory(parent, name)
        while True:
            try:
                with self._as_creator(caller), host.masking(umask):
                    fd = self.nodes.within_limits(host.create, ref, name, flags, mode)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
            else:
                attr = host.statx(fd)
                node = self.nodes.intern(attr, directory, name, fd, pin=True)
                return Entry(node.ino, self.nodes.shown(attr)), self._opened(node, fd, flags)
            # Somebody was faster.  Nobody has checked yet whether the caller may open what is
            # there now, so it is opened with the caller's own rights.
            try:
                entry = self._found(directory, ref, name)
            except FileNotFoundError:
                continue  # and slower again: gone
            try:
                node = self.nodes[entry.ino]
                require_regular(node)
                there = self.nodes.ref(node)
                with self._own_rights(caller), self._killing(kill_suidgid, caller, there):
                    opened_fd = self._try_noatime(host.reopen, there, flags)
                return entry, self._opened(node, opened_fd, flags)
            except BaseException:
                self.nodes.forget(entry.ino, 1)
                raise

    def tmpfile(
        self, caller: Caller, parent: Ino, flags: int, mode: int, umask: int
    ) -> tuple[Entry, Opened]:
        directory = self.nodes[parent]
        ref = self.nodes.ref(directory)
        with self._as_creator(caller), host.masking(umask):
            fd = self.nodes.within_limits(host.tmpfile, ref, flags, mode)
        attr = host.statx(fd)
        node = self.nodes.intern(attr, directory, b"", fd, pin=True)
        node.parent = None  # it has no name
        return Entry(node.ino, self.nodes.shown(attr)), self._opened(node, fd, flags)

    def release(self, ino: Ino, handle: HandleId) -> None:
        file = self.handles.pop(handle)
        if not isinstance(file, OpenFile):
            return
        node = file.node
        with self._files_lock:
            files = self._files[node.ino]
            files.remove(file.fd)
            other = files[-1] if files else None
            if other is None:
                del self._files[node.ino]
            self.nodes.unpin(node, other)
        self._release_locks(node, handle)

    # -- data ---------------------------------------------------------------------------

    def read(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int
    ) -> bytes | memoryview:
        return host.pread(self._file(handle).fd, size, offset)

    def write(
        self,
        caller: Caller,
        ino: Ino,
        handle: HandleId,
        offset: int,
        data: bytes | memoryview,
        *,
        cached: bool = False,
        kill_suidgid: bool = False,
    ) -> int:
        file = self._file(handle)
        with self._killing(kill_suidgid, caller, file.fd):
            if cached:
                return self._write_back(file, offset, data)
            return self.nodes.within_limits(host.pwrite, file.fd, data, offset)

    def _write_back(self, file: OpenFile, offset: int, data: bytes | memoryview) -> int:
        """Write all of what comes from a page cache."""
        data = memoryview(data)
        taken = 0
        while taken < len(data):
            some = self._write_in_place(file, offset + taken, data[taken:])
            if not some:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            taken += some
        return taken

    def _write_in_place(self, file: OpenFile, offset: int, data: memoryview) -> int:
        """Write pages where they belong, though the file may be open for appending."""
        if not file.flags & os.O_APPEND:
            return self.nodes.within_limits(host.pwrite, file.fd, data, offset)
        if file.plain_fd is None:
            try:
                return host.pwrite_in_place(file.fd, data, offset)
            except OSError as exc:
                if exc.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
            # Opened once more without O_APPEND; refused where the mode has changed meanwhile.
            flags = os.O_WRONLY | file.flags & (host.O_SYNC | host.O_DSYNC)
            file.plain_fd = self.nodes.within_limits(host.reopen, file.fd, flags)
        return host.pwrite(file.plain_fd, data, offset)

    def flush(self, caller: Caller, ino: Ino, handle: HandleId, lock_owner: int) -> None:
        file = self._file(handle)
        self._drop_owner(file.node, lock_owner)
        if file.writable and self._reports(file.node.dev, file.fd):
            self.nodes.within_limits(host.report_close, file.fd)

    def _reports(self, dev: int, fd: Descriptor) -> bool:
        """Whether closing a file of the device *dev*, such as *fd*, may report an error."""
        reports = self._close_reports.get(dev)
        if reports is None:
            reports = self._close_reports[dev] = host.close_reports(fd)
        return reports

    def fsync(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        fd = self._file(handle).fd
        if datasync:
            host.fdatasync(fd)
        else:
            host.fsync(fd)

    def fallocate(
        self, caller: Caller, ino: Ino, handle: HandleId, mode: int, offset: int, length: int
    ) -> None:
        fd = self._file(handle).fd
        with self._killing(self._loses_set_id(caller, fd), caller, fd):
            self.nodes.within_limits(host.fallocate, fd, mode, offset, length)

    def lseek(self, caller: Caller, ino: Ino, handle: HandleId, offset: int, whence: int) -> int:
        if whence not in (host.SEEK_DATA, host.SEEK_HOLE):
            # Everything else concerns a file position, and that is the kernel's.
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return host.seek_data_hole(self._file(handle).fd, offset, whence)

    def copy_file_range(
        self,
        caller: Caller,
        ino_in: Ino,
        handle_in: HandleId,
        offset_in: int,
        ino_out: Ino,
        handle_out: HandleId,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        fd_in, fd_out = self._file(handle_in).fd, self._file(handle_out).fd
        with self._killing(self._loses_set_id(caller, fd_out), caller, fd_out):
            return host.copy_file_range(fd_in, offset_in, fd_out, offset_out, length, flags)

    def ioctl(
        self, caller: Caller, ino: Ino, handle: HandleId, command: int, data: bytes, out_size: int
    ) -> bytes:
        if command not in _FS_IOCTLS:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        with self._as(caller):
            return host.ioctl(self.handles[handle].fd, command, data, out_size)
