# SPDX-License-Identifier: MIT
"""Whether a mount makes sense, asked before it is tried, and whether it came about, asked after.

Owns the checks of source and mountpoint, the words for what is wrong with them, and what goes when
a mount is replaced.  Does not own whether this machine can mount at all: that is the backend's ``probe()``.

A mountpoint inside the source, the source inside the mountpoint, and both the same are in order:
a loopback holds its source by a descriptor from before the mount, and a backend refuses what its
own process asks of its mount (ELOOP).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence

from xloop.errors import MountError, SourceMissing, UnmountError
from xloop.host import mounttable
from xloop.host.mounttable import MountEntry
from xloop.mounts import (
    Health,
    by_system,
    command,
    containing,
    health,
    locate,
    mount_at,
    read_table,
    take_away,
)

__all__ = ["check_mountpoint", "check_source", "confirm", "make_room"]

#: Seconds for a mount that has reported ready to answer its first stat.
PATIENCE = 30.0


def check_source(source: str) -> str:
    """Return the absolute path of the directory *source*, free of symbolic links.

    SourceMissing: there is nothing at all.  MountError: it cannot be used.
    """
    if not source:
        raise SourceMissing("source '' does not exist: it is empty")
    table = read_table()
    path = locate(source, table)
    _check_answers(table, path, "source", source)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise SourceMissing(
            f"source {source!r} does not exist",
            f"correct the path, or make it: {command(path, program='mkdir')}",
        ) from None
    except NotADirectoryError as exc:
        raise SourceMissing(f"source {source!r} cannot be used: {exc.strerror}") from None
    except OSError as exc:
        raise MountError(
            f"source {source!r} cannot be used: {exc.strerror}", _whose(table, path, exc)
        ) from exc
    if not stat.S_ISDIR(found.st_mode):
        raise _no_directory("source", source, found.st_mode)
    if not os.access(path, os.X_OK):
        raise MountError(
            f"source {source!r} may not be entered by this user",
            "let its owner give the right to (chmod +x), or mount as who has it",
        )
    return os.path.realpath(path)


def check_mountpoint(mountpoint: str, *, on_top: bool, replace: str | None = None) -> str:
    """Return the absolute path of the directory *mountpoint*, free of symbolic links.

    *on_top*: it may be the mountpoint of a user-space file system already.  *replace*: it may be
    that of a mount of xloop, or of xloop under this subtype, that :func:`make_room` takes away.
    """
    if not mountpoint:
        raise MountError("mountpoint '' does not exist: it is empty")
    if not mounttable.COVERS_DIRECTORIES:
        return _check_free(mountpoint)
    table = read_table()
    path = locate(mountpoint, table)
    entry = mount_at(table, path)
    if entry is not None and replace is not None and _is_ours(entry, replace):
        if health(path) is Health.HANGS:
            raise _hangs(entry, "mountpoint", mountpoint, "is")
        return path
    _check_answers(table, path, "mountpoint", mountpoint)
    if entry is not None and entry.is_fuse and not on_top:
        ours = entry.fstype == "fuse.xloop"
        what = "a mount of xloop" if ours else f"a mount ({entry.fstype})"
        ways = [f"unmount it: {_unmounting(entry)}"]
        if ours:
            ways.append(f"or replace it, if nobody uses it: {_REPLACE}")
        elif replace is not None:
            ways.append("--replace takes away mounts of xloop, and no others")
        ways.append("or mount on top of it, as root can: --on-top (in Python: on_top=True)")
        raise MountError(
            f"mountpoint {mountpoint!r} is {what} already: it shows {entry.source!r}",
            "\n".join(ways),
        )
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise MountError(
            f"mountpoint {mountpoint!r} does not exist",
            f"make it: {command(path, program='mkdir')}",
        ) from None
    except OSError as exc:
        if entry is not None and exc.errno == errno.EACCES:
            # Another user's mount: it can be covered, and only its owner can look inside.
            return path
        raise MountError(f"mountpoint {mountpoint!r} cannot be used: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise _no_directory("mountpoint", mountpoint, found.st_mode)
    return path


_REPLACE = "--replace (in Python: replace=True)"


def _is_ours(entry: MountEntry, subtype: str) -> bool:
    return entry.fstype in ("fuse.xloop", f"fuse.{subtype}")


def make_room(path: str, subtype: str, source: str | None = None) -> list[str]:
    """Take the mount away that is to be replaced at *path*, and say what was taken.

    To be called after all other checks: if the new mount fails, the old one is gone all the same.  A
    dead one goes always, a living one only where nobody uses it.  *source*: what the new one shows.
    """
    said: list[str] = []
    while True:
        table = read_table()
        entry = mount_at(table, path)
        if entry is None or not _is_ours(entry, subtype):
            return said
        if source is not None and containing(table, source) == entry:
            raise MountError(
                f"{path!r} cannot be replaced: the source {source!r} lies in it",
                "name the directory that it shows itself",
            )
        dead = health(path) is Health.DEAD
        if said and not dead:
            return said  # what the one that was replaced lay on
        try:
            take_away(path, lazy=dead, expected=entry)
        except UnmountError as exc:
            raise MountError(f"{path!r} cannot be replaced: {exc.why}", exc.fix) from exc
        said.append(
            f"{path!r} was dead ({Health.DEAD.value}): cleaned"
            if dead
            else f"{path!r} showed {entry.source!r}: unmounted"
        )


def _check_free(mountpoint: str) -> str:
    """As check_mountpoint, where nothing may be there yet."""
    path = mountpoint if mountpoint == "*" else mounttable.normal(mountpoint)
    entry = mount_at(read_table(), path)
    if entry is not None:
        raise MountError(
            f"mountpoint {mountpoint!r} is a mount of xloop already: it shows {entry.source!r}",
            f"unmount it: {_unmounting(entry)}",
        )
    return mounttable.check_point(mountpoint)


def confirm(mountpoint: str, before: Sequence[MountEntry]) -> MountEntry:
    """Return the new mount at *mountpoint*, having seen that it answers.

    *before* is the mount table from before the mount.  To be called by the process that
    asked for the mount, never by the one that serves it: that would wait for itself.
    """
    answer: list[os.stat_result | OSError] = []

    def ask() -> None:
        try:
            answer.append(os.stat(mounttable.root_of(mountpoint)))
        except OSError as exc:
            answer.append(exc)

    # In a thread, so that a file system that hangs on its first request is an error and not a
    # hang.  The caller ends the server then, which frees the thread.
    asking = threading.Thread(target=ask, name="xloop-confirm", daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if not answer:
        raise MountError(f"the mount at {mountpoint!r} was made but does not answer")
    found = answer[0]
    if isinstance(found, OSError):
        raise MountError(
            f"the mount at {mountpoint!r} was made, but its root cannot be looked at: {found.strerror}",
            "an Operations must answer getattr for ROOT_INO" if found.errno == errno.ENOSYS else "",
        )
    entry = mount_at(read_table(), mountpoint)
    if (
        entry is None
        or entry in before  # all of it: ids and devices of a mount that ended are used again
        or (mounttable.COVERS_DIRECTORIES and mounttable.device_of(found.st_dev) != entry.device)
    ):
        raise MountError(
            f"the mount at {mountpoint!r} was made, but something else is seen there",
            "was it unmounted, or covered by another mount, at the same time?",
        )
    return entry


def _check_answers(table: Sequence[MountEntry], path: str, role: str, said: str) -> None:
    """Make sure that a stat of *path* will return: it lies in no user-space mount that is stuck."""
    entry = containing(table, path)
    if entry is None or not entry.is_fuse:
        return
    state = health(path)
    where = "is" if entry.mountpoint == path else f"lies in {entry.mountpoint!r},"
    if state is Health.DEAD:
        ways = [f"clean it away: {_unmounting(entry)}"]
        if role == "mountpoint" and entry.mountpoint == path and entry.fstype == "fuse.xloop":
            ways.append(f"or replace it: {_REPLACE}")
        raise MountError(
            f"{role} {said!r} {where} a dead mount ({Health.DEAD.value}): "
            "its server ended without unmounting it",
            "\n".join(ways),
        )
    if state is Health.HANGS:
        raise _hangs(entry, role, said, where)


def _hangs(entry: MountEntry, role: str, said: str, where: str) -> MountError:
    return MountError(
        f"{role} {said!r} {where} a mount of type {entry.fstype} that does not answer",
        f"detach it: {_unmounting(entry, lazy=True)}",
    )


def _whose(table: Sequence[MountEntry], path: str, exc: OSError) -> str:
    """Return what to do about *exc* where the reason is that a mount is its owner's alone."""
    entry = containing(table, path)
    if exc.errno != errno.EACCES or entry is None or not entry.is_fuse:
        return ""
    return (
        f"{entry.mountpoint!r} is a mount that only the user who made it may enter, not even root: "
        "it takes -o allow_other or allow_root to let others in"
    )


def _unmounting(entry: MountEntry, *, lazy: bool = False) -> str:
    if entry.fstype == "fuse.xloop":
        return command("umount", *(["--lazy"] if lazy else []), entry.mountpoint)
    return by_system(entry.mountpoint, lazy=lazy)


def _no_directory(role: str, path: str, mode: int) -> MountError:
    kind = "file" if stat.S_ISREG(mode) else "device, socket or pipe"
    return MountError(
        f"{role} {path!r} is a {kind}, not a directory", "xloop mounts directories on directories"
    )
