# SPDX-License-Identifier: MIT
"""cache=coherent while somebody does not let go of a directory: everything else is told all the same.

Whoever lists a directory holds its lock, and may have given a buffer that is never there: of a file on a file system
that does not answer.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coherence.conftest import PATIENCE, Place, eventually
from coherence.storm import flood
from sources.served import Served

pytestmark = pytest.mark.mount

Places = Callable[..., Place]

#: List a directory into a mapping of a file, and say so.
_HOLD = """
import ctypes, mmap, os, sys
directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
with open(sys.argv[2], "r+b") as file:
    pages = mmap.mmap(file.fileno(), 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
print("begun", flush=True)
libc.syscall(ctypes.c_long(GETDENTS64), directory, ctypes.c_void_p(address), ctypes.c_size_t(4096))
"""
_GETDENTS64 = 217 if platform.machine() == "x86_64" else 61


class Slow:
    """A file system that answers no read until it is let go, and who waits for it."""

    def __init__(self, top: Path) -> None:
        self._source = top / "slow source"
        self._source.mkdir()
        (top / "slow").mkdir()
        self._served = Served(self._source, top / "slow", stuck=True, passthrough=False)
        self._holders: list[subprocess.Popen[str]] = []

    def hold(self, directory: Path) -> None:
        name = f"buffer{len(self._holders)}"
        (self._source / name).write_bytes(b"slow" + bytes(4092))
        code = _HOLD.replace("GETDENTS64", str(_GETDENTS64))
        holder = subprocess.Popen(
            [sys.executable, "-c", code, directory, self._served.point / name],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "begun\n"
        reads = lambda: self._served.reads() >= len(self._holders)  # noqa: E731
        assert eventually(reads)

    def let_go(self) -> None:
        self._served.let_go()
        for holder in self._holders:
            assert holder.wait(PATIENCE) == 0

    def end(self) -> None:
        self._served.let_go()
        for holder in self._holders:
            holder.wait(PATIENCE)
            assert holder.stdout is not None
            holder.stdout.close()
        self._served.end()


@pytest.fixture
def slow(base: Path, tmp_path: Path) -> Iterator[Slow]:
    made = Slow(tmp_path)
    try:
        yield made
    finally:
        made.end()


def prepare(top: Path, held: int) -> None:
    for number in range(held):
        (top / f"held{number}").mkdir()
        (top / f"held{number}" / "old").touch()
    (top / "other").mkdir()
    for number in range(20):
        (top / "other" / f"old{number}").mkdir()


def know(place: Place, held: int) -> None:
    """Until the names are known, and believed."""
    names = [f"other/old{number}" for number in range(20)]
    # One is known before the others, one after them.
    names[:0], names[20:] = ["held0/old"], [f"held{number}/old" for number in range(1, held)]
    look = lambda: [os.stat(place.point / name) for name in names]  # noqa: E731
    assert eventually(lambda: place.counted(look) == {})


def test_the_rest_is_told(place: Places, slow: Slow) -> None:
    p = place()
    prepare(p.source, 1)
    know(p, 1)
    slow.hold(p.point / "held0")
    for number in range(20):
        # Both in one batch, mostly.
        (p.source / "held0" / f"new{number}").touch()
        (p.source / "other" / f"old{number}").rename(p.source / "other" / f"new{number}")
    (p.source / "held0" / "old").unlink()
    for number in range(20):
        assert eventually(lambda old=f"old{number}": not (p.point / "other" / old).exists()), number
        assert eventually(lambda new=f"new{number}": (p.point / "other" / new).exists()), number
    # And no further thread waits for the same.
    assert eventually(lambda: p.status()["cache"]["held by others"] == 1)
    times = [top / "held0" for top in (p.source, p.point)]
    assert eventually(lambda: len({path.stat().st_mtime_ns for path in times}) == 1)
    slow.let_go()
    assert eventually(lambda: not (p.point / "held0" / "old").exists())
    assert eventually(lambda: (p.point / "held0" / "new0").exists())
    assert eventually(lambda: p.status()["cache"]["held by others"] == 0)


def test_what_went_unheard_is_dropped_but_for_what_is_held(place: Places, slow: Slow) -> None:
    p = place()
    prepare(p.source, 2)
    know(p, 2)
    for number in range(2):
        slow.hold(p.point / f"held{number}")

    def last() -> None:
        for number in range(2):
            (p.source / f"held{number}" / "old").unlink()
        for number in range(20):
            (p.source / "other" / f"old{number}").rmdir()

    flood(p.source, p.pid, 1, last=last)
    assert eventually(lambda: p.status()["cache"]["everything dropped"] > 0)
    for number in range(20):
        assert eventually(lambda old=f"old{number}": not (p.point / "other" / old).exists()), number
    slow.let_go()
    for number in range(2):
        assert eventually(lambda at=f"held{number}": not (p.point / at / "old").exists())


def test_where_nobody_is_left_to_tell_nothing_is_believed(place: Places, slow: Slow) -> None:
    p = place(tellers=3, attr_timeout=0.2, entry_timeout=0.2, negative_timeout=0.2)
    prepare(p.source, 2)
    know(p, 2)
    with ExitStack() as stack:
        for number in range(2):
            slow.hold(p.point / f"held{number}")
            (p.source / f"held{number}" / "old").unlink()
        stack.callback(slow.let_go)
        assert eventually(lambda: p.status()["cache"]["held by others"] == 2)
        # It shows when it is not believed any more, though nobody tells.
        (p.source / "late").mkdir()
        (p.source / "late" / "old").touch()
        assert (p.point / "late" / "old").exists()
        assert not (p.point / "late" / "new").exists()
        (p.source / "late" / "old").rename(p.source / "late" / "new")
        assert eventually(lambda: not (p.point / "late" / "old").exists())
        assert eventually(lambda: (p.point / "late" / "new").exists())
        # Attributes wait for nothing.
        (p.source / "other").chmod(0o711)
        assert eventually(lambda: (p.point / "other").stat().st_mode & 0o777 == 0o711)
        # This was believed before.
        (p.source / "other" / "old0").rename(p.source / "other" / "new0")
    assert eventually(lambda: not (p.point / "other" / "old0").exists())
    assert eventually(lambda: (p.point / "other" / "new0").exists())
    for number in range(2):
        assert eventually(lambda at=f"held{number}": not (p.point / at / "old").exists())
