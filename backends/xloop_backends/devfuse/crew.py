# SPDX-License-Identifier: MIT
"""The threads that serve a connection: how many are on duty, and who is called when one gets stuck.

Owns :class:`Crew`.  Does not own what a thread does with a request (:mod:`.session`).

One thread on duty is best for most of what a file system is asked: the interpreter runs one at a
time anyway, and handing over from one to another costs more than a request.  But a request may
wait, for a disk or for the server of a network source, and must not hold up the others.  So
somebody watches: a member that has been at the same request since the last look is stuck, and
another one takes over.  Requests that move data, which waits for disks more often than not and
is copied without the interpreter, are served by several from the start.

Nobody watches while nothing is asked.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Crew", "Member"]

_log = logging.getLogger("xloop.devfuse")

#: Seconds between two looks: a request that waits holds up the others for one or two of them.
_LOOK = 0.002
#: Looks without any request, until nobody looks any more.
_QUIET = 10
#: Looks for which more are on duty than are needed.
_CALM = 100
#: On duty while data is moved.
_FOR_DATA = 3
#: Seconds that a member rests before it ends: starting a thread costs more than ten requests.
_REST = 10.0


class Member:
    """A thread of the crew.  Its own to change, everybody's to look at."""

    __slots__ = ("busy", "gate", "requests", "seen")

    def __init__(self) -> None:
        self.requests = 0
        self.busy = False
        #: *requests* at the last look.
        self.seen = 0
        #: Held; released to call a member that rests.
        self.gate = threading.Lock()
        self.gate.acquire()


class Crew:
    """At most *most* threads that do *work*, which goes on until there is nothing to do for ever.

    For each request a member raises its ``requests``, sets ``busy``, calls :meth:`rouse` if
    ``asleep`` and :meth:`moving_data` where that is so; afterwards it clears ``busy`` and, where
    ``on_duty > wanted``, calls :meth:`rest`.
    """

    def __init__(self, work: Callable[[Member], None], most: int) -> None:
        self._work = work
        self._most = most
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._members: set[Member] = set()
        #: The one that rested last is called first: its memory is the warmest.
        self._resting: list[Member] = []
        self._over = False
        self._data = False
        self._quiet = 0
        self._calm = 0
        self.on_duty = 0
        self.wanted = 1
        #: Nobody watches: whoever gets a request has to rouse it.
        self.asleep = False

    def __len__(self) -> int:
        return len(self._members)

    def run(self) -> None:
        """Begin with one thread, and watch until the last has ended."""
        with self._lock:
            self._call()
        while True:
            with self._lock:
                if not self._members:
                    return
                self._changed.wait(None if self.asleep else _LOOK)
                self._look()

    def rouse(self) -> None:
        """There are requests again."""
        with self._lock:
            self.asleep = False
            self._changed.notify_all()

    def moving_data(self) -> None:
        """A request is being served that moves data."""
        self._data = True
        if self.wanted < _FOR_DATA:
            with self._lock:
                self._want(_FOR_DATA)

    def rest(self, member: Member) -> bool:
        """Rest unless needed, until called; False: not called for long, the thread shall end."""
        with self._lock:
            if self._over or self.on_duty <= self.wanted:
                return True
            self.on_duty -= 1
            self._resting.append(member)
        if member.gate.acquire(timeout=_REST):
            return True
        with self._lock:
            if member in self._resting:
                self._resting.remove(member)
                return False
        return member.gate.acquire()  # called at the very last moment

    def end(self) -> None:
        """There are no more requests: those that rest shall see that too."""
        with self._lock:
            self._over = True
            self.on_duty += len(self._resting)
            for member in self._resting:
                member.gate.release()
            self._resting.clear()

    # -- with the lock held -------------------------------------------------------------

    def _want(self, count: int) -> None:
        self.wanted = min(count, self._most)
        while self.on_duty < self.wanted and not self._over:
            self._call()

    def _call(self) -> None:
        self.on_duty += 1
        if self._resting:
            self._resting.pop().gate.release()
            return
        member = Member()
        self._members.add(member)
        try:
            threading.Thread(target=self._serve, args=(member,), name="xloop", daemon=True).start()
        except RuntimeError as exc:  # no more threads (RLIMIT_NPROC, a control group)
            self._members.discard(member)
            self.on_duty -= 1
            if not self._members:
                raise
            _log.warning("%s: %d threads go on", exc, len(self._members))
            self._most = len(self._members)
            self.wanted = min(self.wanted, self._most)

    def _look(self) -> None:
        stuck = 0
        progress = False
        for member in self._members:
            if member.requests != member.seen:
                member.seen = member.requests
                progress = True
            elif member.busy:
                stuck += 1
        needed = stuck + 1
        if self._data:
            self._data = False
            needed = max(needed, _FOR_DATA)
        if needed >= self.wanted:
            self._calm = 0
            self._want(needed)
        else:
            self._calm += 1
            if self._calm >= _CALM:
                self._calm = 0
                self.wanted = needed
        self._quiet = 0 if progress or stuck else self._quiet + 1
        if self._quiet >= _QUIET:
            self.asleep = True
            self.wanted = 1

    # -- threads ------------------------------------------------------------------------

    def _serve(self, member: Member) -> None:
        try:
            self._work(member)
        finally:
            with self._lock:
                self._members.discard(member)
                if not self._members:
                    self._changed.notify_all()
