# SPDX-License-Identifier: MIT
"""The FreeBSD host on Linux: its C library played by Linux's, through FreeBSD's numbers.

    PYTHONPATH=tests/hosts pytest -p freebsd_on_linux tests/contract --contract-subject inprocess

As :mod:`darwin_on_linux`, whose translation of functions it uses: here an O_PATH descriptor is one, and an empty
name with AT_EMPTY_PATH is played through /proc/self/fd.
"""

from __future__ import annotations

import ctypes
import errno
import os
from types import SimpleNamespace
from typing import Any

from darwin_on_linux import Function, StandIn, _libc

import xloop.host
from xloop.host import freebsd
from xloop.host import linux as linux_host

_EMPTY_PATH = 1 << 40  # not a flag of Linux: it must not get there
_AT_EACCESS, _AT_EMPTY = 0x0100, 0x4000
_SPACES = {1: b"user.", 2: b"system."}


def _errno(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _empty(name: bytes, flags: int) -> None:
    assert (name, flags) == (b"", _AT_EMPTY)


class FreeBSDStandIn(StandIn):
    """A ``library`` for FreeBSDHost."""

    def __getitem__(self, name: str) -> Function:
        return Function(name, getattr(self, name))

    # PosixHost defines two by attribute.
    @property
    def utimensat(self) -> Any:
        return self._utimensat

    @property
    def futimens(self) -> Any:
        return self._futimens

    def __init__(self) -> None:
        super().__init__()
        self._utimensat = Function("utimensat", self._play_utimensat)
        self._futimens = Function("futimens", StandIn.futimens.__get__(self))

    def _play_utimensat(self, fd: int, name: bytes, times: Any, flags: int) -> int:
        _empty(name, flags)
        return _errno(_libc.utimensat(-100, self._path(fd).encode(), self._times(times), 0))

    def flock(self, fd: int, operation: int) -> int:
        return int(_libc.flock(int(fd), operation))

    def fchmodat(self, fd: int, name: bytes, mode: int, flags: int) -> None:
        _empty(name, flags)
        os.chmod(self._path(fd), mode)

    def fchownat(self, fd: int, name: bytes, uid: int, gid: int, flags: int) -> None:
        _empty(name, flags)
        ids = (-1 if number == 0xFFFFFFFF else number for number in (uid, gid))
        os.chown(self._path(fd), *ids)

    def chflagsat(self, fd: int, name: bytes, flags: int, at: int) -> None:
        _empty(name, at)
        self.calls.append(("chflagsat", int(fd), flags))

    def faccessat(self, fd: int, name: bytes, mask: int, flags: int) -> None:
        assert (name, flags) == (b"", _AT_EACCESS | _AT_EMPTY)
        linux_host.access(fd, mask)

    def readlinkat(self, fd: int, name: bytes, buffer: Any, size: int) -> int:
        assert name == b""
        target = linux_host.readlink(fd)[:size]
        ctypes.memmove(buffer, target, len(target))
        return len(target)

    def copy_file_range(
        self, fd_in: int, at_in: Any, fd_out: int, at_out: Any, length: int, flags: int
    ) -> int:
        return linux_host.copy_file_range(
            fd_in, at_in._obj.value, fd_out, at_out._obj.value, length, flags
        )

    def fspacectl(self, fd: int, command: int, span: Any, flags: int, rest: Any) -> None:
        assert (command, flags, rest) == (1, 0, None)
        linux_host.fallocate(fd, 3, *span)

    # extattr(2): a namespace and a name; sizes are told where there is no buffer

    def extattr_get_fd(self, fd: int, space: int, name: bytes, buffer: Any, size: int) -> int:
        value = os.getxattr(int(fd), _SPACES[space] + name)
        if buffer is None:
            return len(value)
        cut = value[:size]  # FreeBSD cuts, and does not complain
        ctypes.memmove(buffer, cut, len(cut))
        return len(cut)

    def extattr_set_fd(self, fd: int, space: int, name: bytes, value: bytes, size: int) -> int:
        os.setxattr(int(fd), _SPACES[space] + name, value[:size])
        return size

    def extattr_delete_fd(self, fd: int, space: int, name: bytes) -> None:
        os.removexattr(int(fd), _SPACES[space] + name)

    def extattr_list_fd(self, fd: int, space: int, buffer: Any, size: int) -> int:
        if space == 2:
            raise OSError(errno.EPERM, "root's")
        names = [os.fsencode(name) for name in os.listxattr(int(fd))]
        own = [n.removeprefix(b"user.") for n in names if n.startswith(b"user.")]
        listed = b"".join(bytes([len(name)]) + name for name in own)
        if buffer is not None:
            ctypes.memmove(buffer, listed, min(size, len(listed)))
        return len(listed)


def play_open(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """os.open() with O_EMPTY_PATH."""
    if flags & _EMPTY_PATH:
        assert path == b""
        assert not flags & os.O_NOFOLLOW
        return os.open(f"/proc/self/fd/{dir_fd}", flags & ~_EMPTY_PATH)
    return os.open(path, flags, mode, dir_fd=dir_fd)


class FreeBSDOnLinux(freebsd.FreeBSDHost):
    directory_flags = (os.O_PATH | os.O_DIRECTORY,)
    O_DIRECT = os.O_DIRECT
    SEEK_HOLE = os.SEEK_HOLE
    SEEK_DATA = os.SEEK_DATA


def make() -> tuple[FreeBSDOnLinux, FreeBSDStandIn]:
    """Return the host, and the library that it calls."""
    library = FreeBSDStandIn()
    played = {name: getattr(os, name) for name in dir(os) if not name.startswith("__")}
    freebsd.os = SimpleNamespace(**(played | {"open": play_open}))  # type: ignore[assignment]
    freebsd._O_PATH = os.O_PATH
    freebsd._O_RESOLVE_BENEATH = 0
    freebsd._O_EMPTY_PATH = _EMPTY_PATH
    return FreeBSDOnLinux(library), library


xloop.host.host = make()[0]
