# SPDX-License-Identifier: MIT
"""A tree without a kernel: :class:`InProcessTree` calls an Operations as an adapter would.

Owns what a kernel does before and after it asks a file system, only as far as tests see it: the
types that a call accepts, the access mode of a descriptor, O_EXCL, file positions, limits.  Does
not own permissions: those are the file system's.  What comes between (page cache, mappings, FIFOs
and devices as such) does not exist here.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
import stat
import threading
from pathlib import Path as FilePath
from typing import Any, Final

from xloop.ops import Operations
from xloop.testing.actor import ThreadCall
from xloop.testing.descriptors import Description, DescriptorCalls, Process
from xloop.testing.flags import (
    O_ACCMODE,
    O_DIRECTORY,
    O_LARGEFILE,
    O_NOATIME,
    O_NOCTTY,
    O_NOFOLLOW,
    O_PATH,
    O_TMPFILE,
)
from xloop.testing.ledger import Ledger
from xloop.testing.tree import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    Path,
    Pending,
    Tree,
)
from xloop.testing.walk import Last, Node, Walk, fail
from xloop.types import ROOT_INO, Attr, Caller, SetAttr, TimeOrNow

__all__ = ["InProcessTree"]

_XATTR_NAME_MAX: Final = 255
_XATTR_SIZE_MAX: Final = 65536


def _as_stat(attr: Attr) -> os.stat_result:
    """Return *attr* as stat(2) would give it."""
    times = {
        f"st_{kind}time{suffix}": value
        for kind, ns in (("a", attr.atime_ns), ("m", attr.mtime_ns), ("c", attr.ctime_ns))
        for suffix, value in (("", ns / 1e9), ("_ns", ns))
    }
    extra = {"st_blksize": attr.blksize, "st_blocks": attr.blocks, "st_rdev": attr.rdev}
    ten = (
        *(attr.mode, attr.ino, attr.dev, attr.nlink, attr.uid, attr.gid, attr.size),
        *(attr.atime, attr.mtime, attr.ctime),
    )
    return os.stat_result(ten, times | extra)


def _thread_state() -> list[str]:
    """Return who this thread is, as the kernel says."""
    try:
        lines = FilePath("/proc/thread-self/status").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(("Uid:", "Gid:", "Groups:", "CapEff:"))]


def _whoami() -> tuple[int, int, tuple[int, ...]]:
    # Not on every system; what there is no user of is root's.
    _os: Any = os
    if not hasattr(os, "geteuid"):
        return 0, 0, ()
    return _os.geteuid(), _os.getegid(), tuple(_os.getgroups())


class InProcessTree(DescriptorCalls, Tree):
    """The root of *operations*, or a directory below it.  Shutting it destroys *operations*."""

    def __init__(self, operations: Operations) -> None:
        self.ledger = Ledger(operations)
        self._identity = _whoami()
        self._before = _thread_state()
        self._process = Process()
        self._descriptions: dict[int, Description] = {}
        self._numbers = itertools.count(1000)
        self._kept: list[Node] = []
        self._is_whole = True
        self.ledger.init()
        self._top: tuple[Node, ...] = (
            Node(ROOT_INO, self.ledger.getattr(self._caller, ROOT_INO, None)),
        )

    @property
    def _caller(self) -> Caller:
        uid, gid, groups = self._identity
        return Caller(uid, gid, threading.get_native_id(), groups)

    def _walk(self) -> Walk:
        return Walk(self.ledger, self._caller, self._top)

    def _twin(self, **changes: Any) -> InProcessTree:
        twin = copy.copy(self)
        vars(twin).update(changes, _is_whole=False)
        return twin

    # -- life ---------------------------------------------------------------------------

    def shut(self) -> None:
        if self._is_whole:
            self.let_go()
            self.ledger.destroy()

    def let_go(self) -> None:
        """Close and forget everything, so that the file system has nothing left but its root."""
        for fd in list(self._descriptions):
            self.close(fd)
        for node in self._kept:
            self.ledger.forget(node.ino, 1)
        self._kept.clear()

    def check_balanced(self) -> None:
        """Raise unless all was forgotten and released, and this thread is still itself."""
        self.ledger.check_balanced()
        assert _thread_state() == self._before, "an operation left its thread as somebody else"

    def at(self, path: Path) -> Tree:
        with self._walk() as walk:
            top = walk.stack(path)
            self._kept += [node for node in top if walk.keep(node)]
        return self._twin(_top=top)

    def as_user(
        self, uid: int, gid: int, groups: tuple[int, ...] = (), umask: int | None = None
    ) -> Tree:
        umask = self.umask if umask is None else umask
        return self._twin(_identity=(uid, gid, groups), umask=umask)

    def process(self) -> Tree:
        return self._twin(_process=Process())

    def start(self, method: str, *args: Any) -> Pending:
        return ThreadCall(lambda: getattr(self, method)(*args))

    def kill(self) -> None:
        for fd in list(self._process.fds):
            self.close(fd)

    # -- open -----------------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        if O_TMPFILE and flags & O_TMPFILE == O_TMPFILE:
            return self._open_tmpfile(path, flags, mode)
        if flags & O_PATH:
            flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW
        creating = flags & os.O_CREAT
        follow = not flags & O_NOFOLLOW and not (creating and flags & os.O_EXCL)
        if os.fsencode(path).endswith(b"/"):
            # What a link leads to; but making something there is refused before that is known.
            follow = not creating
        with self._walk() as walk:
            last = walk.last(path, follow)
            if creating:
                if flags & O_DIRECTORY:
                    fail(errno.EINVAL)
                if last.slash:
                    fail(errno.EISDIR)
                if last.node is None:
                    return self._create(walk, last, flags, mode)
                if flags & os.O_EXCL:
                    fail(errno.EEXIST)
            node = last.node
            if node is None:
                fail(errno.ENOENT)
            if last.slash and not node.is_dir:
                fail(errno.ENOTDIR)
            return self._open_existing(walk, node, flags)

    def _open_existing(self, walk: Walk, node: Node, flags: int) -> int:
        if flags & O_DIRECTORY and not node.is_dir:
            fail(errno.ENOTDIR)
        if flags & O_PATH:
            return self._new(walk, node, None, flags)
        if node.is_link:
            fail(errno.ELOOP)
        writing = flags & O_ACCMODE != os.O_RDONLY
        if node.is_dir and (writing or flags & os.O_CREAT):
            fail(errno.EISDIR)
        if flags & O_NOATIME and self._caller.uid not in (0, node.attr.uid):
            fail(errno.EPERM)
        if stat.S_ISSOCK(node.attr.mode):
            fail(errno.ENXIO)
        if not node.is_dir and not node.is_file:
            raise NotImplementedError("a kernel opens FIFOs and devices by itself")
        # A kernel's flags: its own O_LARGEFILE among them, what it has dealt with gone.
        passed = flags & ~(os.O_CREAT | os.O_EXCL | O_NOCTTY) | O_LARGEFILE
        call = self.ledger.opendir if node.is_dir else self.ledger.open
        return self._new(walk, node, call(self._caller, node.ino, passed), flags)

    def _create(self, walk: Walk, last: Last, flags: int, mode: int) -> int:
        entry, opened = self.ledger.create(
            self._caller,
            last.dir.ino,
            last.name,
            flags | O_LARGEFILE,
            mode & 0o7777 | stat.S_IFREG,
            self.umask,
        )
        return self._new(walk, walk.entry(entry), opened, flags)

    def _open_tmpfile(self, path: Path, flags: int, mode: int) -> int:
        if flags & O_ACCMODE == os.O_RDONLY:
            fail(errno.EINVAL)
        with self._walk() as walk:
            node = walk.find(path)
            if not node.is_dir:
                fail(errno.ENOTDIR)
            entry, opened = self.ledger.tmpfile(
                self._caller,
                node.ino,
                flags | O_LARGEFILE,
                mode & 0o7777 | stat.S_IFREG,
                self.umask,
            )
            return self._new(walk, walk.entry(entry), opened, flags & ~O_DIRECTORY)

    # -- attributes -----------------------------------------------------------------------

    def _getattr(self, path: Path, follow: bool) -> os.stat_result:
        with self._walk() as walk:
            node = walk.find(path, follow)
            return _as_stat(self.ledger.getattr(self._caller, node.ino, None))

    def stat(self, path: Path) -> os.stat_result:
        return self._getattr(path, True)

    def lstat(self, path: Path) -> os.stat_result:
        return self._getattr(path, False)

    def fstat(self, fd: int) -> os.stat_result:
        held = self._any(fd)
        return _as_stat(self.ledger.getattr(self._caller, held.ino, held.handle))

    def btime(self, path: Path) -> int | None:
        with self._walk() as walk:
            attr = self.ledger.statx(self._caller, walk.find(path, False).ino, None)
        return attr.btime * 1_000_000_000 + attr.btime_nsec if attr.has_btime else None

    def access(self, path: Path, mask: int) -> None:
        if mask & ~7:
            fail(errno.EINVAL)
        with self._walk() as walk:
            node = walk.find(path)
            if mask:
                self.ledger.access(self._caller, node.ino, mask)

    def _set(self, path: Path, changes: SetAttr, follow: bool = True) -> None:
        with self._walk() as walk:
            self.ledger.setattr(self._caller, walk.find(path, follow).ino, changes, None)

    def chmod(self, path: Path, mode: int) -> None:
        self._set(path, SetAttr(mode=mode & 0o7777))

    def lchmod(self, path: Path, mode: int) -> None:
        self._set(path, SetAttr(mode=mode & 0o7777), follow=False)

    def chown(self, path: Path, uid: int, gid: int) -> None:
        self._set(path, self._owners(uid, gid))

    def lchown(self, path: Path, uid: int, gid: int) -> None:
        self._set(path, self._owners(uid, gid), follow=False)

    def utime(
        self, path: Path, atime: TimeOrNow | None, mtime: TimeOrNow | None, follow: bool = True
    ) -> None:
        # Nothing to do: not even the path is looked at.
        if atime is not None or mtime is not None:
            self._set(path, SetAttr(atime=atime, mtime=mtime), follow)

    def truncate(self, path: Path, size: int) -> None:
        if size < 0:
            fail(errno.EINVAL)
        with self._walk() as walk:
            node = walk.find(path)
            if not node.is_file:
                fail(errno.EISDIR if node.is_dir else errno.EINVAL)
            self.ledger.setattr(self._caller, node.ino, self._size(size), None)

    def statvfs(self, path: Path) -> os.statvfs_result:
        with self._walk() as walk:
            fs = self.ledger.statfs(self._caller, walk.find(path).ino)
        counts = fs.blocks, fs.bfree, fs.bavail, fs.files, fs.ffree, fs.ffree
        return os.statvfs_result((fs.bsize, fs.frsize, *counts, 0, fs.namelen))

    # -- names ------------------------------------------------------------------------------

    def _vacant(self, walk: Walk, path: Path, is_dir: bool = False) -> Last:
        """Return a place for a new name; EEXIST where there is one."""
        last = walk.last(path, follow=False)
        if last.is_dots or last.node is not None:
            fail(errno.EEXIST)
        if last.slash and not is_dir:
            fail(errno.ENOENT)
        return last

    def link(self, old: Path, new: Path, follow: bool = False) -> None:
        with self._walk() as walk:
            self._link(walk, walk.find(old, follow), new)

    def link_fd(self, fd: int, new: Path) -> None:
        with self._walk() as walk:
            self._link(walk, self._any(fd).node, new)

    def _link(self, walk: Walk, node: Node, new: Path) -> None:
        last = self._vacant(walk, new)
        if node.is_dir:
            fail(errno.EPERM)
        walk.entry(self.ledger.link(self._caller, node.ino, last.dir.ino, last.name))

    def symlink(self, target: Path, path: Path) -> None:
        text = os.fsencode(target)
        if not text:
            fail(errno.ENOENT)
        if len(text) >= 4096:
            fail(errno.ENAMETOOLONG)
        with self._walk() as walk:
            last = self._vacant(walk, path)
            walk.entry(self.ledger.symlink(self._caller, last.dir.ino, last.name, text))

    def readlink(self, path: Path) -> bytes:
        with self._walk() as walk:
            node = walk.find(path, follow=False)
            if not node.is_link:
                fail(errno.EINVAL)
            return self.ledger.readlink(self._caller, node.ino)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        with self._walk() as walk:
            last = self._vacant(walk, path, is_dir=True)
            where = self._caller, last.dir.ino, last.name
            walk.entry(self.ledger.mkdir(*where, mode & 0o1777, self.umask))

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        if stat.S_IFMT(mode) == 0:
            mode |= stat.S_IFREG
        if stat.S_ISDIR(mode):
            fail(errno.EPERM)
        if stat.S_ISLNK(mode):
            fail(errno.EINVAL)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        with self._walk() as walk:
            last = self._vacant(walk, path)
            if is_device and self._caller.uid != 0:
                fail(errno.EPERM)
            rdev = rdev if is_device else 0
            where = self._caller, last.dir.ino, last.name
            walk.entry(self.ledger.mknod(*where, mode, rdev, self.umask))

    def unlink(self, path: Path) -> None:
        with self._walk() as walk:
            last = walk.last(path, follow=False)
            if last.is_dots:
                fail(errno.EISDIR)
            if last.node is None:
                fail(errno.ENOENT)
            if last.slash:
                fail(errno.EISDIR if last.node.is_dir else errno.ENOTDIR)
            self.ledger.unlink(self._caller, last.dir.ino, last.name)

    def rmdir(self, path: Path) -> None:
        with self._walk() as walk:
            last = walk.last(path, follow=False)
            if last.is_dots:
                fail(errno.ENOTEMPTY if last.name == b".." else errno.EINVAL)
            if last.node is None:
                fail(errno.ENOENT)
            if not last.node.is_dir:
                fail(errno.ENOTDIR)
            self.ledger.rmdir(self._caller, last.dir.ino, last.name)

    def rename(self, old: Path, new: Path, flags: int = 0) -> None:
        exchange = bool(flags & RENAME_EXCHANGE)
        if flags & ~7 or (exchange and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)):
            fail(errno.EINVAL)
        with self._walk() as walk:
            a = walk.last(old, follow=False)
            b = walk.last(new, follow=False)
            if a.is_dots:
                fail(errno.EBUSY)
            if b.is_dots:
                fail(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
            if a.node is None or (exchange and b.node is None):
                fail(errno.ENOENT)
            if flags & RENAME_NOREPLACE and b.node is not None:
                fail(errno.EEXIST)
            if exchange and b.slash and b.node is not None and not b.node.is_dir:
                fail(errno.ENOTDIR)
            if not a.node.is_dir and (a.slash or (b.slash and not exchange)):
                fail(errno.ENOTDIR)
            to = b.dir.ino, b.name
            self.ledger.rename(self._caller, a.dir.ino, a.name, *to, flags)

    # -- extended attributes --------------------------------------------------------------

    def getxattr(self, path: Path, name: bytes, follow: bool = True) -> bytes:
        self._check_xattr(name)
        with self._walk() as walk:
            return self.ledger.getxattr(self._caller, walk.find(path, follow).ino, name)

    def setxattr(
        self, path: Path, name: bytes, value: bytes, flags: int = 0, follow: bool = True
    ) -> None:
        self._check_xattr(name, value, flags)
        with self._walk() as walk:
            node = walk.find(path, follow)
            self.ledger.setxattr(self._caller, node.ino, name, value, flags)

    def listxattr(self, path: Path, follow: bool = True) -> list[bytes]:
        with self._walk() as walk:
            return self.ledger.listxattr(self._caller, walk.find(path, follow).ino)

    def removexattr(self, path: Path, name: bytes, follow: bool = True) -> None:
        self._check_xattr(name)
        with self._walk() as walk:
            self.ledger.removexattr(self._caller, walk.find(path, follow).ino, name)

    def fgetxattr(self, fd: int, name: bytes) -> bytes:
        self._check_xattr(name)
        return self.ledger.getxattr(self._caller, self._real(fd).ino, name)

    def fsetxattr(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self._check_xattr(name, value, flags)
        self.ledger.setxattr(self._caller, self._real(fd).ino, name, value, flags)

    def flistxattr(self, fd: int) -> list[bytes]:
        return self.ledger.listxattr(self._caller, self._real(fd).ino)

    def fremovexattr(self, fd: int, name: bytes) -> None:
        self._check_xattr(name)
        self.ledger.removexattr(self._caller, self._real(fd).ino, name)

    @staticmethod
    def _check_xattr(name: bytes, value: bytes = b"", flags: int = 0) -> None:
        if flags & ~3:
            fail(errno.EINVAL)
        if not 0 < len(name) <= _XATTR_NAME_MAX:
            fail(errno.ERANGE)
        if len(value) > _XATTR_SIZE_MAX:
            fail(errno.E2BIG)
