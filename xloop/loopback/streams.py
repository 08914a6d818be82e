# SPDX-License-Identifier: MIT
"""An open directory of the source, read step by step.

Owns the buffer between getdents and the consumer.  Does not own what an entry is turned into.

The cookies are the source's own (d_off), so seekdir after any number of creates and unlinks is
as good as there.  A directory is streamed: 32 KiB of it are in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import chain

from xloop.host import Descriptor, host
from xloop.nodes import Node
from xloop.types import DirEntry

__all__ = ["DirStream"]

_BUFFER = 32 * 1024


class DirStream:
    """One open of a directory."""

    __slots__ = ("_at", "_entries", "_lock", "_start", "begun", "fd", "node")

    def __init__(self, node: Node, fd: Descriptor) -> None:
        self.node = node
        self.fd = fd
        #: When the first attributes of the listing were told, in ticks of the node table.
        self.begun = 0
        self._lock = threading.Lock()
        self._entries: list[DirEntry] = []
        self._start = 0  # cookie before the first buffered entry
        self._at = 0  # index of the entry with which the last call began

    def entries(self, offset: int) -> Iterator[DirEntry]:
        """Yield the entries after the cookie *offset*; 0 starts over and sees what is there now."""
        while True:
            with self._lock:
                chunk, at = self._chunk(offset)
            if not chunk:
                return
            yield from chunk[at:] if at else chunk
            offset = chunk[-1].offset

    def _chunk(self, offset: int) -> tuple[list[DirEntry], int]:
        """Return what is buffered, and where in it that begins which follows *offset*."""
        at = self._position(offset)
        if at is None:
            host.seek_dir(self.fd, offset)
            at = self._fill(offset)
        elif at == len(self._entries):
            at = self._fill(offset)
        self._at = at
        return self._entries, at

    def _fill(self, offset: int) -> int:
        self._entries = host.read_dir(self.fd, bytearray(_BUFFER))
        self._start = offset
        return 0

    def _position(self, offset: int) -> int | None:
        """Return where in the buffer the entry after *offset* is; None: not there."""
        entries = self._entries
        if offset == 0 or not entries:
            return None
        if offset == self._start:
            return 0
        # From where the last call began, for mostly it goes on from there.
        begin = self._at
        for index in chain(range(begin, len(entries)), range(begin)):
            if entries[index].offset == offset:
                return index + 1
        return None
