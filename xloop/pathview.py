# SPDX-License-Identifier: MIT
"""Path-based calls into inode operations: :class:`PathView`, for every libfuse-style library.

Owns the way from a path to a node, and the lookup counts on that way.  Does not own what an
operation means (:mod:`xloop.ops`), nor the shape in which a library calls (its adapter).

**Counts.**  A path is walked with one lookup for each component, and all of them are forgotten when
the call is over, however it ends.  What stays is one count for each open handle, so that its node
is known until release: a call through a handle works whatever became of the path.

**No cache.**  The source may be changed behind us at any time, and then a remembered directory
would lead to the wrong file.  The libraries keep a tree of names of their own, and the kernel above
them its dentries: those have a timeout that the mount was told.

**Kept nodes.**  Some calls about a file without a name come with a path all the same (libfuse:
fstat(2) of a file that is open and removed).  :meth:`PathView.keep` gives such a node an invented
last name, here and nowhere else, for as long as one of its handles is open.

Names are bytes, and no path reaches the source: what it sees is one name at a time, and '..' is
none.  A symbolic link in the middle of a path is never followed: a lookup in it is ENOTDIR.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from types import TracebackType

from xloop.ops import Operations
from xloop.types import (
    ROOT_INO,
    Attr,
    Caller,
    DirEntry,
    HandleId,
    Ino,
    LockRange,
    Opened,
    SetAttr,
    StatFs,
)

__all__ = ["PathView"]


#: WinFsp asks for "/." to see what symbolic links are.
_ROOTS = (b"/", b"/.")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Kept:
    """A node that answers to an invented name."""

    __slots__ = ("dropped", "ino", "users")

    def __init__(self, ino: Ino) -> None:
        self.ino = ino
        self.users = 0  #: calls under way that came by the name
        self.dropped = False


class _Walk:
    """The lookups of one call.  As a context manager it forgets them at the end."""

    __slots__ = ("_caller", "_kept", "_owed", "_view")

    def __init__(self, view: PathView, caller: Caller) -> None:
        self._view = view
        self._caller = caller
        self._owed: list[tuple[Ino, int]] = []
        self._kept: list[_Kept] = []

    def __enter__(self) -> _Walk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        owed = self._owed
        if len(owed) == 1:
            self._view.ops.forget(*owed[0])
        elif owed:
            self._view.ops.batch_forget(owed)
        for kept in self._kept:
            self._view.leave(kept)

    def node(self, path: bytes) -> Ino:
        """Return the node that *path* leads to."""
        names = _components(path)
        if not names:
            return ROOT_INO
        kept = self._view.use(names[-1])
        if kept is not None:
            self._kept.append(kept)
            return kept.ino
        return self._down(names)

    def parent(self, path: bytes) -> tuple[Ino, bytes]:
        """Return the directory in which the last name of *path* is, and that name."""
        names = _components(path)
        if not names:
            raise _error(errno.EBUSY)  # the root: it has no name that could be made or removed
        name = names.pop()
        return self._down(names), name

    def owes(self, ino: Ino) -> None:
        """Forget one more count of *ino* at the end."""
        self._owed.append((ino, 1))

    def hand_over(self) -> bool:
        """Let somebody else forget the node that was just walked to; False: it is a kept one."""
        if self._kept:
            return False
        if self._owed:
            self._owed.pop()
        return True

    def _down(self, names: list[bytes]) -> Ino:
        ino = ROOT_INO
        lookup, caller, owed = self._view.ops.lookup, self._caller, self._owed
        for name in names:
            ino = lookup(caller, ino, name).ino
            owed.append((ino, 1))
        return ino


def _components(path: bytes) -> list[bytes]:
    """Return the names in an absolute *path*.  EINVAL for what no kernel sends."""
    if path in _ROOTS:
        return []
    root, *names = path.split(b"/")
    if root or not names:
        raise OSError(errno.EINVAL, "not an absolute path")
    for name in names:
        if name in (b"", b".", b".."):
            raise OSError(errno.EINVAL, "not the name of one directory entry")
    return names


class PathView:
    """*operations*, asked by path.

    A *path* is absolute, b"/" is the root.  Where a call takes a handle, that decides, and the path
    may be None.  Every method may be called from several threads at once and raises OSError only,
    as far as *operations* does.
    """

    def __init__(self, operations: Operations) -> None:
        self.ops = operations
        self._lock = threading.Lock()
        #: The node of each open handle; one lookup count of it belongs to the handle.
        self._open: dict[HandleId, Ino] = {}
        self._kept: dict[bytes, _Kept] = {}
        #: The handles that were opened by an invented name, and live on the count of that.
        self._borrowing: set[HandleId] = set()

    # -- life ---------------------------------------------------------------------------

    def init(self, *, kernel_checks: bool = False) -> None:
        self.ops.init(kernel_checks=kernel_checks)

    def destroy(self) -> None:
        """The last call.  Whatever was left open is the file system's to end."""
        with self._lock:
            self._open.clear()
            self._kept.clear()
            self._borrowing.clear()
        self.ops.destroy()

    # -- handles ------------------------------------------------------------------------

    def _node_of(self, handle: HandleId) -> Ino:
        try:
            return self._open[handle]
        except KeyError:
            raise _error(errno.EBADF) from None

    def _opened(self, ino: Ino, opened: Opened, *, owns: bool = True) -> Opened:
        with self._lock:
            self._open[opened.handle] = ino
            if not owns:
                self._borrowing.add(opened.handle)
        return opened

    def _released(self, handle: HandleId) -> None:
        """Give back the count that belonged to *handle*, and the invented names with the last one."""
        with self._lock:
            ino = self._open.pop(handle, ROOT_INO)
            owned = handle not in self._borrowing
            self._borrowing.discard(handle)
            done = []
            if self._kept and ino not in self._open.values():
                done = [name for name, kept in self._kept.items() if kept.ino == ino]
        for name in done:
            self.drop(name)
        if owned and ino != ROOT_INO:
            self.ops.forget(ino, 1)

    # -- nodes without a name -----------------------------------------------------------

    def keep(self, caller: Caller, path: bytes, name: bytes) -> None:
        """Let every path that ends in *name* lead to the node that *path* leads to now.

        Until :meth:`drop`, or until the last handle of that node is released.
        """
        with _Walk(self, caller) as walk:
            ino = walk.node(path)
            with self._lock:
                if name in self._kept:
                    raise _error(errno.EEXIST)
                if ino == ROOT_INO or not walk.hand_over():
                    raise _error(errno.EBUSY)
                self._kept[name] = _Kept(ino)

    def drop(self, name: bytes) -> bool:
        """Forget an invented name; False if it is none."""
        with self._lock:
            kept = self._kept.pop(name, None)
            if kept is None:
                return False
            for handle in self._borrowing:
                if self._open[handle] == kept.ino:
                    self._borrowing.remove(handle)  # it owns the count from now on
                    return True
            kept.dropped = True
            used = kept.users > 0
        if not used:
            self.ops.forget(kept.ino, 1)
        return True

    def is_kept(self, path: bytes) -> bool:
        """Tell whether *path* ends in an invented name."""
        return bool(self._kept) and path.rpartition(b"/")[2] in self._kept

    def is_open(self, caller: Caller, path: bytes) -> bool:
        """Tell whether a handle of the node that *path* leads to is open."""
        with _Walk(self, caller) as walk:
            ino = walk.node(path)
            with self._lock:
                return ino in self._open.values()

    def use(self, name: bytes) -> _Kept | None:
        """Return what *name* was invented for; :meth:`leave` it afterwards."""
        if not self._kept:
            return None
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                kept.users += 1
            return kept

    def leave(self, kept: _Kept) -> None:
        with self._lock:
            kept.users -= 1
            last = kept.dropped and not kept.users
        if last:
            self.ops.forget(kept.ino, 1)

    # -- attributes ---------------------------------------------------------------------

    def getattr(self, caller: Caller, path: bytes | None, handle: HandleId | None = None) -> Attr:
        if handle is not None:
            return self.ops.getattr(caller, self._node_of(handle), handle)
        with _Walk(self, caller) as walk:
            path = _given(path)
            if path in _ROOTS or self.is_kept(path):
                return self.ops.getattr(caller, walk.node(path), None)
            # The last lookup tells the attributes too.
            entry = self.ops.lookup(caller, *walk.parent(path))
            walk.owes(entry.ino)
            return entry.attr

    def setattr(
        self,
        caller: Caller,
        path: bytes | None,
        changes: SetAttr,
        handle: HandleId | None = None,
    ) -> Attr:
        if handle is not None:
            return self.ops.setattr(caller, self._node_of(handle), changes, handle)
        with _Walk(self, caller) as walk:
            return self.ops.setattr(caller, walk.node(_given(path)), changes, None)

    def access(self, caller: Caller, path: bytes, mask: int) -> None:
        with _Walk(self, caller) as walk:
            self.ops.access(caller, walk.node(path), mask)

    def getpath(self, caller: Caller, path: bytes) -> bytes:
        """Return *path* with each name as its directory spells it."""
        spelled = []
        with _Walk(self, caller) as walk:
            ino = ROOT_INO
            for name in _components(path):
                spelled.append(self.ops.spelling(caller, ino, name))
                ino = self.ops.lookup(caller, ino, name).ino
                walk.owes(ino)
        return b"/" + b"/".join(spelled)

    def readlink(self, caller: Caller, path: bytes) -> bytes:
        with _Walk(self, caller) as walk:
            return self.ops.readlink(caller, walk.node(path))

    def statfs(self, caller: Caller, path: bytes | None) -> StatFs:
        with _Walk(self, caller) as walk:
            return self.ops.statfs(caller, ROOT_INO if path is None else walk.node(path))

    def syncfs(self, caller: Caller) -> None:
        self.ops.syncfs(caller, ROOT_INO)

    # -- names --------------------------------------------------------------------------

    def symlink(self, caller: Caller, path: bytes, target: bytes) -> None:
        with _Walk(self, caller) as walk:
            walk.owes(self.ops.symlink(caller, *walk.parent(path), target).ino)

    def mknod(self, caller: Caller, path: bytes, mode: int, rdev: int, umask: int) -> None:
        with _Walk(self, caller) as walk:
            walk.owes(self.ops.mknod(caller, *walk.parent(path), mode, rdev, umask).ino)

    def mkdir(self, caller: Caller, path: bytes, mode: int, umask: int) -> None:
        with _Walk(self, caller) as walk:
            walk.owes(self.ops.mkdir(caller, *walk.parent(path), mode, umask).ino)

    def unlink(self, caller: Caller, path: bytes) -> None:
        with _Walk(self, caller) as walk:
            self.ops.unlink(caller, *walk.parent(path))

    def rmdir(self, caller: Caller, path: bytes) -> None:
        with _Walk(self, caller) as walk:
            self.ops.rmdir(caller, *walk.parent(path))

    def rename(self, caller: Caller, path: bytes, newpath: bytes, flags: int = 0) -> None:
        with _Walk(self, caller) as walk:
            self.ops.rename(caller, *walk.parent(path), *walk.parent(newpath), flags)

    def link(self, caller: Caller, path: bytes, newpath: bytes) -> None:
        """Give the node at *path* another name: the order of link(2), not of every library."""
        with _Walk(self, caller) as walk:
            walk.owes(self.ops.link(caller, walk.node(path), *walk.parent(newpath)).ino)

    # -- files --------------------------------------------------------------------------

    def open(
        self, caller: Caller, path: bytes, flags: int, *, kill_suidgid: bool = False
    ) -> Opened:
        with _Walk(self, caller) as walk:
            ino = walk.node(path)
            opened = self.ops.open(caller, ino, flags, kill_suidgid=kill_suidgid)
            return self._opened(ino, opened, owns=walk.hand_over())

    def create(
        self,
        caller: Caller,
        path: bytes,
        flags: int,
        mode: int,
        umask: int,
        *,
        kill_suidgid: bool = False,
    ) -> Opened:
        with _Walk(self, caller) as walk:
            entry, opened = self.ops.create(
                caller, *walk.parent(path), flags, mode, umask, kill_suidgid=kill_suidgid
            )
            return self._opened(entry.ino, opened)

    def read(self, caller: Caller, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        return self.ops.read(caller, self._node_of(handle), handle, offset, size)

    def write(
        self,
        caller: Caller,
        handle: HandleId,
        offset: int,
        data: bytes | memoryview,
        *,
        cached: bool = False,
        kill_suidgid: bool = False,
    ) -> int:
        ino = self._node_of(handle)
        return self.ops.write(
            caller, ino, handle, offset, data, cached=cached, kill_suidgid=kill_suidgid
        )

    def flush(self, caller: Caller, handle: HandleId, lock_owner: int) -> None:
        self.ops.flush(caller, self._node_of(handle), handle, lock_owner)

    def release(self, handle: HandleId) -> None:
        ino = self._node_of(handle)
        try:
            self.ops.release(ino, handle)
        finally:
            self._released(handle)

    def fsync(self, caller: Caller, handle: HandleId, datasync: bool) -> None:
        self.ops.fsync(caller, self._node_of(handle), handle, datasync)

    def fallocate(
        self, caller: Caller, handle: HandleId, mode: int, offset: int, length: int
    ) -> None:
        self.ops.fallocate(caller, self._node_of(handle), handle, mode, offset, length)

    def lseek(self, caller: Caller, handle: HandleId, offset: int, whence: int) -> int:
        return self.ops.lseek(caller, self._node_of(handle), handle, offset, whence)

    def copy_file_range(
        self,
        caller: Caller,
        handle_in: HandleId,
        offset_in: int,
        handle_out: HandleId,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        ino_in, ino_out = self._node_of(handle_in), self._node_of(handle_out)
        return self.ops.copy_file_range(
            caller, ino_in, handle_in, offset_in, ino_out, handle_out, offset_out, length, flags
        )

    def ioctl(
        self, caller: Caller, handle: HandleId, command: int, data: bytes, out_size: int
    ) -> bytes:
        return self.ops.ioctl(caller, self._node_of(handle), handle, command, data, out_size)

    def poll(self, caller: Caller, handle: HandleId, events: int) -> int:
        return self.ops.poll(caller, self._node_of(handle), handle, events)

    # -- directories --------------------------------------------------------------------

    def opendir(self, caller: Caller, path: bytes, flags: int) -> Opened:
        with _Walk(self, caller) as walk:
            ino = walk.node(path)
            opened = self.ops.opendir(caller, ino, flags)
            return self._opened(ino, opened, owns=walk.hand_over())

    def readdir(self, caller: Caller, handle: HandleId, offset: int) -> Iterator[DirEntry]:
        return self.ops.readdir(caller, self._node_of(handle), handle, offset)

    def readdirplus(
        self, caller: Caller, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Attr | None]]:
        """Yield names with attributes.  Each node is forgotten before the next one is asked for."""
        for entry, found in self.ops.readdirplus(caller, self._node_of(handle), handle, offset):
            if found is None:
                yield entry, None
                continue
            try:
                yield entry, found.attr
            finally:
                self.ops.forget(found.ino, 1)

    def releasedir(self, handle: HandleId) -> None:
        ino = self._node_of(handle)
        try:
            self.ops.releasedir(ino, handle)
        finally:
            self._released(handle)

    def fsyncdir(self, caller: Caller, handle: HandleId, datasync: bool) -> None:
        self.ops.fsyncdir(caller, self._node_of(handle), handle, datasync)

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, caller: Caller, path: bytes, name: bytes) -> bytes:
        with _Walk(self, caller) as walk:
            return self.ops.getxattr(caller, walk.node(path), name)

    def setxattr(self, caller: Caller, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        with _Walk(self, caller) as walk:
            self.ops.setxattr(caller, walk.node(path), name, value, flags)

    def listxattr(self, caller: Caller, path: bytes) -> list[bytes]:
        with _Walk(self, caller) as walk:
            return self.ops.listxattr(caller, walk.node(path))

    def removexattr(self, caller: Caller, path: bytes, name: bytes) -> None:
        with _Walk(self, caller) as walk:
            self.ops.removexattr(caller, walk.node(path), name)

    # -- locks --------------------------------------------------------------------------

    def getlk(self, caller: Caller, handle: HandleId, owner: int, lock: LockRange) -> LockRange:
        return self.ops.getlk(caller, self._node_of(handle), handle, owner, lock)

    def setlk(
        self, caller: Caller, handle: HandleId, owner: int, lock: LockRange, *, wait: bool
    ) -> None:
        self.ops.setlk(caller, self._node_of(handle), handle, owner, lock, wait=wait)

    def flock(self, caller: Caller, handle: HandleId, operation: int) -> None:
        self.ops.flock(caller, self._node_of(handle), handle, operation)


def _given(path: bytes | None) -> bytes:
    """Return *path*; without one, and without a handle, nobody knows what is meant."""
    if path is None:
        raise _error(errno.ENOENT)
    return path
