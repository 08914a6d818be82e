# SPDX-License-Identifier: MIT
"""Who has written to a file through the mount, where the kernel passes that through to the source by itself.

Owns :class:`Writers`.  Does not own the backing files (:mod:`.passthrough`).

Such a write comes from the program's own thread, on the source as on the mount, and watchers of the mount have heard of
it.  Somebody else may write to the same file at the same time.  So it is told apart by the thread: whether that
opened the file on the mount, or its process has it open there.  The first is known when the write is heard of.  The second
takes a look at what the process has open, and so time: that is for the thread that relays, within bounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Final

from xloop.types import Entry, Ino

from .passthrough import Passthrough

__all__ = ["Writers"]

#: Seconds for which what was told of a file may have been done before it was closed.
_GRACE: Final = 1.0
#: Files that are remembered for so long.
_CLOSED: Final = 4096
#: Threads and files, at most, of which it is in doubt.
_DOUBTFUL: Final = 4096
#: Descriptors of one process that are looked at, and of all processes for one batch.  The user of any process that may write to
#: the source decides how many it has, and everybody waits for the events behind its own.
_LOOKS_AT_ONE: Final = 1024
_LOOKS: Final = 4096


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
        #: Who may have written to what through the mount: the process of each such thread.
        self._doubtful: dict[tuple[Ino, int], int] = {}
        #: Which process has what open on the mount, for one batch.
        self._found: dict[tuple[Ino, int], bool] = {}
        #: Descriptors that may still be looked at for this batch.
        self._left = _LOOKS
        passthrough.on_closed = self._note_closed

    def _note_closed(self, ino: Ino, pid: int) -> None:
        now = monotonic()
        _, pids = self._closed.pop(ino, (now, set()))
        self._closed[ino] = now, {*pids, pid}
        while len(self._closed) > _CLOSED:
            self._closed.pop(next(iter(self._closed)))

    # -- when it is heard ---------------------------------------------------------------

    def is_told(self, ino: Ino, thread: int) -> bool:
        """Whether *thread* has written to *ino* through the mount for certain, so that the kernel has told that already.

        With passthrough it writes to the source by itself, as somebody else might at the same time.  What is not certain is
        left to :meth:`wrote`.  From the thread that hears of everything: at most one small file is read.
        """
        if not thread:
            return False
        if thread in self._closers(ino):
            return True
        # A copy: others open and close meanwhile.
        openers = set(self._passthrough.writers.get(ino, {}).copy().values())
        if thread in openers:
            return True
        if openers:
            # Now, for a thread may be gone at any moment, and what it had open is its process's.
            self._doubtful.pop((ino, thread), None)
            self._doubtful[ino, thread] = _process_of(thread)
            while len(self._doubtful) > _DOUBTFUL:
                self._doubtful.pop(next(iter(self._doubtful)))
        return False

    def _closers(self, ino: Ino) -> set[int]:
        """Return the threads that had *ino* open for writing until a moment ago."""
        until, pids = self._closed.get(ino, (0.0, set()))
        return pids if pids and monotonic() - until < _GRACE else set()

    # -- when it is relayed -------------------------------------------------------------

    def begin(self) -> None:
        """Begin a batch: what was found for the last one holds no more."""
        self._found.clear()
        self._left = _LOOKS

    def wrote(self, ino: Ino, thread: int) -> bool:
        """Whether *thread*, of which that was in doubt when it was heard, has *ino* open on the mount.

        False where nobody knows any more, or where that is too much to look through.
        """
        process = self._doubtful.get((ino, thread), 0)
        if not process:
            return False
        found = self._found.get((ino, process))
        if found is None:
            found = self._found[ino, process] = self._has_open(process, ino)
        return found

    def _has_open(self, process: int, ino: Ino) -> bool:
        """Whether *process* has *ino* open on the mount, inherited from whoever opened it, or opened by another thread."""
        node = self._recall(ino)
        if node is None:
            return False
        self._forget(ino, 1)
        wanted = b"ino:\t%d\n" % node.attr.ino
        mounts: set[bytes] | None = None
        with suppress(OSError), os.scandir(f"/proc/{process}/fdinfo") as files:
            for file in islice(files, min(_LOOKS_AT_ONE, self._left)):
                self._left -= 1
                with suppress(OSError), open(file.path, "rb", buffering=0) as opened:
                    info = opened.read()
                    if wanted not in info:
                        continue
                    # The source's file has the same number: it may be open as often as that is possible.
                    if mounts is None:
                        mounts = self._mounts_of(process)
                    if info.partition(b"mnt_id:")[2].split(maxsplit=1)[0] in mounts:
                        return True
        return False

    def _mounts_of(self, process: int) -> set[bytes]:
        """Return what *process* calls this mount, and others like it."""
        device = b"%d:%d" % (os.major(self._device), os.minor(self._device))
        with open(f"/proc/{process}/mountinfo", "rb") as table:
            lines = (line.split(maxsplit=3) for line in table)
            return {number for number, _, where, _ in lines if where == device}

    def wrote_lately(self, thread: int) -> bool:
        """Whether *thread* has closed any file here a moment ago that it had written."""
        return any(thread in self._closers(ino) for ino in self._closed.copy())


def _process_of(thread: int) -> int:
    """Return the process of *thread*; 0: it has ended."""
    with suppress(OSError), open(f"/proc/{thread}/status", "rb", buffering=0) as status:
        return int(status.read(1024).partition(b"\nTgid:")[2].split(maxsplit=1)[0])
    return 0
