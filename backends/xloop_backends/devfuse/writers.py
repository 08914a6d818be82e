# SPDX-License-Identifier: MIT
"""Who has written to a file through the mount, where the kernel passes that through to the source by itself.

Owns :class:`Writers`.  Does not own the backing files (:mod:`.passthrough`).

Such a write comes from the program's own thread, on the source as on the mount, and watchers of the mount have heard of
it.  Somebody else may write to the same file at the same time.  So it is told apart by the thread: whether that
opened the file on the mount, or has it open there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from xloop.types import Entry, Ino

from .passthrough import Passthrough

__all__ = ["Writers"]

#: Seconds for which what was told of a file may have been done before it was closed.
_GRACE: Final = 1.0
#: Files that are remembered for so long.
_CLOSED: Final = 4096


class Writers:
    def __init__(
        self,
        passthrough: Passthrough,
        device: int,
        recall: Callable[[Ino], Entry | None],
        forget: Callable[[Ino, int], None],
    ) -> None:
        """*device*: st_dev on the mount.  *recall*, *forget*: to find out what a number is."""
        self._passthrough = passthrough
        self._device = device
        self._recall = recall
        self._forget = forget
        #: Files that were open until a moment ago: when, and by which threads they had been opened.
        self._closed: dict[Ino, tuple[float, set[int]]] = {}
        passthrough.on_closed = self._note_closed

    def _note_closed(self, ino: Ino, pid: int) -> None:
        now = monotonic()
        _, pids = self._closed.pop(ino, (now, set()))
        self._closed[ino] = now, {*pids, pid}
        while len(self._closed) > _CLOSED:
            self._closed.pop(next(iter(self._closed)))

    def wrote(self, ino: Ino, thread: int) -> bool:
        """Whether *thread* has written to *ino* through the mount, so that the kernel has told that already.

        With passthrough it writes to the source by itself, as somebody else might at the same time.
        """
        if not thread:
            return False
        if thread in self._closers(ino):
            return True
        # A copy: others open and close meanwhile.
        pids = set(self._passthrough.writers.get(ino, {}).copy().values())
        return bool(pids) and (thread in pids or self._has_open(thread, ino))

    def _closers(self, ino: Ino) -> set[int]:
        """Return the threads that had *ino* open for writing until a moment ago."""
        until, pids = self._closed.get(ino, (0.0, set()))
        return pids if pids and monotonic() - until < _GRACE else set()

    def _has_open(self, thread: int, ino: Ino) -> bool:
        """Whether *thread* has *ino* open on the mount, inherited from whoever opened it.

        False where it has ended, and nobody knows any more.
        """
        node = self._recall(ino)
        if node is None:
            return False
        self._forget(ino, 1)
        wanted = b"ino:\t%d\n" % node.attr.ino
        with suppress(OSError):
            for name in os.listdir(f"/proc/{thread}/fdinfo"):
                with suppress(OSError), open(f"/proc/{thread}/fdinfo/{name}", "rb") as file:
                    info = file.read()
                    if wanted in info and self._is_mount(thread, info):
                        return True
        return False

    def _is_mount(self, thread: int, info: bytes) -> bool:
        """Whether what *info* says of an open file is said of one on this mount."""
        number = info.partition(b"mnt_id:")[2].split()[0]
        device = b"%d:%d" % (os.major(self._device), os.minor(self._device))
        with open(f"/proc/{thread}/mountinfo", "rb") as table:
            return any(line.split()[:3:2] == [number, device] for line in table)

    def wrote_lately(self, thread: int) -> bool:
        """Whether *thread* has closed any file here a moment ago that it had written."""
        return any(thread in self._closers(ino) for ino in self._closed.copy())
