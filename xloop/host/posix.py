# SPDX-License-Identifier: MIT
"""What macOS and FreeBSD do alike with POSIX alone: :class:`PosixHost`, their common base.

Owns references without O_PATH, and every system call that is the same on both.  Does not own what
a system adds (``darwin.py``, ``freebsd.py``), and not Linux, which has better ways
(:mod:`xloop.host.linux`).  Runs on Linux all the same, where the tests compare the two.

**References.**  Where there is no O_PATH, an object can only be held by opening it.  A
:class:`Reference` is opened for as little as can be: directories to search, the rest for notification
or to read.  It knows where it was opened (its directory, kept open, and a name), because some calls
take nothing but that: to open the object again with other rights, to link it.

Not everything can be opened: what its owner may not read, and sockets; FIFOs and devices must
not be, for that acts on them.  A reference to one of these is the directory's descriptor, the name
and the identity of what was there (``by_name``).  Whatever is done with it goes to that name and
does not follow a link; before, and where it counts afterwards, it is looked whether the name still
means the same object.  ESTALE if not.  In between somebody may put another object there: then that one
is meant, in a directory of the source that he may write to, and never anything outside.

**Reading directories.**  Names are listed at once when they are asked for from the start, and handed
out from memory: the cookies of these systems (telldir(3), d_seekoff) are not good enough to go on
after names came and went.  The price is memory for as long as a directory is open.

**Identity of a thread.**  There is none in POSIX: everything is done as the server's user.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from xloop.host.base import Descriptor, Watchable
from xloop.types import NOW, Attr, Caller, DirEntry, LockRange, StatFs, TimeOrNow

assert not TYPE_CHECKING or sys.platform != "win32"

__all__ = ["Listing", "PosixHost", "Reference", "error", "failed"]

R = TypeVar("R", bound="Descriptor")

_nothing: AbstractContextManager[object] = nullcontext()
_BILLION = 1_000_000_000


def error(number: int, why: str = "") -> OSError:
    return OSError(number, why or os.strerror(number))


def failed() -> OSError:
    """Return the error of the C function that was just called."""
    return error(ctypes.get_errno())


class Reference(Descriptor):
    """A descriptor of an object, or of its directory (``by_name``), that knows where it was found."""

    directory: Descriptor | None = None  #: None: of the root
    name: bytes = b"."
    #: Of the object: see PosixHost._identity().
    identity: tuple[object, ...] = ()
    placed = True

    def at(
        self, directory: Descriptor | None, name: bytes, identity: tuple[object, ...]
    ) -> Reference:
        """Note where it was opened, and what it is, and return it."""
        self.directory, self.name = directory, name
        self.identity = identity
        return self

    def moved(self, directory: Descriptor, name: bytes) -> None:
        self.directory, self.name = directory, name

    def twin(self, fd: int) -> Reference:
        """Return *fd*, which is another descriptor of the same, as a reference."""
        twin = Reference(fd)
        twin.__dict__.update(self.__dict__)
        return twin


class Listing(Descriptor):
    """An open directory, and what was in it when it was read from the start."""

    names: list[DirEntry] | None = None
    next = 0  #: index of the entry to hand out next


def _kept(dir_ref: int) -> Descriptor:
    """Return *dir_ref* such that it stays open for as long as somebody holds it."""
    return dir_ref if isinstance(dir_ref, Descriptor) else Descriptor(os.dup(dir_ref))


class _Masking:
    """The umask is the process's: one at a time, and put back."""

    _lock = threading.Lock()

    __slots__ = ("previous", "umask")

    def __init__(self, umask: int) -> None:
        self.umask = umask

    def __enter__(self) -> None:
        self._lock.acquire()
        self.previous = os.umask(self.umask)

    def __exit__(self, *_exc: object) -> None:
        os.umask(self.previous)
        self._lock.release()


class PosixHost:
    """The functions of :class:`xloop.host.base.Host` as far as POSIX has them.

    A system's own class adds the rest; until then that is refused with EOPNOTSUPP.
    """

    O_ACCMODE: int = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
    O_DIRECT: int = 0
    O_NOATIME: int = 0
    O_SYNC: int = os.O_SYNC
    O_DSYNC: int = os.O_DSYNC
    SEEK_DATA: int = getattr(os, "SEEK_DATA", 4)
    SEEK_HOLE: int = getattr(os, "SEEK_HOLE", 3)
    F_WRLCK: int = fcntl.F_WRLCK
    F_UNLCK: int = fcntl.F_UNLCK
    OWNS_LOCKS: bool = False
    REUSES_INO: bool = True

    #: How a directory is opened as a reference: the first that is allowed.
    directory_flags: tuple[int, ...] = (os.O_RDONLY | os.O_DIRECTORY,)
    #: How a regular file is.  O_NONBLOCK, should it have become a FIFO meanwhile.
    file_flags: int = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    #: How a symbolic link is; None: it cannot be opened.
    link_flags: int | None = None

    #: Of utimensat(2), and of the calls that take a name.
    utime_now = -1
    utime_omit = -2
    at_nofollow = 0

    def __init__(self, libc: Any = None) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if libc is None else libc
        self._utimensat = self._libc.utimensat
        self._utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
        self._utimensat.restype = ctypes.c_int
        self._futimens = self._libc.futimens
        self._futimens.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self._futimens.restype = ctypes.c_int
        self._who = (os.geteuid(), os.getegid())

    # -- references ---------------------------------------------------------------------

    def open_root(self, path: str, *, private: bool = False) -> Descriptor:
        # private: the copies of a mount tree that would need are Linux's.
        return self._first(self.directory_flags, path.encode(errors="surrogateescape"), None)

    def _first(self, choices: tuple[int, ...], name: bytes, directory: int | None) -> Reference:
        """Open *name* with the first of several flags that permissions allow."""
        for flags in choices[:-1]:
            with contextlib.suppress(PermissionError):
                return Reference(os.open(name, flags | os.O_CLOEXEC, dir_fd=directory))
        return Reference(os.open(name, choices[-1] | os.O_CLOEXEC, dir_fd=directory))

    def open_ref(self, dir_ref: int, name: bytes) -> Descriptor:
        directory = self._entered(dir_ref)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        choices: tuple[int, ...] = ()
        if kind == stat.S_IFDIR:
            choices = tuple(flags | os.O_NOFOLLOW for flags in self.directory_flags)
        elif kind == stat.S_IFREG:
            choices = (self.file_flags,)
        elif kind == stat.S_IFLNK and self.link_flags is not None:
            choices = (self.link_flags,)
        if choices:
            try:
                ref = self._first(choices, name, directory)
            except OSError as exc:
                # EACCES: not to be read.  The rest: it has become something else meanwhile.
                unopenable = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK)
                if exc.errno not in (*unopenable, errno.ENOTDIR, errno.ENXIO, errno.EOPNOTSUPP):
                    raise
            else:
                opened = os.fstat(ref)
                if stat.S_IFMT(opened.st_mode) == kind:
                    return ref.at(directory, name, self._identity(opened))
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        ref = Reference(os.dup(directory)).at(directory, name, self._identity(found))
        ref.by_name = True
        return ref

    def _entered(self, dir_ref: int) -> Descriptor:
        """Return a descriptor of the directory itself, to look up names in."""
        if isinstance(dir_ref, Reference) and dir_ref.by_name:
            directory, name = self._place(dir_ref)
            flags = tuple(choice | os.O_NOFOLLOW for choice in self.directory_flags)
            return self._same(dir_ref, self._first(flags, name, directory))
        return _kept(dir_ref)

    def _identity(self, found: os.stat_result) -> tuple[object, ...]:
        """Return what tells an object from every other, also from its successor under the same number."""
        born = getattr(found, "st_birthtime", None) if self.REUSES_INO else None
        return found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), born

    def _same(self, ref: Reference, opened: R) -> R:
        """Return *opened*; ESTALE if it is not what *ref* is a reference to."""
        found = os.fstat(opened)
        if self._identity(found) != ref.identity:
            raise error(errno.ESTALE)
        if isinstance(opened, Reference):
            opened.at(ref.directory, ref.name, ref.identity)
        return opened

    def _place(self, ref: int) -> tuple[Descriptor, bytes]:
        """Return a directory, and the name in it by which *ref* is found now.  ESTALE if it is not."""
        if not isinstance(ref, Reference):
            raise error(errno.ESTALE)
        if ref.directory is None:
            return ref, b"."  # the root: only ever what was opened as such
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(ref.name, dir_fd=ref.directory, follow_symlinks=False)
            if self._identity(found) == ref.identity:
                return ref.directory, ref.name
        return self._find_again(ref)

    def _find_again(self, ref: Reference) -> tuple[Descriptor, bytes]:
        """As _place(), where the name is gone or means something else.  Systems may know better."""
        raise error(errno.ESTALE)

    def _by_name(self, ref: int) -> tuple[Descriptor, bytes] | None:
        """Return how to name *ref* if it is no descriptor of the object; None if it is one."""
        return self._place(ref) if isinstance(ref, Reference) and ref.by_name else None

    def reopen_ref(self, ref: int) -> Descriptor:
        fd = os.dup(ref)
        return ref.twin(fd) if isinstance(ref, Reference) else Descriptor(fd)

    def is_case_sensitive(self, ref: int) -> bool:
        return True

    def spelling(self, dir_ref: int, name: bytes) -> bytes:
        return name

    def statx(self, ref: int, name: bytes = b"") -> Attr:
        if name:
            return self.attr_of(os.stat(name, dir_fd=self._entered(ref), follow_symlinks=False))
        place = self._by_name(ref)
        if place is None:
            return self.attr_of(os.fstat(ref))
        return self.attr_of(os.stat(place[1], dir_fd=place[0], follow_symlinks=False))

    def attr_of(self, st: os.stat_result) -> Attr:
        """Return what *st* tells.  Birth time and flags only where Python knows them."""
        (atime, mtime, ctime) = (
            divmod(ns, _BILLION) for ns in (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
        )
        born = getattr(st, "st_birthtime", None)
        btime = (0, 0) if born is None else divmod(int(born * _BILLION), _BILLION)
        return Attr(
            *(st.st_ino, st.st_size, st.st_blocks),
            *(atime[0], mtime[0], ctime[0], atime[1], mtime[1], ctime[1]),
            *(st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize, st.st_dev),
            *(btime[0], btime[1]),
            born is not None,
            getattr(st, "st_flags", 0),
        )

    def stack_depth(self, ref: int) -> int:
        return 0  # matters to passthrough, which is Linux's

    def watchable(self, ref: int) -> Watchable:
        return Watchable("what others change is heard of on Linux only")

    # -- open files ---------------------------------------------------------------------

    _reopen_strips = os.O_CREAT | os.O_EXCL | os.O_NOCTTY

    def reopen(self, ref: int, flags: int) -> Descriptor:
        directory, name = self._place(ref)
        assert isinstance(ref, Reference)  # else it had no place
        truncate = flags & os.O_TRUNC
        # O_TRUNC would empty whatever has the name by now: only once it is known to be the right one.
        flags = flags & ~(self._reopen_strips | os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK
        opened = Reference(os.open(name, flags | os.O_CLOEXEC, dir_fd=directory))
        self._same(ref, opened)
        os.set_blocking(opened, True)
        if truncate:
            os.ftruncate(opened, 0)
        return opened

    def open_dir(self, ref: int, flags: int = 0) -> Descriptor:
        flags |= os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        place = self._by_name(ref)
        if place is None:
            # "." needs the right to search beside that to read; a place needs neither.
            with contextlib.suppress(OSError):
                place = self._place(ref)
        if place is None:
            return Listing(os.open(b".", flags, dir_fd=ref))
        opened = Listing(os.open(place[1], flags | os.O_NOFOLLOW, dir_fd=place[0]))
        return self._same(ref, opened) if isinstance(ref, Reference) and ref.identity else opened

    def create(self, dir_ref: int, name: bytes, flags: int, mode: int) -> Descriptor:
        directory = self._entered(dir_ref)
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = Reference(os.open(name, flags, mode, dir_fd=directory))
        return made.at(directory, name, self._identity(os.fstat(made)))

    def tmpfile(self, dir_ref: int, flags: int, mode: int) -> Descriptor:
        raise error(errno.EOPNOTSUPP, "there is no O_TMPFILE here")

    def clear_status_flags(self, fd: int, flags: int) -> None:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~flags)

    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    seek_data_hole = staticmethod(os.lseek)
    ftruncate = staticmethod(os.ftruncate)

    def pwrite_in_place(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        raise error(errno.EOPNOTSUPP, "what is open for appending appends")

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fsync(fd)  # fdatasync(2) is not on all of them; what does more than asked is no harm

    def syncfs(self, fd: int) -> None:
        os.sync()  # there is no call for one file system

    def close_reports(self, ref: int) -> bool:
        return True  # NFS and the like do; which file systems do not is not told

    def report_close(self, fd: int) -> None:
        os.close(os.dup(fd))

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        raise error(errno.EOPNOTSUPP, "there is no fallocate(2) here")

    def copy_file_range(
        self, fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        raise error(errno.EOPNOTSUPP, "there is no copy_file_range(2) here")

    def ioctl(self, fd: int, command: int, data: bytes, out_size: int) -> bytes:
        buffer = bytearray(max(len(data), out_size))
        buffer[: len(data)] = data
        fcntl.ioctl(fd, command, buffer, True)
        return bytes(buffer[:out_size])

    # -- directories --------------------------------------------------------------------

    def read_dir(self, fd: int, buffer: bytearray) -> list[DirEntry]:
        if not isinstance(fd, Listing):
            raise error(errno.EBADF)
        if fd.names is None:
            fd.names = list(self._listed(fd))
        # About as many as would fit the buffer.
        start, fd.next = fd.next, min(fd.next + len(buffer) // 64, len(fd.names))
        return fd.names[start : fd.next]

    def _listed(self, fd: Listing) -> Iterator[DirEntry]:
        here = os.fstat(fd)
        if here.st_nlink == 0:
            raise error(errno.ENOENT)  # removed meanwhile: not even "." is in it
        above = here
        with contextlib.suppress(OSError):  # where the parent may not be searched
            above = os.stat(b"..", dir_fd=fd)
        kind = stat.S_IFDIR >> 12
        yield DirEntry(b".", here.st_ino, kind, 1)
        yield DirEntry(b"..", above.st_ino, kind, 2)
        with os.scandir(fd) as entries:
            for offset, entry in enumerate(entries, 3):
                if entry.is_symlink():
                    kind = stat.S_IFLNK >> 12
                elif entry.is_dir(follow_symlinks=False):
                    kind = stat.S_IFDIR >> 12
                elif entry.is_file(follow_symlinks=False):
                    kind = stat.S_IFREG >> 12
                else:  # FIFOs, sockets and devices, which scandir does not tell apart
                    kind = 0
                    with contextlib.suppress(OSError):  # gone already: "stat it"
                        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
                yield DirEntry(os.fsencode(entry.name), entry.inode(), kind, offset)

    def listing_moves_atime(self, fd: int, attr: Attr) -> bool:
        return True

    def seek_dir(self, fd: int, offset: int) -> None:
        if not isinstance(fd, Listing):
            raise error(errno.EBADF)
        if offset == 0:
            fd.names = None
        elif fd.names is None:
            fd.names = list(self._listed(fd))
        fd.next = offset

    # -- attributes ---------------------------------------------------------------------

    def chmod(self, ref: int, mode: int) -> None:
        place = self._by_name(ref)
        if place is None:
            os.fchmod(ref, mode)
        else:
            os.chmod(place[1], mode, dir_fd=place[0], follow_symlinks=False)

    def chown(self, ref: int, uid: int, gid: int) -> None:
        place = self._by_name(ref)
        if place is None:
            os.fchown(ref, uid, gid)
        else:
            os.chown(place[1], uid, gid, dir_fd=place[0], follow_symlinks=False)

    def truncate(self, ref: int, size: int) -> None:
        os.ftruncate(self.reopen(ref, os.O_WRONLY), size)

    def _timespecs(self, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> Any:
        times = (ctypes.c_long * 4)()
        for at, when in ((0, atime), (2, mtime)):
            if when is None:
                times[at + 1] = self.utime_omit
            elif when is NOW:
                times[at + 1] = self.utime_now
            else:
                times[at], times[at + 1] = divmod(when, _BILLION)
        return times

    def utimens(self, ref: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
        times = self._timespecs(atime, mtime)
        place = self._by_name(ref)
        if place is None:
            done = self._futimens(ref, times)
        else:
            done = self._utimensat(place[0], place[1], times, self.at_nofollow)
        if done:
            raise failed()

    def setcrtime(self, ref: int, crtime: int) -> None:
        raise error(errno.EOPNOTSUPP, "there is no call here that sets a birth time")

    def chflags(self, ref: int, flags: int) -> None:
        raise error(errno.EOPNOTSUPP, "there is no chflags(2) here")

    def access(self, ref: int, mask: int) -> None:
        directory, name = self._place(ref)
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return
        effective = os.access in os.supports_effective_ids
        if os.access(name, mask, dir_fd=directory, effective_ids=effective, follow_symlinks=False):
            return
        read_only = os.fstatvfs(ref).f_flag & os.ST_RDONLY
        raise error(errno.EROFS if mask & os.W_OK and read_only else errno.EACCES)

    def readlink(self, ref: int) -> bytes:
        directory, name = self._place(ref)
        return os.readlink(name, dir_fd=directory)

    def statfs(self, ref: int) -> StatFs:
        st = os.fstatvfs(ref)
        counts = st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree
        return StatFs(*counts, st.f_bsize, st.f_namemax, st.f_frsize)

    def getxattr(self, ref: int, name: bytes) -> bytes:
        raise error(errno.EOPNOTSUPP)

    def setxattr(self, ref: int, name: bytes, value: bytes, flags: int) -> None:
        raise error(errno.EOPNOTSUPP)

    def listxattr(self, ref: int) -> list[bytes]:
        raise error(errno.EOPNOTSUPP)

    def removexattr(self, ref: int, name: bytes) -> None:
        raise error(errno.EOPNOTSUPP)

    # -- names --------------------------------------------------------------------------

    def mkdir(self, dir_ref: int, name: bytes, mode: int) -> None:
        os.mkdir(name, mode, dir_fd=self._entered(dir_ref))

    def mknod(self, dir_ref: int, name: bytes, mode: int, rdev: int) -> None:
        directory = self._entered(dir_ref)
        if stat.S_IFMT(mode) in (0, stat.S_IFREG):
            # mknod(2) is the superuser's on these systems, also for what open(2) makes for anybody.
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, stat.S_IMODE(mode), dir_fd=directory))
        elif stat.S_ISFIFO(mode):
            os.mkfifo(name, stat.S_IMODE(mode), dir_fd=directory)
        else:
            os.mknod(name, mode, rdev, dir_fd=directory)

    def symlink(self, dir_ref: int, name: bytes, target: bytes) -> None:
        os.symlink(target, name, dir_fd=self._entered(dir_ref))

    def unlink(self, dir_ref: int, name: bytes) -> None:
        os.unlink(name, dir_fd=self._entered(dir_ref))

    def rmdir(self, dir_ref: int, name: bytes) -> None:
        os.rmdir(name, dir_fd=self._entered(dir_ref))

    def rename(
        self, dir_ref: int, name: bytes, new_dir_ref: int, new_name: bytes, flags: int
    ) -> None:
        old, new = self._entered(dir_ref), self._entered(new_dir_ref)
        if flags:
            self._rename_with(old, name, new, new_name, flags)
        else:
            os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)

    def _rename_with(self, old: int, name: bytes, new: int, new_name: bytes, flags: int) -> None:
        raise error(errno.EINVAL, "rename has no flags here")

    def link(self, ref: int, new_dir_ref: int, new_name: bytes) -> None:
        try:
            directory, name = self._place(ref)
        except OSError:
            if os.fstat(ref).st_nlink == 0:
                raise error(errno.ENOENT) from None  # as linkat(2) of what has no name
            raise
        assert isinstance(ref, Reference)  # else it had no place
        target = self._entered(new_dir_ref)
        os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        made = os.stat(new_name, dir_fd=target, follow_symlinks=False)
        if self._identity(made) != ref.identity:
            # The name was given to something else in between: that must not be linked.
            with contextlib.suppress(OSError):
                os.unlink(new_name, dir_fd=target)
            raise error(errno.ESTALE)

    # -- locks --------------------------------------------------------------------------

    def getlk(self, fd: int, lock: LockRange) -> LockRange:
        raise error(errno.EOPNOTSUPP, "no record locks that belong to an open file")

    def setlk(self, fd: int, lock: LockRange, wait: bool) -> None:
        raise error(errno.EOPNOTSUPP, "no record locks that belong to an open file")

    def flock(self, fd: int, operation: int) -> None:
        if self._libc.flock(int(fd), operation):  # fcntl.flock() never ends by EINTR (PEP 475)
            raise failed()

    # -- identity of this thread --------------------------------------------------------

    def acting_as(self, caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
        if self.is_self(caller):
            return _nothing
        raise error(errno.EPERM, "a thread cannot have an identity of its own here")

    def is_self(self, caller: Caller) -> bool:
        if (caller.uid, caller.gid) == self._who:
            return True
        self._who = (os.geteuid(), os.getegid())  # after a fork this may be somebody else
        return (caller.uid, caller.gid) == self._who

    def may_act_as_others(self) -> bool:
        return False

    def masking(self, umask: int) -> AbstractContextManager[object]:
        return _Masking(umask)

    def told(self, caller: Caller) -> Caller:
        return caller if caller.groups is not None else caller._replace(groups=())

    def keeps_set_id(self, caller: Caller) -> bool:
        return caller.uid == 0

    sees_trusted = keeps_set_id  # who is root

    def without_fsetid(self, caller: Caller | None = None) -> AbstractContextManager[object]:
        return _nothing  # a capability of Linux; here the kernel clears the bits unless root writes

    def own_file_system_state(self) -> None:
        """Nothing: no system but Linux gives a thread a umask.  masking() keeps them apart."""

    drop_fsetid = restore_fsetid = own_file_system_state  # nothing either: see without_fsetid()

    # -- limits -------------------------------------------------------------------------

    def raise_descriptor_limit(self) -> int:
        import resource  # here: asked once

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # macOS calls the hard limit infinite, and refuses more than OPEN_MAX (10240).
        for wanted in (hard, 10240):
            if wanted == resource.RLIM_INFINITY or wanted <= soft:
                continue
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return wanted
        return 1 << 20 if soft == resource.RLIM_INFINITY else soft
