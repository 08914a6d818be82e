# SPDX-License-Identifier: MIT
"""The end of a mount, seen from outside: waiting until it is free, cutting it off, its server's last moment.

Owns the patience of `xloop umount`, and what force means.  Does not own finding out what is mounted where
and the calls that take it away (:mod:`xloop.mounts`).
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from xloop import mounts, records
from xloop.control_socket import ask
from xloop.errors import BusyError, UnmountError
from xloop.host import mounttable, process, runtime
from xloop.host.mounttable import MountEntry

__all__ = ["Server", "mine", "umount"]

#: Seconds between two attempts at a mount that is busy: the first, and the longest.
_AGAIN, _SELDOM = 0.05, 0.5

#: Seconds for a server to end once its mount is gone.
_FAREWELL = 5.0


def umount(
    mountpoint: str | os.PathLike[str],
    *,
    lazy: bool = False,
    force: bool = False,
    timeout: float = 0.0,
    subtype: str = "xloop",
    waiting: Callable[[BusyError], object] = lambda busy: None,
) -> str:
    """Unmount the xloop mount at *mountpoint*, whoever serves it; return what there was to say.

    Returns when the mount is gone, and its server too, as far as this user can tell: the same place can be
    mounted again at once.

    *lazy*: out of the tree at once, served until its last user is gone, and nobody waits for that.
    *timeout*: seconds for which a mount that is in use is tried again.  *waiting* is called before
    each time, with the reason.
    *force*: if it is in use (still, after *timeout*) whoever uses it gets errors from now on.  What was
    written stays; what was changed in mapped files is written before, if the server answers.
    *subtype*: as given to the mount (``-o subtype=``); a mount of any other type is refused, so
    that a slip of the finger does not take away somebody else's file system.

    A dead mount is cleaned away, also when processes still hold files of it: nobody can use those any
    more.  Raises UnmountError; then the mount is still there.
    """
    entry = mounts.meant(mountpoint, subtype=subtype)
    path = entry.mountpoint
    deadline = time.monotonic() + timeout
    pause = _AGAIN
    with Server(entry) as server:
        try:
            said = mounts.umount(path, lazy=lazy, subtype=subtype)
        except BusyError as exc:
            busy: BusyError | None = exc
            while busy is not None and (left := deadline - time.monotonic()) > 0:
                waiting(busy)
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, _SELDOM)
                busy = _attempt(entry)
            if busy is not None:
                if not force:
                    raise busy from None
                _cut_off(entry, server, busy)
                said = f"{path!r} is unmounted: whoever used it was cut off"
            else:
                said = f"{path!r} is unmounted"
        if not lazy and not server.has_ended(_FAREWELL):
            said += (
                f", but still served by process {server.pid}: it is mounted elsewhere, "
                "in another mount namespace perhaps"
            )
    return said


def _attempt(entry: MountEntry) -> BusyError | None:
    try:
        mounts.take_away(entry.mountpoint, expected=entry)
    except BusyError as exc:
        return exc
    return None


def _cut_off(entry: MountEntry, server: Server, busy: BusyError) -> None:
    """Have all requests fail, and take the mount away from those who use it."""
    if mounttable.CAN_DETACH:  # else taking it away lazily does cut off
        if busy.answers:
            mounts.flush(entry.mountpoint)
        try:
            mounttable.abort(entry.device)
        except OSError:
            if not (busy.answers and server.abort()) and not server.kill():
                raise UnmountError(
                    f"{busy.why}; and it cannot be cut off: its server can neither be asked nor ended",
                    f"to detach it: {mounts.command('umount', '--lazy', entry.mountpoint)}",
                ) from None
    mounts.take_away(entry.mountpoint, lazy=True, expected=entry)


def mine(subtype: str = "xloop") -> list[MountEntry]:
    """Return the mounts of this user, of type fuse.*subtype*, those inside of others first."""
    table = mounttable.read()
    user = process.user()
    owners = {found.record.device: found.record.owner for found in records.recorded()}
    by_id = {entry.id: entry for entry in table}

    def depth(entry: MountEntry) -> int:
        count = 0
        while entry.parent in by_id and entry.parent != entry.id and count < len(table):
            entry, count = by_id[entry.parent], count + 1
        return count

    found = [
        entry
        for entry in table
        if entry.fstype == f"fuse.{subtype}"
        and user == (owners.get(entry.device, user) if entry.owner is None else entry.owner)
    ]
    return sorted(found, key=depth, reverse=True)


class Server:
    """The server of a mount, held on to while that is taken away.

    Where it has left no record, or none that this user may use, nothing is known of it.
    """

    def __init__(self, entry: MountEntry) -> None:
        self._entry = entry
        self._found = records.find(entry)
        self._socket: socket.socket | None = None
        self._end: int | None = None
        self.pid = 0
        if self._found is None:
            return
        self._socket = records.connect(self._found.socket)
        if self._socket is None:
            return
        self.pid = self._found.record.pid
        with suppress(OSError):
            who = runtime.peer(self._socket)
            if who is not None and who.pid is not None:
                self.pid = who.pid
        if self._found.record.ends:
            self._end = process.watch(self.pid)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._end is not None:
            os.close(self._end)

    def has_ended(self, patience: float) -> bool:
        """Wait until it has ended, or serves this mount no more; False if it does after *patience*.

        True where nothing is known of it, and where the mount is seen at other places still.
        """
        if self._socket is None:
            return True
        if any(entry.device == self._entry.device for entry in mounts.read_table()):
            return True
        with selectors.DefaultSelector() as selector:
            # The end of a process is the end of all that it holds; of one that goes on, it is the
            # end of the connection.
            selector.register(
                self._socket if self._end is None else self._end, selectors.EVENT_READ
            )
            return bool(selector.select(patience))

    def abort(self) -> bool:
        """Have it cut its connection to the kernel.  False: it does not answer."""
        answer = ask(self._found, "abort") if self._found is not None else None
        return answer is not None and bool(answer["say"] == "aborted")

    def kill(self) -> bool:
        """End it, and with it the connection.  False: it may not be ended, or does more than to serve."""
        if self._found is None or not self._found.record.ends or self._socket is None:
            return False
        try:
            process.kill(self.pid)
        except OSError:
            return False
        return True
