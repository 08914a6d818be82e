# SPDX-License-Identifier: MIT
"""Loopback: reading directories."""

from __future__ import annotations

from collections.abc import Iterator

from xloop.host import host
from xloop.loopback.base import LoopbackBase
from xloop.loopback.streams import DirStream
from xloop.nodes import Node
from xloop.types import Caller, DirEntry, Entry, HandleId, Ino, Opened

__all__ = ["Dirs"]


class Dirs(LoopbackBase):
    def opendir(self, caller: Caller, ino: Ino, flags: int) -> Opened:
        node = self.nodes[ino]
        ref = self.nodes.ref(node)
        with self._as(caller):
            fd = self._try_noatime(host.open_dir, ref, flags & host.O_NOATIME)
        return Opened(self.handles.add(DirStream(node, fd)))

    def readdir(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[DirEntry]:
        stream = self._stream(handle)
        node = stream.node
        for raw in stream.entries(offset):
            yield self._shown(node, raw)

    def readdirplus(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Entry | None]]:
        stream = self._stream(handle)
        node = stream.node
        nodes = self.nodes
        for raw in stream.entries(offset):
            name = raw.name
            entry = None
            if name not in (b".", b".."):
                try:
                    with self._as(caller):
                        attr = host.statx(stream.fd, name)
                    child = nodes.intern(attr, node, name, None)
                    entry = Entry(child.ino, nodes.shown(attr))
                except OSError:
                    pass  # gone meanwhile, or not to be searched: the name is listed all the same
            yield self._shown(node, raw), entry

    def _shown(self, node: Node, raw: DirEntry) -> DirEntry:
        nodes = self.nodes
        if node is nodes.root and raw.name == b"..":
            # A mount's root is its own parent; the source's parent is nobody's business.
            return raw._replace(ino=nodes.shown_ino(node.dev, node.st_ino))
        if node.dev == nodes.root_dev:
            return raw
        return raw._replace(ino=nodes.shown_ino(node.dev, raw.ino))

    def releasedir(self, ino: Ino, handle: HandleId) -> None:
        self.handles.pop(handle)

    def fsyncdir(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        fd = self._stream(handle).fd
        if datasync:
            host.fdatasync(fd)
        else:
            host.fsync(fd)
