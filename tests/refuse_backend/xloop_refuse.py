# SPDX-License-Identifier: MIT
"""The backend "refuse": a PathView mounted through refuse, on libfuse 2.  For tests only.

Owns the way through refuse that Windows has to take (refuse is the binding that knows WinFsp), so
that a real kernel tries it.  Does not own anything that a user should mount with: the backend
libfuse does more, and says what it cannot do.

As refuse wants it: an Operations object that is *called* with each operation's name (refuse's own
table and its wrappers stay), and a subclass of its FUSE that closes what is wrong or missing in them:
UTIME_NOW, offsets of directory entries, record locks, ioctl without a path, errors that are none.
It is also an example of a backend that a distribution of its own adds by an entry point.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from typing import Any

from xloop import mounts
from xloop.backend import Availability, Session
from xloop.errors import MountError, OptionError, errno_of
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.pathview import PathView
from xloop.types import NOW, Attr, Caller, HandleId, LockRange, Opened, SetAttr, TimeOrNow

#: Every byte is one character of it: refuse knows text only, and has no way to say how it may fail.
ENCODING = "latin-1"

_LIBRARY = "libfuse.so.2"
_PATH = "FUSE_LIBRARY_PATH"
_NO_ID = -1
_END = 2**63 - 1


class Context(ctypes.Structure):
    """struct fuse_context."""

    _fields_ = [
        ("fuse", ctypes.c_void_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("pid", ctypes.c_int32),
        ("private_data", ctypes.c_void_p),
        ("umask", ctypes.c_uint32),
    ]


class Flock(ctypes.Structure):
    """struct flock."""

    _fields_ = [
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", ctypes.c_int),
    ]


def _high() -> Any:
    """Return refuse.high, which looks for its library when it is imported."""
    before = os.environ.get(_PATH)
    os.environ[_PATH] = _LIBRARY
    try:
        from refuse import high
    finally:
        if before is None:
            del os.environ[_PATH]
        else:
            os.environ[_PATH] = before
    return high


class Refuse:
    """See :class:`xloop.backend.Backend`."""

    name = "refuse"

    def probe(self) -> Availability:
        try:
            ctypes.CDLL(_LIBRARY)
            _high()
        except ImportError:
            return Availability(False, "refuse is not installed", "pip install refuse==0.0.4")
        except OSError:
            return Availability(False, "libfuse 2 is not installed", "apt-get install libfuse2")
        if not os.path.exists("/dev/fuse"):
            return Availability(False, "/dev/fuse does not exist", "modprobe fuse")
        return Availability(True)

    def check_options(self, options: MountOptions) -> None:
        told = options.atime is not None or options.nodiratime
        if options.passthrough is True or options.writeback or told:
            raise OptionError("refuse cannot honour passthrough, writeback, atime and nodiratime")

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        checks = options.default_permissions
        if checks is None:
            checks = options.allow_other or options.allow_root
        return RefuseSession(operations, os.path.abspath(mountpoint), options, checks)


class RefuseSession:
    """See :class:`xloop.backend.Session`.  It is mounted by serve(): refuse does both in one call."""

    def __init__(
        self, operations: Operations, mountpoint: str, options: MountOptions, checks: bool
    ) -> None:
        self._ops = RefuseOperations(PathView(operations), checks)
        self._mountpoint = mountpoint
        self._options = options
        self._checks = checks

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        self._ops.ready = ready
        options = self._options
        fsname = (options.fsname or "xloop").replace("\\", "\\\\").replace(",", "\\,")
        words: dict[str, object] = {
            "foreground": True,
            "fsname": os.fsencode(fsname).decode(ENCODING),
            "subtype": options.subtype,
            "ro": options.read_only,
            "allow_other": options.allow_other,
            "allow_root": options.allow_root,
            "default_permissions": self._checks,
            "dev": options.dev,
            "suid": options.suid,
            "noexec": not options.exec,
            "sync": options.sync,
            "dirsync": options.dirsync,
            "use_ino": True,
            "intr": True,
            # Not the library's SIGUSR1: that asks a server for its status, and is blocked in its threads.
            "intr_signal": int(signal.SIGRTMAX) - 3,
            "big_writes": True,
            "attr_timeout": 0,
            "entry_timeout": options.entry_timeout,
            "negative_timeout": options.negative_timeout,
        }
        if options.max_read is not None:
            words["max_read"] = options.max_read
        point = os.fsencode(self._mountpoint).decode(ENCODING)
        try:
            _fuse_class()(self._ops, point, raw_fi=True, encoding=ENCODING, **words)
        except RuntimeError as exc:
            if not self._ops.fuse:
                raise MountError(
                    f"{self._mountpoint!r} cannot be mounted on: libfuse 2 failed ({exc})"
                ) from exc
            raise

    def unmount(self, *, lazy: bool = False) -> None:
        mounts.take_away(self._mountpoint, lazy=lazy)

    def abort(self) -> None:
        self.unmount(lazy=True)
        self._ops.exit()

    def status(self) -> dict[str, object]:
        return {"backend": "refuse"}


class RefuseOperations:
    """What refuse calls: ``operations("getattr", path, file)`` and so on, with paths as text."""

    use_ns = True
    flag_nullpath_ok = 1
    flag_nopath = 1
    flag_utime_omit_ok = 1

    def __init__(self, view: PathView, checks: bool) -> None:
        self._view = view
        self._checks = checks
        self._high = _high()
        self.ready: Callable[[], None] | None = None
        self.fuse: int | None = None

    def __call__(self, op: str, *args: Any) -> Any:
        """The one place through which every operation goes: no exception but OSError leaves it."""
        try:
            return getattr(self, op)(*args)
        except OSError:
            raise
        except BaseException as exc:  # logged by errno_of
            number = errno_of(exc)
            raise OSError(number, os.strerror(number)) from exc

    def _caller(self) -> Caller:
        return Caller(*self._high.fuse_get_context())

    def _umask(self) -> int:
        # The last field of struct fuse_context, which refuse does not know.
        address = ctypes.addressof(self._high._libfuse.fuse_get_context().contents)
        return int(Context.from_address(address).umask)

    # -- life ---------------------------------------------------------------------------

    def init(self, path: str) -> None:
        # Outside of a callback the library does not know which mount is meant.
        self.fuse = self._high._libfuse.fuse_get_context().contents.fuse
        self._view.init(kernel_checks=self._checks)
        if self.ready is not None:
            self.ready()

    def destroy(self, path: str) -> None:
        self._view.destroy()

    def exit(self) -> None:
        if self.fuse:
            self._high._libfuse.fuse_exit(ctypes.c_void_p(self.fuse))

    # -- attributes ---------------------------------------------------------------------

    def getattr(self, path: str | None, file: Any = None) -> dict[str, int]:
        handle = HandleId(file.fh) if file else None
        attr = self._view.getattr(self._caller(), _bytes(path), handle)
        if path is not None and attr.nlink and self._view.is_kept(path.encode(ENCODING)):
            # libfuse takes one off for the name that it believes is there.
            attr = attr._replace(nlink=attr.nlink + 1)
        return _stat(attr)

    def _change(self, path: str | None, changes: SetAttr, file: Any = None) -> None:
        handle = HandleId(file.fh) if file else None
        self._view.setattr(self._caller(), _bytes(path), changes, handle)

    def chmod(self, path: str, mode: int) -> None:
        self._change(path, SetAttr(mode=stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int, gid: int) -> None:
        changes = SetAttr(uid=None if uid == _NO_ID else uid, gid=None if gid == _NO_ID else gid)
        self._change(path, changes)

    def truncate(self, path: str | None, size: int, file: Any = None) -> None:
        self._change(path, SetAttr(size=size), file)

    def utimens(self, path: str, times: tuple[TimeOrNow | None, TimeOrNow | None]) -> None:
        self._change(path, SetAttr(atime=times[0], mtime=times[1]))

    def access(self, path: str, mask: int) -> None:
        self._view.access(self._caller(), path.encode(ENCODING), mask)

    def readlink(self, path: str) -> str:
        return self._view.readlink(self._caller(), path.encode(ENCODING)).decode(ENCODING)

    def statfs(self, path: str | None) -> dict[str, int]:
        found = self._view.statfs(self._caller(), _bytes(path))
        names = ("blocks", "bfree", "bavail", "files", "ffree", "bsize", "namemax", "frsize")
        return {f"f_{name}": value for name, value in zip(names, found, strict=True)}

    # -- names --------------------------------------------------------------------------

    def symlink(self, path: str, target: str) -> None:
        self._view.symlink(self._caller(), path.encode(ENCODING), target.encode(ENCODING))

    def link(self, newpath: str, path: str) -> None:
        self._view.link(self._caller(), path.encode(ENCODING), newpath.encode(ENCODING))

    def mknod(self, path: str, mode: int, rdev: int) -> None:
        self._view.mknod(self._caller(), path.encode(ENCODING), mode, rdev, self._umask())

    def mkdir(self, path: str, mode: int) -> None:
        self._view.mkdir(self._caller(), path.encode(ENCODING), mode, self._umask())

    def unlink(self, path: str) -> None:
        if not self._view.drop(_last(path)):
            self._view.unlink(self._caller(), path.encode(ENCODING))

    def rmdir(self, path: str) -> None:
        self._view.rmdir(self._caller(), path.encode(ENCODING))

    def rename(self, path: str, newpath: str) -> None:
        old, new = path.encode(ENCODING), newpath.encode(ENCODING)
        if not _HIDDEN.fullmatch(_last(newpath)):
            self._view.rename(self._caller(), old, new)
            return
        # libfuse hides a file that is open and to be removed.  (Or somebody likes such names: what
        # is called for is not to be seen here.  Good enough for tests.)
        self._view.keep(self._caller(), old, _last(newpath))
        self._view.unlink(self._caller(), old)

    # -- files --------------------------------------------------------------------------

    def _opened(self, opened: Opened, file: Any) -> None:
        file.fh = opened.handle
        file.keep_cache = opened.keep_cache
        file.direct_io = opened.direct_io
        file.nonseekable = opened.nonseekable

    def open(self, path: str, file: Any) -> None:
        try:
            opened = self._view.open(self._caller(), path.encode(ENCODING), file.flags)
        except FileNotFoundError:  # the kernel looks the name up again, and may create it
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
        self._opened(opened, file)

    def create(self, path: str, mode: int, file: Any) -> None:
        opened = self._view.create(
            self._caller(), path.encode(ENCODING), file.flags, mode, self._umask()
        )
        self._opened(opened, file)

    def read(self, path: str | None, size: int, offset: int, file: Any) -> bytes:
        return bytes(self._view.read(self._caller(), HandleId(file.fh), offset, size))

    def write(self, path: str | None, data: bytes, offset: int, file: Any) -> int:
        cached = bool(file.writepage)
        return self._view.write(self._caller(), HandleId(file.fh), offset, data, cached=cached)

    def flush(self, path: str | None, file: Any) -> None:
        self._view.flush(self._caller(), HandleId(file.fh), file.lock_owner)

    def release(self, path: str | None, file: Any) -> None:
        self._view.release(HandleId(file.fh))

    def fsync(self, path: str | None, datasync: int, file: Any) -> None:
        self._view.fsync(self._caller(), HandleId(file.fh), bool(datasync))

    def fallocate(self, path: str | None, mode: int, offset: int, length: int, file: Any) -> None:
        self._view.fallocate(self._caller(), HandleId(file.fh), mode, offset, length)

    def ioctl(
        self, path: str | None, command: int, argument: Any, file: Any, flags: int, data: Any
    ) -> None:
        size = command >> 16 & 0x3FFF
        if command & 0xFFFF in (0x6601, 0x6602, 0x7601, 0x7602):
            size = min(size, 4)  # FS_IOC_GETFLAGS and friends say long and mean int
        given = ctypes.string_at(data, size) if data and command >> 30 & 1 else b""
        answer = self._view.ioctl(self._caller(), HandleId(file.fh), command, given, size)
        if data and command >> 30 & 2:
            ctypes.memmove(data, answer, len(answer))

    # -- directories --------------------------------------------------------------------

    def opendir(self, path: str) -> int:
        return self._view.opendir(self._caller(), path.encode(ENCODING), os.O_RDONLY).handle

    def readdir(
        self, path: str | None, handle: int, offset: int = 0
    ) -> Iterator[tuple[str, dict[str, int], int]]:
        for entry in self._view.readdir(self._caller(), HandleId(handle), offset):
            facts = {"st_ino": entry.ino, "st_mode": entry.type << 12}
            yield entry.name.decode(ENCODING), facts, entry.offset

    def releasedir(self, path: str | None, handle: int) -> None:
        self._view.releasedir(HandleId(handle))

    def fsyncdir(self, path: str | None, datasync: int, handle: int) -> None:
        self._view.fsyncdir(self._caller(), HandleId(handle), bool(datasync))

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, path: str, name: str) -> bytes:
        return self._view.getxattr(self._caller(), path.encode(ENCODING), name.encode(ENCODING))

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._view.setxattr(
            self._caller(), path.encode(ENCODING), name.encode(ENCODING), value, flags
        )

    def listxattr(self, path: str) -> list[str]:
        names = self._view.listxattr(self._caller(), path.encode(ENCODING))
        return [name.decode(ENCODING) for name in names]

    def removexattr(self, path: str, name: str) -> None:
        self._view.removexattr(self._caller(), path.encode(ENCODING), name.encode(ENCODING))

    # -- locks --------------------------------------------------------------------------

    def lock(self, path: str | None, file: Any, command: int, address: int) -> None:
        asked = Flock.from_address(address)
        end = asked.l_start + asked.l_len - 1 if asked.l_len else _END
        lock = LockRange(asked.l_type, asked.l_start, end, asked.l_pid)
        caller, handle = self._caller(), HandleId(file.fh)
        if command != fcntl.F_GETLK:
            wait = command == fcntl.F_SETLKW
            self._may_wait(wait)
            self._view.setlk(caller, handle, file.lock_owner, lock, wait=wait)
            return
        found = self._view.getlk(caller, handle, file.lock_owner, lock)
        asked.l_type, asked.l_whence, asked.l_start = found.type, os.SEEK_SET, found.start
        asked.l_len = 0 if found.end >= _END else found.end - found.start + 1
        asked.l_pid = found.pid

    def flock(self, path: str | None, file: Any, operation: int) -> None:
        self._may_wait(not operation & fcntl.LOCK_NB)
        self._view.flock(self._caller(), HandleId(file.fh), operation)

    def _may_wait(self, wait: bool) -> None:
        # Who was interrupted before libfuse began with this gets no signal from it.
        if wait and self._high._libfuse.fuse_interrupted():
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))


_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")


def _last(path: str) -> bytes:
    return path.encode(ENCODING).rpartition(b"/")[2]


def _bytes(path: str | None) -> bytes | None:
    return None if path is None else path.encode(ENCODING)


def _stat(attr: Attr) -> dict[str, int]:
    names = ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks")
    facts = {f"st_{name}": getattr(attr, name) for name in names}
    return facts | {
        "st_atime": attr.atime_ns,
        "st_mtime": attr.mtime_ns,
        "st_ctime": attr.ctime_ns,
    }


class _Extended:
    """Marks the table that was extended."""


def _table(high: Any) -> Any:
    """Return refuse's table of operations with what libfuse has had since 2.9."""
    path, file, c_int = ctypes.c_char_p, ctypes.POINTER(high.fuse_file_info), ctypes.c_int
    off_t = ctypes.c_int64

    class Table(ctypes.Structure, _Extended):
        _fields_ = [
            *high.fuse_operations._fields_,
            ("poll", ctypes.c_void_p),
            ("write_buf", ctypes.c_void_p),
            ("read_buf", ctypes.c_void_p),
            ("flock", ctypes.CFUNCTYPE(c_int, path, file, c_int)),
            ("fallocate", ctypes.CFUNCTYPE(c_int, path, c_int, off_t, off_t, file)),
        ]

    return Table


def _fuse_class() -> Any:
    """Return refuse's FUSE with its holes closed."""
    high = _high()
    base: Any = high.FUSE
    if not issubclass(high.fuse_operations, _Extended):
        high.fuse_operations = _table(high)

    class Fuse(base):  # type: ignore[misc]  # refuse has no types
        def _wrapper(self, func: Callable[..., Any], *args: Any) -> int:
            # refuse makes EINVAL of what is no OSError, and ends the mount for some of it.
            try:
                return func(*args) or 0
            except BaseException as exc:  # noqa: BLE001  # logged by errno_of
                return -errno_of(exc)

        def init(self, conn: int) -> int:
            # refuse passes nothing on: want is the sixth of the words in struct fuse_conn_info.
            words = ctypes.cast(conn, ctypes.POINTER(ctypes.c_uint32))
            words[6] |= words[5] & (1 << 0 | 1 << 5 | 1 << 6)  # ASYNC_READ, BIG_WRITES, DONT_MASK
            self.operations("init", "/")
            return 0

        def utimens(self, path: bytes, pair: Any) -> int:
            def when(spec: Any) -> TimeOrNow | None:
                if spec.tv_nsec == high.UTIME_NOW:
                    return NOW  # refuse reads the clock, which takes another right
                if spec.tv_nsec == high.UTIME_OMIT:
                    return None
                return int(spec.tv_sec) * 10**9 + int(spec.tv_nsec)

            both = (when(pair.contents.actime), when(pair.contents.modtime)) if pair else (NOW, NOW)
            self.operations("utimens", path.decode(ENCODING), both)
            return 0

        def readdir(self, path: bytes | None, buf: Any, filler: Any, offset: int, fip: Any) -> int:
            # refuse does not tell where to go on.
            st = high.c_stat()
            for name, facts, after in self.operations("readdir", None, fip.contents.fh, offset):
                st.st_ino, st.st_mode = facts["st_ino"], facts["st_mode"]
                if filler(buf, name.encode(ENCODING), st, after):
                    break
            return 0

        def flock(self, path: bytes | None, fip: Any, operation: int) -> int:
            self.operations("flock", None, fip.contents, operation)
            return 0

        def fallocate(
            self, path: bytes | None, mode: int, offset: int, length: int, fip: Any
        ) -> int:
            self.operations("fallocate", None, mode, offset, length, fip.contents)
            return 0

        def ioctl(
            self, path: bytes | None, cmd: int, arg: Any, fip: Any, flags: int, data: Any
        ) -> int:
            self.operations("ioctl", None, cmd & 0xFFFFFFFF, arg, fip.contents, flags, data)
            return 0

    return Fuse
