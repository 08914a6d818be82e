# SPDX-License-Identifier: MIT
"""The kernel's FUSE protocol as data: opcodes, flags and structs.

Owns every number and layout that is shared with the kernel (include/uapi/linux/fuse.h, protocol
7.45).  Does not own what is done with them.

Byte order is the machine's own, alignment is written out: "=" structs, padding as "x".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45
#: The oldest minor version that we speak: Linux 4.20, of 2018.
OLDEST_MINOR: Final = 28

#: A request that carries no data is smaller than this; a WRITE is this and its data.
HEADER_ROOM: Final = 4096


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Init(IntFlag):
    """Flags of the INIT exchange, under the kernel's names."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41


# len opcode unique nodeid uid gid pid total_extlen
IN_HEADER = Struct("=IIQQIIIHxx")
# len error unique
OUT_HEADER = Struct("=IiQ")

# ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize
# flags.  Times are signed: the kernel takes them as time64_t.
_ATTR = "QQQqqqIIIIIIIIII"
# nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
_ENTRY = "QQQQII" + _ATTR
# fh open_flags backing_id
_OPEN = "QIi"

ENTRY_OUT = Struct("=" + _ENTRY)
ENTRY_REPLY = Struct("=IiQ" + _ENTRY)
CREATE_REPLY = Struct("=IiQ" + _ENTRY + _OPEN)
ATTR_REPLY = Struct("=IiQQIxxxx" + _ATTR)
OPEN_REPLY = Struct("=IiQ" + _OPEN)
WRITE_REPLY = Struct("=IiQIxxxx")
LSEEK_REPLY = Struct("=IiQQ")
XATTR_SIZE_REPLY = WRITE_REPLY
POLL_REPLY = WRITE_REPLY
# result flags in_iovs out_iovs
IOCTL_REPLY = Struct("=IiQiIII")
# start end type pid
LK_REPLY = Struct("=IiQQQII")
# A message of our own begins like a reply, with its code in place of the error and unique 0:
# ino off len
NOTIFY_INVAL_INODE = Struct("=IiQQqq")
# parent namelen flags, then the name and a NUL
NOTIFY_INVAL_ENTRY = Struct("=IiQQII")
# blocks bfree bavail files ffree bsize namelen frsize padding spare[6]
STATFS_REPLY = Struct("=IiQQQQQQIII28x")
# attr_valid attr_valid_nsec flags spare[2], then struct fuse_statx: mask blksize attributes nlink
# uid gid mode ino size blocks attributes_mask, atime btime ctime mtime as (sec, nsec), rdev
# major minor, dev major minor, spare[14]
STATX_REPLY = Struct("=IiQQII16xIIQIIIHxxQQQQqI4xqI4xqI4xqI4xIIII112x")

STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800

# ino off namelen type; then the name
_DIRENT = "QQII"
DIRENT = Struct("=" + _DIRENT)
DIRENTPLUS = Struct("=" + _ENTRY + _DIRENT)
# With nodeid 0, and so with nothing else of the node: the kernel asks when it wants to know.
DIRENTPLUS_UNTOLD = Struct(f"={ENTRY_OUT.size}x" + _DIRENT)


class ByNameLength(dict[int, Callable[..., bytes]]):
    """The packers of a record and the name behind it: by the name's length, made when first needed.

    The name is filled up with NUL to a multiple of 8 bytes.
    """

    def __init__(self, record: Struct) -> None:
        super().__init__()
        self._layout = record.format

    def __missing__(self, length: int) -> Callable[..., bytes]:
        pack = self[length] = Struct(f"{self._layout}{length + (-length & 7)}s").pack
        return pack


FORGET_IN = Struct("=Q")
BATCH_FORGET_IN = Struct("=Ixxxx")
FORGET_ONE = Struct("=QQ")
# getattr_flags fh
GETATTR_IN = Struct("=IxxxxQ")
# valid fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode uid gid
SETATTR_IN = Struct("=IxxxxQQQqqqIIIIxxxxIIxxxx")
# mode rdev umask
MKNOD_IN = Struct("=IIIxxxx")
# mode umask
MKDIR_IN = Struct("=II")
RENAME_IN = Struct("=Q")
# newdir flags
RENAME2_IN = Struct("=QIxxxx")
LINK_IN = Struct("=Q")
# flags open_flags
OPEN_IN = Struct("=II")
# flags mode umask open_flags
CREATE_IN = Struct("=IIII")
# fh flags release_flags lock_owner
RELEASE_IN = Struct("=QIIQ")
# fh lock_owner
FLUSH_IN = Struct("=QxxxxxxxxQ")
# fh offset size read_flags lock_owner flags
READ_IN = Struct("=QQIIQIxxxx")
# fh offset size write_flags lock_owner flags
WRITE_IN = Struct("=QQIIQIxxxx")
# fh fsync_flags
FSYNC_IN = Struct("=QIxxxx")
# size flags setxattr_flags; without SETXATTR_EXT only the first two
SETXATTR_IN = Struct("=IIIxxxx")
SETXATTR_IN_COMPAT = Struct("=II")
GETXATTR_IN = Struct("=Ixxxx")
# fh owner start end type pid lk_flags
LK_IN = Struct("=QQQQIIIxxxx")
ACCESS_IN = Struct("=Ixxxx")
# major minor max_readahead flags flags2
INIT_IN = Struct("=IIII")
INIT_IN_EXT = Struct("=IIIII")
# major minor max_readahead flags max_background congestion_threshold max_write time_gran
# max_pages map_alignment flags2 max_stack_depth request_timeout
INIT_REPLY = Struct("=IiQIIIIHHIIHHIIH22x")
INTERRUPT_IN = Struct("=Q")
# fh flags cmd arg in_size out_size
IOCTL_IN = Struct("=QIIQII")
# fh kh flags events
POLL_IN = Struct("=QQII")
# fh offset length mode
FALLOCATE_IN = Struct("=QQQIxxxx")
# fh offset whence
LSEEK_IN = Struct("=QqIxxxx")
# fh_in off_in nodeid_out fh_out off_out len flags
COPY_FILE_RANGE_IN = Struct("=QQQQQQQ")
# getattr_flags fh sx_flags sx_mask
STATX_IN = Struct("=IxxxxQII")
# size type; type 32: then nr_groups groups[]; types up to 31 are struct fuse_secctx_header, size
# nr_secctx, then as many struct fuse_secctx: size, name with NUL, value
EXT_HEADER = Struct("=II")
EXT_GROUPS: Final = 32
MAX_NR_SECCTX: Final = 31
SECCTX = Struct("=Ixxxx")

# struct fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

GETATTR_FH: Final = 1 << 0
LK_FLOCK: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
OPEN_KILL_SUIDGID: Final = 1 << 0
FSYNC_FDATASYNC: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
IOCTL_UNRESTRICTED: Final = 1 << 1
NOTIFY_INVAL_INODE_CODE: Final = 2
NOTIFY_INVAL_ENTRY_CODE: Final = 3
EXPIRE_ONLY: Final = 1 << 0

# ioctls of /dev/fuse
DEV_IOC_CLONE: Final = 0x8004E500  # _IOR(229, 0, uint32_t)
DEV_IOC_BACKING_OPEN: Final = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
DEV_IOC_BACKING_CLOSE: Final = 0x4004E502  # _IOW(229, 2, uint32_t)
# fd flags padding
BACKING_MAP = Struct("=iIQ")
