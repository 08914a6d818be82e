# SPDX-License-Identifier: MIT
"""What takes a mount away when its server ends without doing so: ``-o auto_unmount``.

Owns both halves: :class:`Guardian`, in the server, which starts a process and tells it of the mount,
and :func:`main`, what that process does once the server is gone.  Does not own unmounting
(:mod:`xloop.mounts`), nor the end of a server that can still act itself (:mod:`xloop.serving`).

**How it knows.**  It reads a pipe whose other end only the server has, closed on exec as the
connection to the kernel is.  Whatever ends the server closes both: where the pipe is at its end, the
mount is dead.  A process id would tell less: a fork of the server may hold the connection.

**What it costs.**  A shell that waits in ``read``: a hundred kilobytes of its own, where a fork of the
server holds five megabytes that the two no longer share.  It becomes a Python interpreter
when there is something to do.  Where there is no shell, an interpreter waits.

**What it survives.**  It has a session of its own, holds all signals back, and stands in the root
directory with nothing open but the pipe.  So it outlives its server's process group and terminal.  It
does not outlive what ends everything at once: the end of a PID namespace, or of a control group.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress

from xloop import mounts
from xloop.errors import MountError, UnmountError
from xloop.host import mounttable, process
from xloop.host.mounttable import MountEntry

__all__ = ["Guardian", "main"]

_SHELL = "/bin/sh"

#: The last line counts: nothing yet, the mount, or _GONE.
_WAIT = (
    'cd /; word=; while read -r line; do word=$line; done; [ "$word" = gone ] || exec "$@" "$word"'
)
_GONE = "gone"

_BOOT = (
    "import os, sys; os.chdir('/'); sys.path.insert(0, sys.argv[1]); "
    "from xloop.guardian import main; sys.exit(main(*sys.argv[2:]))"
)

#: Seconds in which a guardian that has nothing to do any more ends.
_FAREWELL = 5.0


class Guardian:
    """The server's half.  Made before the mount, so that there is no moment without it."""

    def __init__(self, mountpoint: str, subtype: str) -> None:
        """Start it.  MountError: it cannot be had here."""
        try:
            table = mounttable.read()
        except OSError as exc:
            raise MountError(
                f"auto_unmount is not to be had: the mount table cannot be read ({exc.strerror})",
                "mount /proc, or leave out auto_unmount",
            ) from exc
        if not sys.executable or getattr(sys, "frozen", False):
            raise MountError(
                "auto_unmount is not to be had: there is no Python interpreter to start",
                "leave out auto_unmount",
            )
        told = json.dumps(
            {
                "mountpoint": mountpoint,
                "fstype": f"fuse.{subtype}",
                "before": mounts.mount_at(table, mountpoint),
            }
        )
        modules = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        words = [process.interpreter(), "-I", "-S", "-c", _BOOT, modules, told]
        if os.path.exists(_SHELL):
            words = [_SHELL, "-c", _WAIT, "xloop-guardian", *words]
        reading, self._line = os.pipe()
        try:
            self.pid = process.start_aside(words, reading)
        except OSError as exc:
            os.close(self._line)
            raise MountError(
                f"auto_unmount is not to be had: {words[0]!r} cannot be started: {exc.strerror}",
                "leave out auto_unmount",
            ) from exc
        finally:
            os.close(reading)

    def mounted(self, entry: MountEntry) -> None:
        """Tell it what to take away.  Until then it is whatever is new at the mountpoint, and dead."""
        self._say(json.dumps(entry))

    def end(self, *, gone: bool) -> None:
        """Let it go.  Not *gone*: the mount is still there, and it takes that away when it can."""
        if gone:
            self._say(_GONE)
        os.close(self._line)
        if gone:
            process.wait(self.pid, _FAREWELL)

    def _say(self, word: str) -> None:
        with suppress(OSError):  # somebody has killed it
            os.write(self._line, f"{word}\n".encode("ascii"))


def main(told: str, word: str = "") -> int:
    """Wait for the end of the line on standard input, and take away what the server has left.

    *word*: the last that was said on it, where a shell has waited.
    """
    for line in sys.stdin:
        word = line.strip()
    if word == _GONE:
        return 0
    task = json.loads(told)
    before = MountEntry.of(task["before"]) if task["before"] else None
    entry = MountEntry.of(json.loads(word)) if word else None
    changes = mounttable.Changes()
    while True:
        table = mounts.read_table()
        found = (
            _moved(table, entry)
            if entry is not None
            else _new(table, task["mountpoint"], task["fstype"], before)
        )
        if found is None:
            return 0
        if mounts.mount_at(table, found.mountpoint) == found:
            return _clean(found)
        changes.wait()  # covered by another mount, which is not ours to take away


def _moved(table: list[MountEntry], entry: MountEntry) -> MountEntry | None:
    """Return *entry* as it is now: a directory above it may have another name."""
    return next((e for e in table if e.is_same_as(entry)), None)


def _new(
    table: list[MountEntry], mountpoint: str, fstype: str, before: MountEntry | None
) -> MountEntry | None:
    found = mounts.mount_at(table, mountpoint)
    return found if found is not None and found != before and found.fstype == fstype else None


def _clean(entry: MountEntry) -> int:
    # The numbers of a mount that is gone are used again: what answers is another one.
    if mounts.health(entry.mountpoint) is not mounts.Health.DEAD:
        return 0
    try:
        # Lazily: nobody can use files of it that are still open.  A mount on a directory inside goes with
        # it, for no path leads there any more.
        mounts.take_away(entry.mountpoint, lazy=True, expected=entry)
    except UnmountError:
        return 1
    return 0
