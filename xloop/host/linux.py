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
import resource
import struct
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from xloop.host.base import Descriptor
from xloop.types import NOW, Attr, Caller, DirEntry, LockRange, StatFs, TimeOrNow

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

_libc = ctypes.CDLL(None, use_errno=True)

_EMPTY = 0x1000  # AT_EMPTY_PATH
_NOFOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW
_NO_AUTOMOUNT = 0x800
_EACCESS = 0x200

# What reopening through /proc/self/fd must not see: the names are resolved already, and
# O_NOFOLLOW would refuse the magic link itself.  0x20 is FMODE_EXEC, which leaks into the
# flags of a FUSE open of a program that is being executed.
_REOPEN_STRIPS = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY | 0x20


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _magic(ref: int) -> str:
    return f"/proc/self/fd/{ref:d}"


# -- references -------------------------------------------------------------------------


_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE, _AT_RECURSIVE, _MS_PRIVATE = 1, 0x8000, 1 << 18


def open_root(path: str, *, private: bool = False) -> Descriptor:
    ref = Descriptor(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
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
    return Descriptor(os.open(_magic(ref), os.O_PATH | os.O_CLOEXEC))


_OVERLAYFS, _FUSE, _ECRYPTFS = 0x794C7630, 0x65735546, 0xF15F  # linux/magic.h


def stack_depth(ref: int) -> int:
    # A FUSE mount counts as one: whether it passes through to something else cannot be seen.
    buffer = bytearray(256)
    if _libc.fstatfs(ref, ctypes.byref(ctypes.c_char.from_buffer(buffer))):
        raise _fail()
    (kind,) = struct.unpack_from("@l", buffer)
    return 1 if kind in (_OVERLAYFS, _FUSE, _ECRYPTFS) else 0


# struct statx up to stx_dev_minor: mask blksize attributes nlink uid gid mode ino size blocks
# attributes_mask, then atime btime ctime mtime as (seconds, nanoseconds), then rdev and dev as
# (major, minor).  linux/stat.h
_STATX = struct.Struct("=IIQIIIHxxQQQQqIxxxxqIxxxxqIxxxxqIxxxxIIII")
_STATX_BASIC_BTIME = 0xFFF
_STATX_BTIME = 0x800

_statx = _libc.statx
_statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]


class _ThreadState(threading.local):
    """What a thread needs again and again, or has changed about itself."""

    def __init__(self) -> None:
        self.statx_buffer = bytearray(256)
        self.statx_address = ctypes.addressof(ctypes.c_char.from_buffer(self.statx_buffer))
        #: The umask that this thread has set for itself; None: it shares the process's.
        self.umask: int | None = None


_thread = _ThreadState()


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
        _attributes,
        nlink,
        uid,
        gid,
        mode,
        ino,
        size,
        blocks,
        _attributes_mask,
        atime,
        atime_nsec,
        btime,
        btime_nsec,
        ctime,
        ctime_nsec,
        mtime,
        mtime_nsec,
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
    ) = _STATX.unpack_from(mine.statx_buffer)
    return Attr(
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
        os.makedev(rdev_major, rdev_minor) if rdev_major or rdev_minor else 0,
        blksize,
        os.makedev(dev_major, dev_minor),
        btime,
        btime_nsec,
        mask & _STATX_BTIME != 0,
    )


# -- open files -------------------------------------------------------------------------


def reopen(ref: int, flags: int) -> Descriptor:
    return Descriptor(os.open(_magic(ref), flags & ~_REOPEN_STRIPS | os.O_CLOEXEC))


def open_dir(ref: int, flags: int = 0) -> Descriptor:
    # Not "." in it: that would ask for the right to search where only that to read is needed.
    return Descriptor(os.open(_magic(ref), flags | os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


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
fsync = os.fsync
fdatasync = os.fdatasync


def syncfs(fd: int) -> None:
    if _libc.syncfs(fd):
        raise _fail()


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
_syscall = _libc.syscall
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
    entries = []
    at = 0
    unpack = _DIRENT.unpack_from
    while at < size:
        ino, offset, length, kind = unpack(buffer, at)
        name = at + 19
        # The kernel ends the name with NUL but leaves the padding behind it as it was.
        entries.append(DirEntry(bytes(buffer[name : buffer.index(0, name)]), ino, kind, offset))
        at += length
    return entries


def seek_dir(fd: int, offset: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)


# -- attributes -------------------------------------------------------------------------


def chmod(ref: int, mode: int) -> None:
    os.chmod(_magic(ref), mode)


def chown(ref: int, uid: int, gid: int) -> None:
    os.chown(_magic(ref), uid, gid)


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
    if _utimensat(-100, _magic(ref).encode(), times, 0):
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

# The C library's setuid() family changes all threads of the process.  These change one, which is
# what the kernel offers: setfsuid() and setfsgid() are per thread in glibc and musl too, for
# setgroups() and capset() the system call itself is made.

_setfsuid = _libc.setfsuid
_setfsgid = _libc.setfsgid
_IS_64 = ctypes.sizeof(ctypes.c_void_p) == 8
_MACHINE = os.uname().machine
_SYS_SETGROUPS, _SYS_CAPGET, _SYS_CAPSET = {
    "x86_64": (116, 125, 126),
    "i686": (206, 184, 185),
    "armv7l": (206, 184, 185),
}.get(_MACHINE, (159, 90, 91))  # the generic table: aarch64, riscv64, loongarch64

_CAP_HEADER = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FSETID, _CAP_SETGID = 1, 2, 4, 6
_CAP_SYS_ADMIN, _CAP_MKNOD = 21, 27


def _capabilities() -> list[int]:
    """Return effective, permitted, inheritable of capabilities 0-31, then of the rest."""
    data = ctypes.create_string_buffer(24)
    if _syscall(_SYS_CAPGET, _CAP_HEADER, data):
        raise _fail()
    return list(struct.unpack("=6I", data.raw))


def _set_capabilities(sets: list[int]) -> None:
    if _syscall(_SYS_CAPSET, _CAP_HEADER, struct.pack("=6I", *sets)):
        raise _fail()


_uid, _gid = os.geteuid(), os.getegid()
_groups = tuple(os.getgroups())
_nothing: AbstractContextManager[object] = nullcontext()


def _refresh_identity() -> None:
    """Ask again who this process is: after a fork it may have become somebody else."""
    global _uid, _gid, _groups
    _uid, _gid, _groups = os.geteuid(), os.getegid(), tuple(os.getgroups())


def is_self(caller: Caller) -> bool:
    if caller.uid != _uid or caller.gid != _gid:
        if os.geteuid() == _uid and os.getegid() == _gid:
            return False
        _refresh_identity()
        return caller.uid == _uid and caller.gid == _gid
    return True


def may_act_as_others() -> bool:
    return os.geteuid() == 0


def _status_of(pid: int, field: str) -> str | None:
    """Return *field* of /proc/PID/status for a thread; None where that cannot be told."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(field):
                    return line.partition(":")[2]
    except OSError:
        pass  # gone, or in another pid namespace
    return None


def _groups_of(pid: int) -> tuple[int, ...]:
    # None where it cannot be told: fewer rights are the safe answer.
    return tuple(int(group) for group in (_status_of(pid, "Groups") or "").split())


#: FUSE_INVALID_UIDGID: where idmapped mounts are allowed, only what creates tells who asks.
_UNTOLD = 0xFFFFFFFF
#: Owns nothing, and is in no group.
_STRANGER = 0xFFFFFFFE


def told(caller: Caller) -> Caller:
    if caller.uid != _UNTOLD:
        return (
            caller if caller.groups is not None else caller._replace(groups=_groups_of(caller.pid))
        )
    # "Uid:" and "Gid:" have four numbers: real, effective, saved, file system.
    uid, gid = (_status_of(caller.pid, field) for field in ("Uid:", "Gid:"))
    if uid is None or gid is None:
        return caller._replace(uid=_STRANGER, gid=_STRANGER, groups=())
    ids = int(uid.split()[3]), int(gid.split()[3])
    return caller._replace(uid=ids[0], gid=ids[1], groups=_groups_of(caller.pid))


def _has(caller: Caller, capability: int) -> bool:
    if caller.uid not in (0, _UNTOLD):
        return False  # capabilities without being root are rare, and fewer rights the safe side
    effective = _status_of(caller.pid, "CapEff")
    return effective is not None and bool(int(effective, 16) >> capability & 1)


def keeps_set_id(caller: Caller) -> bool:
    return _has(caller, _CAP_FSETID)


def sees_trusted(caller: Caller) -> bool:
    return _has(caller, _CAP_SYS_ADMIN)


def _set_groups(groups: tuple[int, ...]) -> None:
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _syscall(_SYS_SETGROUPS, len(groups), array):
        raise _fail()


#: What a caller's creating keeps of root's capabilities when the kernel has checked the rest.
_CREATING = 1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH | 1 << _CAP_MKNOD


class _ActingAs:
    __slots__ = ("caller", "capabilities", "checked")

    def __init__(self, caller: Caller, checked: bool) -> None:
        self.caller = caller
        self.checked = checked
        self.capabilities: list[int] | None = None

    def __enter__(self) -> None:
        uid, gid, pid, groups, label = self.caller
        if label is not None:
            _set_create_label(label)
        try:
            # Group before user: afterwards this thread may no longer change it.
            if groups is None:
                groups = () if self.checked else _groups_of(pid)
            _set_groups(groups)
            _setfsgid(gid)
            if uid != 0:
                _setfsuid(uid)
                # The kernel takes out of the effective set what overrides permissions when the
                # file system user id leaves 0.  The rest goes here: root's reserve of blocks and
                # trusted attributes are not the caller's either.
                held = self.capabilities = _capabilities()
                keep = _CREATING & held[1] if self.checked else 0
                _set_capabilities([keep, held[1], held[2], 0, held[4], held[5]])
            # Both functions report no error; asking with an impossible id tells what holds.
            if _setfsuid(-1) != uid or _setfsgid(-1) != gid:
                raise OSError(errno.EPERM, "cannot act as another user")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_exc: object) -> None:
        if self.capabilities is not None:
            _set_capabilities(self.capabilities)
        _setfsuid(_uid)  # from somebody's id to 0 the kernel puts back what it took out
        _setfsgid(_gid)
        _set_groups(_groups)
        if self.caller.label is not None:
            _set_create_label(None)


def _set_create_label(label: tuple[bytes, bytes] | None) -> None:
    """Choose the label of what this thread creates; None: as the security module decides.

    Set before and not written afterwards: an object must never exist without its label.
    """
    if label is not None and label[0] != b"security.selinux":
        raise OSError(errno.EOPNOTSUPP, f"no way to create with the label {label[0]!r}")
    with open("/proc/thread-self/attr/fscreate", "wb", buffering=0) as attribute:
        attribute.write(label[1] if label is not None else b"")


def acting_as(caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
    if caller.uid == _UNTOLD:
        caller = told(caller)
    if is_self(caller) and not caller.groups and caller.label is None:
        return _nothing
    return _ActingAs(caller, checked)


_umask_lock = threading.Lock()


class _Masking:
    """For threads that share their umask with the process: one at a time, and put back."""

    __slots__ = ("previous", "umask")

    def __init__(self, umask: int) -> None:
        self.umask = umask

    def __enter__(self) -> None:
        _umask_lock.acquire()
        self.previous = os.umask(self.umask)

    def __exit__(self, *_exc: object) -> None:
        os.umask(self.previous)
        _umask_lock.release()


def masking(umask: int) -> AbstractContextManager[object]:
    mine = _thread
    if mine.umask is None:
        return _Masking(umask)
    if mine.umask != umask:
        os.umask(umask)
        mine.umask = umask
    return _nothing


class _WithoutFsetid:
    __slots__ = ("before", "caller", "sets")

    def __init__(self, caller: Caller | None) -> None:
        self.caller = caller
        self.before: tuple[int, tuple[int, ...]] | None = None

    def __enter__(self) -> None:
        self.sets = _capabilities()
        caller = self.caller
        try:
            # A thread that acts as its caller has the groups already, and lost CAP_SETGID with that.
            if caller is not None and self.sets[0] >> _CAP_SETGID & 1:
                caller = told(caller)
                before = (_setfsgid(-1), tuple(os.getgroups()))
                _set_groups(caller.groups or ())
                self.before = before
                _setfsgid(caller.gid)
            changed = list(self.sets)
            changed[0] &= ~(1 << _CAP_FSETID)
            _set_capabilities(changed)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_exc: object) -> None:
        _set_capabilities(self.sets)
        if self.before is not None:
            gid, groups = self.before
            _setfsgid(gid)
            _set_groups(groups)


def without_fsetid(caller: Caller | None = None) -> AbstractContextManager[object]:
    return _WithoutFsetid(caller) if may_act_as_others() else _nothing


_CLONE_FS = 0x200


def own_file_system_state() -> None:
    # umask, like the working directory, belongs to what CLONE_FS shares: by default the whole
    # process.  A mask of its own lets the source's kernel weigh it against a default ACL.
    if _libc.unshare(_CLONE_FS):
        raise _fail()
    os.umask(0)
    _thread.umask = 0


# -- limits -----------------------------------------------------------------------------


def raise_descriptor_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard
