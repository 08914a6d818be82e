# SPDX-License-Identifier: MIT
"""What passes between us and libfuse as bytes: requests, attributes, prototypes of callbacks.

Owns layouts.  Those that change from one libfuse to the next come from mfusepy; what is added here
mfusepy lacks or has in a form that costs too much.  Does not own what the bytes are for.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Final

from xloop.types import NOW, Attr, SetAttr, TimeOrNow

__all__ = [
    "HEADER",
    "Buffer",
    "attr_writer",
    "changes",
]

# linux/fuse.h: struct fuse_in_header.  length, opcode, unique, nodeid, uid, gid, pid
HEADER: Final = struct.Struct("=IIQQIIII")

# Opcodes that are handled differently according to which of them they come from.
FORGET, GETATTR, SETATTR, UNLINK, RENAME = 2, 3, 4, 10, 12
GETLK = 31
RELEASE, FLUSH, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET, RENAME2 = 18, 25, 29, 36, 38, 42, 45

#: GETATTR, SETATTR, READLINK, OPEN, four for xattrs, OPENDIR, ACCESS: requests about a node that
#: the kernel has found before.
OF_A_NODE = frozenset({3, 4, 5, 14, 21, 22, 23, 24, 27, 34})

# valid, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode, uid, gid
SETATTR_IN: Final = struct.Struct("=IxxxxQQQqqqIIIIxxxxIIxxxx")
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME = 1, 2, 4, 8, 16, 32
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_KILL_SUIDGID = 1 << 7, 1 << 8, 1 << 11

RENAME_IN: Final = struct.Struct("=Q")  # newdir; then the two names
RENAME2_IN: Final = struct.Struct("=QII")  # newdir, flags; then the two names
LINK_IN: Final = struct.Struct("=Q")  # oldnodeid; then the name
READ_IN: Final = struct.Struct("=QQI")  # fh, offset, size, ...
IOCTL_IN: Final = struct.Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size

LK_IN: Final = struct.Struct("=QQQQII")  # fh, owner, start, end, type, pid; then flags
#: fuse_out_header: length, error, unique; and the lock
LK_REPLY: Final = struct.Struct("=IiQQQII")
ERROR_REPLY: Final = struct.Struct("=IiQ")

BATCH_FORGET_IN: Final = struct.Struct("=II")  # count, 0; then so many of
FORGET_ONE: Final = struct.Struct("=QQ")  # nodeid, nlookup

#: Bytes of one readdirplus record before its name; records are multiples of 8.
DIRENTPLUS_NAME: Final = 152

# linux/fs.h, fuse_common.h
READDIR_PLUS = 1
FILL_DIR_PLUS = 2


class Buffer(ctypes.Structure):
    """struct fuse_buf, with room for what newer versions append to it."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("mem", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("pos", ctypes.c_int64),
        ("mem_size", ctypes.c_size_t),
        ("reserved", ctypes.c_uint64 * 8),
    ]


_FROM_ATTR = {
    "st_ino": "ino",
    "st_mode": "mode",
    "st_nlink": "nlink",
    "st_uid": "uid",
    "st_gid": "gid",
    "st_rdev": "rdev",
    "st_size": "size",
    "st_blksize": "blksize",
    "st_blocks": "blocks",
}
_FROM_TIMES = {
    "st_atimespec": ("atime", "atime_nsec"),
    "st_mtimespec": ("mtime", "mtime_nsec"),
    "st_ctimespec": ("ctime", "ctime_nsec"),
    "st_birthtimespec": ("btime", "btime_nsec"),
}
_UNSIGNED = {2: "H", 4: "I", 8: "Q"}
_SIGNED = {4: "i", 8: "q"}


def attr_writer(c_stat: type[ctypes.Structure]) -> Callable[[int, Attr], None]:
    """Return a function that writes an Attr to an address as the ``struct stat`` of this system.

    *c_stat* is mfusepy's or refuse's description of it.  Assigning its fields one by one takes ten
    times as long as packing them.
    """
    layout = ["="]
    picked: list[int] = []
    at = 0
    for name, *_ in c_stat._fields_:
        field = getattr(c_stat, name)
        layout.append(f"{field.offset - at}x")
        at = field.offset + field.size
        if name in _FROM_ATTR:
            layout.append(_UNSIGNED[field.size])
            picked.append(Attr._fields.index(_FROM_ATTR[name]))
        elif name in _FROM_TIMES:
            layout.append(_SIGNED[field.size // 2] * 2)
            picked += [Attr._fields.index(part) for part in _FROM_TIMES[name]]
        else:
            layout.append(f"{field.size}x")
    layout.append(f"{ctypes.sizeof(c_stat) - at}x")
    pack = struct.Struct("".join(layout)).pack
    pick = itemgetter(*picked)
    size = ctypes.sizeof(c_stat)
    move = ctypes.memmove

    def write(address: int, attr: Attr) -> None:
        move(address, pack(*pick(attr)), size)

    return write


def changes(body: bytes) -> SetAttr:
    """Return what a SETATTR request asks for."""
    valid, _, size, _, atime, mtime, _, a_nsec, m_nsec, _, mode, uid, gid = SETATTR_IN.unpack(body)

    def time(now: int, given: int, seconds: int, nanoseconds: int) -> TimeOrNow | None:
        if valid & now:
            return NOW
        return seconds * 1_000_000_000 + nanoseconds if valid & given else None

    return SetAttr(
        mode=mode & 0o7777 if valid & FATTR_MODE else None,
        uid=uid if valid & FATTR_UID else None,
        gid=gid if valid & FATTR_GID else None,
        size=size if valid & FATTR_SIZE else None,
        atime=time(FATTR_ATIME_NOW, FATTR_ATIME, atime, a_nsec),
        mtime=time(FATTR_MTIME_NOW, FATTR_MTIME, mtime, m_nsec),
        kill_suidgid=bool(valid & FATTR_KILL_SUIDGID),
    )
