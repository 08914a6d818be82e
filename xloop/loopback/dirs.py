# SPDX-License-Identifier: MIT
"""Loopback: reading directories, and how long a listing that was told may be used again.

Owns opendir and what is done with its handle.  Does not own the stream of names (:mod:`.streams`).

**A listing that is kept.**  Whoever asked may keep the names of a directory until its mtime changes
(``Opened.cache_dir``), which a program that changes the source twice within one tick of the clock gets
around.  So an open allows that only for a directory that had been left alone for a while; and only as
long as all the names and attributes of the listing are believed anyway, and reading it would not move its atime,
it may use the listing again without looking (``Opened.keep_cache``).  Afterwards a new one, which brings all attributes in few requests, is cheaper
than the kept one, for which each attribute would be asked for alone.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator

from xloop.host import Descriptor, host
from xloop.loopback.base import NOTHING, LoopbackBase
from xloop.loopback.streams import DirStream
from xloop.nodes import TICKS
from xloop.types import Caller, DirEntry, Entry, HandleId, Ino, Opened

__all__ = ["Dirs"]

#: Nanoseconds: more than a tick of any clock that file systems take their times from.
_A_WHILE = 20_000_000


class Dirs(LoopbackBase):
    def opendir(self, caller: Caller, ino: Ino, flags: int) -> Opened:
        node = self.nodes[ino]
        ref = self.nodes.ref(node)
        with self._as(caller):
            fd = self._try_noatime(host.open_dir, ref, flags & host.O_NOATIME)
        handle = self.handles.add(DirStream(node, fd))
        if not self.believed:
            return Opened(handle)
        attr = host.statx(fd)
        if abs(time.time_ns() - attr.mtime_ns) <= _A_WHILE:
            return Opened(handle)
        again = self._told.get(ino, 0) > self._believed_since() and (
            bool(self._noatime) or not host.listing_moves_atime(fd, attr)
        )
        return Opened(handle, cache_dir=True, keep_cache=again)

    def _believed_since(self) -> float:
        """Return when that was told, in ticks, of which the last will be believed for a moment still."""
        # For an eighth of the time after that: long enough to ask for it.
        return self.nodes.tick() - self.believed * TICKS * 7 / 8

    def _was_told(self, ino: Ino, begun: int) -> None:
        """Note that a listing of *ino* was told, the first of its attributes at the tick *begun*."""
        since = self._believed_since()
        with self._files_lock:
            told = self._told
            told[ino] = begun
            told.move_to_end(ino)
            while told and next(iter(told.values())) <= since:
                told.popitem(last=False)

    def readdir(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[DirEntry]:
        stream = self._stream(handle)
        entries = stream.entries(offset)
        node = stream.node
        if (
            node.dev != self.nodes.root_dev
            or node is self.nodes.root
            or self._is_mixed(node.dev, stream.fd)
        ):
            return (self._shown(stream, raw) for raw in entries)
        return entries  # most directories are shown as they are

    def readdirplus(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Entry | None]]:
        stream = self._stream(handle)
        directory = stream.node
        nodes = self.nodes
        fd = stream.fd
        known, intern, shown, statx = nodes.get, nodes.intern, nodes.shown, host.statx
        root_dev = nodes.root_dev
        as_itself = self._as(caller) is NOTHING
        since = self._believed_since()
        if offset == 0:
            stream.begun = nodes.tick()
        for raw in stream.entries(offset):
            name, d_ino, _, _ = raw
            child = known(d_ino)
            if (
                child is not None
                and child.told > since
                and child.parent is directory
                and child.name == name
            ):
                if child.told < stream.begun:
                    stream.begun = child.told
                yield raw, None
                continue
            if name == b"." or name == b"..":
                yield self._shown(stream, raw), None
                continue
            try:
                if as_itself:
                    attr = statx(fd, name)
                else:
                    with self._as(caller):
                        attr = statx(fd, name)
            except OSError:
                # Gone meanwhile, or not to be searched: the name is listed all the same.
                yield self._shown(stream, raw), None
                continue
            node = intern(attr, directory, name, None)
            if attr.dev != root_dev:
                attr = shown(attr)
            listed = raw if d_ino == attr.ino else raw._replace(ino=attr.ino)
            yield listed, Entry(node.ino, attr)
        if self.believed:
            self._was_told(ino, stream.begun)

    def _shown(self, stream: DirStream, raw: DirEntry) -> DirEntry:
        """Return *raw*, which nobody has looked up, with the number to show."""
        nodes = self.nodes
        node = stream.node
        if node is nodes.root and raw.name == b"..":
            # A mount's root is its own parent; the source's parent is nobody's business.
            return raw._replace(ino=nodes.shown_ino(node.dev, node.st_ino))
        if self._is_mixed(node.dev, stream.fd) and raw.name not in (b".", b".."):
            try:
                attr = host.statx(stream.fd, raw.name)
            except OSError:
                return raw  # gone meanwhile
            if not stat.S_ISDIR(attr.mode) and attr.dev == node.dev:
                self._mixed[node.dev] = False
            return raw._replace(ino=nodes.shown(attr).ino)
        if node.dev == nodes.root_dev:
            return raw
        return raw._replace(ino=nodes.shown_ino(node.dev, raw.ino))

    def _is_mixed(self, dev: int, ref: Descriptor) -> bool:
        """Whether what a directory of *dev* lists may have other devices than the directory.

        So it is on an overlayfs whose layers lie on several file systems; there a listing alone
        does not tell which number will be shown.
        """
        mixed = self._mixed.get(dev)
        if mixed is None:
            mixed = self._mixed[dev] = host.stack_depth(ref) > 0
        return mixed

    def releasedir(self, ino: Ino, handle: HandleId) -> None:
        self.handles.pop(handle)

    def fsyncdir(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        fd = self._stream(handle).fd
        if datasync:
            host.fdatasync(fd)
        else:
            host.fsync(fd)
