# SPDX-License-Identifier: MIT
"""Tellers: who is stuck holds up nothing but what is of the same inode."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("devfuse is Linux's", allow_module_level=True)

from xloop.types import Ino
from xloop_backends.devfuse import tellers
from xloop_backends.devfuse.tellers import Tellers, Unit, Units

#: No measure of anything: what takes longer is never going to happen.
PATIENCE = 20.0


def eventually(holds: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Kernel:
    """Takes what is told, but for what is of inodes that are held."""

    def __init__(self) -> None:
        self.held: dict[Ino, threading.Event] = {}
        self.told: list[tuple[Ino, set[bytes]]] = []
        self.at: list[Ino] = []
        self.at_once = 0
        self.failed: list[BaseException] = []
        self._waiting: list[Units] = []
        self.tellers = Tellers(self._tell_at_once, self._tell, self.failed.append)
        self.tellers.start()

    def _tell_at_once(self) -> Units:
        units = Units()
        while self._waiting:
            for ino, unit in self._waiting.pop(0).items():
                units[ino].add(unit)
        self.at_once += 1
        return units

    def _tell(self, ino: Ino, unit: Unit) -> bool:
        self.at.append(ino)
        if ino in self.held:
            self.held[ino].wait()
        self.told.append((ino, {name for name, _ in unit.names}))
        unit.names.clear()
        return False

    def hear(self, *changes: tuple[int, bytes]) -> None:
        """Have it told of names in directories, in one batch."""
        units = Units()
        for ino, name in changes:
            units[Ino(ino)].names[name, Ino(0)] = 1
        self._waiting.append(units)
        self.tellers.call()

    def hold(self, *inos: int) -> None:
        for ino in inos:
            self.held[Ino(ino)] = threading.Event()

    def knows(self, ino: int, name: bytes) -> bool:
        return any(at == ino and name in names for at, names in list(self.told))

    def let_go(self, *inos: int) -> None:
        for ino in inos or list(self.held):
            self.held[Ino(ino)].set()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setattr(tellers, "_MOST", 4)
    made = Kernel()
    yield made
    made.let_go()
    made.tellers.close()
    assert not made.failed


def test_a_directory_that_is_held_holds_up_nothing_else(kernel: Kernel) -> None:
    kernel.hold(2)
    kernel.hear(*((ino, b"name") for ino in range(2, 50)))
    assert eventually(lambda: all(kernel.knows(ino, b"name") for ino in range(3, 50)))
    assert not kernel.told or not kernel.knows(2, b"name")


def test_what_is_of_one_directory_waits_for_it(kernel: Kernel) -> None:
    """One thread for one inode, and the rest of it in one piece after that."""
    kernel.hold(2)
    kernel.hear((2, b"first"))
    assert eventually(lambda: Ino(2) in kernel.at)
    for number in range(50):
        kernel.hear((2, b"%d" % number), (3 + number, b"name"))
    assert eventually(lambda: all(kernel.knows(3 + n, b"name") for n in range(50)))
    assert kernel.at.count(Ino(2)) == 1
    assert not kernel.tellers.full
    assert eventually(lambda: kernel.tellers.is_held_up(Ino(2)))
    assert not kernel.tellers.is_held_up(Ino(3))
    kernel.let_go()
    assert eventually(lambda: all(kernel.knows(2, b"%d" % number) for number in range(50)))
    assert kernel.at.count(Ino(2)) == 2
    assert eventually(lambda: not kernel.tellers.is_held_up(Ino(2)))


def test_one_thread_is_left_for_what_waits_for_nothing(kernel: Kernel) -> None:
    kernel.hold(2, 3, 4)
    kernel.hear((2, b"a"), (3, b"a"), (4, b"a"))
    assert eventually(lambda: kernel.tellers.full)
    assert kernel.tellers.is_held_up(Ino(9))
    for number in range(20):
        before = kernel.at_once
        kernel.hear((10 + number, b"late"))
        assert eventually(lambda before=before: kernel.at_once > before)
    assert not any(kernel.knows(10 + number, b"late") for number in range(20))
    kernel.let_go(3)
    assert eventually(lambda: all(kernel.knows(10 + n, b"late") for n in range(20)))
    assert eventually(lambda: not kernel.tellers.full)
    assert not kernel.knows(2, b"a")
    assert not kernel.knows(4, b"a")


def test_a_system_without_further_threads(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it was the limit; and when there are some again it goes on."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    kernel.hold(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        kernel.hear((2, b"a"), (3, b"a"))
        assert eventually(lambda: kernel.tellers.full)
        assert not kernel.knows(3, b"a")
    kernel.hear((4, b"a"))
    assert eventually(lambda: kernel.knows(3, b"a") and kernel.knows(4, b"a"))
    assert eventually(lambda: not kernel.tellers.full)


def test_further_threads_end(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tellers, "_REST", 0.01)
    kernel.hold(2, 3)
    kernel.hear((2, b"a"), (3, b"a"), (4, b"a"))
    assert eventually(lambda: kernel.knows(4, b"a"))
    assert int(str(kernel.tellers.status()["tellers"])) > 2
    kernel.let_go()
    assert eventually(lambda: kernel.tellers.status()["tellers"] == 2)
