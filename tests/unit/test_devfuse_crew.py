# SPDX-License-Identifier: MIT
"""The threads that serve: who is called when one gets stuck, and who rests."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xloop_backends.devfuse import crew
from xloop_backends.devfuse.crew import Crew, Member


class Station:
    """Requests are functions, handed out by a queue: None ends it."""

    def __init__(self, most: int = 8, *, may_poll: bool = False) -> None:
        self.queue: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.crew = Crew(self._work, most, may_poll=may_poll)
        self.thread = threading.Thread(target=self.crew.run)
        self.thread.start()
        self.served_by: list[int] = []

    def _work(self, member: Member) -> None:
        mine = self.crew
        while True:
            request = self.queue.get()
            if request is None:
                self.queue.put(None)
                mine.end()
                return
            member.requests += 1
            member.busy = True
            if mine.asleep:
                mine.rouse()
            self.served_by.append(threading.get_ident())
            request()
            member.busy = False
            if mine.on_duty > mine.wanted and not mine.rest(member):
                return

    def ask(self, request: Callable[[], Any]) -> threading.Event:
        done = threading.Event()

        def serve() -> None:
            request()
            done.set()

        self.queue.put(serve)
        return done

    def end(self) -> None:
        self.queue.put(None)
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def station() -> Iterator[Callable[..., Station]]:
    made: list[Station] = []

    def make(most: int = 8) -> Station:
        made.append(Station(most))
        return made[-1]

    yield make
    for one in made:
        one.end()


def nothing() -> None:
    """A request that asks for nothing."""


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_serves_as_long_as_none_gets_stuck(station: Callable[..., Station]) -> None:
    one = station()
    for _ in range(500):
        assert one.ask(nothing).wait(30)
    assert len(one.crew) <= 2  # a slow machine may make one look stuck
    assert len(set(one.served_by)) == len(one.crew)


def test_others_take_over_from_those_who_are_stuck(station: Callable[..., Station]) -> None:
    one = station()
    gates = [threading.Event() for _ in range(5)]
    stuck = [one.ask(gate.wait) for gate in gates]
    assert one.ask(nothing).wait(30)
    assert not any(done.is_set() for done in stuck)
    for gate in gates:
        gate.set()
    assert all(done.wait(30) for done in stuck)
    # And in the end one is enough again.
    eventually(lambda: one.crew.wanted == 1)
    for _ in range(20):
        assert one.ask(nothing).wait(30)
    eventually(lambda: one.ask(nothing).wait(30) and one.crew.on_duty == 1)


def test_there_are_never_more_than_allowed(station: Callable[..., Station]) -> None:
    one = station(2)
    gates = [threading.Event() for _ in range(4)]
    stuck = [one.ask(gate.wait) for gate in gates]
    eventually(lambda: len(one.crew) == 2)
    time.sleep(0.05)
    assert len(one.crew) == 2
    for gate in gates:
        gate.set()
    assert all(done.wait(30) for done in stuck)


def test_nobody_watches_while_nothing_is_asked(station: Callable[..., Station]) -> None:
    one = station()
    assert one.ask(nothing).wait(30)
    eventually(lambda: one.crew.asleep)
    gate = threading.Event()
    stuck = one.ask(gate.wait)
    assert one.ask(nothing).wait(30)
    gate.set()
    assert stuck.wait(30)


def test_data_is_moved_by_several(station: Callable[..., Station]) -> None:
    one = station()
    assert one.ask(one.crew.moving_data).wait(30)
    assert one.crew.on_duty == 3
    eventually(lambda: one.crew.wanted == 1)


def test_cpus_are_kept_awake_while_requests_come_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "latency"
    device.write_bytes(b"")
    monkeypatch.setattr(crew, "_LATENCY", str(device))
    monkeypatch.setattr(crew, "_FEW_CPUS", 10**6)
    monkeypatch.setattr(crew._Load, "leaves_room", lambda self: True)
    one = Station(may_poll=True)

    def is_open() -> bool:
        return any(target == str(device) for target in _open_files())

    try:
        assert not is_open()
        eventually(lambda: one.ask(nothing).wait(30) and is_open())
        assert device.read_bytes() == bytes(4)
        assert not one.crew.polls
        assert not one.crew.follows
        eventually(lambda: not is_open())
        assert one.crew.seconds_awake() > 0
    finally:
        one.end()


def test_who_may_not_ask_for_that_polls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crew, "_LATENCY", str(tmp_path / "missing"))
    monkeypatch.setattr(crew._Load, "leaves_room", lambda self: True)
    one = Station(may_poll=True)
    try:
        eventually(lambda: one.ask(nothing).wait(30) and one.crew.polls)
        eventually(lambda: not one.crew.polls)
    finally:
        one.end()


def test_on_a_busy_machine_the_client_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew._Load, "leaves_room", lambda self: False)
    one = Station(may_poll=True)
    try:
        for _ in range(200):
            assert one.ask(nothing).wait(30)
        assert one.crew.follows
        assert not one.crew.polls
    finally:
        one.end()


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found
