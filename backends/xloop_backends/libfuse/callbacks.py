# SPDX-License-Identifier: MIT
"""The callbacks that libfuse carries requests out with: its table of operations, over a PathView.

Owns the translation between the library's arguments and operations.  Does not own what libfuse 2 and 3
call differently (:mod:`.versions`), paths (:mod:`xloop.pathview`) nor the threads that the callbacks run in (:mod:`.session`), which tell
through :class:`Request` what the library does not pass on.

**Removed while open.**  libfuse knows files by path.  When an open one is removed it would rename it to
``.fuse_hidden...`` and remove that later: its directory could not be removed meanwhile, and everybody
would see the name.  Here that rename does not happen.  The file is really removed, and the view
keeps the node under the hidden name for libfuse alone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl as _fcntl
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from xloop.errors import errno_of
from xloop.fuselib import callback_type, fill, until_error
from xloop.host import host
from xloop.latency import Calls
from xloop.pathview import PathView
from xloop.types import Attr, Caller, HandleId, LockRange, Opened

from . import abi
from .handles import OpenHandles
from .library import library_of
from .negotiate import Terms
from .request import Request

__all__ = ["Callbacks"]

fcntl: Any = _fcntl  # not every system has all of it

_END = 2**63 - 1
_ALL = ctypes.c_char * (1 << 30)  # never made, only looked through
#: What a path is answered with that leads nowhere any more, or not for this caller.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EACCES)
_MAX_GROUPS = 65536  # NGROUPS_MAX


class Callbacks:
    """The callbacks of one mount.

    *binding*: mfusepy.  *waiting*: a context in which this thread waits for another process.
    *invalidate*: makes the kernel forget the attributes of a node.
    """

    def __init__(
        self,
        view: PathView,
        binding: Any,
        request: Request,
        waiting: Callable[[], AbstractContextManager[object]],
        terms: Terms,
        invalidate: Callable[[int], None],
        *,
        kernel_checks: bool,
    ) -> None:
        self._view = view
        self.calls = Calls()
        self._binding = binding
        self._request = request
        self._waiting = waiting
        self._terms = terms
        self._invalidate = invalidate
        self.init = terms.init
        self._may_be_others = kernel_checks and host.may_act_as_others()
        #: The type of the object behind each of the library's nodes, as far as they were asked for.
        self._types: dict[int, int] = {}
        self._opens = OpenHandles()
        #: The files that are open without a name in the library's eyes, by their hidden names.
        self._hidden: dict[bytes, tuple[int, int]] = {}
        self._write_attr = abi.attr_writer(binding.c_stat)
        self._file = binding.fuse_file_info.from_address
        self._has_noflush = hasattr(binding.fuse_file_info, "noflush")
        self._has_cache_readdir = hasattr(binding.fuse_file_info, "cache_readdir")
        self._context = library_of(binding).fuse_get_context
        self._getgroups = library_of(binding).fuse_getgroups
        self._interrupted = library_of(binding).fuse_interrupted
        self._keep: list[Any] = []

    def table(self) -> Any:
        """Return the library's ``struct fuse_operations``; it is valid while this object lives."""
        table = self._binding.fuse_operations()
        for name, prototype, *_ in self._binding.fuse_operations._fields_:
            method = getattr(self, name, None)
            if callable(method):
                function = callback_type(prototype)(self._guarded(self.calls.counted(name, method)))
                self._keep.append(function)
                setattr(table, name, ctypes.cast(function, prototype))
        self._keep.append(table)
        return table

    def _guarded(self, method: Callable[..., int]) -> Callable[..., int]:
        """Return *method* such that no exception leaves it: it would end up nowhere."""
        request = self._request

        def call(*args: Any) -> int:
            if request.refused:
                return -request.refused
            try:
                return method(*args)
            except BaseException as exc:  # noqa: BLE001  # errno_of logs what is a bug
                number = errno_of(exc)
                if number == errno.ENOENT and request.opcode in abi.OF_A_NODE:
                    number = errno.ESTALE  # the kernel looks the name up again, and may create it
                return -number

        return call

    # -- attributes ---------------------------------------------------------------------

    def _getattr(self, path: bytes | None, address: int, handle: HandleId | None) -> int:
        view = self._view
        if self._request.opcode == abi.SETATTR:
            # Of one that changes nothing (chown(2) with neither owner nor group) the library asks
            # for the answer only; it moves the time of change all the same.
            self._setattr(path, handle)
        try:
            attr = view.getattr(self._request.caller, path, handle)
        except OSError as exc:
            if exc.errno not in _GONE or self._request.opcode not in abi.OF_A_NODE:
                raise
            opened = self._opens.first(self._request.node, path)
            if opened is None:
                raise
            attr = view.getattr(self._request.caller, None, opened)
        if (
            path is not None
            and self._request.opcode == abi.GETATTR
            and attr.nlink
            and view.is_kept(path)
        ):
            # The library takes one off for its hidden name, which does not exist.
            attr = attr._replace(nlink=attr.nlink + 1)
        if self._request.opcode == abi.GETATTR:
            self._check_type(attr)
        if self._has_other_names(attr) and not self._request.distrusts:
            self._request.distrusts = True
            self._terms.distrust()
        self._write_attr(address, attr)
        return 0

    def _has_other_names(self, attr: Attr) -> bool:
        """Tell whether the kernel may change the file by way of another node than the one it asks for."""
        if attr.nlink > 1:
            return not stat.S_ISDIR(attr.mode)
        return bool(self._hidden) and (attr.ino, attr.dev) in self._hidden.values()

    def _check_type(self, attr: Attr) -> None:
        """ESTALE if the node has become something else, behind the mount.

        The kernel takes another type for a broken server and answers EIO; for ESTALE it looks up
        the name again.
        """
        kind = stat.S_IFMT(attr.mode)
        if self._types.setdefault(self._request.node, kind) != kind:
            del self._types[self._request.node]
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def forgotten(self, opcode: int) -> None:
        """The kernel forgets nodes: so do we."""
        request, types = self._request, self._types
        if opcode == abi.FORGET:
            types.pop(request.node, None)
        elif types:
            body = ctypes.string_at(request.body, request.size)
            count, _ = abi.BATCH_FORGET_IN.unpack_from(body)
            for at in range(count):
                start = abi.BATCH_FORGET_IN.size + at * abi.FORGET_ONE.size
                types.pop(abi.FORGET_ONE.unpack_from(body, start)[0], None)

    def _setattr(self, path: bytes | None, handle: HandleId | None) -> int:
        """Carry out all of a SETATTR at the first of the calls that the library makes of it.

        It asks for one attribute after the other: when the second is refused (a chown(2), for which
        the kernel takes S_ISGID away too) the first would have been changed.
        """
        request = self._request
        if request.changed:
            return 0
        request.changed = True
        changes = abi.changes(ctypes.string_at(request.body, abi.SETATTR_IN.size))
        if handle is None and path is not None:
            handle = self._open_handle(path)
        self._view.setattr(request.caller, path, changes, handle)
        return 0

    def _open_handle(self, path: bytes) -> HandleId | None:
        """Return an open handle of the node that is to be changed by *path*.

        The kernel sends no handle with fchmod(2) and the like.  If the name was given to another
        file behind the mount, only the handle leads to the one that is meant: or to the wrong one,
        if it was not by descriptor that it was meant.  ESTALE is better than either.
        """
        handle = self._opens.first(self._request.node, path)
        caller, view = self._request.caller, self._view
        if handle is None:
            return None
        try:
            mine = view.getattr(caller, None, handle)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            return None  # released meanwhile
        try:
            theirs = view.getattr(caller, path)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
            return handle
        if (mine.ino, mine.dev) != (theirs.ino, theirs.dev):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return None  # the path will do, and cannot be released

    def _handle(self, info: int | None) -> HandleId | None:
        return HandleId(self._file(info).fh) if info else None

    def chmod(self, path: bytes | None, mode: int, info: int | None = None) -> int:
        return self._setattr(path, self._handle(info))

    def chown(self, path: bytes | None, uid: int, gid: int, info: int | None = None) -> int:
        return self._setattr(path, self._handle(info))

    def truncate(self, path: bytes | None, size: int, info: int | None = None) -> int:
        return self._setattr(path, self._handle(info))

    def utimens(self, path: bytes | None, pair: int | None, info: int | None = None) -> int:
        return self._setattr(path, self._handle(info))

    def access(self, path: bytes, mask: int) -> int:
        self._view.access(self._request.caller, path, mask)
        return 0

    def readlink(self, path: bytes, buffer: int, size: int) -> int:
        target = self._view.readlink(self._request.caller, path)[: size - 1]
        ctypes.memmove(buffer, target + b"\0", len(target) + 1)
        return 0

    def statfs(self, path: bytes | None, buffer: int) -> int:
        found = self._view.statfs(self._request.caller, path)
        st = self._binding.c_statvfs.from_address(buffer)
        st.f_blocks, st.f_bfree, st.f_bavail = found.blocks, found.bfree, found.bavail
        st.f_files, st.f_ffree = found.files, found.ffree
        st.f_bsize, st.f_frsize, st.f_namemax = found.bsize, found.frsize, found.namelen
        return 0

    # -- names --------------------------------------------------------------------------

    def _umask(self) -> int:
        return int(self._context().contents.umask)

    def _maker(self) -> Caller:
        """Return the caller with its groups: they decide on the setgid bit of what it makes."""
        caller = self._request.caller
        if not self._may_be_others or caller.uid == 0:
            return caller
        groups = (ctypes.c_uint32 * _MAX_GROUPS)()
        count = self._getgroups(_MAX_GROUPS, groups)
        if count < 0:  # gone already, or in another pid namespace
            return caller
        return caller._replace(groups=tuple(groups[: min(count, _MAX_GROUPS)]))

    def mknod(self, path: bytes, mode: int, rdev: int) -> int:
        self._view.mknod(self._maker(), path, mode, rdev, self._umask())
        return 0

    def mkdir(self, path: bytes, mode: int) -> int:
        self._view.mkdir(self._maker(), path, mode, self._umask())
        return 0

    def symlink(self, target: bytes, path: bytes) -> int:
        self._view.symlink(self._request.caller, path, target)
        return 0

    def link(self, path: bytes, newpath: bytes) -> int:
        self._view.link(self._request.caller, path, newpath)
        # The kernel takes the new name for another file, and would go on believing that the old
        # one has but one name.
        (node,) = abi.LINK_IN.unpack(ctypes.string_at(self._request.body, abi.LINK_IN.size))
        self._invalidate(node)
        return 0

    def rmdir(self, path: bytes) -> int:
        self._view.rmdir(self._request.caller, path)
        return 0

    def unlink(self, path: bytes) -> int:
        if self._request.opcode == abi.UNLINK:
            self._view.unlink(self._request.caller, path)
        else:
            # The last handle of a hidden file is gone.
            self._hidden.pop(_last(path), None)
            self._view.drop(_last(path))
        return 0

    def rename(self, path: bytes, newpath: bytes, flags: int = 0) -> int:
        view, caller = self._view, self._request.caller
        if not self._hides(newpath):
            view.rename(caller, path, newpath, flags)
            self._opens.moved(path, newpath, flags)
            return 0
        hidden = _last(newpath)
        view.keep(caller, path, hidden)
        try:
            attr = view.getattr(caller, newpath)
            self._hidden[hidden] = attr.ino, attr.dev
            if self._request.opcode == abi.UNLINK:
                view.unlink(caller, path)
        except BaseException:
            self._hidden.pop(hidden, None)
            view.drop(hidden)
            raise
        self._opens.moved(path, newpath, 0)
        # Otherwise something is going to be renamed onto it, which replaces it in one step.
        return 0

    def _hides(self, newpath: bytes) -> bool:
        """Tell whether a rename is the library's own, to hide an open file."""
        request = self._request
        if request.opcode == abi.RENAME:
            start = abi.RENAME_IN.size
        elif request.opcode == abi.RENAME2:
            start = abi.RENAME2_IN.size
        else:
            return True
        names = ctypes.string_at(request.body + start, request.size - start)
        return names.split(b"\0")[1] != _last(newpath)

    # -- files --------------------------------------------------------------------------

    def _opened(self, opened: Opened, info: Any) -> int:
        info.fh = opened.handle
        info.keep_cache = opened.keep_cache
        info.direct_io = opened.direct_io
        info.nonseekable = opened.nonseekable
        if self._has_noflush:
            # What was written to a mapping is flushed by the kernel when a descriptor is closed.
            info.noflush = opened.no_flush and info.flags & host.O_ACCMODE == os.O_RDONLY
        return 0

    def open(self, path: bytes, address: int) -> int:
        info = self._file(address)
        opened = self._view.open(self._request.caller, path, info.flags)
        node = self._request.node
        other = self._opens.first(node, path)
        mixed = other is not None and not self._same(other, opened.handle)
        if mixed:
            # The name was given to another file behind the mount while the first was open.  To the
            # kernel they are one: they must not share its cache, and the size that it knows may be
            # that of the other.
            opened = opened._replace(direct_io=True, keep_cache=False)
            self._invalidate(node)
        self._opens.opened(node, opened.handle, mixed=mixed)
        return self._opened(opened, info)

    def _same(self, one: HandleId, two: HandleId) -> bool:
        caller, view = self._request.caller, self._view
        try:
            a, b = view.getattr(caller, None, one), view.getattr(caller, None, two)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            return True  # the first was released meanwhile: there is one file only
        return (a.ino, a.dev) == (b.ino, b.dev)

    def create(self, path: bytes, mode: int, address: int) -> int:
        info = self._file(address)
        opened = self._view.create(self._maker(), path, info.flags, mode, self._umask())
        self._opens.made(opened.handle, path)
        return self._opened(opened, info)

    def read(self, path: bytes | None, buffer: int, size: int, offset: int, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        data = self._view.read(self._request.caller, handle, offset, size)
        if not isinstance(data, bytes):
            data = bytes(data)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    def write(self, path: bytes | None, buffer: int, size: int, offset: int, address: int) -> int:
        info = self._file(address)
        data = memoryview(_ALL.from_address(buffer)).cast("B")[:size]
        return self._view.write(
            self._request.caller, HandleId(info.fh), offset, data, cached=bool(info.writepage)
        )

    def flush(self, path: bytes | None, address: int) -> int:
        info = self._file(address)
        self._view.flush(self._request.caller, HandleId(info.fh), info.lock_owner)
        return 0

    def release(self, path: bytes | None, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        node = self._request.node
        if self._opens.is_mixed(node):
            # Before it is taken off: who opens the file then shares the kernel's cache again, and
            # would be shown the size that was told last for this handle.
            self._invalidate(node)
        self._opens.released(node, handle)
        self._view.release(handle)
        return 0

    def fsync(self, path: bytes | None, datasync: int, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        self._view.fsync(self._request.caller, handle, bool(datasync))
        return 0

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        self._view.fallocate(self._request.caller, handle, mode, offset, length)
        return 0

    def ioctl(
        self,
        path: bytes | None,
        command: int,
        argument: int | None,
        info: int,
        flags: int,
        data: int | None,
    ) -> int:
        # The command tells a size too, but the kernel transfers less for some (FS_IOC_GETFLAGS):
        # what is written beyond that lands in the library's heap.
        body = ctypes.string_at(self._request.body, abi.IOCTL_IN.size)
        *_, in_size, out_size = abi.IOCTL_IN.unpack(body)
        given = ctypes.string_at(data, in_size) if data and in_size else b""
        handle = HandleId(self._file(info).fh)
        command &= 0xFFFFFFFF
        answer = self._view.ioctl(self._request.caller, handle, command, given, out_size)
        if data and out_size:
            ctypes.memmove(data, answer, min(len(answer), out_size))
        if in_size:  # it may have changed something (FS_IOC_SETFLAGS), and the kernel does not know
            self._invalidate(self._request.node)
        return 0

    # -- directories --------------------------------------------------------------------

    def opendir(self, path: bytes, address: int) -> int:
        info = self._file(address)
        opened = self._view.opendir(self._request.caller, path, info.flags)
        info.fh = opened.handle
        info.keep_cache = opened.keep_cache
        if self._has_cache_readdir:
            info.cache_readdir = opened.cache_dir
        return 0

    def readdir(
        self,
        path: bytes | None,
        buffer: int,
        filler: Callable[..., int],
        offset: int,
        info: int,
        flags: int = 0,
    ) -> int:
        # With an offset for each entry the library keeps nothing, and comes back for more.
        handle = HandleId(self._file(info).fh)
        st = self._binding.c_stat()
        pointer = ctypes.pointer(st)
        if flags & abi.READDIR_PLUS:
            self._fill_plus(buffer, filler, handle, offset, st, pointer)
            return 0
        extra = () if self._binding.fuse_version_major == 2 else (0,)
        for entry in until_error(self._view.readdir(self._request.caller, handle, offset)):
            st.st_ino = entry.ino
            st.st_mode = entry.type << 12
            if filler(buffer, entry.name, pointer, entry.offset, *extra):
                break
        return 0

    def _fill_plus(
        self,
        buffer: int,
        filler: Callable[..., int],
        handle: HandleId,
        offset: int,
        st: Any,
        pointer: Any,
    ) -> None:
        address = ctypes.addressof(st)
        body = ctypes.string_at(self._request.body, abi.READ_IN.size)
        _, _, room = abi.READ_IN.unpack(body)
        for entry, attr in until_error(
            self._view.readdirplus(self._request.caller, handle, offset)
        ):
            # The library counts a lookup for an entry before it sees that there is no room
            # for it, and never takes it back.
            room -= abi.DIRENTPLUS_NAME + len(entry.name) + 7 & ~7
            if room < 0:
                break
            if attr is not None and self._has_other_names(attr):
                attr = None  # noqa: PLW2901  # as if it were not known: Terms.distrust()
            given = 0 if attr is None else abi.FILL_DIR_PLUS
            self._write_attr(address, attr or Attr.make(entry.type << 12, ino=entry.ino))
            if filler(buffer, entry.name, pointer, entry.offset, given):
                break

    def releasedir(self, path: bytes | None, info: int) -> int:
        self._view.releasedir(HandleId(self._file(info).fh))
        return 0

    def fsyncdir(self, path: bytes | None, datasync: int, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        self._view.fsyncdir(self._request.caller, handle, bool(datasync))
        return 0

    # -- extended attributes ------------------------------------------------------------

    def setxattr(self, path: bytes, name: bytes, value: int, size: int, flags: int) -> int:
        data = ctypes.string_at(value, size) if size else b""
        self._view.setxattr(self._request.caller, path, name, data, flags)
        return 0

    def getxattr(self, path: bytes, name: bytes, buffer: int | None, size: int) -> int:
        return fill(self._view.getxattr(self._request.caller, path, name), buffer, size)

    def listxattr(self, path: bytes, buffer: int | None, size: int) -> int:
        names = self._view.listxattr(self._request.caller, path)
        return fill(b"".join(name + b"\0" for name in names), buffer, size)

    def removexattr(self, path: bytes, name: bytes) -> int:
        self._view.removexattr(self._request.caller, path, name)
        return 0

    # -- locks --------------------------------------------------------------------------

    def lock(self, path: bytes | None, address: int, command: int, range_address: int) -> int:
        if self._request.opcode in (abi.FLUSH, abi.RELEASE):
            return 0  # the library drops the owner's locks after flush, which has done so
        info = self._file(address)
        asked = self._binding.c_flock_t.from_address(range_address)
        end = asked.l_start + asked.l_len - 1 if asked.l_len else _END
        lock = LockRange(asked.l_type, asked.l_start, end, asked.l_pid)
        view, caller, handle = self._view, self._request.caller, HandleId(info.fh)

        def take(wait: bool) -> None:
            view.setlk(caller, handle, info.lock_owner, lock, wait=wait)

        self._take(take, wait=command == fcntl.F_SETLKW)
        return 0

    def reply_to_getlk(self, device: int, unique: int) -> None:
        """Reply on *device* to the thread's request, which is a GETLK, without the library.

        It would look into a table of its own first, in which the locks of open files (OFD) stay when
        those are closed: there is no request for that, and it does not think of it.
        """
        request = self._request
        body = ctypes.string_at(request.body, abi.LK_IN.size)
        handle, owner, start, end, kind, pid = abi.LK_IN.unpack(body)
        try:
            if request.refused:
                raise OSError(request.refused, os.strerror(request.refused))
            asked = LockRange(kind, start, end, pid)
            found = self._view.getlk(request.caller, HandleId(handle), owner, asked)
            lock = found.start, found.end, found.type, found.pid
            reply = abi.LK_REPLY.pack(abi.LK_REPLY.size, 0, unique, *lock)
        except BaseException as exc:  # noqa: BLE001  # errno_of logs what is a bug
            reply = abi.ERROR_REPLY.pack(abi.ERROR_REPLY.size, -errno_of(exc), unique)
        with suppress(OSError):  # nobody waits for it any more
            os.write(device, reply)

    def flock(self, path: bytes | None, info: int, operation: int) -> int:
        view, caller = self._view, self._request.caller
        handle = HandleId(self._file(info).fh)
        kind = operation & ~fcntl.LOCK_NB

        def take(wait: bool) -> None:
            view.flock(caller, handle, kind if wait else kind | fcntl.LOCK_NB)

        self._take(take, wait=not operation & fcntl.LOCK_NB)
        return 0

    def _take(self, take: Callable[[bool], None], *, wait: bool) -> None:
        try:
            take(False)
        except OSError as exc:
            if not wait or exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            with self._waiting():
                # Who was interrupted before the library began with this gets no signal from it.
                if self._interrupted():
                    raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR)) from None
                take(True)


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]
