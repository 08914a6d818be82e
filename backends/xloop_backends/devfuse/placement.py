# SPDX-License-Identifier: MIT
"""Which CPU a serving thread runs on: the one its client runs on, while it has one client.

Owns that decision, one :class:`Placement` a thread.  Does not own the threads.

A request is a hand-over: the client sleeps until the server has answered.  On the same CPU that is
two switches of context.  On another one it is two wake-ups of a CPU that has gone idle, and those
cost more than the request itself, on virtual machines many times as much.  The kernel's
scheduler wakes the server on an idle CPU whenever there is one, as it must where the two could work at
the same time.  Here they cannot; so a thread that hears of one client only, again and again,
goes where that client is, and is free again as soon as it hears of another one, or moves data,
which the two can do side by side.
"""

from __future__ import annotations

import os

__all__ = ["Placement"]

#: So many requests of one client in a row, before and between looks at where it is.
_FIRST, _EVERY = 16, 256


class Placement:
    """The CPU of the calling thread."""

    __slots__ = ("_allowed", "_client", "_countdown", "_cpu", "bound")

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._client = 0
        self._countdown = _FIRST
        self._cpu: int | None = None
        #: Whether it is on a client's CPU and on no other.
        self.bound = False

    @staticmethod
    def useful() -> bool:
        """Tell whether there is a choice."""
        return len(os.sched_getaffinity(0)) > 1

    def heard(self, pid: int, data: int) -> None:
        """Note a request of *pid*, a thread's id; *data*: it moves data."""
        if pid == self._client and not data:
            self._countdown -= 1
            if not self._countdown:
                self._countdown = _EVERY
                self._follow(pid)
        else:
            self._client = pid
            self.leave()

    def leave(self) -> None:
        """Be free to run anywhere."""
        self._countdown = _FIRST
        if self._cpu is not None:
            self._cpu = None
            self.bound = False
            os.sched_setaffinity(0, self._allowed)

    def _follow(self, pid: int) -> None:
        cpu = _cpu_of(pid)
        if cpu != self._cpu and cpu in self._allowed:
            os.sched_setaffinity(0, {cpu})
            self._cpu = cpu
            self.bound = True


def _cpu_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # proc(5): field 39, and the second, the name, may hold anything.
            return int(stat.read().rpartition(b")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return None  # gone, or not to be seen from here
