# SPDX-License-Identifier: MIT
"""The system calls that Python lacks or has on Linux only, taken from the C library by name.

Owns their signatures.  Does not share a line with :mod:`xloop.host`: the native twin of a test
must not inherit a mistake of the code under test.  Nothing is looked up before it is called, so
that the module can be imported anywhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Any, Final, NamedTuple

from xloop.types import NOW, TimeOrNow

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EMPTY_PATH: Final = 0x1000
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
CLONE_FS: Final = 0x200
STATX_BTIME: Final = 0x800
#: struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
FLOCK: Final = struct.Struct("hhqqi4x")
F_OFD_GETLK: Final = 36
F_OFD_SETLK: Final = 37
F_OFD_SETLKW: Final = 38

_DIRENT: Final = struct.Struct("=QqHB")
_STATX_MASK_AND_BTIME: Final = struct.Struct("=I76xqI")
_cache: dict[str, Any] = {}


class RawEntry(NamedTuple):
    """One record of getdents64(2)."""

    name: bytes
    ino: int
    type: int
    offset: int


def _function(name: str, restype: Any = ctypes.c_int) -> Any:
    found = _cache.get(name)
    if found is None:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
        found.restype = restype
        _cache[name] = found
    return found


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    _checked(_function("renameat2")(olddir, old, newdir, new, ctypes.c_uint(flags)))


def linkat(olddir: int, old: bytes, newdir: int, new: bytes, flags: int) -> None:
    _checked(_function("linkat")(olddir, old, newdir, new, flags))


def utimensat(
    dirfd: int, path: bytes | None, atime: TimeOrNow | None, mtime: TimeOrNow | None, flags: int
) -> None:
    """None as a time stands for UTIME_OMIT, as a path for *dirfd* itself."""

    def pair(value: TimeOrNow | None) -> tuple[int, int]:
        if value is None:
            return 0, UTIME_OMIT
        return (0, UTIME_NOW) if value is NOW else divmod(value, 1_000_000_000)

    times = (ctypes.c_long * 4)(*pair(atime), *pair(mtime))
    if path is None:
        _checked(_function("futimens")(dirfd, times))
    else:
        _checked(_function("utimensat")(dirfd, path, times, flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    call = _function("fallocate64")
    _checked(call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def getdents(fd: int, size: int) -> list[RawEntry]:
    """Return the records that one call with a buffer of *size* bytes gives; [] at the end."""
    buffer = ctypes.create_string_buffer(size)
    got = _checked(_function("getdents64", ctypes.c_ssize_t)(fd, buffer, ctypes.c_size_t(size)))
    data = buffer.raw[:got]
    entries = []
    position = 0
    while position < got:
        ino, offset, length, kind = _DIRENT.unpack_from(data, position)
        name = data[position + _DIRENT.size : position + length].split(b"\0", 1)[0]
        entries.append(RawEntry(name, ino, kind, offset))
        position += length
    return entries


def statx_btime(dirfd: int, path: bytes, flags: int) -> int | None:
    """Return the birth time in nanoseconds; None where the file system keeps none."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_function("statx")(dirfd, path, flags, STATX_BTIME, buffer))
    mask, seconds, nanoseconds = _STATX_MASK_AND_BTIME.unpack_from(buffer.raw)
    return seconds * 1_000_000_000 + nanoseconds if mask & STATX_BTIME else None


def fchmodat2(dirfd: int, path: bytes, mode: int, flags: int) -> None:
    """The system call itself (452 on every architecture): glibc's wrapper emulates flags."""
    call = _function("syscall", ctypes.c_long)
    _checked(call(ctypes.c_long(452), dirfd, path, ctypes.c_uint(mode), ctypes.c_uint(flags)))


def syncfs(fd: int) -> None:
    _checked(_function("syncfs")(fd))


def unshare(flags: int) -> None:
    _checked(_function("unshare")(flags))


def become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Change who this *thread* is.  The C library's own functions would change all threads."""
    call = _function("syscall", ctypes.c_long)
    setgroups, setresgid, setresuid = _ID_CALLS[platform.machine()]
    array = (ctypes.c_uint * max(len(groups), 1))(*groups)
    _checked(call(ctypes.c_long(setgroups), ctypes.c_long(len(groups)), array))
    # The group first: afterwards we may no longer be allowed to change it.
    _checked(call(ctypes.c_long(setresgid), *(ctypes.c_long(gid),) * 3))
    _checked(call(ctypes.c_long(setresuid), *(ctypes.c_long(uid),) * 3))


#: setgroups, setresgid, setresuid.
_ID_CALLS: Final = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}


def faccessat(dirfd: int, path: bytes, mask: int) -> None:
    """With flags of 0: by the real user and group, as access(2)."""
    _checked(_function("faccessat")(dirfd, path, mask, 0))
