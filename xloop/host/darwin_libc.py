# SPDX-License-Identifier: MIT
"""The functions and structures of macOS that Python does not offer.

Owns the prototypes, in one place, and the layouts (xnu: sys/stat.h, sys/mount.h, sys/attr.h,
sys/fcntl.h, sys/xattr.h, sys/stdio.h, read from xnu-11417).  Does not own what is done with them
(:mod:`xloop.host.darwin`).  Can be imported and checked on any system: only :class:`DarwinLibc`
needs a library that has the functions.

No variadic function is among them: on Apple silicon their arguments are passed in another way than
ctypes passes what it was not told about.  fcntl(2) goes through the module of that name.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint32, c_void_p
from typing import Any, Final, NamedTuple

__all__ = [
    "ATTRLIST",
    "FLOCK",
    "FPUNCHHOLE",
    "FSTORE",
    "STAT",
    "STATFS",
    "TIMESPEC",
    "DarwinLibc",
    "Mounted",
    "Stat",
    "pack_attrlist",
    "parse_mounts",
]

AT_SYMLINK_NOFOLLOW: Final = 0x20
UTIME_NOW: Final = -1
UTIME_OMIT: Final = -2

O_EVTONLY: Final = 0x00008000
O_SYMLINK: Final = 0x00200000
O_NOFOLLOW_ANY: Final = 0x20000000
O_SEARCH: Final = 0x40000000 | 0x00100000  # O_EXEC | O_DIRECTORY

XATTR_NOFOLLOW: Final = 0x0001
XATTR_CREATE: Final = 0x0002
XATTR_REPLACE: Final = 0x0004

RENAME_SWAP: Final = 0x0002
RENAME_EXCL: Final = 0x0004

FSOPT_NOFOLLOW: Final = 0x0001
ATTR_BIT_MAP_COUNT: Final = 5
ATTR_CMN_CRTIME: Final = 0x00000200
ATTR_CMN_FLAGS: Final = 0x00040000

F_PREALLOCATE: Final = 42
F_GETPATH: Final = 50
F_FULLFSYNC: Final = 51
F_OFD_SETLK: Final = 90
F_OFD_SETLKW: Final = 91
F_OFD_GETLK: Final = 92
F_PUNCHHOLE: Final = 99
F_ALLOCATEALL: Final = 0x0004
F_PEOFPOSMODE: Final = 3

MAXPATHLEN: Final = 1024
MNT_FORCE: Final = 0x00080000
MNT_NOWAIT: Final = 2

#: <sys/kauth.h>: "back to the identity of the process".
KAUTH_NONE: Final = 0xFFFFFFFF - 100

#: struct stat with 64-bit inode numbers: dev mode nlink ino uid gid rdev, atime mtime ctime birthtime
#: as (seconds, nanoseconds), size blocks blksize flags gen, and spares.
STAT: Final = struct.Struct("=iHHQIIi4x8qqqiII20x")
#: struct statfs: bsize iosize blocks bfree bavail files ffree fsid[2] owner type flags fssubtype
#: fstypename mntonname mntfromname flags_ext, and spares.
STATFS: Final = struct.Struct("=IiQQQQQ2iIIII16s1024s1024sI28x")
TIMESPEC: Final = struct.Struct("=qq")
#: fst_flags fst_posmode fst_offset fst_length fst_bytesalloc
FSTORE: Final = struct.Struct("=Iiqqq")
#: fp_flags reserved fp_offset fp_length
FPUNCHHOLE: Final = struct.Struct("=IIqq")
#: l_start l_len l_pid l_type l_whence
FLOCK: Final = struct.Struct("=qqihh")
#: bitmapcount reserved, then the groups: common volume dir file fork
ATTRLIST: Final = struct.Struct("=HH5I")


class Stat(NamedTuple):
    """struct stat without its spares."""

    dev: int
    mode: int
    nlink: int
    ino: int
    uid: int
    gid: int
    rdev: int
    atime: int
    atime_nsec: int
    mtime: int
    mtime_nsec: int
    ctime: int
    ctime_nsec: int
    btime: int
    btime_nsec: int
    size: int
    blocks: int
    blksize: int
    flags: int
    gen: int


class Mounted(NamedTuple):
    """What struct statfs tells of a mount."""

    fsid: tuple[int, int]
    fstype: str
    mountpoint: str
    source: str


def pack_attrlist(common: int) -> bytes:
    """Return a struct attrlist that asks for the *common* attributes."""
    return ATTRLIST.pack(ATTR_BIT_MAP_COUNT, 0, common, 0, 0, 0, 0)


def parse_mounts(buffer: bytes) -> list[Mounted]:
    """Return the mounts in what getfsstat(2) has filled."""
    found = []
    for fields in STATFS.iter_unpack(buffer):
        names = (
            field.partition(b"\0")[0].decode(errors="surrogateescape") for field in fields[13:16]
        )
        fstype, mountpoint, source = names
        found.append(Mounted((fields[7], fields[8]), fstype, mountpoint, source))
    return found


class DarwinLibc:
    """The C library of macOS.  *library*: how ctypes has loaded it."""

    def __init__(self, library: Any = None) -> None:
        self.library = ctypes.CDLL(None, use_errno=True) if library is None else library
        define = self._define
        xattr = (c_char_p, c_void_p, c_size_t, c_uint32, c_int)
        self.fgetxattr = define("fgetxattr", c_ssize_t, c_int, *xattr)
        self.fsetxattr = define("fsetxattr", c_int, c_int, *xattr)
        self.flistxattr = define("flistxattr", c_ssize_t, c_int, c_void_p, c_size_t, c_int)
        self.fremovexattr = define("fremovexattr", c_int, c_int, c_char_p, c_int)
        self.renameatx_np = define(
            "renameatx_np", c_int, c_int, c_char_p, c_int, c_char_p, c_uint32
        )
        attributes = (c_char_p, c_void_p, c_size_t, c_uint32)
        self.fsetattrlist = define("fsetattrlist", c_int, c_int, *attributes)
        self.setattrlistat = define("setattrlistat", c_int, c_int, c_char_p, *attributes)
        self.fchflags = define("fchflags", c_int, c_int, c_uint32)
        self.flock = define("flock", c_int, c_int, c_int)
        self.utimensat = define("utimensat", c_int, c_int, c_char_p, c_void_p, c_int)
        self.futimens = define("futimens", c_int, c_int, c_void_p)
        # On Intel the plain names are those of the 32-bit inode numbers; Apple silicon has only plain ones.
        self.fstat = define("fstat$INODE64 fstat", c_int, c_int, c_void_p)
        self.fstatat = define("fstatat$INODE64 fstatat", c_int, c_int, c_char_p, c_void_p, c_int)
        self.fstatfs = define("fstatfs$INODE64 fstatfs", c_int, c_int, c_void_p)
        self.getfsstat = define("getfsstat$INODE64 getfsstat", c_int, c_void_p, c_int, c_int)
        self.unmount = define("unmount", c_int, c_char_p, c_int)
        #: macOS 13 or later; None before.
        self.freadlink = self._optional("freadlink", c_ssize_t, c_int, c_void_p, c_size_t)
        #: Gives this thread an identity; None where the library does not have it.
        self.pthread_setugid_np = self._optional("pthread_setugid_np", c_int, c_uint32, c_uint32)

    def _define(self, names: str, result: Any, *arguments: Any) -> Any:
        """Return the first of several *names* that the library has."""
        for name in names.split():
            function = self._optional(name, result, *arguments)
            if function is not None:
                return function
        raise ImportError(f"the C library has no function {names.split()[-1]}")

    def _optional(self, name: str, result: Any, *arguments: Any) -> Any:
        try:
            # Not library.name: a function object of our own, whose types nobody else sets.
            function = self.library[name]
        except (AttributeError, KeyError):
            return None
        function.restype = result
        function.argtypes = list(arguments)
        return function


assert ctypes.sizeof(c_int64) == TIMESPEC.size // 2
