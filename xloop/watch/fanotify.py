# SPDX-License-Identifier: MIT
"""Watching by fanotify(7): whole file systems by one mark each, for root, and single directories, for everybody.

Owns the marks, reading the events and finding the nodes that they are about.  Does not own which directories are
watched (:mod:`.directories`) nor what follows.

An event names a directory and a target by file handles.  Each kind of file system that is watched here puts the
inode number into them, so a node is found by device and inode number, and nothing has to be
kept or asked for each node.  That a number may belong to something else by now does no harm: what
is told too much is only read anew.  What a handle looks like is checked against the root's before
anything is believed, and against one object of each further device.

**Whose changes.**  Those of this process's own serving threads are left out.  For root these only: the rest of the
program may change the source as anybody else does.  To others the kernel says of a change whether it was this process
that made it, and no more; so what the program does itself on the source is not told at all.  Writes to a file that the
kernel passes through come from the client's own thread, and are told.

**Single directories** are what the kernel lets a user mark who is not root (Linux 5.13).  What happens in them is told in
the same way.  What happens to a file by no name in them is not: that it has lost a name to a rename, or has another one
elsewhere.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Container

from xloop.changes import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    ISDIR,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Change,
)
from xloop.host import Descriptor, host, linux_watch
from xloop.host.base import Watchable
from xloop.host.linux_watch import FAN_EVENT_ON_CHILD, FAN_RENAME, INFO, METADATA
from xloop.nodes import Node, NodeTable
from xloop.types import Attr, Ino

from .base import OpenFiles, SourceWatch
from .directories import DirectoryWatch

__all__ = ["FanotifyDirectoryWatch", "FanotifyWatch"]

_KINDS = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | ISDIR
_IN_DIRECTORY = _KINDS | FAN_RENAME | FAN_EVENT_ON_CHILD
_LIMIT = "/proc/sys/fs/fanotify/max_user_marks"
_BUFFER = 256 * 1024
#: At most so many buffers in one batch: listeners want to hear of the first ones too.
_BUFFERS = 16
#: Errors that say of a device that it cannot be watched.  Others pass, as one for want of descriptors does, or are about
#: the object by which it was tried.
_LASTING = frozenset(
    (
        errno.EOPNOTSUPP,  # no handles, or none that tell inode numbers
        errno.EOVERFLOW,  # longer ones than there are
        errno.ENODEV,  # it has no identity
        errno.EXDEV,  # nor one that is that of all of it
        errno.EINVAL,
        errno.ENOSYS,
        errno.EPERM,
    )
)

_GENERIC, _BTRFS, _XFS_64 = 0x1, 0x4D, 0x81
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
#: tmpfs: generation, low and high half of the inode number.
_TMPFS = struct.Struct("=III")
#: btrfs: number in its subvolume, number of the subvolume.
_IN_SUBVOLUME = struct.Struct("=QQ")


def _number(kind: int, handle: bytes) -> tuple[int, int] | None:
    """Return the inode number in a handle and the subvolume's, 0 where there are none."""
    if kind == _GENERIC:
        if len(handle) == 8:  # ext4, xfs, f2fs: number and generation
            return _U32.unpack_from(handle)[0], 0
        if len(handle) == 12:
            _generation, low, high = _TMPFS.unpack(handle)
            return low | high << 32, 0
    elif kind == _XFS_64:
        return _U64.unpack_from(handle)[0], 0
    elif kind == _BTRFS:
        number, subvolume = _IN_SUBVOLUME.unpack_from(handle)
        return number, subvolume
    return None


def _space(ref: int) -> tuple[int, int, int]:
    """Return what events call the file system of *ref*, in two halves, and the number of its subvolume.

    OSError: they do not tell inode numbers there.
    """
    handle = linux_watch.file_handle(ref)
    found = _number(handle.kind, handle.data)
    if found is None or found[0] != host.statx(ref).ino:
        raise OSError(errno.EOPNOTSUPP, "its file handles do not tell inode numbers")
    fsid = linux_watch.file_system_id(ref)
    return fsid & 0xFFFFFFFF, fsid >> 32, found[1]


class _Group(SourceWatch):
    """A group of fanotify, whatever it has marks on."""

    of_others = True
    #: Those whose changes are left out, as the group tells them: threads, or this process.
    _own: Container[int] = ()
    #: (identity of a file system in events, subvolume) -> device.
    _spaces: dict[tuple[bytes, int], int]

    def _read(self) -> list[Change]:
        changes: list[Change] = []
        for _ in range(_BUFFERS):
            try:
                events = os.read(self._source, _BUFFER)
            except BlockingIOError:
                break
            self._understand(events, changes)
            if len(events) < _BUFFER // 2:
                break
        return changes

    def _understand(self, events: bytes, changes: list[Change]) -> None:
        own = self._own
        at = 0
        size = len(events)
        moved = False
        while at < size:
            length, _version, header, mask, _fd, thread = METADATA.unpack_from(events, at)
            begin, at = at + header, at + length
            if mask & OVERFLOW:
                changes.append(self._overflowed())
                continue
            if thread in own:
                continue
            if not moved:
                moved = True
                self._moved()
            self._event(events, begin, at, mask, thread, changes)

    def _event(
        self, events: bytes, at: int, end: int, mask: int, thread: int, changes: list[Change]
    ) -> None:
        target: Ino | None = None
        directory: Ino | None = None
        name = b""
        new_directory: Ino | None = None
        new_name = b""
        handle = target_handle = new_handle = b""
        while at < end:
            kind, length, fsid, size, handle_kind = INFO.unpack_from(events, at)
            begin = at + INFO.size
            data = events[begin : begin + size]
            node = self._node(fsid, handle_kind, data)
            if kind == linux_watch.INFO_FID:
                target, target_handle = node, data
            else:
                text = events[begin + size : at + length].split(b"\0", 1)[0]
                if kind == linux_watch.INFO_NEW_DFID_NAME:
                    new_directory, new_name, new_handle = node, text, data
                else:
                    directory, name, handle = node, text, data
            at += length
        if name == b".":  # the directory itself
            target, directory, name = directory, None, b""
            target_handle = handle
        if directory is None and target is None and new_directory is None:
            return
        if mask & FAN_RENAME:
            cookie = next(self._cookies)
            kind = mask & ISDIR
            both = target, cookie, thread
            changes.append(
                Change(kind | MOVED_FROM, directory, name, *both, (handle, target_handle))
            )
            changes.append(
                Change(kind | MOVED_TO, new_directory, new_name, *both, (new_handle, target_handle))
            )
            if new_directory is not None:
                changes += [
                    Change(ATTRIB, target=ino)
                    for ino in self._replaced(new_directory, new_name, target)
                ]
            mask &= ~FAN_RENAME
            directory, name, handle = new_directory, new_name, new_handle
            if not mask & ~ISDIR:
                return
        handles = handle, target_handle
        changes.append(Change(mask & _KINDS, directory, name, target, 0, thread, handles))

    def _replaced(self, directory: Ino, name: bytes, by: Ino | None) -> list[Ino]:
        """Return what is open and has lost *name* in *directory* to *by*, where no event tells that."""
        return []

    def _node(self, fsid: bytes, kind: int, handle: bytes) -> Ino | None:
        found = _number(kind, handle)
        if found is None:
            return None
        number, subvolume = found
        dev = self._spaces.get((fsid, subvolume))
        if dev is None:
            return None
        node = self._nodes.at(dev, number)
        return None if node is None else node.ino

    def is_same(self, ino: Ino, handle: bytes) -> bool:
        node = self._nodes.get(ino)
        if node is None or not handle:
            return True
        try:
            return linux_watch.file_handle(self._nodes.ref(node)).data == handle
        except OSError:
            return True


class FanotifyWatch(_Group):
    """Whole file systems.  Root only."""

    how = "fanotify"

    def __init__(
        self, nodes: NodeTable, watchable: Watchable, own: Container[int], open_files: OpenFiles
    ) -> None:
        super().__init__(nodes, watchable, linux_watch.fanotify(threads=True), open_files)
        self._own = own
        self._spaces = {}
        #: Device -> number of the batch since which it is watched; None: it is not.
        self._devices: dict[int, int | None] = {}
        self._refused: dict[int, str] = {}
        #: btrfs: identity of the file system without its subvolume -> the one in events.
        self._btrfs: dict[tuple[int, int], bytes] = {}
        self._watch_device(nodes.root_dev, nodes.ref(nodes.root))

    def _watch_device(self, dev: int, ref: int) -> None:
        """Watch the file system of *ref*, which is on *dev*.  OSError: it cannot be."""
        low, high, subvolume = _space(ref)
        identity = struct.pack("=II", low, high)
        # A subvolume's f_fsid is the file system's, with its own number mixed in (btrfs_statfs).
        whole = (low ^ subvolume >> 32, high ^ subvolume & 0xFFFFFFFF)
        known = self._btrfs.get(whole) if subvolume else None
        if known is None:
            linux_watch.mark_file_system(self._source, ref, _KINDS | FAN_RENAME)
            if subvolume:
                self._btrfs[whole] = identity
        else:
            identity = known
        self._spaces[identity, subvolume] = dev
        self._moved()
        self._devices[dev] = self._sequence

    def watch_known(self) -> None:
        # Further file systems of the source are met by the directories on them.
        self._nodes.met = lambda node: self._covers(node.dev, node.ino)

    def _covers(self, dev: int, ino: Ino) -> bool:
        try:
            return self._devices[dev] is not None
        except KeyError:
            pass
        try:
            self._watch_device(dev, self._nodes.ref(self._nodes[ino]))
        except OSError as exc:
            if exc.errno in _LASTING:
                self._devices[dev] = None
                self._refused[dev] = exc.strerror or str(exc)
            return False
        return True

    # -- what holds ---------------------------------------------------------------------

    def names_hold(self, token: int, directory: Ino) -> bool:
        node = self._nodes.get(directory)
        return (
            node is not None
            and self._covers(node.dev, directory)
            and token == self._sequence
            and not self._lost
        )

    def attributes_hold(self, token: int, ino: Ino, attr: Attr) -> bool:
        return self.names_hold(token, ino)

    def status(self) -> dict[str, object]:
        return {
            **super().status(),
            "devices": len(self._devices) - len(self._refused),
            "refused": list(self._refused.values()),
        }


class FanotifyDirectoryWatch(_Group, DirectoryWatch):
    """Single directories."""

    how = "fanotify by directory"

    def __init__(
        self,
        nodes: NodeTable,
        watchable: Watchable,
        own: Container[int],
        open_files: OpenFiles,
        refused: str,
    ) -> None:
        """*refused*: why it is not whole file systems."""
        group, own = _open_group(own)
        super().__init__(nodes, watchable, group, open_files, _LIMIT)
        self._own = own
        self._spaces = {}
        self._refused = refused
        self._begin()

    def _add(self, node: Node) -> int:
        ref = self._nodes.ref(node)
        if node.dev not in self._spaces.values():
            low, high, subvolume = _space(ref)
            self._spaces[struct.pack("=II", low, high), subvolume] = node.dev
        linux_watch.mark_directory(self._source, ref, _IN_DIRECTORY)
        return _object(node.dev, node.st_ino)

    def _remove(self, node: Node, number: int) -> None:
        # Where it is gone, the mark is gone with it.
        ref = _reached(node)
        attr = host.statx(ref)
        if _object(attr.dev, attr.ino) == number:
            linux_watch.unmark_directory(self._source, ref, _IN_DIRECTORY)

    def _replaced(self, directory: Ino, name: bytes, by: Ino | None) -> list[Ino]:
        return [
            file.ino
            for file, _ in self._open_files()
            if file.name == name
            and file.parent is not None
            and file.parent.ino == directory
            and file.ino != by
        ]

    def status(self) -> dict[str, object]:
        return {**super().status(), "refused": self._refused}


def _open_group(threads: Container[int]) -> tuple[Descriptor, Container[int]]:
    """Return a group, and those whose changes are to be left out, as it tells them."""
    try:
        return linux_watch.fanotify(threads=True), threads
    except PermissionError:
        return linux_watch.fanotify(threads=False), (os.getpid(),)


def _object(dev: int, ino: int) -> int:
    """Return what stands for the mark of a directory, of which there is one."""
    return dev << 64 | ino


def _reached(node: Node) -> Descriptor:
    """Return a descriptor of what is where the directory *node* was last seen.

    Past the table of nodes, which must not be asked to open what is forgotten: it would take it for known.
    """
    missing: dict[Node, None] = {}
    at = node
    while (ref := at.file if at.fd is None else at.fd) is None:
        missing[at] = None
        parent = at.parent
        if parent is None or parent in missing:  # others may have moved them into a circle
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        at = parent
    for below in reversed(missing):
        ref = host.open_ref(ref, below.name)
    return ref
