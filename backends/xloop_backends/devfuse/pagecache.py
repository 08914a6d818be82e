# SPDX-License-Identifier: MIT
"""What the kernel has cached of a file: whether a new open may go on using it.

Owns that decision, for opens whose data is served.  Does not own the cache, which is the kernel's, nor
passthrough, which needs none (:mod:`.passthrough`).

The kernel drops what it has of a file with every open, unless it is told that the file is
unchanged.  Its times and size tell, with two exceptions.  A change within the same tick of the clock
as the last one moves nothing: so a file is believed only if it had been left alone for a while when
it was looked at.  And who has the file mapped for writing changes it without moving anything more:
so nobody may have it open for writing, which is what it takes to get a lease on it (fcntl(2),
F_SETLEASE), now or when it was looked at.
"""

from __future__ import annotations

import fcntl
import os
import time

from xloop.host import linux
from xloop.types import Ino

__all__ = ["PageCache"]

#: Nanoseconds: more than a tick of any clock that file systems take their times from.
_A_WHILE = 20_000_000

_Stamp = tuple[int, int, int]


class PageCache:
    """The files of one connection that were looked at."""

    def __init__(self) -> None:
        self._stamps: dict[Ino, _Stamp] = {}
        #: Device -> whether a write to a mapping moves the times of a file there.
        self._tells: dict[int, bool] = {}

    def keeps(self, ino: Ino, fd: int | None, flags: int) -> bool:
        """Tell whether what is cached of *ino* is right for the open *fd* with open(2) *flags*."""
        if fd is None or flags & os.O_ACCMODE != os.O_RDONLY or not self._is_left_alone(fd):
            self._stamps.pop(ino, None)
            return False
        st = os.fstat(fd)
        stamp = st.st_mtime_ns, st.st_ctime_ns, st.st_size
        if self._stamps.get(ino) == stamp:
            return True
        if abs(time.time_ns() - st.st_ctime_ns) > _A_WHILE and self._is_told(st.st_dev, fd):
            self._stamps[ino] = stamp
        else:
            self._stamps.pop(ino, None)
        return False

    def forgotten(self, ino: Ino) -> None:
        """The kernel may not know *ino* any more."""
        self._stamps.pop(ino, None)

    def _is_left_alone(self, fd: int) -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return False  # somebody writes, or it is not ours to ask
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True

    def _is_told(self, dev: int, fd: int) -> bool:
        told = self._tells.get(dev)
        if told is None:
            told = self._tells[dev] = linux.notes_mapped_writes(fd)
        return told
