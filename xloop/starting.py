# SPDX-License-Identifier: MIT
"""Between the start of a server process and the moment its mount can be relied on.

Owns the asking program's side of that: waiting for the server's word, looking at the mount itself,
and on any failure ending the server and removing what it left.  Does not own how the process
was started: the command line forks one, :mod:`xloop.mounting` executes one.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from xloop import mounts
from xloop.control import Line, Message, failure
from xloop.errors import MountError, UnmountError
from xloop.host.mounttable import MountEntry
from xloop.preflight import confirm

__all__ = ["FAREWELL", "ServerProcess", "remove", "settle"]

#: Seconds in which a server ends once it is told to, before somebody loses patience.
FAREWELL = 10.0


class ServerProcess(Protocol):
    """A child of this process."""

    def wait(self, patience: float | None = None) -> int | None:
        """Return the exit status, negative for a signal; None if it still runs after *patience*."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        ...


def settle(
    line: Line, server: ServerProcess, mountpoint: str, before: Sequence[MountEntry]
) -> tuple[MountEntry, Message]:
    """Return the mount, seen to answer, and what the server said of it.

    On any failure, KeyboardInterrupt included, the server is ended, nothing that was not there
    *before* is left at *mountpoint*, the line is closed, and the reason is raised.
    """
    try:
        said = line.hear()
        if said is None:
            raise _ended_early(server)
        if said["say"] != "ready":
            raise failure(said)
        return confirm(mountpoint, before), said
    except BaseException:
        line.close()
        _end(server)
        _sweep(mountpoint, before)
        raise


def remove(mountpoint: str, entry: MountEntry) -> None:
    """Take *entry*, whose server is gone, away from *mountpoint*; nothing if it went by itself."""
    with suppress(UnmountError):  # the reason why the server is gone is what people must hear
        mounts.take_away(mountpoint, lazy=True, expected=entry)


def _ended_early(server: ServerProcess) -> MountError:
    status = server.wait()
    assert status is not None
    how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
    return MountError(f"the server process {how} before the mount was ready")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(server: ServerProcess) -> None:
    """Wait for a server whose line is closed, and end it if it does not end by itself."""
    for number in (signal.SIGTERM, 9):  # SIGKILL has no name on Windows
        if server.wait(FAREWELL) is not None:
            return
        server.signal(number)
    server.wait()


def _sweep(mountpoint: str, before: Sequence[MountEntry]) -> None:
    entry = mounts.mount_at(mounts.read_table(), mountpoint)
    if entry is not None and entry.is_fuse and entry not in before:
        remove(mountpoint, entry)
