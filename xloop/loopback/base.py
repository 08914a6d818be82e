# SPDX-License-Identifier: MIT
"""What the parts of the loopback share: the source, its nodes and handles, and who asks.

Owns the state.  Does not own any operation; those are in the modules beside this one, a group
each, and :class:`xloop.loopback.Loopback` puts them together.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import AbstractContextManager, nullcontext

from xloop.handles import HandleTable
from xloop.host import Descriptor, host
from xloop.loopback.streams import DirStream
from xloop.nodes import Node, NodeTable
from xloop.ops import Operations
from xloop.types import Caller, Entry, HandleId, Ino

__all__ = ["LockOwner", "LoopbackBase", "OpenFile", "require_regular"]

_NOTHING: AbstractContextManager[object] = nullcontext()

# Descriptors that are left to open files and to the process itself.
_RESERVE = 256


class OpenFile:
    """One open of a regular file."""

    __slots__ = ("fd", "flags", "node", "plain_fd")

    def __init__(self, node: Node, fd: Descriptor, flags: int) -> None:
        self.node = node
        self.fd = fd
        self.flags = flags
        #: The same file without O_APPEND, for writing back pages of a mapping.
        self.plain_fd: Descriptor | None = None

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class LockOwner:
    """The open file of the source that holds the record locks of one owner on one node."""

    __slots__ = ("fd", "handles", "pid")

    def __init__(self, fd: Descriptor) -> None:
        self.fd = fd
        #: Who it is, as far as the last request told.
        self.pid = 0
        #: The handles it has locked through.
        self.handles: set[HandleId] = set()


class LoopbackBase(Operations):
    """See :class:`xloop.loopback.Loopback`."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        mountpoint: str | os.PathLike[str] | None = None,
        descriptors: int | None = None,
    ) -> None:
        """Open the directory *source*.

        *mountpoint*: where it is going to be shown.  If that lies inside the source it must not
        appear in itself: with the privilege for it, a copy of the source's mounts is looked at.
        *descriptors*: how many the nodes may hold; None: half of the process's limit.
        """
        self.source = os.fspath(source)
        limit = host.raise_descriptor_limit()
        inside = mountpoint is not None and _contains(self.source, os.fspath(mountpoint))
        root = host.open_root(self.source, private=inside)
        if descriptors is None:
            descriptors = min(limit // 2, limit - _RESERVE)
        self.nodes = NodeTable(root, descriptors)
        self.handles: HandleTable[OpenFile | DirStream] = HandleTable()
        self.kernel_checks = False
        self._impersonates = host.may_act_as_others()
        # Guards the two maps below; never held during a system call that may wait.
        self._files_lock = threading.Lock()
        #: The open files of each node, by its number.
        self._files: dict[Ino, list[Descriptor]] = {}
        #: Who holds record locks on a node (:mod:`xloop.loopback.locks`).
        self._owners: dict[Ino, dict[int, LockOwner]] = {}

    def init(self, *, kernel_checks: bool = False) -> None:
        self.kernel_checks = kernel_checks

    def destroy(self) -> None:
        for handle in self.handles.values():
            if isinstance(handle, OpenFile):
                self.nodes.unpin(handle.node, handle.fd, None)
        self.handles = HandleTable()
        self._files.clear()
        self._owners.clear()

    # -- names --------------------------------------------------------------------------

    def _directory(self, ino: Ino, name: bytes) -> tuple[Node, Descriptor]:
        """Return the directory in which *name* is asked for, with a descriptor of it.

        Refuses what is not one name: '..' of the root would lead out of the source.
        """
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise OSError(errno.EINVAL, "not the name of one directory entry")
        node = self.nodes[ino]
        return node, self.nodes.ref(node)

    def _found(self, parent: Node, parent_ref: Descriptor, name: bytes) -> Entry:
        """Return the entry of *name*, which is there: +1."""
        fd = self.nodes.within_limits(host.open_ref, parent_ref, name)
        attr = host.statx(fd)
        node = self.nodes.intern(attr, parent, name, fd)
        return Entry(node.ino, self.nodes.shown(attr))

    # -- handles ------------------------------------------------------------------------

    def _file(self, handle: HandleId) -> OpenFile:
        found = self.handles[handle]
        if not isinstance(found, OpenFile):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def _stream(self, handle: HandleId) -> DirStream:
        found = self.handles[handle]
        if not isinstance(found, DirStream):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return found

    def _ref(self, ino: Ino, handle: HandleId | None) -> Descriptor:
        """Return a descriptor of *ino*: the handle's where one is given."""
        if handle is not None:
            return self.handles[handle].fd
        return self.nodes.ref(self.nodes[ino])

    # -- who asks -----------------------------------------------------------------------

    def _as(self, caller: Caller) -> AbstractContextManager[object]:
        """Let the source's kernel decide whether *caller* may, unless that is decided."""
        if self.kernel_checks or not self._impersonates or host.is_self(caller):
            return _NOTHING
        return host.acting_as(caller, checked=False)

    def _as_creator(self, caller: Caller) -> AbstractContextManager[object]:
        """Create as *caller*: owner and group are right from the first moment, never changed later."""
        if not self._impersonates:
            return _NOTHING
        return host.acting_as(caller, checked=self.kernel_checks)

    def _killing(self, kill: bool) -> AbstractContextManager[object]:
        """With *kill*, let the source's kernel clear S_ISUID and S_ISGID as for the caller."""
        return host.without_fsetid() if kill and self._impersonates else _NOTHING

    def _own_rights(self, caller: Caller) -> AbstractContextManager[object]:
        """Make the source's kernel check *caller*, also where another one checks the rest."""
        return host.acting_as(caller, checked=False) if self._impersonates else _NOTHING


def _contains(source: str, mountpoint: str) -> bool:
    source, mountpoint = os.path.realpath(source), os.path.realpath(mountpoint)
    return os.path.commonpath((source, mountpoint)) == source


def require_regular(node: Node) -> None:
    """Refuse to open what is not a regular file: opening a FIFO or a device acts on it."""
    if node.kind != stat.S_IFREG:
        number = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(node.kind, errno.ENXIO)
        raise OSError(number, os.strerror(number))
