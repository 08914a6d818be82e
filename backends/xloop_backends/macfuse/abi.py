# SPDX-License-Identifier: MIT
"""What passes between us and the library as bytes: the table, attributes, times.

Owns layouts that mfusepy lacks or has in a form that costs too much: the eleven operations that macOS has
beyond libfuse's, and struct setattr_x (macFUSE's include/fuse.h and fuse_common.h; FUSE-T has the same).
struct stat and its like are those of the system (:mod:`xloop.host.darwin_libc`).  Does not own what
the bytes are for.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import c_char_p, c_int, c_int64, c_uint32, c_ulong, c_void_p
from typing import Any, Final, NamedTuple

from xloop.fuselib import callback_type
from xloop.host.darwin_libc import STAT, STATFS, TIMESPEC, UTIME_NOW, UTIME_OMIT
from xloop.types import NOW, Attr, SetAttr, StatFs, TimeOrNow

__all__ = [
    "EXTENSIONS",
    "FILLER",
    "SETATTR_X",
    "SetAttrX",
    "packed_entry",
    "packed_stat",
    "packed_statfs",
    "packed_statvfs",
    "read_setattr_x",
    "read_time",
    "table_type",
]

_CALL = (c_int, c_char_p)

#: What macOS has after libfuse's own last, in this order, and the types of their arguments.
EXTENSIONS: Final = (
    ("reserved00", None),
    ("reserved01", None),
    ("renamex", (*_CALL, c_char_p, c_uint32)),
    ("statfs_x", (*_CALL, c_void_p)),
    ("setvolname", _CALL),
    ("exchange", (*_CALL, c_char_p, c_ulong)),
    ("getxtimes", (*_CALL, c_void_p, c_void_p)),
    ("setbkuptime", (*_CALL, c_void_p)),
    ("setchgtime", (*_CALL, c_void_p)),
    ("setcrtime", (*_CALL, c_void_p)),
    ("chflags", (*_CALL, c_uint32)),
    ("setattr_x", (*_CALL, c_void_p)),
    ("fsetattr_x", (*_CALL, c_void_p, c_void_p)),
)

#: fuse_fill_dir_t
FILLER: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_int64)

#: struct setattr_x: valid mode uid gid size, then (seconds, nanoseconds) of acctime modtime crtime
#: chgtime bkuptime, then flags.
SETATTR_X: Final = struct.Struct("=IH2xIIq10qI4x")
#: struct statvfs: bsize frsize; blocks bfree bavail files ffree favail, of 32 bits; fsid flag namemax.
STATVFS: Final = struct.Struct("=QQ6IQQQ")

# SETATTR_WANTS_*
_MODE, _UID, _GID, _SIZE, _ACCTIME, _MODTIME = (1 << bit for bit in range(6))
# FUSE_SET_ATTR_*: the library passes on all that the kernel says.
_ACCTIME_NOW, _MODTIME_NOW = 1 << 7, 1 << 8
_CRTIME, _CHGTIME, _BKUPTIME, _FLAGS = (1 << bit for bit in range(28, 32))


def table_type(binding: Any) -> type[ctypes.Structure]:
    """Return ``struct fuse_operations`` as the libraries of macOS have it.

    The part that is libfuse's is taken from *binding*, which is mfusepy on macOS.
    """
    fields: list[Any] = []
    for name, kind, *bits in binding.fuse_operations._fields_:
        if name == "reserved00":
            break
        if hasattr(kind, "_argtypes_"):
            kind = callback_type(kind, {2: FILLER} if name == "readdir" else None)  # noqa: PLW2901
        fields.append((name, kind, *bits))
    for name, types in EXTENSIONS:
        fields.append((name, c_void_p if types is None else ctypes.CFUNCTYPE(*types)))
    return type("fuse_operations", (ctypes.Structure,), {"_fields_": fields})


def packed_stat(attr: Attr) -> bytes:
    """Return *attr* as a struct stat."""
    born = (attr.btime, attr.btime_nsec) if attr.has_btime else (0, 0)
    return STAT.pack(
        # st_dev is the mount's, not ours to tell.  The others have fewer bits than Linux may know.
        *(0, attr.mode & 0xFFFF, min(attr.nlink, 0xFFFF), attr.ino, attr.uid, attr.gid),
        _signed(attr.rdev),
        *(attr.atime, attr.atime_nsec, attr.mtime, attr.mtime_nsec, attr.ctime, attr.ctime_nsec),
        *born,
        *(attr.size, attr.blocks, attr.blksize, attr.flags & 0xFFFFFFFF, 0),
    )


def _signed(rdev: int) -> int:
    return (rdev & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def packed_entry(ino: int, kind: int) -> bytes:
    """Return a struct stat with what a directory tells of an entry: *kind* is its d_type."""
    return STAT.pack(0, kind << 12 & 0xFFFF, 0, ino, *(0,) * 16)


def packed_statfs(found: StatFs) -> bytes:
    """Return *found* as a struct statfs; whose blocks are counted in f_bsize."""
    counts = found.blocks, found.bfree, found.bavail, found.files, found.ffree
    return STATFS.pack(found.frsize, found.bsize, *counts, *(0,) * 6, b"", b"", b"", 0)


def packed_statvfs(found: StatFs) -> bytes:
    """Return *found* as a struct statvfs, in larger units where the counts need more than 32 bits."""
    frsize, shift = found.frsize, 0
    while found.blocks >> shift > 0xFFFFFFFF:
        shift += 1
    blocks = (count >> shift for count in (found.blocks, found.bfree, found.bavail))
    files = (min(count, 0xFFFFFFFF) for count in (found.files, found.ffree, found.ffree))
    return STATVFS.pack(found.bsize, frsize << shift, *blocks, *files, 0, 0, found.namelen)


def _time(seconds: int, nanoseconds: int) -> TimeOrNow | None:
    if nanoseconds == UTIME_NOW:
        return NOW
    if nanoseconds == UTIME_OMIT:
        return None
    return seconds * 1_000_000_000 + nanoseconds


def read_time(address: int, index: int = 0) -> TimeOrNow | None:
    """Return the *index*-th struct timespec at *address*; None for "leave it alone"."""
    at = address + index * TIMESPEC.size
    return _time(*TIMESPEC.unpack(ctypes.string_at(at, TIMESPEC.size)))


class SetAttrX(NamedTuple):
    """What a struct setattr_x asks for."""

    changes: SetAttr
    #: The times of the last change and of the last backup: nobody can set the first, and no
    #: file system that we know of keeps the second.
    refused: bool


def read_setattr_x(address: int) -> SetAttrX:
    valid, mode, uid, gid, size, *times, flags = SETATTR_X.unpack(
        ctypes.string_at(address, SETATTR_X.size)
    )
    acctime, modtime, crtime = (_time(*times[at : at + 2]) for at in (0, 2, 4))
    acctime = NOW if valid & _ACCTIME_NOW else acctime if valid & _ACCTIME else None
    modtime = NOW if valid & _MODTIME_NOW else modtime if valid & _MODTIME else None
    changes = SetAttr(
        mode=mode & 0o7777 if valid & _MODE else None,
        uid=uid if valid & _UID else None,
        gid=gid if valid & _GID else None,
        size=size if valid & _SIZE else None,
        atime=acctime,
        mtime=modtime,
        crtime=crtime if valid & _CRTIME and isinstance(crtime, int) else None,
        flags=flags if valid & _FLAGS else None,
    )
    return SetAttrX(changes, bool(valid & (_CHGTIME | _BKUPTIME)))
