# SPDX-License-Identifier: MIT
"""The functions of :class:`xloop.host.base.Host` on Linux.

Owns the system calls that are made on a source.  Does not own what they are made for.

Objects are pinned with O_PATH descriptors.  Most system calls refuse those, so what takes a
path is given ``/proc/self/fd/N``: a magic link that leads to the object itself, also when it has
no name left, and also when it is a symbolic link (it is not followed any further).  Within one
process the kernel allows this whatever user the thread acts as (proc_fd_permission and
ptrace_may_access both begin with same_thread_group()).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import resource
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

from xloop.host import linux_identity
from xloop.host.base import Descriptor, Watchable
from xloop.types import NOW, Attr, DirEntry, LockRange, StatFs, TimeOrNow

assert not TYPE_CHECKING or sys.platform == "linux"

#: Flags of open(2) that not every platform has; there they are 0.
O_ACCMODE = os.O_ACCMODE
O_DIRECT = os.O_DIRECT
O_NOATIME = os.O_NOATIME
O_SYNC = os.O_SYNC
O_DSYNC = os.O_DSYNC
SEEK_DATA = os.SEEK_DATA
SEEK_HOLE = os.SEEK_HOLE
F_WRLCK = fcntl.F_WRLCK
F_UNLCK = fcntl.F_UNLCK
OWNS_LOCKS = True
REUSES_INO = True

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall

_EMPTY = 0x1000  # AT_EMPTY_PATH
_NOFOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW
_NO_AUTOMOUNT = 0x800
_EACCESS = 0x200

# What reopening through /proc/self/fd must not see: the names are resolved already, and
# O_NOFOLLOW would refuse the magic link itself.  0x20 is FMODE_EXEC, which leaks into the
# flags of a FUSE open of a program that is being executed.
_REOPEN_STRIPS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | 0x20


#: Makes a named tuple of its values, in half the time of calling its class.
_tuple = tuple.__new__


#: What errors are called.  Looked up once: looking for a name that is not there is as frequent as finding one.
_MESSAGES: dict[int, str] = {}


def _fail() -> OSError:
    number = ctypes.get_errno()
    message = _MESSAGES.get(number)
    if message is None:
        message = _MESSAGES[number] = os.strerror(number)
    return OSError(number, message)


def _magic(ref: int) -> str:
    return f"/proc/self/fd/{ref:d}"


class _Process:
    """What belongs to this process and to no fork of it."""

    #: /proc/self/fd, in which descriptors are opened again: a third faster than by the whole path.
    #: Opened with the first root: a program that only imports this has nothing open.
    descriptors = -1

    def open_descriptors(self) -> None:
        self.descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


_process = _Process()


def _after_fork() -> None:
    if _process.descriptors >= 0:
        os.close(_process.descriptors)  # the parent's: "self" is somebody else now
        _process.open_descriptors()


os.register_at_fork(after_in_child=_after_fork)


# -- references -------------------------------------------------------------------------


_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE, _AT_RECURSIVE, _MS_PRIVATE = 1, 0x8000, 1 << 18


def open_root(path: str, *, private: bool = False) -> Descriptor:
    ref = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    if _process.descriptors < 0:
        _process.open_descriptors()
    if not private:
        return ref
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | _EMPTY | os.O_CLOEXEC
    clone = _syscall(_SYS_OPEN_TREE, ref, b"", flags)
    if clone < 0:
        return ref  # no right to (EPERM), or a kernel before 5.2 (ENOSYS)
    copy = Descriptor(clone)
    # Or what is mounted in the original later would be mounted in the copy too.
    attr = struct.pack("=4Q", 0, 0, _MS_PRIVATE, 0)
    if _syscall(_SYS_MOUNT_SETATTR, copy, b"", _EMPTY | _AT_RECURSIVE, attr, len(attr)):
        return ref
    return copy


_REF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_ref(dir_ref: int, name: bytes) -> Descriptor:
    return Descriptor(os.open(name, _REF, dir_fd=dir_ref))


def reopen_ref(ref: int) -> Descriptor:
    # Without OPEN_TREE_CLONE: as O_PATH does it, and no walk through /proc.
    fd = _syscall(_SYS_OPEN_TREE, ref, b"", _EMPTY | os.O_CLOEXEC)
    if fd >= 0:
        return Descriptor(fd)
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _fail()
    # A kernel before 5.2, or a container that is not let use it.
    return Descriptor(os.open(_magic(ref), os.O_PATH | os.O_CLOEXEC))


def is_case_sensitive(ref: int) -> bool:
    return True  # but for a directory with chattr +F, which differs from the rest of its source


def spelling(dir_ref: int, name: bytes) -> bytes:
    return name


_OVERLAYFS, _FUSE, _ECRYPTFS = 0x794C7630, 0x65735546, 0xF15F  # linux/magic.h


def stack_depth(ref: int) -> int:
    # A FUSE mount counts as one: whether it passes through to something else cannot be seen.
    return 1 if _magic_number(ref) in (_OVERLAYFS, _FUSE, _ECRYPTFS) else 0


def _magic_number(ref: int) -> int:
    """Return the f_type of the file system that *ref* is on."""
    buffer = bytearray(256)
    if _libc.fstatfs(ref, ctypes.byref(ctypes.c_char.from_buffer(buffer))):
        raise _fail()
    (kind,) = struct.unpack_from("@l", buffer)
    return int(kind) & 0xFFFFFFFF  # signed, on 32-bit systems


# struct statx up to stx_dev_minor: mask blksize nlink uid gid mode ino size blocks, then atime btime
# ctime mtime as (seconds, nanoseconds), then rdev and dev, each as two numbers of 32 bits, the major one
# first.  linux/stat.h
_STATX = struct.Struct("=II8xIIIHxxQQQ8xqI4xqI4xqI4xqI4xQQ")
_STATX_BASIC_BTIME = 0xFFF
_STATX_BTIME = 0x800

# Without argtypes: what is passed needs no conversion then, which takes longer than the system call.
_statx = _libc.statx


class _ThreadState(threading.local):
    """What a thread needs again and again."""

    def __init__(self) -> None:
        self.statx_buffer = bytearray(256)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.statx_buffer))
        self.statx_address = ctypes.c_void_p(address)


_thread = _ThreadState()


def _device(pair: int) -> int:
    """Return the device number of a major and a minor one, as struct statx has them side by side."""
    return os.makedev(*struct.unpack("=II", struct.pack("=Q", pair)))


#: The device numbers that were met, by the same pair: a source has one or a few.
_devices: dict[int, int] = {0: 0}


def statx(ref: int, name: bytes = b"") -> Attr:
    # os.stat() is 0.3 us faster but knows neither the birth time, which tells an object from
    # its successor under the same inode number, nor seconds and nanoseconds apart.
    mine = _thread
    flags = _NOFOLLOW | _NO_AUTOMOUNT if name else _EMPTY
    if _statx(ref, name, flags, _STATX_BASIC_BTIME, mine.statx_address):
        raise _fail()
    (
        mask,
        blksize,
        nlink,
        uid,
        gid,
        mode,
        ino,
        size,
        blocks,
        atime,
        atime_nsec,
        btime,
        btime_nsec,
        ctime,
        ctime_nsec,
        mtime,
        mtime_nsec,
        rdev,
        dev,
    ) = _STATX.unpack_from(mine.statx_buffer)
    device = _devices.get(dev)
    if device is None:
        device = _devices[dev] = _device(dev)
    values = (
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atime_nsec,
        mtime_nsec,
        ctime_nsec,
        mode,
        nlink,
        uid,
        gid,
        _device(rdev) if rdev else 0,
        blksize,
        device,
        btime,
        btime_nsec,
        mask & _STATX_BTIME != 0,
        0,  # flags: FS_IOC_GETFLAGS tells those of Linux
    )
    return _tuple(Attr, values)


_EXT4, _XFS, _BTRFS, _TMPFS = 0xEF53, 0x58465342, 0x9123683E, 0x01021994
_RAMFS, _F2FS, _BCACHEFS = 0x858458F6, 0xF2F52010, 0xCA451A4E
#: What changes there this kernel has done, and tells of.
_TELLING = frozenset({_EXT4, _XFS, _BTRFS, _TMPFS, _RAMFS, _F2FS, _BCACHEFS, _OVERLAYFS})
#: Positions are hashes or numbers that stay an entry's; on tmpfs since Linux 6.6.
_LASTING_POSITIONS = frozenset({_EXT4, _XFS, _BTRFS, _F2FS, _BCACHEFS})


def watchable(ref: int) -> Watchable:
    kind = _magic_number(ref)
    if kind not in _TELLING:
        why = f"its file system (type {kind:#x}) may change without this kernel being told"
        return Watchable(why)
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return Watchable(
        lasting_positions=kind in _LASTING_POSITIONS or (kind == _TMPFS and release >= (6, 6)),
    )


# -- open files -------------------------------------------------------------------------


def reopen(ref: int, flags: int) -> Descriptor:
    flags = flags & ~_REOPEN_STRIPS | os.O_CLOEXEC
    return Descriptor(os.open(f"{ref:d}", flags, dir_fd=_process.descriptors))


def open_dir(ref: int, flags: int = 0) -> Descriptor:
    # Not "." in it: that would ask for the right to search where only that to read is needed.
    flags |= os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return Descriptor(os.open(f"{ref:d}", flags, dir_fd=_process.descriptors))


def create(dir_ref: int, name: bytes, flags: int, mode: int) -> Descriptor:
    flags = flags & ~0x20 | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return Descriptor(os.open(name, flags, mode, dir_fd=dir_ref))


def tmpfile(dir_ref: int, flags: int, mode: int) -> Descriptor:
    flags = flags & ~(_REOPEN_STRIPS & ~os.O_EXCL) | os.O_TMPFILE | os.O_CLOEXEC
    return Descriptor(os.open(b".", flags, mode, dir_fd=dir_ref))


def clear_status_flags(fd: int, flags: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~flags)


pread = os.pread
pwrite = os.pwrite
_RWF_NOAPPEND = 0x20  # linux/fs.h, since Linux 6.9


def pwrite_in_place(fd: int, data: bytes | memoryview, offset: int) -> int:
    return os.pwritev(fd, [data], offset, _RWF_NOAPPEND)


fsync = os.fsync
fdatasync = os.fdatasync


def syncfs(fd: int) -> None:
    if _libc.syncfs(fd):
        raise _fail()


#: linux/magic.h: file systems whose close(2) reports nothing that is not known already: ext2 to
#: ext4, xfs, btrfs, tmpfs, ramfs, f2fs.  Those over a network do, and what is stacked on one.
_SILENT_AT_CLOSE = frozenset({_EXT4, _XFS, _BTRFS, _TMPFS, _RAMFS, _F2FS})


def notes_mapped_writes(ref: int) -> bool:
    """Tell whether writing to a mapping of a file there moves its times: not on tmpfs and ramfs."""
    return _magic_number(ref) not in (_TMPFS, _RAMFS)


def close_reports(ref: int) -> bool:
    return _magic_number(ref) not in _SILENT_AT_CLOSE


def report_close(fd: int) -> None:
    os.close(os.dup(fd))


_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _fallocate(fd, mode, offset, length):
        raise _fail()


seek_data_hole = os.lseek


def copy_file_range(
    fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int, flags: int
) -> int:
    if flags:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return os.copy_file_range(fd_in, fd_out, length, offset_in, offset_out)


def ioctl(fd: int, command: int, data: bytes, out_size: int) -> bytes:
    buffer = bytearray(max(len(data), out_size))
    buffer[: len(data)] = data
    fcntl.ioctl(fd, command, buffer, True)
    return bytes(buffer[:out_size])


_DIRENT = struct.Struct("=QqHB")  # struct linux_dirent64: d_ino d_off d_reclen d_type d_name
try:
    _getdents64 = _libc.getdents64
except AttributeError:
    raise ImportError("xloop needs a C library with getdents64(3): glibc 2.30 or musl") from None
_getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_getdents64.restype = ctypes.c_ssize_t


def read_dir(fd: int, buffer: bytearray) -> list[DirEntry]:
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    size = _getdents64(fd, address, len(buffer))
    if size < 0:
        raise _fail()
    records = bytes(memoryview(buffer)[:size])
    entries: list[DirEntry] = []
    at = 0
    # Directories have many entries: each step in here is done for every one of them.
    append, make, record = entries.append, _tuple, DirEntry
    unpack, end = _DIRENT.unpack_from, records.index
    while at < size:
        ino, offset, length, kind = unpack(records, at)
        name = at + 19
        # The kernel ends the name with NUL but leaves the padding behind it as it was.
        append(make(record, (records[name : end(b"\0", name)], ino, kind, offset)))
        at += length
    return entries


_A_DAY = 24 * 3600 * 1_000_000_000


def listing_moves_atime(fd: int, attr: Attr) -> bool:
    # As the kernel does: relatime_need_update() and touch_atime() in fs/inode.c.
    flags = os.fstatvfs(fd).f_flag
    if flags & (os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RDONLY):
        return False
    if not flags & os.ST_RELATIME:
        return True
    atime = attr.atime_ns
    return atime <= attr.mtime_ns or atime <= attr.ctime_ns or time.time_ns() - atime >= _A_DAY


def seek_dir(fd: int, offset: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)


# -- attributes -------------------------------------------------------------------------


_SYS_FCHMODAT2 = 452


def chmod(ref: int, mode: int) -> None:
    if _syscall(_SYS_FCHMODAT2, ref, b"", mode, _EMPTY) == 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _fail()
    # A kernel before 6.6, or a container that does not know the call; EPERM may be meant, too.
    os.chmod(_magic(ref), mode)


_fchownat = _libc.fchownat
_fchownat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_int]


def chown(ref: int, uid: int, gid: int) -> None:
    if _fchownat(ref, b"", uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, _EMPTY):
        raise _fail()


def chflags(ref: int, flags: int) -> None:
    # FS_IOC_SETFLAGS has other flags, and programs have that for them.
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def setcrtime(ref: int, crtime: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def truncate(ref: int, size: int) -> None:
    os.truncate(_magic(ref), size)


ftruncate = os.ftruncate

_utimensat = _libc.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2


def utimens(ref: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
    times = (ctypes.c_long * 4)()
    for at, when in ((0, atime), (2, mtime)):
        if when is None:
            times[at + 1] = _UTIME_OMIT
        elif when is NOW:
            times[at + 1] = _UTIME_NOW
        else:
            times[at], times[at + 1] = divmod(when, 1_000_000_000)
    if _utimensat(ref, b"", times, _EMPTY) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        raise _fail()
    if _utimensat(-100, _magic(ref).encode(), times, 0):  # a kernel before 5.8
        raise _fail()


_SYS_FACCESSAT2 = 439


def access(ref: int, mask: int) -> None:
    if _syscall(_SYS_FACCESSAT2, ref, b"", mask, _EMPTY | _EACCESS):
        raise _fail()


def readlink(ref: int) -> bytes:
    try:
        return os.readlink(b"", dir_fd=ref)
    except FileNotFoundError:
        # readlinkat(2) with an empty path says ENOENT for what is no symbolic link.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def statfs(ref: int) -> StatFs:
    st = os.fstatvfs(ref)
    return StatFs(
        st.f_blocks,
        st.f_bfree,
        st.f_bavail,
        st.f_files,
        st.f_ffree,
        st.f_bsize,
        st.f_namemax,
        st.f_frsize,
    )


def getxattr(ref: int, name: bytes) -> bytes:
    return os.getxattr(_magic(ref), name)


def setxattr(ref: int, name: bytes, value: bytes, flags: int) -> None:
    os.setxattr(_magic(ref), name, value, flags)


def listxattr(ref: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listxattr(_magic(ref))]


def removexattr(ref: int, name: bytes) -> None:
    os.removexattr(_magic(ref), name)


# -- names ------------------------------------------------------------------------------


def mkdir(dir_ref: int, name: bytes, mode: int) -> None:
    os.mkdir(name, mode, dir_fd=dir_ref)


def mknod(dir_ref: int, name: bytes, mode: int, rdev: int) -> None:
    os.mknod(name, mode, rdev, dir_fd=dir_ref)


def symlink(dir_ref: int, name: bytes, target: bytes) -> None:
    os.symlink(target, name, dir_fd=dir_ref)


def unlink(dir_ref: int, name: bytes) -> None:
    os.unlink(name, dir_fd=dir_ref)


def rmdir(dir_ref: int, name: bytes) -> None:
    os.rmdir(name, dir_fd=dir_ref)


_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]


def rename(dir_ref: int, name: bytes, new_dir_ref: int, new_name: bytes, flags: int) -> None:
    if flags:
        if _renameat2(dir_ref, name, new_dir_ref, new_name, flags):
            raise _fail()
    else:
        os.rename(name, new_name, src_dir_fd=dir_ref, dst_dir_fd=new_dir_ref)


def link(ref: int, new_dir_ref: int, new_name: bytes) -> None:
    os.link(_magic(ref), new_name, dst_dir_fd=new_dir_ref, follow_symlinks=True)


# -- locks ------------------------------------------------------------------------------

# Record locks are taken as "open file description" locks: POSIX ones belong to a process, and
# the whole server is one.  struct flock: l_type l_whence l_start l_len l_pid.
_FLOCK = struct.Struct("hhxxxxqqixxxx")
_F_OFD_GETLK, _F_OFD_SETLK, _F_OFD_SETLKW = 36, 37, 38
_END = 2**63 - 1

_fcntl = _libc.fcntl
_flock = _libc.flock


def _pack_lock(lock: LockRange) -> bytearray:
    length = 0 if lock.end >= _END else lock.end - lock.start + 1
    return bytearray(_FLOCK.pack(lock.type, os.SEEK_SET, lock.start, length, 0))


def getlk(fd: int, lock: LockRange) -> LockRange:
    answer = fcntl.fcntl(fd, _F_OFD_GETLK, bytes(_pack_lock(lock)))
    kind, _whence, start, length, pid = _FLOCK.unpack(answer)
    return LockRange(kind, start, start + length - 1 if length else _END, max(pid, 0))


def setlk(fd: int, lock: LockRange, wait: bool) -> None:
    # Not fcntl.fcntl(): it starts again after EINTR (PEP 475), and a wait could never be ended.
    packed = _pack_lock(lock)
    address = ctypes.c_char.from_buffer(packed)
    command = _F_OFD_SETLKW if wait else _F_OFD_SETLK
    if _fcntl(fd, command, ctypes.byref(address)):
        raise _fail()


def flock(fd: int, operation: int) -> None:
    # Not fcntl.flock(), for the same reason.
    if _flock(fd, operation):
        raise _fail()


# -- identity of this thread ------------------------------------------------------------

acting_as = linux_identity.acting_as
drop_fsetid = linux_identity.drop_fsetid
is_self = linux_identity.is_self
keeps_set_id = linux_identity.keeps_set_id
masking = linux_identity.masking
may_act_as_others = linux_identity.may_act_as_others
own_file_system_state = linux_identity.own_file_system_state
restore_fsetid = linux_identity.restore_fsetid
sees_trusted = linux_identity.sees_trusted
told = linux_identity.told
without_fsetid = linux_identity.without_fsetid


# -- limits -----------------------------------------------------------------------------


def raise_descriptor_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
