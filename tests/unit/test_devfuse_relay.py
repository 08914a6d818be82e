# SPDX-License-Identifier: MIT
"""The thread that relays events: when its number is trusted, and what becomes of what it cannot relay."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from xloop.changes import OVERFLOW, Change
from xloop_backends.devfuse import relay as relay_module
from xloop_backends.devfuse.reach import GoneError
from xloop_backends.devfuse.relay import Relay

#: Not a measure of anything: what takes as long hangs.
PATIENCE = 30.0
CHANGE = Change(OVERFLOW)


def eventually(holds: Callable[..., object]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Place:
    """A relay, a mount that is reached as *reach* says, and what is trusted."""

    def __init__(self, reach: Callable[[], object] = lambda: None) -> None:
        @contextmanager
        def reached() -> Iterator[None]:
            reach()
            yield

        nothing: Any = None
        there: Any = SimpleNamespace(reached=reached, close=lambda: None)
        watch: Any = SimpleNamespace(
            watch_known=lambda: None, listen=lambda _listener: None, status=dict
        )
        self.own: set[int] = set()
        self.relay = Relay(nothing, watch, nothing, there, None, -1, own=self.own)

    def hear(self, count: int = 1) -> None:
        self.relay._hear([CHANGE] * count)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.close()
        self.relay.join()


def test_its_number_is_trusted_while_it_runs() -> None:
    with Place() as place:
        assert not place.own
        assert not place.relay.tid
        place.relay.start()
        assert place.own == {place.relay.tid}
        assert os.path.exists(f"/proc/self/task/{place.relay.tid}")
        assert place.relay.status()["mode"] == "relay"
    assert not place.own
    assert not place.relay.tid


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_however_it_ends_its_number_is_trusted_no_more(kind: type[BaseException]) -> None:
    """The system gives the number to another process: that must not be taken for the relay."""

    def reach() -> None:
        raise kind("no way")

    with Place(reach) as place:
        place.relay.start()
        place.hear(3)
        assert eventually(lambda: not place.own)
        assert place.relay._thread is not None
        place.relay._thread.join(PATIENCE)
        assert not place.relay.tid
        status = place.relay.status()
        assert status["mode"] == "ended"
        assert status["ended"] == f"{kind.__name__}: no way"
        place.hear()
        assert not place.relay.status()["waiting"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_passes_is_waited_for(number: int) -> None:
    left = [OSError(number, os.strerror(number)) for _ in range(2)]

    def reach() -> None:
        if left:
            raise left.pop()

    with Place(reach) as place:
        place.relay.start()
        place.hear(5)
        assert eventually(lambda: place.relay.status()["relayed"] == 5)
        status = place.relay.status()
    assert not left
    assert (status["mode"], status["not reached"], status["not relayed"]) == ("relay", "", 0)


def test_what_does_not_pass_is_counted_and_what_comes_later_relayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "_PAUSES", (0.0, 0.0))
    errors: list[Exception] = [OSError(errno.EMFILE, "Too many open files")]

    def reach() -> None:
        if errors:
            raise errors[-1]

    with Place(reach) as place:
        place.relay.start()
        for number, error in enumerate([errors[0], GoneError("it is gone")], 1):
            errors.append(error)
            place.hear(5)
            assert eventually(lambda count=5 * number: place.relay.status()["not relayed"] == count)
            status = place.relay.status()
            assert status["mode"] == "relay"
            assert status["not reached"] == str(error).removeprefix("[Errno 24] ")
            assert status["waiting"] == 0
        errors.clear()
        place.hear(5)
        assert eventually(lambda: place.relay.status()["relayed"] == 5)
        assert place.relay.status()["not reached"] == ""
        assert place.relay.status()["not relayed"] == 10


def test_what_could_not_be_started_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Place() as place:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="start new thread"):
                place.relay.start()
        assert not place.own
        assert not place.relay.tid
