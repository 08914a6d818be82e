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
from collections import OrderedDict
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from xloop.changes import Watch
from xloop.handles import HandleTable
from xloop.host import Descriptor, host
from xloop.loopback.streams import DirStream
from xloop.nodes import Node, NodeTable
from xloop.ops import Operations
from xloop.types import Caller, Entry, HandleId, Ino

__all__ = ["NOTHING", "LockOwner", "LoopbackBase", "OpenFile", "require_regular"]

R = TypeVar("R")

#: Leaves the calling thread as it is.
NOTHING: AbstractContextManager[object] = nullcontext()

# Descriptors that are left to open files and to the process itself.
_RESERVE = 256

#: Seconds after which the reference of a file that nobody used meanwhile is closed, twice that at most.
_SWEEP = 2.0


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
        return self.flags & host.O_ACCMODE != os.O_RDONLY


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
        noatime: bool = False,
        descriptors: int | None = None,
    ) -> None:
        """Open the directory *source*.

        *mountpoint*: where it is going to be shown.  If that lies inside the source it must not
        appear in itself: with the privilege for it, a copy of the source's mounts is looked at.
        *noatime*: reading through here moves no access time on the source, where this process may
        ask for that (O_NOATIME: its own files, or privilege).
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
        self.stack_depth = host.stack_depth(root)
        self.case_sensitive = host.is_case_sensitive(root)
        self.kernel_checks = False
        self._noatime = host.O_NOATIME if noatime else 0
        self._impersonates = host.may_act_as_others()
        self._ended = threading.Event()
        self._sweeper: threading.Thread | None = None
        self._watch: Watch | None = None
        # Guards the maps of files and of listings; never held during a system call that may wait.
        self._files_lock = threading.Lock()
        #: The open files of each node, by its number.
        self._files: dict[Ino, list[Descriptor]] = {}
        #: Device -> whether its directories may list what lies on others.
        self._mixed: dict[int, bool] = {}
        #: Device -> whether closing a file there may report an error.
        self._close_reports: dict[int, bool] = {}
        #: The directories whose listings were told lately, and when; the earliest first.
        self._told: OrderedDict[Ino, int] = OrderedDict()
        #: Whether anybody has ever asked for a record lock here (:mod:`xloop.loopback.locks`).
        self._locking = False
        #: Who holds record locks on a node (:mod:`xloop.loopback.locks`).
        self._owners: dict[Ino, dict[int, LockOwner]] = {}

    def init(self, *, kernel_checks: bool = False) -> None:
        self.kernel_checks = kernel_checks
        self._sweeper = threading.Thread(target=self._sweep, name="xloop-sweep", daemon=True)
        self._sweeper.start()

    def watch(self, own: Container[int]) -> Watch:
        from xloop.watch import open_watch  # here: few mounts are watched

        self._watch = open_watch(self.nodes, own, self._open_files)
        return self._watch

    def _open_files(self) -> list[tuple[Node, Descriptor]]:
        """Return the files that are open, each with its node."""
        return [
            (file.node, file.fd) for file in self.handles.values() if isinstance(file, OpenFile)
        ]

    def destroy(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._ended.set()
        self.nodes.referenced.set()
        if self._sweeper is not None:
            self._sweeper.join()
        for handle in self.handles.values():
            if isinstance(handle, OpenFile):
                self.nodes.unpin(handle.node, None)
        self.handles = HandleTable()
        self._files.clear()
        self._owners.clear()

    def status(self) -> dict[str, object]:
        """Return what people may want to know: what `xloop status` shows of the file system."""
        return {
            "nodes": len(self.nodes),
            "cached descriptors": self.nodes.descriptors,
            "most cached descriptors": self.nodes.budget,
            "open files and directories": len(self.handles),
            "acts as the caller": self._impersonates,
        }

    def _sweep(self) -> None:
        """Let go of files that nobody uses, so that deleting them on the source frees their space."""
        referenced = self.nodes.referenced
        while referenced.wait() and not self._ended.wait(_SWEEP):
            self.nodes.sweep()

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
        attr = host.statx(parent_ref, name)
        fd = None
        if not stat.S_ISREG(attr.mode):
            # What has a descriptor is found again whatever others rename, and most directories are
            # needed at once.  Files wait until somebody opens them: most are only looked at.
            node = self.nodes.find(attr)
            if node is None or node.fd is None:
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

    def _try_noatime(self, call: Callable[[Descriptor, int], R], ref: Descriptor, flags: int) -> R:
        """Open with *flags*, and without O_NOATIME where that is refused.

        A caller who asks for it may: the kernel has seen to that.  But the server may be somebody
        else, who may read the file all the same.
        """
        try:
            return self.nodes.within_limits(call, ref, flags | self._noatime)
        except PermissionError as exc:
            if not (flags | self._noatime) & host.O_NOATIME or exc.errno != errno.EPERM:
                raise
        return self.nodes.within_limits(call, ref, flags & ~host.O_NOATIME)

    # -- who asks -----------------------------------------------------------------------

    def _as(self, caller: Caller) -> AbstractContextManager[object]:
        """Let the source's kernel decide whether *caller* may, unless that is decided."""
        if self.kernel_checks or not self._impersonates or host.is_self(caller):
            return NOTHING
        return host.acting_as(caller, checked=False)

    def _as_creator(self, caller: Caller) -> AbstractContextManager[object]:
        """Create as *caller*: owner and group are right from the first moment, never changed later."""
        if not self._impersonates:
            return NOTHING
        return host.acting_as(caller, checked=self.kernel_checks)

    def _killing(
        self, kill: bool, caller: Caller, ref: Descriptor
    ) -> AbstractContextManager[object]:
        """With *kill*, let the source's kernel clear S_ISUID and S_ISGID of *ref* as for *caller*."""
        if not kill or not self._impersonates:
            return NOTHING
        # Where the group may not execute, S_ISGID stays for the members of the group.
        bits = host.statx(ref).mode & (stat.S_ISGID | stat.S_IXGRP)
        return host.without_fsetid(caller if bits == stat.S_ISGID else None)

    def _loses_set_id(self, caller: Caller, ref: Descriptor) -> bool:
        """Whether a change of the file by *caller* clears its S_ISUID and S_ISGID.

        The kernel says so with a write or a truncation, but not with what calls this.
        """
        if not self._impersonates:
            return False  # the source's kernel sees to it
        set_id = host.statx(ref).mode & (stat.S_ISUID | stat.S_ISGID)
        return bool(set_id) and not host.keeps_set_id(caller)

    def _may_kill(self, caller: Caller, ino: Ino, ref: Descriptor) -> bool:
        """Whether *caller* may do something that makes the kernel take S_ISUID or capabilities away.

        It may who owns the file, or can write it, or has it open for that.  The kernel asks for
        it before it has checked a chown(2) with neither owner nor group.
        """
        if host.told(caller).uid in (0, host.statx(ref).uid):
            return True
        with suppress(OSError), self._own_rights(caller):
            host.access(ref, os.W_OK)
            return True
        files = (file for file in self.handles.values() if isinstance(file, OpenFile))
        return any(file.writable and file.node.ino == ino for file in files)

    def _own_rights(self, caller: Caller) -> AbstractContextManager[object]:
        """Make the source's kernel check *caller*, also where another one checks the rest."""
        return host.acting_as(caller, checked=False) if self._impersonates else NOTHING


def _contains(source: str, mountpoint: str) -> bool:
    source, mountpoint = os.path.realpath(source), os.path.realpath(mountpoint)
    try:
        return os.path.commonpath((source, mountpoint)) == source
    except ValueError:  # on different drives
        return False


def require_regular(node: Node) -> None:
    """Refuse to open what is not a regular file: opening a FIFO or a device acts on it."""
    if node.kind != stat.S_IFREG:
        number = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}.get(node.kind, errno.ENXIO)
        raise OSError(number, os.strerror(number))
