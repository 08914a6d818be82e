# SPDX-License-Identifier: MIT
"""WinFsp's FUSE interface as bytes: structures, the table of operations, capabilities, error numbers.

Owns layouts and numbers, for 64 and 32 bits, and nothing that needs Windows: a test holds them against
literal tables on any system.  Does not own what they are for.

refuse describes the interface of libfuse 2.8.  WinFsp's is another one: readlink and getdir have changed
places, the table goes on behind ioctl, and a stat may carry flags.  From ``inc/fuse/fuse.h`` and
``inc/fuse/winfsp_fuse.h`` of WinFsp.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Final, NamedTuple

from xloop.types import Attr, StatFs

__all__ = [
    "NO_HANDLE",
    "READ_ONLY",
    "Connection",
    "Context",
    "FileInfo",
    "Layouts",
    "Operations",
    "errno_for_winfsp",
    "filler",
    "pack_stat",
    "pack_statvfs",
    "times",
]

_IS_64: Final = ctypes.sizeof(c_void_p) == 8

# -- capabilities: fuse_conn_info.capable and .want -------------------------------------

READDIR_PLUS: Final = 1 << 21
READ_ONLY: Final = 1 << 22
STAT_EX: Final = 1 << 23
CASE_INSENSITIVE: Final = 1 << 29

#: fuse_file_info.fh where a file was opened without asking us.
NO_HANDLE: Final = 2**64 - 1

# -- structures -------------------------------------------------------------------------


class FileInfo(ctypes.Structure):
    """struct fuse_file_info."""

    _fields_ = [
        ("flags", c_int),
        ("fh_old", ctypes.c_uint),
        ("writepage", c_int),
        ("bits", c_uint32),  # direct_io, keep_cache, flush, nonseekable
        ("fh", c_uint64),
        ("lock_owner", c_uint64),
    ]


DIRECT_IO: Final = 1


class Connection(ctypes.Structure):
    """struct fuse_conn_info."""

    _fields_ = [
        ("proto_major", ctypes.c_uint),
        ("proto_minor", ctypes.c_uint),
        ("async_read", ctypes.c_uint),
        ("max_write", ctypes.c_uint),
        ("max_readahead", ctypes.c_uint),
        ("capable", ctypes.c_uint),
        ("want", ctypes.c_uint),
        ("reserved", ctypes.c_uint * 25),
    ]


class Context(ctypes.Structure):
    """struct fuse_context."""

    _fields_ = [
        ("fuse", c_void_p),
        ("uid", c_uint32),
        ("gid", c_uint32),
        ("pid", ctypes.c_int32),
        ("private_data", c_void_p),
        ("umask", c_uint32),
    ]


def filler() -> type[ctypes._CFunctionType]:
    """Return the type of fuse_fill_dir_t: buffer, name, stat, offset."""
    return CFUNCTYPE(c_int, c_void_p, c_char_p, c_char_p, c_int64)


# An address is an int; a pointer object costs half a microsecond to make and to look through.
_PATH = CFUNCTYPE(c_int, c_char_p)
_PATHS = CFUNCTYPE(c_int, c_char_p, c_char_p)
_PATH_POINTER = CFUNCTYPE(c_int, c_char_p, c_void_p)
_PATH_MODE = CFUNCTYPE(c_int, c_char_p, c_uint32)
_BUFFER = CFUNCTYPE(c_int, c_char_p, c_void_p, c_size_t)
_TRANSFER = CFUNCTYPE(c_int, c_char_p, c_void_p, c_size_t, c_int64, c_void_p)
_SYNC = CFUNCTYPE(c_int, c_char_p, c_int, c_void_p)


class Operations(ctypes.Structure):
    """struct fuse_operations, as WinFsp has it.  What is a plain pointer is never set."""

    _fields_ = [
        ("getattr", _PATH_POINTER),
        ("getdir", c_void_p),
        ("readlink", _BUFFER),
        ("mknod", c_void_p),
        ("mkdir", _PATH_MODE),
        ("unlink", _PATH),
        ("rmdir", _PATH),
        ("symlink", _PATHS),
        ("rename", _PATHS),
        ("link", c_void_p),
        ("chmod", c_void_p),
        ("chown", c_void_p),
        ("truncate", CFUNCTYPE(c_int, c_char_p, c_int64)),
        ("utime", c_void_p),
        ("open", _PATH_POINTER),
        ("read", _TRANSFER),
        ("write", _TRANSFER),
        ("statfs", _PATH_POINTER),
        ("flush", _PATH_POINTER),
        ("release", _PATH_POINTER),
        ("fsync", _SYNC),
        ("setxattr", c_void_p),
        ("getxattr", c_void_p),
        ("listxattr", c_void_p),
        ("removexattr", c_void_p),
        ("opendir", _PATH_POINTER),
        ("readdir", CFUNCTYPE(c_int, c_char_p, c_void_p, filler(), c_int64, c_void_p)),
        ("releasedir", _PATH_POINTER),
        ("fsyncdir", _SYNC),
        ("init", CFUNCTYPE(c_void_p, c_void_p)),
        ("destroy", CFUNCTYPE(None, c_void_p)),
        ("access", c_void_p),
        ("create", CFUNCTYPE(c_int, c_char_p, c_uint32, c_void_p)),
        ("ftruncate", CFUNCTYPE(c_int, c_char_p, c_int64, c_void_p)),
        ("fgetattr", CFUNCTYPE(c_int, c_char_p, c_void_p, c_void_p)),
        ("lock", c_void_p),
        ("utimens", _PATH_POINTER),
        ("bmap", c_void_p),
        ("flags", ctypes.c_uint),
        ("ioctl", c_void_p),
        ("poll", c_void_p),
        ("write_buf", c_void_p),
        ("read_buf", c_void_p),
        ("flock", c_void_p),
        ("fallocate", c_void_p),
        ("getpath", CFUNCTYPE(c_int, c_char_p, c_void_p, c_size_t, c_void_p)),
        ("reserved01", c_void_p),
        ("reserved02", c_void_p),
        ("statfs_x", c_void_p),
        ("setvolname", c_void_p),
        ("exchange", c_void_p),
        ("getxtimes", c_void_p),
        ("setbkuptime", c_void_p),
        ("setchgtime", c_void_p),
        ("setcrtime", _PATH_POINTER),
        ("chflags", _PATH_MODE),
        ("setattr_x", c_void_p),
        ("fsetattr_x", c_void_p),
    ]


class Layouts(NamedTuple):
    """What is packed; time_t, long and counts of blocks are as wide as a pointer."""

    #: struct fuse_stat: dev ino mode nlink uid gid rdev size, three times, blksize blocks, birth time.
    stat: struct.Struct
    #: struct fuse_stat_ex: the same, flags, and room.
    stat_ex: struct.Struct
    statvfs: struct.Struct
    timespec: struct.Struct

    @classmethod
    def of(cls, *, wide: bool) -> Layouts:
        """Return those of 64 bits, or of 32."""
        long = "q" if wide else "i"
        stat = f"<IxxxxQIHxxIIIxxxxq{long * 6}ixxxxq{long * 2}"
        return cls(
            struct.Struct(stat),
            struct.Struct(f"{stat}I12x16x"),
            struct.Struct("<" + ("Q" if wide else "I") * 11),
            struct.Struct("<" + long * 2),
        )


_STAT, _STAT_EX, _STATVFS, _TIMESPEC = Layouts.of(wide=_IS_64)

#: Every object has all permission bits: WinFsp would make an access control list of them and enforce it,
#: while the list of the source decides.  Read-only is told by a flag.
_PERMISSIONS: Final = 0o777


def pack_stat(attr: Attr, *, flags: bool) -> bytes:
    """Return *attr* as struct fuse_stat, or with *flags* as struct fuse_stat_ex."""
    values = (
        attr.dev & 0xFFFFFFFF,
        attr.ino,
        attr.mode & 0o170000 | _PERMISSIONS,
        min(attr.nlink, 0xFFFF),
        0,
        0,
        0,
        attr.size,
        attr.atime,
        attr.atime_nsec,
        attr.mtime,
        attr.mtime_nsec,
        attr.ctime,
        attr.ctime_nsec,
        attr.blksize,
        attr.blocks,
        attr.btime if attr.has_btime else attr.ctime,
        attr.btime_nsec if attr.has_btime else attr.ctime_nsec,
    )
    return _STAT_EX.pack(*values, attr.flags) if flags else _STAT.pack(*values)


#: WinFsp takes f_frsize for the size of a sector, which must be from 512 to this.
_LARGEST_SECTOR: Final = 4096


def pack_statvfs(found: StatFs) -> bytes:
    """Return *found* as struct fuse_statvfs, in units that WinFsp can tell.

    It shows f_bfree as what is free, so what this user may use stands there.
    """
    size = found.frsize
    unit = size
    while unit > _LARGEST_SECTOR:
        unit //= 2
    factor = size // unit if size % unit == 0 else 1
    total, free = found.blocks * factor, found.bavail * factor
    while not _IS_64 and total >= 2**32:
        total, free, unit = total // 2, free // 2, unit * 2
    return _STATVFS.pack(
        max(found.bsize, unit),
        unit,
        total,
        free,
        free,
        found.files,
        found.ffree,
        found.ffree,
        0,
        0,
        min(found.namelen, 255),
    )


def times(address: int, count: int) -> list[int]:
    """Return *count* struct fuse_timespec at *address*, in nanoseconds since the epoch."""
    data = ctypes.string_at(address, count * _TIMESPEC.size)
    return [seconds * 1_000_000_000 + rest for seconds, rest in _TIMESPEC.iter_unpack(data)]


# -- error numbers ----------------------------------------------------------------------

#: The numbers that fsp_fuse_ntstatus_from_errno() knows: those of Microsoft's C library, as far as they
#: are in its table.  Every other one becomes STATUS_ACCESS_DENIED, which is never true.
_KNOWN: Final = frozenset(
    {*range(10), *range(12, 15), *range(16, 25), *range(27, 35), 36, 38, 39, 40, 41, 42}
    | {100, 103, 105, 106, 107, 108, 110, 113, 114, *range(116, 122), 126, 128, 138}
)

_EIO, _EBUSY, _ENOSPC, _ENOENT, _ENOSYS, _ELOOP, _ETIMEDOUT = 5, 16, 28, 2, 40, 114, 138

#: Python's numbers on Windows that are others there, or mean nothing to WinFsp.  Those from 10000 on are
#: Winsock's, which errno has for what both know.
_AS: Final = {
    11: _EBUSY,  # EAGAIN
    129: _ENOSYS,  # ENOTSUP
    130: _ENOSYS,  # EOPNOTSUPP of the C library
    132: 27,  # EOVERFLOW: EFBIG
    139: _EBUSY,  # ETXTBSY
    10013: 13,  # WSAEACCES
    10035: _EBUSY,  # EWOULDBLOCK
    10045: _ENOSYS,  # EOPNOTSUPP
    10060: _ETIMEDOUT,
    10062: _ELOOP,
    10063: 38,  # WSAENAMETOOLONG
    10066: 41,  # WSAENOTEMPTY
    10069: _ENOSPC,  # EDQUOT
    10070: _ENOENT,  # ESTALE: it is not there any more
}


def errno_for_winfsp(number: int) -> int:
    """Return what WinFsp understands best for an error number of Python's."""
    number = _AS.get(number, number)
    return number if number in _KNOWN else _EIO


def failing(
    call: Callable[..., int], errno_of: Callable[[BaseException], int]
) -> Callable[..., int]:
    """Return *call* such that no exception leaves it: it would end up nowhere."""

    def guarded(*args: object) -> int:
        try:
            return call(*args)
        except BaseException as exc:  # noqa: BLE001  # errno_of logs what is a bug
            return -errno_for_winfsp(errno_of(exc))

    return guarded


assert errno.ENOENT == _ENOENT  # the low numbers are the same everywhere
