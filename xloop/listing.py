# SPDX-License-Identifier: MIT
"""What of xloop is mounted, and how each mount is: what `xloop list` and `xloop status` show.

Owns putting together what the table of mounts, the records and the servers tell.  Does not own any of the
three, nor how it is printed (:mod:`xloop.cli`).

All servers are asked at once and waited for once.  No path of a mount is touched here, so a mount that hangs
costs that wait and no more; one without a server to ask is looked at by :func:`xloop.mounts.health`.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from xloop import mounts, records
from xloop.control import Message
from xloop.control_socket import ask, ask_all
from xloop.errors import XloopError
from xloop.host import mounttable, process
from xloop.host.mounttable import MountEntry
from xloop.mounts import Health

__all__ = ["PATIENCE", "Listed", "listed", "status"]

#: Seconds for all servers together to answer.
PATIENCE = 2.0

#: How a mount is.  A server that answers: its mount is in the tree of this process, in another one, in none.
SERVED, ELSEWHERE, DETACHED = "served", "elsewhere", "detached"
#: One that does not, or of which only the mount is left.
HANGS, DEAD = "does not answer", "dead"
#: No server that this user may ask.
UNKNOWN = "mounted"


class Listed(NamedTuple):
    """A mount of xloop.  None: nobody told."""

    source: str
    mountpoint: str
    backend: str | None
    #: Those that differ from the default, as they are written after -o.
    options: str | None
    #: Seconds since the epoch.
    since: float | None
    #: Requests that were served.
    served: int | None
    pid: int | None
    owner: int | None
    state: str


def listed(patience: float = PATIENCE) -> list[Listed]:
    """Return the mounts of xloop: all in the table of mounts, and those that are served elsewhere.

    Those of this user, for root of all users, with what their servers say; others with what the
    table tells.
    """
    table = mounttable.read()
    found = records.recorded()
    answers = dict(zip(found, ask_all(found, "status", patience), strict=True))
    entries = {
        entry: one
        for entry in table
        if (one := records.find(entry, found)) is not None or entry.fstype == "fuse.xloop"
    }
    states = _states([entry for entry, one in entries.items() if one is None], patience)
    rows = [
        _unasked(entry, states[entry])
        if one is None
        else _row(one.record, answers[one], entry.mountpoint, SERVED)
        for entry, one in entries.items()
    ]
    for one in found:
        if one not in entries.values():
            said = answers[one]
            mounted = said is not None and said.get("mounted")
            state = ELSEWHERE if mounted else DETACHED
            rows.append(_row(one.record, said, one.record.mountpoint, state))
    return rows


def _row(record: records.Record, said: Message | None, mountpoint: str, state: str) -> Listed:
    served = said.get("served") if said is not None else None
    return Listed(
        source=record.source,
        mountpoint=mountpoint,
        backend=record.backend,
        options=record.options,
        since=record.since,
        served=served if isinstance(served, int) else None,
        pid=record.pid,
        owner=record.owner,
        state=HANGS if said is None else state,
    )


def _unasked(entry: MountEntry, state: str) -> Listed:
    return Listed(
        source=entry.source,
        mountpoint=entry.mountpoint,
        backend=None,
        options=None,
        since=None,
        served=None,
        pid=None,
        owner=entry.owner,
        state=state,
    )


def _states(entries: list[MountEntry], patience: float) -> dict[MountEntry, str]:
    """Return how each of *entries* is, as far as its file system tells; all are asked at once."""
    states = dict.fromkeys(entries, UNKNOWN)

    def look(entry: MountEntry) -> None:
        health = mounts.health(entry.mountpoint, patience)
        states[entry] = {Health.DEAD: DEAD, Health.HANGS: HANGS}.get(health, UNKNOWN)

    # What is covered by another mount cannot be asked by its path.
    table = mounts.read_table()
    asked = [entry for entry in entries if mounts.mount_at(table, entry.mountpoint) == entry]
    threads = [threading.Thread(target=look, args=(entry,), daemon=True) for entry in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return states


def status(mountpoint: str) -> dict[str, Any]:
    """Return what the server of the mount at *mountpoint* tells; XloopError says why it tells nothing."""
    table = mounttable.read()
    path = mounts.locate(mountpoint, table)
    entry = mounts.mount_at(table, path)
    if entry is None:
        there = mounts.nothing_there(table, path, "status")
        raise XloopError(there.why, there.fix)
    found = records.find(entry)
    if found is None:
        raise _cannot_ask(entry)
    answer = ask(found, "status")
    if answer is None:
        raise XloopError(
            f"{path!r}: its server, process {found.record.pid}, does not answer",
            f"to detach the mount: {mounts.command('umount', '--lazy', path)}",
        )
    if answer["say"] != "status":
        raise XloopError(str(answer.get("why")), str(answer.get("fix")))
    del answer["say"]
    return answer


def _cannot_ask(entry: MountEntry) -> XloopError:
    path = entry.mountpoint
    if not entry.is_fuse:
        return XloopError(f"{path!r} is not a mount of xloop: its type is {entry.fstype}")
    health = mounts.health(path)
    if health is Health.DEAD:
        return XloopError(
            f"{path!r} is a dead mount ({Health.DEAD.value}): its server ended without unmounting it",
            f"clean it away: {mounts.command('umount', path)}",
        )
    if entry.owner not in (None, process.user()):
        return XloopError(
            f"{path!r} is a mount of user {entry.owner}: only that user may ask its server, and root"
        )
    if entry.fstype != "fuse.xloop":
        return XloopError(
            f"{path!r} is not a mount of xloop, as far as can be told: its type is {entry.fstype}"
        )
    hangs = ", which does not answer" if health is Health.HANGS else ""
    return XloopError(
        f"{path!r}: its server has left no record by which it could be asked{hangs}",
        "`xloop mount -v` says why: look for 'control socket'",
    )
