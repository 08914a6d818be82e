# SPDX-License-Identifier: MIT
"""The threads that tell the kernel what it must drop, each of which may have to wait.

Owns :class:`Tellers`: who tells what, and when another thread begins.  Does not own what is told, nor in which
order about one inode (:mod:`.coherence`).

Some messages to the kernel wait for the lock of an inode or of its pages, and somebody may hold that for as long as he
likes.  So what may wait is told in units, one for each inode whose lock it needs, and nobody waits for a unit but what is of the same
inode: that is kept until whoever is at it is done, so that no second thread gets stuck there.

**Mostly one thread works**, whatever there is to do: more of them would only take the interpreter from
those that serve.  While it works and there are further units, a second one is on guard.  What is told at one go is short, so
what takes longer than :data:`_PATIENCE` waits for somebody; then the guard goes on with what is left, and another
is on guard.

**One thread is always left** for what waits for nothing.  Where that would be the last of :data:`_MOST`, or the system has no
further one, units are kept until a stuck one is done; :meth:`Tellers.is_held_up` says so beforehand.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic

from xloop.types import Ino

__all__ = ["Tellers", "Unit", "Units"]

#: Threads, at most, and those that stay when there is nothing to tell.
_MOST, _LEAST = 64, 2
#: Seconds without anything to do after which the others end.
_REST = 10.0
#: Seconds after which a unit is taken to wait for somebody; and those for which the status does.
_PATIENCE = 0.02
_STUCK = 1.0
#: Seconds that all of them together have to end.
_LAST = 5.0


class Unit:
    """What is to be told under the lock of one inode."""

    __slots__ = ("flags", "names")

    def __init__(self) -> None:
        #: Names in it, each with an inode that comes after it or 0, and how (see :mod:`.coherence`).
        self.names: dict[tuple[bytes, Ino], int] = {}
        self.flags = 0

    def add(self, other: Unit) -> None:
        self.flags |= other.flags
        for name, how in other.names.items():
            self.names[name] = how | self.names.get(name, 0)


class Units(dict[Ino, Unit]):
    """Units by inode; one that is asked for is there."""

    def __missing__(self, ino: Ino) -> Unit:
        unit = self[ino] = Unit()
        return unit


class Tellers:
    """The threads of one connection."""

    def __init__(
        self,
        at_once: Callable[[], Units],
        tell: Callable[[Ino, Unit], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        """*at_once*: does what waits for nothing, and returns the units.

        *tell*: tells what is of one inode, and takes it out of the unit; some milliseconds of it.  True: something is left.
        *fail*: called with what either raises.
        """
        self._at_once = at_once
        self._tell = tell
        self._fail = fail
        self._most = _MOST
        self._lock = threading.Lock()
        self._resting = threading.Condition(self._lock)
        self._guarding = threading.Condition(self._lock)
        self._called = False
        #: When that is to be done in any case.
        self._due = inf
        self._ended = False
        self._threads: set[threading.Thread] = set()
        #: Those that wait for something to do, and those on guard: at most one.
        self._idle = 0
        self._guards = 0
        self._units = Units()
        #: Those that nobody is at, the earliest first.
        self._queue: deque[Ino] = deque()
        #: Those that somebody is at, and since when.
        self._busy: dict[Ino, float] = {}
        #: The one of them that was begun last, until it is done.
        self._at: Ino | None = None
        #: Whether nobody might be left to tell something in time that becomes known now.
        self.full = False

    def start(self) -> None:
        with self._lock:
            while len(self._threads) < _LEAST:
                self._begin()

    def close(self) -> None:
        """The connection is over: nobody waits for anything any more."""
        with self._lock:
            self._ended = True
            self._resting.notify_all()
            self._guarding.notify_all()
            threads = list(self._threads)
        deadline = monotonic() + _LAST
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))

    def status(self) -> dict[str, object]:
        with self._lock:
            begun = list(self._busy.values())
            waiting = len(self._queue)
        now = monotonic()
        return {
            "tellers": len(self._threads),
            "held by others": sum(now - since > _STUCK for since in begun),
            "waiting to be told": waiting,
        }

    # -- what there is to do ------------------------------------------------------------

    def call(self) -> None:
        """Have *at_once* done."""
        with self._lock:
            self._called = True
            self._rouse()

    def call_in(self, seconds: float) -> None:
        """Have *at_once* done after so long, or somewhat later.  From a thread that tells."""
        with self._lock:
            self._due = min(self._due, monotonic() + seconds)

    def add(self, units: Units) -> None:
        """Have *units* told, each after what is of the same inode.  From a thread that tells."""
        self._put(units)
        with self._lock:
            if self._queue and not self._guards:
                self._rouse()  # this thread may get stuck first

    def _put(self, units: Units) -> None:
        with self._lock:
            for ino, unit in units.items():
                self._add(ino, unit)

    def _add(self, ino: Ino, unit: Unit) -> None:
        before = self._units.get(ino)
        if before is not None:
            before.add(unit)
            return
        self._units[ino] = unit
        if ino not in self._busy:
            self._queue.append(ino)

    def is_held_up(self, ino: Ino) -> bool:
        """Whether what is told of *ino* from now on might not be told soon."""
        since = self._busy.get(ino)
        return self.full or (since is not None and monotonic() - since > _PATIENCE)

    @property
    def quiet(self) -> bool:
        """Whether nothing is left but what others hold up."""
        return not self._queue

    # -- the threads --------------------------------------------------------------------

    def _rouse(self) -> None:
        """Have somebody look at what there is to do.  With the lock held."""
        if self._idle:
            self._resting.notify()
        elif self._guards:
            self._guarding.notify()
        else:
            self._begin()

    def _begin(self) -> bool:
        """Begin a thread, if there may be another.  With the lock held."""
        if len(self._threads) >= self._most:
            return False
        thread = threading.Thread(target=self._run, name="xloop-tell", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more
            if len(self._threads) < _LEAST:
                raise
            return False
        self._threads.add(thread)
        return True

    def _run(self) -> None:
        done: tuple[Ino, Unit, bool] | None = None
        while True:
            with self._lock:
                if done is not None:
                    self._done(*done)
                task = self._next()
                if task is None:
                    self._threads.discard(threading.current_thread())
                    return
            ino, unit = task
            done = None if unit is None else (ino, unit, False)
            try:
                if unit is None:
                    self._put(self._at_once())
                else:
                    done = ino, unit, self._tell(ino, unit)
            except Exception as exc:  # noqa: BLE001  # what is not told is wrong for long: the mount ends
                self._fail(exc)

    def _next(self) -> tuple[Ino, Unit | None] | None:
        """Wait for something to do; without a unit: what waits for nothing.  None: to end.  With the lock held."""
        roused = False
        while not self._ended:
            if self._called or self._due <= monotonic():
                self._called = False
                self._due = inf
                return Ino(0), None
            left = self._left()
            if self._queue and left <= 0 and self._is_another_left():
                return self._take()
            if not self._guards and (left > 0 or roused):
                # Beyond the end of the unit: mostly there is soon another, and rousing a thread costs more than it.
                self._guards += 1
                self._guarding.wait(left if left > 0 else _PATIENCE)
                self._guards -= 1
                roused = False
                continue
            self._idle += 1
            roused = self._resting.wait(max(0.0, min(_REST, self._due - monotonic())))
            self._idle -= 1
            if not roused and self._is_surplus():
                return None
        return None

    def _is_surplus(self) -> bool:
        """Whether this thread, which has rested, is not needed."""
        wanted = self._called or self._queue or self._due < inf
        return not wanted and len(self._threads) - len(self._busy) > _LEAST

    def _left(self) -> float:
        """Return for how long whoever is at the units is to go on by himself."""
        since = None if self._at is None else self._busy.get(self._at)
        return 0.0 if since is None else since + _PATIENCE - monotonic()

    def _is_another_left(self) -> bool:
        """Whether one would be left for what waits for nothing, if this thread took a unit."""
        if len(self._threads) - len(self._busy) >= 2 or self._begin():
            return True
        self.full = True
        return False

    def _take(self) -> tuple[Ino, Unit]:
        ino = self._queue.popleft()
        self._busy[ino] = monotonic()
        self._at = ino
        self.full = len(self._busy) >= self._most - 1
        if self._queue and not self._guards:
            self._rouse()
        return ino, self._units.pop(ino)

    def _done(self, ino: Ino, unit: Unit, more: bool) -> None:
        del self._busy[ino]
        if self._at == ino:
            self._at = None
        self.full = len(self._busy) >= self._most - 1
        if more:
            after = self._units.get(ino)
            if after is not None:
                unit.add(after)
            self._units[ino] = unit
        if ino in self._units:
            self._queue.append(ino)
