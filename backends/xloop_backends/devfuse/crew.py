# SPDX-License-Identifier: MIT
"""The threads that serve a connection: how many are on duty, and who is called when one gets stuck.

Owns :class:`Crew`.  Does not own what a thread does with a request (:mod:`.session`).

One thread on duty is best for most of what a file system is asked: the interpreter runs one at a
time anyway, and handing over from one to another costs more than a request.  But a request may
wait, for a disk or for the server of a network source, and must not hold up the others.  So
somebody watches: a member that has been at the same request since the last look and sleeps in a system call is
stuck, and another one takes over.  One that waits for a CPU or for the interpreter is not: another one would make
it wait the longer, look stuck itself, and so on.  Only if that goes on it counts, too, for it may wait for
something that takes another request to happen.  Requests that move data, which waits for disks more often than not and
is copied without the interpreter, are served by several from the start.

Who watches also sees whether a CPU is free and requests come back to back.  Waking a CPU that sleeps
costs more than a request then, several times as much on virtual machines.  So none shall fall
asleep: the kernel is asked to let idle CPUs wait for work awake (PM QoS, :class:`_Awake`), and where that
is not to be had, the one on duty looks for the next request for a while before it sleeps
(``polls``).  Where no CPU is free nothing sleeps anyway, and being on the client's is best
(``follows``, :mod:`.placement`).

Nobody watches while nothing is asked.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

__all__ = ["Crew", "Member"]

_log = logging.getLogger("xloop.devfuse")

#: Seconds between two looks: a request that waits holds up the others for one or two of them.
_LOOK = 0.002
#: Looks at the same request after which a member is stuck, whatever it waits for.
_LONG = 10
#: Looks without any request, until that counts as a lull, and until nobody looks any more.
_SHORT, _QUIET = 3, 10
#: Looks for which more are on duty than are needed.
_CALM = 100
#: On duty while data is moved.
_FOR_DATA = 3
#: Requests between two looks that are back to back; looks without, after which they are not any more.
_BUSY, _LULL = 6, 8
#: How much the latest look counts in the average of what runs.
_WEIGHT = 0.125
#: Seconds that a member rests before it ends: starting a thread costs more than ten requests.
_REST = 10.0


class Member:
    """A thread of the crew.  Its own to change, everybody's to look at."""

    __slots__ = ("busy", "gate", "looks", "requests", "seen", "tid")

    def __init__(self) -> None:
        self.requests = 0
        self.busy = False
        #: *requests* at the last look, and how many looks before saw the same.
        self.seen = 0
        self.looks = 0
        self.tid = 0
        #: Held; released to call a member that rests.
        self.gate = threading.Lock()
        self.gate.acquire()


class Crew:
    """At most *most* threads that do *work*, which goes on until there is nothing to do for ever.

    For each request a member raises its ``requests``, sets ``busy``, calls :meth:`rouse` if
    ``asleep`` and :meth:`moving_data` where that is so; afterwards it clears ``busy`` and, where
    ``on_duty > wanted``, calls :meth:`rest`.
    """

    def __init__(
        self, work: Callable[[Member], None], most: int, *, may_poll: bool = False
    ) -> None:
        self._work = work
        self._load = _Load() if may_poll else None
        self._awake = _Awake() if may_poll else None
        self._served = 0
        self._lull = 0
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
        #: Whether to look for the next request before sleeping, and whether to go where the client is.
        self.polls = False
        self.follows = True
        #: Nobody watches: whoever gets a request has to rouse it.
        self.asleep = False
        #: Set while nothing is asked.
        self.lull = threading.Event()
        self.lull.set()

    def __len__(self) -> int:
        return len(self._members)

    def run(self) -> None:
        """Begin with one thread, and watch until the last has ended."""
        try:
            with self._lock:
                self._call()
            while True:
                with self._lock:
                    if not self._members:
                        return
                    self._changed.wait(None if self.asleep else _LOOK)
                    self._look()
        finally:
            if self._awake is not None:
                self._awake.end()

    def seconds_awake(self) -> float:
        """Return for how long idle CPUs were kept from sleeping."""
        return 0.0 if self._awake is None else self._awake.seconds

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
        working = False
        for member in self._members:
            if member.requests != member.seen:
                member.seen = member.requests
                member.looks = 0
                working = True
            elif member.busy:
                working = True
                member.looks += 1
                if member.looks >= _LONG or _sleeps(member.tid):
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
        if self._load is not None and self._awake is not None:
            self._watch_the_cpus(self._load, self._awake)
        self._quiet = 0 if working else self._quiet + 1
        if not self._quiet:
            self.lull.clear()
        elif self._quiet == _SHORT:
            self.lull.set()
        if self._quiet >= _QUIET:
            self.asleep = True
            self.wanted = 1
            if self._awake is not None:
                self._awake.end()

    def _watch_the_cpus(self, load: _Load, awake: _Awake) -> None:
        served = sum(member.requests for member in self._members)
        self._lull = 0 if served - self._served >= _BUSY else self._lull + 1
        self._served = served
        room = load.leaves_room()
        self.follows = not room
        if room and self._lull < _LULL:
            self.polls = not awake.begin() and self.wanted == 1
        else:
            awake.end()
            self.polls = False

    # -- threads ------------------------------------------------------------------------

    def _serve(self, member: Member) -> None:
        member.tid = threading.get_native_id()
        try:
            self._work(member)
        finally:
            with self._lock:
                self._members.discard(member)
                if not self._members:
                    self._changed.notify_all()


#: futex(2), by which a thread waits for the interpreter; linux/unistd.h of the machine.
_FUTEX = {
    "x86_64": (b"202",),
    "i686": (b"240", b"422"),
    "armv7l": (b"240", b"422"),
}.get(os.uname().machine, (b"98",))


def _sleeps(tid: int) -> bool:
    """Tell whether the thread *tid* of this process sleeps in a system call, but for another thread of ours."""
    try:
        with open(f"/proc/self/task/{tid}/syscall", "rb") as file:
            call = file.read().split()[0]
    except (OSError, IndexError):
        return True  # not to be seen here
    return call != b"running" and call not in _FUTEX


class _Load:
    """How many threads of the whole system run, on average."""

    def __init__(self) -> None:
        self._file = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        # Who looks, who serves, and at times its client, run anyway; on the CPUs that there are,
        # one for the client aside, somebody else may too.
        self._room = len(os.sched_getaffinity(0)) + 0.6
        self._average = self._room

    def __del__(self) -> None:
        os.close(self._file)

    def leaves_room(self) -> bool:
        """Tell whether a CPU would be idle otherwise."""
        # proc(5): the fourth field is "running/all".
        running = int(os.pread(self._file, 64, 0).split()[3].partition(b"/")[0])
        self._average += (running - self._average) * _WEIGHT
        return self._average <= self._room


#: Keeps all idle CPUs from sleeping while it is open with a 0 in it, and no longer than its process
#: lives (Documentation/power/pm_qos_interface.rst).
_LATENCY = "/dev/cpu_dma_latency"
#: On a machine with more CPUs than this the others would be kept awake for nothing.
_FEW_CPUS = 4


class _Awake:
    """The kernel's idle CPUs wait for work awake, between begin() and end()."""

    def __init__(self) -> None:
        self._possible = (os.cpu_count() or 1) <= _FEW_CPUS
        self._file = -1
        self._since = 0.0
        self.seconds = 0.0

    def begin(self) -> bool:
        """Return whether that can be had: it is root's to ask for."""
        if self._file < 0 and self._possible:
            try:
                self._file = os.open(_LATENCY, os.O_WRONLY | os.O_CLOEXEC)
                os.write(self._file, bytes(4))
            except OSError:
                self._possible = False
                self.end()
            else:
                self._since = time.monotonic()
        return self._file >= 0

    def end(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            if self._since:
                self.seconds += time.monotonic() - self._since
                self._since = 0.0
