# SPDX-License-Identifier: MIT
"""Who has written through the mount: what is asked while everything is heard, what later, and how much of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xloop.host import mounttable
from xloop.types import Attr, Entry, Ino
from xloop_backends.devfuse import writers
from xloop_backends.devfuse.writers import Writers

FILE = Ino(7)
SOMEBODY = 1  # no thread here


class Place:
    """A file system that takes the place of the mount, and a file there that is open, for somebody says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        status = path.stat()
        number = os.major(status.st_dev), os.minor(status.st_dev)
        if not any(entry.device == number for entry in mounttable.read()):
            pytest.skip("the numbers of files here are not those of what is mounted")
        self.open: dict[Ino, dict[int, int]] = {FILE: {0: SOMEBODY}}
        self.recalled = 0
        passthrough: Any = SimpleNamespace(writers=self.open, on_closed=None)
        self.entry = Entry(FILE, Attr.make(status.st_mode, ino=status.st_ino), 0, 0)
        self.writers = Writers(passthrough, status.st_dev, self._recall, lambda _ino, _count: None)
        self.writers.begin()

    def _recall(self, _ino: Ino) -> Entry:
        self.recalled += 1
        return self.entry


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "file")


@pytest.fixture
def opened(place: Place) -> Iterator[int]:
    fd = os.open(place.path, os.O_WRONLY)
    yield fd
    os.close(fd)


def of_a_thread(place: Place) -> int:
    """Have a thread of this process heard of, and ended; return its number."""
    numbers = []

    def live() -> None:
        numbers.append(threading.get_native_id())
        assert not place.writers.is_told(FILE, numbers[0])

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    deadline = time.monotonic() + 30  # not a measure of anything: what takes as long hangs
    while os.path.exists(f"/proc/{numbers[0]}"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return numbers[0]


def test_a_thread_that_has_ended_wrote_as_its_process(place: Place, opened: int) -> None:
    number = of_a_thread(place)
    assert opened
    assert place.writers.wrote(FILE, number)


def test_who_has_it_not_open_has_not_written_there(place: Place) -> None:
    me = threading.get_native_id()
    assert not place.writers.is_told(FILE, me)
    assert not place.writers.wrote(FILE, me)
    with place.path.open():
        assert not place.writers.wrote(FILE, me)  # was asked already, for this batch
        assert place.recalled == 1
        place.writers.begin()
        assert place.writers.wrote(FILE, me)


def test_who_opened_it_is_known_at_once(place: Place) -> None:
    assert place.writers.is_told(FILE, SOMEBODY)
    assert not place.writers.is_told(Ino(8), SOMEBODY)
    assert not place.writers.is_told(FILE, 0)


def test_who_was_not_in_doubt_is_not_asked_about(place: Place, opened: int) -> None:
    """What was heard while nobody had it open there was written on the source, whoever has it open by now."""
    me = threading.get_native_id()
    place.open.clear()
    assert not place.writers.is_told(FILE, me)
    place.open[FILE] = {opened: me}
    assert not place.writers.wrote(FILE, me)


def test_nothing_is_looked_through_while_everything_waits_to_be_heard(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(path: object) -> object:
        raise AssertionError(path)

    monkeypatch.setattr(os, "scandir", look)
    monkeypatch.setattr(os, "listdir", look)
    assert not place.writers.is_told(FILE, threading.get_native_id())


@pytest.mark.parametrize("bound", ["_LOOKS_AT_ONE", "_LOOKS"])
def test_no_more_is_looked_through_than_is_good(
    bound: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the source has as many descriptors as he likes."""
    monkeypatch.setattr(writers, bound, 3)
    place.writers.begin()
    me = threading.get_native_id()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]
    fd = os.open(place.path, os.O_WRONLY)
    try:
        assert not place.writers.is_told(FILE, me)
        assert not place.writers.wrote(FILE, me)  # so it is told
        monkeypatch.setattr(writers, bound, 1000)
        place.writers.begin()
        assert place.writers.wrote(FILE, me)
    finally:
        for other in (fd, *others):
            os.close(other)
