# SPDX-License-Identifier: MIT
"""An open directory of the source, read step by step.

Owns the buffer between getdents and the consumer.  Does not own what an entry is turned into.

The cookies are the source's own (d_off), so seekdir after any number of creates and unlinks is
as good as there.  A directory is streamed: 32 KiB of it are in memory at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from xloop.host import Descriptor, host
from xloop.nodes import Node
from xloop.types import DirEntry

__all__ = ["DirStream"]

_BUFFER = 32 * 1024


class DirStream:
    """One open of a directory."""

    __slots__ = ("_at", "_entries", "_lock", "_start", "fd", "node")

    def __init__(self, node: Node, fd: Descriptor) -> None:
        self.node = node
        self.fd = fd
        self._lock = threading.Lock()
        self._entries: list[DirEntry] = []
        self._start = 0  # cookie before the first buffered entry
        self._at = 0  # index of the next entry to hand out

    def entries(self, offset: int) -> Iterator[DirEntry]:
        """Yield the entries after the cookie *offset*; 0 starts over and sees what is there now."""
        while True:
            with self._lock:
                chunk, at = self._chunk(offset)
            if not chunk:
                return
            for entry in chunk[at:] if at else chunk:
                at += 1
                # Where the next call is likely to go on; _position() checks it.
                self._at = at
                yield entry
            offset = chunk[-1].offset

    def _chunk(self, offset: int) -> tuple[list[DirEntry], int]:
        """Return what is buffered, and where in it that begins which follows *offset*."""
        if not self._position(offset):
            host.seek_dir(self.fd, offset)
            self._fill(offset)
        elif self._at == len(self._entries):
            self._fill(offset)
        return self._entries, self._at

    def _fill(self, offset: int) -> None:
        self._entries = host.read_dir(self.fd, bytearray(_BUFFER))
        self._start = offset
        self._at = 0

    def _position(self, offset: int) -> bool:
        """Make the entry after *offset* the next, if the buffer knows where that is."""
        entries, at = self._entries, self._at
        if offset == 0 or not entries:
            return False
        # The usual cases: going on, and going back by the one entry that did not fit.
        for index in (at, at - 1):
            if index > 0 and entries[index - 1].offset == offset:
                self._at = index
                return True
        if offset == self._start:
            self._at = 0
            return True
        for index, entry in enumerate(entries, 1):
            if entry.offset == offset:
                self._at = index
                return True
        return False
