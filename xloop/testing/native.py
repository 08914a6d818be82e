# SPDX-License-Identifier: MIT
"""A tree below a real path: :class:`NativeTree` makes the system calls that it is named after.

It serves as the native twin of a test and for every mount.  Owns no semantics: whatever the
kernel answers is the answer.  Linux only.

Everything is relative to a descriptor of the top, so that paths reach exactly as far as PATH_MAX
lets them, and a directory that is moved away stays the top.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

from xloop.testing import libc
from xloop.testing.actor import Actor, Elsewhere, ThreadCall
from xloop.testing.tree import Held, Name, Path, Pending, Tree
from xloop.types import TimeOrNow

__all__ = ["NativeTree"]

# Through a name of type Any: type checkers that look at this file for another system would not
# know half of what is in these modules.
_os: Any = os
_umask_guard = threading.Lock()


def _fcntl() -> Any:
    return importlib.import_module("fcntl")


class NativeTree(Tree):
    """The directory at *path*, through the kernel."""

    def __init__(self, path: Path, umask: int | None = None) -> None:
        self.path = os.fsencode(path)
        self.top = os.open(path, _os.O_PATH | _os.O_DIRECTORY | _os.O_CLOEXEC)
        self._open_fds = {self.top}
        self._actors: dict[object, Actor] = {}
        self._processes: list[Tree] = []
        #: False for one that shares the descriptors of another tree.
        self._owner = True
        if umask is not None:
            self.umask = umask

    def _twin(self, **changes: Any) -> NativeTree:
        twin = copy.copy(self)
        vars(twin).update(changes, _owner=False, _processes=[])
        return twin

    def __repr__(self) -> str:
        return f"NativeTree({os.fsdecode(self.path)!r})"

    def _proc(self, path: Path) -> bytes:
        """Return a path for the calls that have no variant relative to a descriptor."""
        # An empty path must stay one: it is ENOENT.
        return b"/proc/self/fd/%d/%b" % (self.top, os.fsencode(path)) if path else b""

    @contextlib.contextmanager
    def _masked(self) -> Iterator[None]:
        # Per process, or per thread for the threads of as_user(), which left the rest.
        with _umask_guard:
            old = os.umask(self.umask)
            try:
                yield
            finally:
                os.umask(old)

    def _kept(self, fd: int) -> int:
        self._open_fds.add(fd)
        return fd

    # -- life ---------------------------------------------------------------------------

    def shut(self) -> None:
        for process in self._processes:
            process.shut()
        if self._owner:
            for actor in self._actors.values():
                actor.stop()
            self._actors.clear()
            for fd in self._open_fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._open_fds.clear()

    def at(self, path: Path) -> Tree:
        fd = os.open(path, _os.O_PATH | _os.O_DIRECTORY | _os.O_CLOEXEC, dir_fd=self.top)
        return self._twin(top=self._kept(fd), path=os.path.join(self.path, os.fsencode(path)))

    def as_user(
        self, uid: int, gid: int, groups: tuple[int, ...] = (), umask: int | None = None
    ) -> Tree:
        who = uid, gid, groups
        actor = self._actors.get(who)
        if actor is None:
            actor = self._actors[who] = Actor(lambda: _become(uid, gid, groups))
        return Elsewhere(self._twin(umask=self.umask if umask is None else umask), actor)

    def process(self) -> Tree:
        from xloop.testing.remote import RemoteTree

        self._processes.append(RemoteTree(self.path))
        return self._processes[-1]

    def start(self, method: str, *args: Any) -> Pending:
        return ThreadCall(lambda: getattr(self, method)(*args))

    # -- descriptors --------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        makes = flags & os.O_CREAT or flags & _os.O_TMPFILE == _os.O_TMPFILE
        with self._masked() if makes else contextlib.nullcontext():
            return self._kept(os.open(path, flags | _os.O_CLOEXEC, mode, dir_fd=self.top))

    def close(self, fd: int) -> None:
        self._open_fds.discard(fd)
        os.close(fd)

    def dup(self, fd: int) -> int:
        return self._kept(os.dup(fd))

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(_os.pread(fd, size, offset))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return int(_os.pwrite(fd, data, offset))

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        return os.lseek(fd, offset, whence)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        _os.fdatasync(fd)

    def syncfs(self, fd: int) -> None:
        libc.syncfs(fd)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        libc.fallocate(fd, mode, offset, length)

    def copy_file_range(
        self, fd_in: int, offset_in: int | None, fd_out: int, offset_out: int | None, length: int
    ) -> int:
        return int(_os.copy_file_range(fd_in, fd_out, length, offset_in, offset_out))

    def ioctl(self, fd: int, command: int, data: bytes) -> bytes:
        return bytes(_fcntl().ioctl(fd, command, data))

    def poll(self, fd: int, events: int) -> int:
        poller: Any = getattr(select, "poll")()  # noqa: B009  (not on every system)
        poller.register(fd, events)
        ready = poller.poll(0)
        return int(ready[0][1]) if ready else 0

    def getdents(self, fd: int, size: int = 32768) -> list[Name]:
        return [Name(*entry) for entry in libc.getdents(fd, size)]

    # -- attributes ---------------------------------------------------------------------

    def stat(self, path: Path) -> os.stat_result:
        return os.stat(path, dir_fd=self.top)

    def lstat(self, path: Path) -> os.stat_result:
        return os.stat(path, dir_fd=self.top, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def btime(self, path: Path) -> int | None:
        return libc.statx_btime(self.top, os.fsencode(path), libc.AT_SYMLINK_NOFOLLOW)

    def access(self, path: Path, mask: int) -> None:
        libc.faccessat(self.top, os.fsencode(path), mask)

    def chmod(self, path: Path, mode: int) -> None:
        os.chmod(path, mode, dir_fd=self.top)

    def lchmod(self, path: Path, mode: int) -> None:
        libc.fchmodat2(self.top, os.fsencode(path), mode, libc.AT_SYMLINK_NOFOLLOW)

    def fchmod(self, fd: int, mode: int) -> None:
        _os.fchmod(fd, mode)

    def chown(self, path: Path, uid: int, gid: int) -> None:
        _os.chown(path, uid, gid, dir_fd=self.top)

    def lchown(self, path: Path, uid: int, gid: int) -> None:
        _os.chown(path, uid, gid, dir_fd=self.top, follow_symlinks=False)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        _os.fchown(fd, uid, gid)

    def utime(
        self, path: Path, atime: TimeOrNow | None, mtime: TimeOrNow | None, follow: bool = True
    ) -> None:
        flags = 0 if follow else libc.AT_SYMLINK_NOFOLLOW
        libc.utimensat(self.top, os.fsencode(path), atime, mtime, flags)

    def futime(self, fd: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
        libc.utimensat(fd, None, atime, mtime, 0)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(self._proc(path), size)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def statvfs(self, path: Path) -> os.statvfs_result:
        result: os.statvfs_result = _os.statvfs(self._proc(path))
        return result

    # -- names --------------------------------------------------------------------------

    def link(self, old: Path, new: Path, follow: bool = False) -> None:
        os.link(old, new, src_dir_fd=self.top, dst_dir_fd=self.top, follow_symlinks=follow)

    def link_fd(self, fd: int, new: Path) -> None:
        os.link(
            f"/proc/self/fd/{fd}",
            os.fsdecode(new),
            src_dir_fd=self.top,
            dst_dir_fd=self.top,
            follow_symlinks=True,
        )

    def symlink(self, target: Path, path: Path) -> None:
        os.symlink(os.fsencode(target), os.fsencode(path), dir_fd=self.top)

    def readlink(self, path: Path) -> bytes:
        return os.readlink(os.fsencode(path), dir_fd=self.top)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        with self._masked():
            os.mkdir(path, mode, dir_fd=self.top)

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        with self._masked():
            _os.mknod(path, mode, rdev, dir_fd=self.top)

    def unlink(self, path: Path) -> None:
        os.unlink(path, dir_fd=self.top)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path, dir_fd=self.top)

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        libc.renameat2(self.top, os.fsencode(old), self.top, os.fsencode(new), flags)

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, path: Path, name: bytes, follow: bool = True) -> bytes:
        return bytes(_os.getxattr(self._proc(path), name, follow_symlinks=follow))

    def setxattr(
        self, path: Path, name: bytes, value: bytes, flags: int = 0, follow: bool = True
    ) -> None:
        _os.setxattr(self._proc(path), name, value, flags, follow_symlinks=follow)

    def listxattr(self, path: Path, follow: bool = True) -> list[bytes]:
        names = _os.listxattr(self._proc(path), follow_symlinks=follow)
        return [os.fsencode(name) for name in names]

    def removexattr(self, path: Path, name: bytes, follow: bool = True) -> None:
        _os.removexattr(self._proc(path), name, follow_symlinks=follow)

    def fgetxattr(self, fd: int, name: bytes) -> bytes:
        return bytes(_os.getxattr(fd, name))

    def fsetxattr(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        _os.setxattr(fd, name, value, flags)

    def flistxattr(self, fd: int) -> list[bytes]:
        return [os.fsencode(name) for name in _os.listxattr(fd)]

    def fremovexattr(self, fd: int, name: bytes) -> None:
        _os.removexattr(fd, name)

    # -- locks --------------------------------------------------------------------------

    def flock(self, fd: int, operation: int) -> None:
        _fcntl().flock(fd, operation)

    def getlk(self, fd: int, kind: int, start: int = 0, length: int = 0, ofd: bool = False) -> Held:
        asked = libc.FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        command = libc.F_OFD_GETLK if ofd else _fcntl().F_GETLK
        kind, _, start, length, _ = libc.FLOCK.unpack(_fcntl().fcntl(fd, command, asked))
        return Held(kind, start, length)

    def setlk(
        self,
        fd: int,
        kind: int,
        start: int = 0,
        length: int = 0,
        wait: bool = False,
        ofd: bool = False,
    ) -> None:
        if ofd:
            command = libc.F_OFD_SETLKW if wait else libc.F_OFD_SETLK
        else:
            command = _fcntl().F_SETLKW if wait else _fcntl().F_SETLK
        _fcntl().fcntl(fd, command, libc.FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _become(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    # A umask, and a current directory, of this thread's own.
    libc.unshare(libc.CLONE_FS)
    libc.become(uid, gid, groups)
