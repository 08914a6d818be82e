# SPDX-License-Identifier: MIT
"""Calls that may block for long, each in a thread of its own, and how they are interrupted.

Owns the table of such calls and FUSE_INTERRUPT.  Does not own what is called.

A thread that sits in a system call is woken with a signal that has a handler which does nothing:
the call returns EINTR.  A signal that comes just before the thread enters the call is lost, so
it is sent again until the call is over.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

from xloop.errors import MountError, errno_of

__all__ = ["WAKE", "Waits", "listen"]

_log = logging.getLogger("xloop.devfuse")

#: Real-time signals have no meaning of their own, and the C library keeps the first few.
WAKE = signal.SIGRTMAX - 3

#: Seconds between two wake-ups of a thread that has not noticed the first.
_AGAIN = 0.02

#: Interrupts that came before their request was seen.  More than this many are not remembered.
_EARLY = 64


def listen() -> None:
    """Give WAKE its handler.  To be called in the main thread, before anything is mounted."""
    try:
        signal.signal(WAKE, _nothing)
        if signal.getsignal(signal.SIGIO) is signal.SIG_DFL:
            # Sent to who holds a lease that somebody wants broken (:mod:`.pagecache`), and deadly.
            signal.signal(signal.SIGIO, signal.SIG_IGN)
    except ValueError:
        raise MountError(
            "a file system must be mounted from the main thread of its server",
            "mount it from another process: xloop.mount()",
        ) from None


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """What matters is that a system call was interrupted."""


class _Call:
    __slots__ = ("done", "interrupted", "thread")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.interrupted = False
        self.thread: threading.Thread | None = None


class Waits:
    """The waiting calls of one connection.  *reply*: (descriptor, unique, errno or 0)."""

    def __init__(self, reply: Callable[[int, int, int], object]) -> None:
        self._reply = reply
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._early: dict[int, None] = {}
        self._closing = False

    def __len__(self) -> int:
        return len(self._calls)

    def start(self, fd: int, unique: int, call: Callable[[], object]) -> None:
        """Carry out *call* in a thread of its own and reply to *unique* when it is over.

        A call that returns True has replied itself.
        """
        mine = _Call()
        mine.thread = threading.Thread(
            target=self._run, args=(mine, fd, unique, call), name=f"wait-{unique}", daemon=True
        )
        with self._lock:
            self._calls[unique] = mine
            early = unique in self._early or self._closing
            self._early.pop(unique, None)
        mine.thread.start()
        if early:
            self._wake(mine)

    def _run(self, mine: _Call, fd: int, unique: int, call: Callable[[], object]) -> None:
        # *fd* is a Descriptor: it stays open for the reply even when its own thread has ended.
        number = 0
        replied: object = False
        try:
            replied = call()
        except BaseException as exc:  # noqa: BLE001  # whatever it is, the kernel needs a reply
            number = errno_of(exc)
        with self._lock:
            self._calls.pop(unique, None)
            mine.done.set()
        if replied is True:
            return
        try:
            self._reply(fd, unique, number)
        except OSError as exc:
            _log.warning("reply to a waiting request: %s", exc)

    def interrupt(self, unique: int) -> None:
        """The caller of *unique* got a signal.  Requests that do not wait just go on."""
        with self._lock:
            call = self._calls.get(unique)
            if call is None:
                # Perhaps a thread has read it and is about to start it; perhaps it is one of
                # the many that never wait.
                self._early[unique] = None
                if len(self._early) > _EARLY:
                    del self._early[next(iter(self._early))]
                return
        self._wake(call)

    def _wake(self, call: _Call) -> None:
        if call.interrupted:
            return
        call.interrupted = True
        threading.Thread(target=self._insist, args=(call,), name="interrupt", daemon=True).start()

    def _insist(self, call: _Call) -> None:
        while True:
            with self._lock:
                # Under the lock: a thread that has set *done* may be gone, and its id somebody else's.
                if call.done.is_set():
                    return
                # Without an ident it is about to start, and gets the next one.
                if call.thread is not None and call.thread.ident is not None:
                    signal.pthread_kill(call.thread.ident, WAKE)
            if call.done.wait(_AGAIN):
                return

    def close(self) -> None:
        """Interrupt everything: the connection is gone."""
        with self._lock:
            self._closing = True
            calls = list(self._calls.values())
        for call in calls:
            self._wake(call)
        for call in calls:
            call.done.wait(5)
