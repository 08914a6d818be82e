# SPDX-License-Identifier: MIT
"""A directory as a program sees it: :class:`Tree`, one method a system call.

Owns the names, arguments and results of the calls that tests make, whoever carries them out:
the kernel (:mod:`xloop.testing.native`) or an Operations without any kernel
(:mod:`xloop.testing.inprocess`).  Does not own a test, and does not know pytest.

Paths are relative to the top of the tree, bytes or str.  Results are the system call's own,
failures are OSError.  Descriptors are numbers that only their own tree understands.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from xloop.types import NOW, TimeOrNow

__all__ = [
    "F_RDLCK",
    "F_UNLCK",
    "F_WRLCK",
    "LONG_AGO",
    "NOW",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "RENAME_WHITEOUT",
    "SEEK_DATA",
    "SEEK_HOLE",
    "XATTR_CREATE",
    "XATTR_REPLACE",
    "Facts",
    "Held",
    "Name",
    "Path",
    "Pending",
    "Tree",
    "facts",
]

R = TypeVar("R")
Path = str | bytes

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
F_RDLCK: Final = 0
F_WRLCK: Final = 1
F_UNLCK: Final = 2
#: Nanoseconds since the epoch: a time that no test takes place at.
LONG_AGO: Final = 1_000_000_000_123_456_789


class Name(NamedTuple):
    """One name in a directory, as getdents(2) tells it."""

    name: bytes
    ino: int
    type: int  #: DT_*: the type bits of st_mode shifted right by 12
    offset: int  #: where seekdir(3) goes on after it


class Held(NamedTuple):
    """A record lock that is in the way, as F_GETLK tells it; type F_UNLCK: none is."""

    type: int
    start: int
    len: int  #: 0: to the end of the file, however far it grows


class Facts(NamedTuple):
    """What two files must have in common to be called the same: no times, no numbers."""

    type: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    rdev: int


def facts(st: os.stat_result) -> Facts:
    """Return the part of *st* that does not depend on when and where a file was made.

    Without the size of a directory, which depends on what was in it before.
    """
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    kind, mode = stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode)
    return Facts(kind, mode, st.st_nlink, st.st_uid, st.st_gid, size, getattr(st, "st_rdev", 0))


class Pending:
    """A call under way in another process (:meth:`Tree.process`)."""

    def blocked(self) -> bool:
        """Tell whether the call sleeps in the kernel; poll for it, it is no promise."""
        raise NotImplementedError

    def done(self) -> bool:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Send the waiting thread a signal whose handler lets the call fail with EINTR."""
        raise NotImplementedError

    def result(self, timeout: float = 30.0) -> Any:
        """Return what the call returned, or raise what it raised; TimeoutError while it waits."""
        raise NotImplementedError


class Tree:
    """The calls.  Subclasses carry them out; what is built from other calls stands at the end."""

    #: The file creation mask that calls through this tree are made with.
    umask: int = 0o022

    # -- life ---------------------------------------------------------------------------

    def shut(self) -> None:
        """Close everything that was opened through the tree."""
        raise NotImplementedError

    def check_balanced(self) -> None:
        """Raise AssertionError if something that the tree closed is still held below it."""

    def at(self, path: Path) -> Tree:
        """Return the tree whose top is the directory *path*; descriptors stay valid in both."""
        raise NotImplementedError

    def as_user(
        self, uid: int, gid: int, groups: tuple[int, ...] = (), umask: int | None = None
    ) -> Tree:
        """Return the same tree for calls by somebody else; descriptors are shared."""
        raise NotImplementedError

    def process(self) -> Tree:
        """Return the same tree for calls by another process, which shares nothing."""
        raise NotImplementedError

    def start(self, method: str, *args: Any) -> Pending:
        """Begin the call *method* and return without waiting for its end."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the process of a tree that :meth:`process` returned, without its doing anything."""
        raise NotImplementedError

    # -- descriptors --------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        raise NotImplementedError

    def close(self, fd: int) -> None:
        raise NotImplementedError

    def dup(self, fd: int) -> int:
        raise NotImplementedError

    def read(self, fd: int, size: int) -> bytes:
        raise NotImplementedError

    def write(self, fd: int, data: bytes) -> int:
        raise NotImplementedError

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        raise NotImplementedError

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        raise NotImplementedError

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        raise NotImplementedError

    def fsync(self, fd: int) -> None:
        raise NotImplementedError

    def fdatasync(self, fd: int) -> None:
        raise NotImplementedError

    def syncfs(self, fd: int) -> None:
        raise NotImplementedError

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        raise NotImplementedError

    def copy_file_range(
        self, fd_in: int, offset_in: int | None, fd_out: int, offset_out: int | None, length: int
    ) -> int:
        raise NotImplementedError

    def ioctl(self, fd: int, command: int, data: bytes) -> bytes:
        raise NotImplementedError

    def poll(self, fd: int, events: int) -> int:
        raise NotImplementedError

    def getdents(self, fd: int, size: int = 32768) -> list[Name]:
        """Return the names that one call with a buffer of *size* bytes gives; [] at the end."""
        raise NotImplementedError

    # -- attributes ---------------------------------------------------------------------

    def stat(self, path: Path) -> os.stat_result:
        raise NotImplementedError

    def lstat(self, path: Path) -> os.stat_result:
        raise NotImplementedError

    def fstat(self, fd: int) -> os.stat_result:
        raise NotImplementedError

    def btime(self, path: Path) -> int | None:
        """Return the birth time in nanoseconds (statx); None where none is kept."""
        raise NotImplementedError

    def access(self, path: Path, mask: int) -> None:
        """access(2): an OSError says what is not allowed."""
        raise NotImplementedError

    def chmod(self, path: Path, mode: int) -> None:
        raise NotImplementedError

    def lchmod(self, path: Path, mode: int) -> None:
        """fchmodat2(2) with AT_SYMLINK_NOFOLLOW."""
        raise NotImplementedError

    def fchmod(self, fd: int, mode: int) -> None:
        raise NotImplementedError

    def chown(self, path: Path, uid: int, gid: int) -> None:
        raise NotImplementedError

    def lchown(self, path: Path, uid: int, gid: int) -> None:
        raise NotImplementedError

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        raise NotImplementedError

    def utime(
        self, path: Path, atime: TimeOrNow | None, mtime: TimeOrNow | None, follow: bool = True
    ) -> None:
        """utimensat(2): nanoseconds, NOW, or None for UTIME_OMIT."""
        raise NotImplementedError

    def futime(self, fd: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
        raise NotImplementedError

    def truncate(self, path: Path, size: int) -> None:
        raise NotImplementedError

    def ftruncate(self, fd: int, size: int) -> None:
        raise NotImplementedError

    def statvfs(self, path: Path) -> os.statvfs_result:
        raise NotImplementedError

    # -- names --------------------------------------------------------------------------

    def link(self, old: Path, new: Path, follow: bool = False) -> None:
        raise NotImplementedError

    def link_fd(self, fd: int, new: Path) -> None:
        """linkat(2) through /proc/self/fd: gives a name to a file without one."""
        raise NotImplementedError

    def symlink(self, target: Path, path: Path) -> None:
        raise NotImplementedError

    def readlink(self, path: Path) -> bytes:
        raise NotImplementedError

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        raise NotImplementedError

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        raise NotImplementedError

    def unlink(self, path: Path) -> None:
        raise NotImplementedError

    def rmdir(self, path: Path) -> None:
        raise NotImplementedError

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        raise NotImplementedError

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, path: Path, name: bytes, follow: bool = True) -> bytes:
        raise NotImplementedError

    def setxattr(
        self, path: Path, name: bytes, value: bytes, flags: int = 0, follow: bool = True
    ) -> None:
        raise NotImplementedError

    def listxattr(self, path: Path, follow: bool = True) -> list[bytes]:
        raise NotImplementedError

    def removexattr(self, path: Path, name: bytes, follow: bool = True) -> None:
        raise NotImplementedError

    def fgetxattr(self, fd: int, name: bytes) -> bytes:
        raise NotImplementedError

    def fsetxattr(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        raise NotImplementedError

    def flistxattr(self, fd: int) -> list[bytes]:
        raise NotImplementedError

    def fremovexattr(self, fd: int, name: bytes) -> None:
        raise NotImplementedError

    # -- locks --------------------------------------------------------------------------

    def flock(self, fd: int, operation: int) -> None:
        raise NotImplementedError

    def getlk(self, fd: int, kind: int, start: int = 0, length: int = 0, ofd: bool = False) -> Held:
        raise NotImplementedError

    def setlk(
        self,
        fd: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        wait: bool = False,
        ofd: bool = False,
    ) -> None:
        """Take or drop a record lock of this process; with *ofd* one of the open file."""
        raise NotImplementedError

    # -- built from the calls above -----------------------------------------------------

    def make(self, path: Path, data: bytes = b"", mode: int = 0o644) -> None:
        """Make the file *path*, or overwrite it, with *data* in it."""
        fd = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            while data:
                data = data[self.write(fd, data) :]
        finally:
            self.close(fd)

    def content(self, path: Path) -> bytes:
        """Return all that is in the file *path*."""
        fd = self.open(path, os.O_RDONLY)
        try:
            parts = []
            while part := self.read(fd, 1 << 20):
                parts.append(part)
            return b"".join(parts)
        finally:
            self.close(fd)

    def append(self, path: Path, data: bytes) -> int:
        fd = self.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            return self.write(fd, data)
        finally:
            self.close(fd)

    def with_fd(self, path: Path, flags: int, call: Callable[[int], R], mode: int = 0o666) -> R:
        """Return what *call* makes of a descriptor for *path*, and close it."""
        fd = self.open(path, flags, mode)
        try:
            return call(fd)
        finally:
            self.close(fd)

    def scandir(self, path: Path = b".") -> list[Name]:
        """Return all names in *path*, '.' and '..' included, in the order of the directory."""
        fd = self.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            names: list[Name] = []
            while some := self.getdents(fd):
                names += some
            return names
        finally:
            self.close(fd)

    def listdir(self, path: Path = b".") -> list[bytes]:
        """Return the names in *path*, sorted, without '.' and '..'."""
        return sorted(n.name for n in self.scandir(path) if n.name not in (b".", b".."))

    def age(self, path: Path) -> None:
        """Set the times of *path* itself to :data:`LONG_AGO`."""
        self.utime(path, LONG_AGO, LONG_AGO, follow=False)

    def moved(self, path: Path | int, action: Callable[[], Any]) -> list[str]:
        """Do *action*, and return which times of *path*, or of a descriptor, it changed.

        Before that it waits, with the help of a file ".tick" in the top, until the clock of the file
        system has moved on: a change within the same tick would go unseen.
        """

        def times() -> os.stat_result:
            return self.fstat(path) if isinstance(path, int) else self.lstat(path)

        if not self.exists(b".tick"):
            self.make(b".tick")
        before = times()
        while True:
            self.utime(b".tick", NOW, NOW)
            if self.lstat(b".tick").st_ctime_ns > before.st_ctime_ns:
                break
        action()
        after = times()
        names = "st_atime_ns", "st_mtime_ns", "st_ctime_ns"
        return [n[3:8] for n in names if getattr(before, n) != getattr(after, n)]

    def exists(self, path: Path) -> bool:
        """Tell whether there is something at *path*, be it a dangling link."""
        try:
            self.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def facts(self, path: Path) -> Facts:
        """Return what :func:`facts` says of *path* itself."""
        return facts(self.lstat(path))

    def snapshot(self, path: Path = b".") -> dict[bytes, tuple[Any, ...]]:
        """Return everything below *path*: facts, contents, targets, attributes, link groups."""
        found: dict[bytes, tuple[Any, ...]] = {}
        first: dict[tuple[int, int], bytes] = {}
        top = os.fsencode(path)
        pending = [b""]
        while pending:
            relative = pending.pop()
            full = os.path.join(top, relative) if relative else top
            st = self.lstat(full)
            extra: bytes | list[bytes] = b""
            if stat.S_ISREG(st.st_mode):
                extra = self.content(full)
            elif stat.S_ISLNK(st.st_mode):
                extra = self.readlink(full)
            elif stat.S_ISDIR(st.st_mode):
                extra = self.listdir(full)
                pending += [os.path.join(relative, name) for name in extra]
            twin = first.setdefault((st.st_dev, st.st_ino), relative)
            names = sorted(self.listxattr(full, follow=False))
            xattrs = [(name, self.getxattr(full, name, follow=False)) for name in names]
            found[relative] = (facts(st), extra, xattrs, twin)
        return found
