# SPDX-License-Identifier: MIT
"""Calls that another thread makes: under other credentials, or while the caller goes on.

Owns :class:`Actor` (a thread that is somebody else), :class:`Elsewhere` (a tree whose calls are
made there) and :class:`ThreadCall`.  A thread, not a child process: on Linux credentials belong
to the thread, and descriptors stay shared.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from xloop.testing.tree import Path, Pending, Tree

__all__ = ["SIGUSR1", "Actor", "Elsewhere", "ThreadCall", "calls", "forward", "sleeps"]

_signal: Any = signal
#: What interrupts a call.  0 where there is no such signal.
SIGUSR1: int = getattr(signal, "SIGUSR1", 0)


def sleeps(tid: int) -> bool:
    """Tell whether the thread or process *tid* sleeps in the kernel just now."""
    try:
        stat = FilePath(f"/proc/{tid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] in (b"S", b"D")


class _Outcome:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def fill(self, call: Callable[[], Any]) -> None:
        try:
            self.value = call()
        except BaseException as error:  # noqa: BLE001  (carried to the thread that waits)
            self.error = error
        self.ready.set()

    def get(self, timeout: float) -> Any:
        if not self.ready.wait(timeout):
            raise TimeoutError("the call has not returned")
        if self.error is not None:
            raise self.error
        return self.value


class Actor:
    """A thread that first does *prepare* and then the calls it is given, one after the other."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._calls: queue.SimpleQueue[tuple[_Outcome, Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="actor", daemon=True)
        self._thread.start()
        self.do(prepare)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            outcome, call = item
            outcome.fill(call)
            # Not kept until the next call: what it refers to may have to be closed before.
            del item, outcome, call

    def do(self, call: Callable[[], Any]) -> Any:
        outcome = _Outcome()
        self._calls.put((outcome, call))
        return outcome.get(60)

    def stop(self) -> None:
        self._calls.put(None)
        self._thread.join(10)


class ThreadCall(Pending):
    """A call under way in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._outcome = _Outcome()
        args = (call,)
        self._thread = threading.Thread(target=self._outcome.fill, args=args, daemon=True)
        self._thread.start()

    def blocked(self) -> bool:
        tid = self._thread.native_id
        return not self.done() and tid is not None and sleeps(tid)

    def done(self) -> bool:
        return self._outcome.ready.is_set()

    def interrupt(self) -> None:
        assert self._thread.ident is not None
        _signal.pthread_kill(self._thread.ident, SIGUSR1)

    def result(self, timeout: float = 30.0) -> Any:
        return self._outcome.get(timeout)


class Elsewhere(Tree):
    """The tree *inner*, whose calls *actor* makes."""

    def __init__(self, inner: Tree, actor: Actor) -> None:
        self.inner = inner
        self.actor = actor

    def at(self, path: Path) -> Tree:
        return Elsewhere(self.actor.do(lambda: self.inner.at(path)), self.actor)

    def as_user(
        self, uid: int, gid: int, groups: tuple[int, ...] = (), umask: int | None = None
    ) -> Tree:
        return self.inner.as_user(uid, gid, groups, umask)

    def shut(self) -> None:
        """Nothing of its own: the tree that it came from closes everything."""


def forward(method: str) -> Callable[..., Any]:
    """Return a method of Elsewhere that lets the actor call *method*."""

    def call(self: Elsewhere, *args: Any, **kwargs: Any) -> Any:
        return self.actor.do(lambda: getattr(self.inner, method)(*args, **kwargs))

    call.__name__ = method
    return call


def calls() -> list[str]:
    """Return the names of the system calls of Tree: all that other trees forward."""
    own = {"shut", "check_balanced", "at", "as_user", "process", "start", "kill"}
    built = {"make", "content", "append", "with_fd", "scandir", "listdir", "exists", "facts"}
    built |= {"age", "moved", "snapshot"}
    public = (name for name in vars(Tree) if not name.startswith("_"))
    return [n for n in public if callable(vars(Tree)[n]) and n not in own | built]


for _name in calls():
    setattr(Elsewhere, _name, forward(_name))
