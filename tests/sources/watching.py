# SPDX-License-Identifier: MIT
"""A source that others change, and a watcher like any other: inotify(7), by its system calls.

Owns :class:`Changing` and :class:`Watcher`, which says what was told about what.  Not a test.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sources.served import Served

__all__ = ["Changing", "Event", "Watcher", "eventually", "looked_at"]

#: What was watched, the kinds of the event, the name in it.
Event = tuple[str, str, str]

KINDS = {
    0x2: "MODIFY",
    0x4: "ATTRIB",
    0x8: "CLOSE_WRITE",
    0x40: "MOVED_FROM",
    0x80: "MOVED_TO",
    0x100: "CREATE",
    0x200: "DELETE",
    0x400: "DELETE_SELF",
    0x800: "MOVE_SELF",
    0x2000: "UNMOUNT",
    0x4000: "Q_OVERFLOW",
    0x8000: "IGNORED",
    0x40000000: "ISDIR",
}
_ALL = 0xFCE
_EVENT = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)
#: Not a measure of anything: what takes as long hangs.
PATIENCE = 30.0


def eventually(holds: Callable[[], object]) -> bool:
    """Wait until *holds*; False when that never happens."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Watcher:
    """Watches directories and files, each under a label."""

    def __init__(self, **what: Path) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert self._fd >= 0
        self._labels: dict[int, str] = {}
        self._told: deque[Event] = deque()
        #: Cookies of renames, in the order of their halves.
        self.cookies: list[int] = []
        for label, path in what.items():
            self.add(label, path)

    def add(self, label: str, path: Path) -> None:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(path), _ALL)
        assert number >= 0, (path, os.strerror(ctypes.get_errno()))
        self._labels[number] = label

    def until(self, label: str, kind: str, name: str = "") -> list[Event]:
        """Return what is told, up to the event that is meant, and without it."""
        events: list[Event] = []
        deadline = time.monotonic() + PATIENCE
        while True:
            while self._told:
                event = self._told.popleft()
                if event == (label, kind, name):
                    return events
                events.append(event)
            left = deadline - time.monotonic()
            assert left > 0, events[-100:]
            if select.select([self._fd], [], [], left)[0]:
                self._read()

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 20)
        at = 0
        while at < len(data):
            number, mask, cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = data[at - length : at].rstrip(b"\0")
            if cookie:
                self.cookies.append(cookie)
            kinds = "|".join(word for bit, word in KINDS.items() if mask & bit)
            self._told.append((self._labels.get(number, ""), kinds, os.fsdecode(name)))

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Changing(Served):
    """A source that is shown, a twin of it that is not, and a place beside them."""

    def __init__(self, top: Path, **fields: Any) -> None:
        self.source, self.twin, self.beside = top / "source", top / "twin", top / "beside"
        for path in (self.source, self.twin, self.beside, top / "mnt"):
            path.mkdir()
        for path in self.source, self.twin:
            (path / "file").write_text("content\n")
            (path / "inner").mkdir()
        super().__init__(self.source, top / "mnt", **{"events": "relay", **fields})

    @property
    def mnt(self) -> Path:
        return self.point

    def write(self, name: str, text: str) -> None:
        """Write a file on the source and on its twin."""
        for path in self.source, self.twin:
            (path / name).write_text(text)


_LOOKER = """
import os, sys
print(flush=True)
top = sys.argv[1]
while True:
    names = [top]
    if os.path.isdir(top):
        names += (os.path.join(d, name) for d, ds, fs in os.walk(top) for name in ds + fs)
    for name in names:
        try:
            os.stat(name)
        except OSError:
            pass
"""


@contextmanager
def looked_at(top: Path) -> Iterator[None]:
    """Have another program ask for the attributes of *top*, and of all that is below, all the time."""
    looker = subprocess.Popen([sys.executable, "-c", _LOOKER, top], stdout=subprocess.PIPE)
    try:
        assert looker.stdout is not None
        looker.stdout.readline()
        yield
    finally:
        looker.kill()
        looker.communicate()
