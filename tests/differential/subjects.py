# SPDX-License-Identifier: MIT
"""What is tested: :data:`SUBJECTS`.

Owns how a subject is shown to the sequences.  A backend more is an entry more here, with its tags for
:mod:`differential.known`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xloop
from differential.known import Known
from differential.sides import InProcessWorld, NativeWorld, World
from xloop import registry
from xloop.ops import Operations

__all__ = ["ROOT", "SUBJECTS", "Stage", "Subject", "Unavailable", "small_loopback", "stage"]

ROOT = os.geteuid() == 0
#: Seconds.  No step takes as long: the mount is cut off, and the step fails.
_HANG = 30


class Subject(NamedTuple):
    """Something that shows a directory."""

    name: str
    backend: str | None  #: None: no mount
    tags: frozenset[str]
    options: dict[str, Any] = {}
    #: "root" or "user": nothing new for the other one.
    only: str | None = None
    #: How many of all steps are its own, compared with the others.
    weight: float = 1.0

    @property
    def players(self) -> tuple[str, ...]:
        return ("me", "ann", "bob", "proc") if ROOT else ("me", "proc")


class Unavailable(Exception):
    """The subject cannot be had here, and why."""


_PASSED = frozenset({"fuse", "passthrough"})
_SERVED = frozenset({"fuse", "served"})
_UNCHECKED = _SERVED | {"unchecked"}
#: What knows files by their paths, and by which library.
_BY_PATH = (_SERVED | {"checked"} if ROOT else _UNCHECKED) | {"path"}
#: Where the source checks permissions (a mount for its owner alone), the kernel does not ask again
#: whether a directory may be searched while it believes the names in it.
_UNCACHED: dict[str, Any] = {"entry_timeout": 0.0}
_BELIEVED: dict[str, Any] = {} if ROOT else _UNCACHED
SUBJECTS = [
    Subject("inprocess", None, frozenset({"inprocess"})),
    # Root's kernel reads and writes by itself (passthrough), an ordinary user never has that.
    Subject("devfuse", "devfuse", _PASSED if ROOT else _UNCHECKED, _BELIEVED),
    Subject("devfuse-served", "devfuse", _SERVED, {"passthrough": False}, only="root"),
    Subject(
        "devfuse-writeback",
        "devfuse",
        (_SERVED if ROOT else _UNCHECKED) | {"writeback"},
        _BELIEVED | {"writeback": True},
    ),
    # Slower, and they share with the others all but what is known to differ.
    Subject("libfuse3", "libfuse3", _BY_PATH | {"libfuse3"}, _BELIEVED, weight=0.5),
    Subject("libfuse2", "libfuse2", _BY_PATH | {"libfuse2"}, _BELIEVED, weight=0.5),
    # The same library, with what refuse does not pass on besides.
    Subject("refuse", "refuse", _BY_PATH | {"libfuse2", "refuse"}, _BELIEVED, weight=0.5),
]


class Stage(NamedTuple):
    """Where sequences are run."""

    mnt: World
    ref: World
    src: World
    #: Told of every step, so that a hang is noticed.
    beat: Callable[[], None]
    #: What is known to differ here.
    known: Known
    #: Of the process that serves.
    pid: int | None


def small_loopback(path: str, kind: type[xloop.Loopback] = xloop.Loopback) -> xloop.Loopback:
    """Return a loopback that must open its nodes again and again."""
    made = kind(path, descriptors=16)
    if ROOT:  # others may lose the right to search the directories on the way
        made.nodes.budget = 1
    # As if somebody had asked for a record lock before: until then closing is not told of, and what is
    # open already keeps its locks for longer (xloop/loopback/locks.py).
    made._locking = True
    return made


@contextlib.contextmanager
def stage(
    subject: Subject, base: Path, make: Callable[[str], Operations] = small_loopback
) -> Iterator[Stage]:
    """Show the directory *base*/source as *subject* does."""
    source, twin = base / "source", base / "twin"
    with contextlib.ExitStack() as stack:
        for path in (source, twin):
            path.mkdir(mode=0o755)
            stack.callback(_removed, path)
        ref = NativeWorld(str(twin))
        stack.callback(ref.shut)
        src = NativeWorld(str(source))
        stack.callback(src.shut)
        pid = None
        beat: Callable[[], None] = lambda: None  # noqa: E731
        if subject.backend is None:
            mnt: World = InProcessWorld(str(source), make)
            stack.callback(mnt.shut)
        else:
            mount = stack.enter_context(_mounted(subject, source, base / "mnt"))
            watch = stack.enter_context(_watched(base / "mnt"))
            pid, beat = mount.pid, watch
            _ask_for_a_record_lock(base / "mnt")
            mnt = NativeWorld(str(base / "mnt"))
            stack.callback(mnt.shut)
        known = Known(subject.tags | {_file_system_of(source)})
        yield Stage(mnt, ref, src, beat, known, pid)
        if pid is not None:
            _check_descriptors(pid)


def _ask_for_a_record_lock(mnt: Path) -> None:
    """From then on the kernel tells of every close: see small_loopback()."""
    with open(mnt / "lock", "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
    (mnt / "lock").unlink()


def _removed(path: Path) -> None:
    # Empty, unless something went wrong, and then that shall be heard of and not this.
    shutil.rmtree(path, ignore_errors=True)


def _file_system_of(path: Path) -> str:
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return "unknown"


def _check_descriptors(pid: int) -> None:
    """All is closed and removed: what the server has open for it must be closed too."""
    deadline = 200
    while (count := len(os.listdir(f"/proc/{pid}/fd"))) > 200 and deadline:
        deadline -= 1
        threading.Event().wait(0.05)
    assert count <= 200, f"the server has {count} descriptors open, and nothing is left"


@contextlib.contextmanager
def _mounted(subject: Subject, source: Path, point: Path) -> Iterator[Any]:
    assert subject.backend is not None
    availability = registry.load(subject.backend).probe()
    if not availability.ok:
        raise Unavailable(f"{subject.backend}: {availability.why} ({availability.fix})")
    point.mkdir()
    options = dict(subject.options)
    if ROOT:
        flags = os.statvfs(source).f_flag
        options["allow_other"] = True
        # As on the source, or there would be differences that are nobody's fault.
        options["dev"] = not flags & getattr(os, "ST_NODEV", 4)
        options["suid"] = not flags & os.ST_NOSUID
    with xloop.mount(str(source), str(point), backend=subject.backend, **options) as mount:
        yield mount
    point.rmdir()


@contextlib.contextmanager
def _watched(point: Path) -> Iterator[Callable[[], None]]:
    """Yield what is to be called again and again: without it the mount is cut off."""
    device = os.stat(point).st_dev
    alive = threading.Event()
    end = threading.Event()

    def watch() -> None:
        while not end.wait(_HANG):
            if not alive.is_set():
                _cut_off(point, device)
            alive.clear()

    thread = threading.Thread(target=watch, name="differential-watch", daemon=True)
    alive.set()
    thread.start()
    try:
        yield alive.set
    finally:
        end.set()
        thread.join()


def _cut_off(point: Path, device: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/fuse/connections/{os.minor(device)}/abort").write_text("1")
    umount = ["umount", "-l"] if ROOT else ["fusermount3", "-u", "-z"]
    subprocess.run([*umount, str(point)], check=False)
