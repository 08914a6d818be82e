# SPDX-License-Identifier: MIT
"""The macOS host on Linux: its C library and fcntl(2) played by Linux's, through macOS's numbers and layouts.

    PYTHONPATH=tests/hosts pytest -p darwin_on_linux tests/contract --contract-subject inprocess

As a pytest plugin it puts :class:`xloop.host.darwin.DarwinHost` under the loopback, so that the contract
tests hold it against the native directory: a wrong argument, flag or offset makes them fail.  What
cannot be had this way is what macOS's kernel does.  Owns the translation, call by call, and keeps
the calls that Linux has not (``StandIn.calls``).  To be loaded before anything imports the loopback.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl as linux_fcntl
import os
import struct
from types import SimpleNamespace
from typing import Any

import xloop.host
from xloop.host import darwin, darwin_libc
from xloop.host import linux as linux_host
from xloop.host.posix import failed
from xloop.types import LockRange

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH = 0x1000


class Function:
    """As ctypes' function objects: takes types, and reports an error by -1 and errno."""

    def __init__(self, name: str, call: Any) -> None:
        self.name, self._call = name, call
        self.restype: Any = None
        self.argtypes: list[Any] = []

    def __call__(self, *arguments: Any) -> int:
        # Not more, not fewer, and each of a kind that can be passed: as the real one would see to.
        assert len(arguments) == len(self.argtypes), self.name
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            kind.from_param(argument)
        try:
            return int(self._call(*arguments) or 0)
        except OSError as exc:
            ctypes.set_errno(exc.errno or errno.EIO)
            return -1


def _answer(buffer: Any, size: int, data: bytes) -> int:
    if buffer is None:
        return len(data)
    if size < len(data):
        raise OSError(errno.ERANGE, "too small")
    ctypes.memmove(buffer, data, len(data))
    return len(data)


class StandIn:
    """A ``library`` for DarwinLibc."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getitem__(self, name: str) -> Function:
        call = getattr(self, name.replace("$", "_").lower(), None)
        if call is None:
            raise AttributeError(name)
        return Function(name, call)

    # -- attributes: as Linux has them, in macOS's layout -------------------------------------

    def _stat(self, fd: int, name: bytes, flags: int, buffer: Any) -> None:
        assert flags in (_AT_EMPTY_PATH, darwin_libc.AT_SYMLINK_NOFOLLOW)
        a = linux_host.statx(fd, name)
        packed = darwin_libc.STAT.pack(
            *(a.dev, a.mode, a.nlink, a.ino, a.uid, a.gid, a.rdev),
            *(a.atime, a.atime_nsec, a.mtime, a.mtime_nsec, a.ctime, a.ctime_nsec),
            *(a.btime, a.btime_nsec, a.size, a.blocks, a.blksize, 0, 0),
        )
        ctypes.memmove(buffer, packed, len(packed))

    def fstat_inode64(self, fd: int, buffer: Any) -> None:
        self._stat(fd, b"", _AT_EMPTY_PATH, buffer)

    def fstatat(self, fd: int, name: bytes, buffer: Any, flags: int) -> None:
        # Without the suffix, as on Apple silicon.
        assert name
        self._stat(fd, name, flags, buffer)

    def fstatfs(self, fd: int, buffer: Any) -> None:
        st = os.fstatvfs(fd)
        counts = st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree
        packed = darwin_libc.STATFS.pack(
            *(st.f_frsize, st.f_bsize, *counts, 7, 8, 0, 0, 0, 0, b"apfs", b"/", b"/dev/disk1", 0)
        )
        ctypes.memmove(buffer, packed, len(packed))

    def utimensat(self, fd: int, name: bytes, times: Any, flags: int) -> int:
        assert flags == darwin_libc.AT_SYMLINK_NOFOLLOW
        return int(_libc.utimensat(int(fd), name, self._times(times), 0x100))

    def futimens(self, fd: int, times: Any) -> int:
        return int(_libc.futimens(int(fd), self._times(times)))

    @staticmethod
    def _times(times: Any) -> Any:
        words = list(times)
        for at in (1, 3):
            words[at] = {-1: (1 << 30) - 1, -2: (1 << 30) - 2}.get(words[at], words[at])
        return (ctypes.c_long * 4)(*words)

    def fsetattrlist(self, fd: int, wanted: bytes, value: bytes, size: int, options: int) -> None:
        self.calls.append(("fsetattrlist", int(fd), wanted, value[:size], options))

    def setattrlistat(
        self, fd: int, name: bytes, wanted: bytes, value: bytes, size: int, options: int
    ) -> None:
        self.calls.append(("setattrlistat", name, wanted, value[:size], options))

    def fchflags(self, fd: int, flags: int) -> None:
        self.calls.append(("fchflags", int(fd), flags))

    # -- extended attributes ------------------------------------------------------------------

    # Linux keeps attributes in classes; what macOS calls com.apple.* becomes somebody's own.

    @staticmethod
    def _path(fd: int) -> str:
        return f"/proc/self/fd/{int(fd)}"

    @staticmethod
    def _name(name: bytes) -> bytes:
        return b"user." + name if name.startswith(b"com.apple.") else name

    def fgetxattr(
        self, fd: int, name: bytes, buffer: Any, size: int, position: int, options: int
    ) -> int:
        assert (position, options) == (0, 0)
        return _answer(buffer, size, os.getxattr(self._path(fd), self._name(name)))

    def fsetxattr(
        self, fd: int, name: bytes, value: bytes, size: int, position: int, options: int
    ) -> None:
        assert position == 0
        flags = {0: 0, 2: os.XATTR_CREATE, 4: os.XATTR_REPLACE}[options]
        os.setxattr(self._path(fd), self._name(name), value[:size], flags)

    def flistxattr(self, fd: int, buffer: Any, size: int, options: int) -> int:
        assert options == 0
        names = [os.fsencode(name) for name in os.listxattr(self._path(fd))]
        names = [n.removeprefix(b"user.") if b".com.apple." in n else n for n in names]
        return _answer(buffer, size, b"".join(name + b"\0" for name in names))

    def fremovexattr(self, fd: int, name: bytes, options: int) -> None:
        assert options == 0
        os.removexattr(self._path(fd), self._name(name))

    # -- the rest ---------------------------------------------------------------------------------

    def renameatx_np(self, old: int, name: bytes, new: int, new_name: bytes, flags: int) -> int:
        known = {darwin_libc.RENAME_EXCL: 1, darwin_libc.RENAME_SWAP: 2}
        return int(_libc.renameat2(int(old), name, int(new), new_name, known[flags]))

    def flock(self, fd: int, operation: int) -> int:
        return int(_libc.flock(int(fd), operation))

    def getfsstat(self, buffer: Any, size: int, flags: int) -> int:
        raise OSError(errno.ENOSYS, "not played")

    def unmount(self, path: bytes, flags: int) -> None:
        self.calls.append(("unmount", path, flags))


def play_fcntl(fd: int, command: int, argument: Any = 0) -> Any:
    """fcntl.fcntl() with macOS's commands."""
    if command == darwin_libc.F_GETPATH:
        assert len(argument) == darwin_libc.MAXPATHLEN
        path = os.readlink(b"/proc/self/fd/%d" % fd)
        if path.endswith(b" (deleted)"):
            raise OSError(errno.ENOENT, "no path")
        return path.ljust(len(argument), b"\0")
    if command == darwin_libc.F_FULLFSYNC:
        return os.fsync(fd)
    if command == darwin_libc.F_PREALLOCATE:
        flags, mode, offset, length, _ = darwin_libc.FSTORE.unpack(argument)
        assert (flags, mode, offset) == (4, 3, 0)
        size = os.fstat(fd).st_size
        return linux_host.fallocate(fd, 1, size, length)
    if command == darwin_libc.F_PUNCHHOLE:
        flags, reserved, offset, length = darwin_libc.FPUNCHHOLE.unpack(argument)
        block = os.fstatvfs(fd).f_frsize
        assert flags == reserved == offset % block == length % block == 0
        return linux_host.fallocate(fd, 3, offset, length)
    if command in (darwin_libc.F_OFD_GETLK, darwin_libc.F_OFD_SETLK, darwin_libc.F_OFD_SETLKW):
        start, length, pid, kind, whence = darwin_libc.FLOCK.unpack(argument)
        assert (pid, whence) == (0, os.SEEK_SET)
        lock = LockRange(kind, start, start + length - 1 if length else 2**63 - 1)
        if command != darwin_libc.F_OFD_GETLK:
            return linux_host.setlk(fd, lock, command == darwin_libc.F_OFD_SETLKW)
        kind, start, end, pid = linux_host.getlk(fd, lock)
        length = 0 if end == 2**63 - 1 else end - start + 1
        return darwin_libc.FLOCK.pack(start, length, pid, kind, whence)
    return linux_fcntl.fcntl(fd, command, argument)


class DarwinOnLinux(darwin.DarwinHost):
    """With Linux's numbers for flags of open(2), and what Linux alone needs."""

    directory_flags = (os.O_RDONLY | os.O_DIRECTORY,)
    file_flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    link_flags = None  # Linux opens symbolic links with O_PATH alone, which takes no futimens(2)
    SEEK_HOLE = os.SEEK_HOLE
    SEEK_DATA = os.SEEK_DATA
    REUSES_INO = True

    def is_case_sensitive(self, ref: int) -> bool:
        return True  # Linux knows no such pathconf(3)

    def chmod(self, ref: int, mode: int) -> None:
        place = self._by_name(ref)
        if place is None:
            os.fchmod(ref, mode)
        # Python's lchmod() is missing on Linux, whose fchmodat(2) has no flags: fchmodat2(2).
        elif _libc.syscall(452, int(place[0]), place[1], mode, 0x100):
            raise failed()

    copy_file_range = staticmethod(linux_host.copy_file_range)


def make() -> tuple[DarwinOnLinux, StandIn]:
    """Return the host, and the library that it calls."""
    library = StandIn()
    darwin.fcntl = SimpleNamespace(fcntl=play_fcntl)  # type: ignore[assignment]
    darwin_libc.O_SEARCH = os.O_RDONLY | os.O_DIRECTORY  # type: ignore[misc]
    darwin_libc.O_NOFOLLOW_ANY = 0  # type: ignore[misc]
    return DarwinOnLinux(darwin_libc.DarwinLibc(library)), library


def pytest_configure() -> None:
    assert struct.calcsize("l") == 8


xloop.host.host = make()[0]
