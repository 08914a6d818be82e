# SPDX-License-Identifier: MIT
"""What is known of mounts from outside, and taking one away, in one attempt: :func:`umount`.

Owns finding the mount that a path means, telling whether it answers, and unmounting by path.
Does not own mounting, a server that this program started (:class:`xloop.mounting.Mount` unmounts that),
nor any patience with what is busy (:mod:`xloop.unmounting`).

The rule here: the mount table first, the path later.  Asking a user-space file system anything
hangs when its server hangs, and a program that waits for an answer which the server has begun
to work on cannot even be killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any

from xloop.errors import BusyError, UnmountError, XloopError
from xloop.host import mounttable, process
from xloop.host.mounttable import MountEntry

__all__ = [
    "Health",
    "absolute",
    "by_system",
    "command",
    "containing",
    "flush",
    "health",
    "locate",
    "meant",
    "mount_at",
    "nothing_there",
    "read_table",
    "take_away",
    "umount",
]

#: Seconds for a mounted file system to answer one question before it counts as hanging.
PATIENCE = 5.0


class Health(Enum):
    """Whether a mounted file system answers."""

    ANSWERS = "answers"
    DEAD = "Transport endpoint is not connected"  #: its server has ended, the mount has not
    HANGS = "does not answer"


def read_table() -> list[MountEntry]:
    """Return what is mounted; nothing where that cannot be told."""
    try:
        return mounttable.read()
    except OSError:  # no /proc in a chroot, another system: then only the path itself can be asked
        return []


def containing(table: Sequence[MountEntry], path: str) -> MountEntry | None:
    """Return the mount that the absolute *path* lies in."""
    return mounttable.visible(table, path)


def mount_at(table: Sequence[MountEntry], path: str) -> MountEntry | None:
    """Return the topmost mount whose root *path* is, or None."""
    entry = containing(table, path)
    return entry if entry is not None and entry.mountpoint == path else None


def absolute(path: str) -> str:
    """Return *path* from the root directory on, and otherwise as it is."""
    if not path:  # a variable of a script that is not set; the working directory is not meant
        raise XloopError("'' is no path: it is empty")
    if os.path.isabs(path):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except OSError as exc:
        raise XloopError(
            f"{path!r} cannot be found: the working directory is gone ({exc.strerror})",
            "give an absolute path",
        ) from exc


def locate(path: str, table: Sequence[MountEntry]) -> str:
    """Return the absolute path that *path* leads to, asking no file system that does not answer.

    As os.path.realpath(), with two differences.  If the path ends at a mountpoint, that is not
    touched.  If it leads into a mount that is dead or hangs, what follows there stays as it is;
    who goes on with the path finds that out with :func:`health`.
    """
    if not mounttable.COVERS_DIRECTORIES:
        return mounttable.normal(path)
    if not table:
        return os.path.realpath(path)
    here = "/"
    ahead = absolute(path).split("/")[::-1]
    answering: set[int] = set()  #: ids of mounts that were asked
    links = 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        around = containing(table, here)
        here = os.path.join(here, name)
        if not any(ahead) and mount_at(table, here) is not None:
            return here
        if around is not None and around.is_fuse and around.id not in answering:
            if health(around.mountpoint) is not Health.ANSWERS:
                return os.path.join(here, *ahead[::-1])
            answering.add(around.id)
        try:
            target = os.readlink(here)
        except OSError:  # no symbolic link, or not there: whoever uses the path will say so
            continue
        links += 1
        if links > 40:  # as many as the kernel follows; it will say so too
            return os.path.join(here, *ahead[::-1])
        here = "/" if target.startswith("/") else os.path.dirname(here)
        ahead += target.split("/")[::-1]
    return here


def command(*words: str, program: str = "xloop") -> str:
    """Return a command as a person can paste it into a shell."""
    from shlex import join  # here: only messages need it

    return join([program, *words])


def by_system(path: str, *, lazy: bool = False) -> str:
    """Return the system's own command that unmounts what a user has mounted at *path*."""
    helpers = mounttable.helpers(path, lazy=lazy) or [["umount", *(["-f"] if lazy else []), path]]
    program, *words = helpers[0]
    return command(*(word for word in words if word != "--"), program=program)


# In a process that can be left behind if it never returns; its status is the errno.  statvfs and
# not stat: what stat tells may come from the kernel's cache, and look alive after the death.
# Windows has none, and caches no error.
_ASK = "import os, sys\ntry:\n getattr(os, 'statvfs', os.stat)(sys.argv[1])\nexcept OSError as e:\n sys.exit(e.errno)"


def health(path: str, patience: float = PATIENCE) -> Health:
    """Ask the file system mounted at *path* one question, and wait *patience* seconds at most."""
    status = _in_a_child(_ASK, path, patience)
    if status is None:
        return Health.HANGS
    # ECONNABORTED: cut off through /sys/fs/fuse/connections.  Any other error is an answer, EACCES
    # for instance is what the mount of another user says.
    return Health.DEAD if status in (errno.ENOTCONN, errno.ECONNABORTED) else Health.ANSWERS


#: Writes what the kernel holds of mapped files that were changed; syncfs(2), where there is one.
_FLUSH = "import ctypes, os, sys\nctypes.CDLL(None).syncfs(os.open(sys.argv[1], os.O_RDONLY))"


def flush(path: str, patience: float = PATIENCE) -> None:
    """Have what was changed in memory written to the file system at *path*, if it answers in time."""
    _in_a_child(_FLUSH, path, patience)


def _in_a_child(program: str, path: str, patience: float) -> int | None:
    """Return the exit status of the Python *program*, given the mount at *path*; None: it takes too long."""
    import subprocess  # here: most mountpoints are ordinary directories, and nobody asks

    def ask(**identity: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program, mounttable.root_of(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **identity,
        )

    identity = _one_who_may(path)
    try:
        probe = ask(**identity)
    except OSError:
        if not identity:
            raise
        probe = ask()  # may not be somebody else, or the interpreter is root's alone
    try:
        return probe.wait(patience)
    except subprocess.TimeoutExpired:
        probe.kill()
        # Killed while the request still waits in the queue, it goes; else it stays until the
        # server's end, and nobody may wait for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            probe.wait(0.5)
        probe.returncode = probe.returncode if probe.returncode is not None else -9
        return None


def _one_who_may(path: str) -> dict[str, Any]:
    """Return who is to ask the mount at *path*, where that is not this user, for subprocess.Popen.

    A user's mount answers root without asking its server, as if it were well.
    """
    entry = mount_at(read_table(), path)
    if entry is None or not entry.owner or not process.is_root():
        return {}
    return {"user": entry.owner, "group": entry.group, "extra_groups": []}


def take_away(path: str, *, lazy: bool = False, expected: MountEntry | None = None) -> None:
    """Unmount what is mounted at the absolute *path*; UnmountError says why it is still there.

    *expected*: the mount that is meant.  A path may lead to another one by now, of somebody who
    mounted on top; that one is left alone.  Where the meant one is out of the tree already,
    nothing is done.
    """
    if expected is not None:
        table = read_table()
        if expected not in table:
            return
        if mount_at(table, path) != expected:
            raise UnmountError(
                f"{path!r} cannot be unmounted: another mount covers it", "unmount that one first"
            )
    try:
        _take_away(path, lazy=lazy)
    except OSError as exc:
        if mount_at(read_table(), path) is None:
            return  # somebody was faster
        raise (_busy(path) if exc.errno == errno.EBUSY else _denied(path, exc)) from exc


def _busy(path: str) -> BusyError:
    """Return the error for a mount that is in use, naming by whom."""
    users = process.users_of(path)
    shown = [f"{program} (pid {pid}): {used}" for pid, program, used in users[:5]]
    if len(users) > len(shown):
        shown.append(f"and {len(users) - len(shown)} more")
    by = "used by " + "; ".join(shown) if shown else "used by a process that this user cannot see"
    return BusyError(
        f"{path!r} is busy, {by}",
        f"end what uses it, or detach it: {command('umount', '--lazy', path)}"
        " (in Python: unmount(lazy=True))",
    )


def umount(
    mountpoint: str | os.PathLike[str], *, lazy: bool = False, subtype: str = "xloop"
) -> str:
    """Unmount the xloop mount at *mountpoint*, whoever serves it; return what there was to say.

    One attempt of :func:`xloop.unmounting.umount`.
    """
    entry = meant(mountpoint, subtype=subtype)
    path = entry.mountpoint
    state = Health.ANSWERS if lazy else health(path)
    try:
        _take_away(path, lazy=lazy)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise _denied(path, exc) from exc
        if state is not Health.DEAD:
            if state is Health.HANGS:
                raise BusyError(
                    f"{path!r} is busy, and its server does not answer",
                    f"to detach it all the same: {command('umount', '--lazy', path)}\n"
                    f"or to cut off whoever uses it: {command('umount', '--force', path)}",
                    answers=False,
                ) from None
            raise _busy(path) from None
        _take_away(path, lazy=True)
    if state is Health.DEAD:
        return (
            f"{path!r} was dead ({Health.DEAD.value}): its server ended without unmounting; cleaned"
        )
    return f"{path!r} is detached" if lazy else f"{path!r} is unmounted"


def meant(mountpoint: str | os.PathLike[str], *, subtype: str) -> MountEntry:
    """Return the mount of type fuse.*subtype* at *mountpoint*; UnmountError says what is there instead."""
    table = mounttable.read()
    path = locate(os.fspath(mountpoint), table)
    entry = mount_at(table, path)
    if entry is None:
        raise nothing_there(table, path)
    if entry.fstype != f"fuse.{subtype}":
        raise _not_ours(entry)
    return entry


def nothing_there(table: Sequence[MountEntry], path: str, wanted: str = "umount") -> UnmountError:
    """Return the error that says what is at *path*, where nothing is mounted.

    *wanted*: the command that was to be done there.
    """
    around = containing(table, path)
    if around is not None and around.fstype == "fuse.xloop":
        return UnmountError(
            f"{path!r} is not a mountpoint: it lies inside the mount {around.mountpoint!r}",
            f"if that is meant: {command(wanted, around.mountpoint)}",
        )
    shown = [e.mountpoint for e in table if (e.fstype, e.source) == ("fuse.xloop", path)]
    fix = "\n".join(f"it is shown at {where!r}: {command(wanted, where)}" for where in shown)
    fix = fix or f"to see what is mounted: {command('list')}"
    if around is None or not around.is_fuse:
        # Not inside anything that may hang: worth a look why.
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return UnmountError(f"{path!r} does not exist", fix)
        except OSError as exc:
            return UnmountError(f"{path!r}: {exc.strerror}", fix)
        if not stat.S_ISDIR(found.st_mode):
            return UnmountError(f"{path!r} is not a mountpoint, not even a directory", fix)
    return UnmountError(f"{path!r} is not a mountpoint: nothing is mounted there", fix)


def _not_ours(entry: MountEntry) -> UnmountError:
    where = entry.mountpoint
    if entry.fstype.startswith("fuse."):
        subtype = entry.fstype.removeprefix("fuse.")
        return UnmountError(
            f"{where!r} is a mount of type {entry.fstype}, not fuse.xloop",
            f"if xloop mounted it with -o subtype={subtype}: "
            f"{command('umount', '--subtype', subtype, where)}\n"
            f"else: {by_system(where)}",
        )
    return UnmountError(
        f"{where!r} is not a mount of xloop: its type is {entry.fstype}",
        f"try: {command(where, program='umount')}",
    )


def _denied(path: str, exc: OSError) -> UnmountError:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return UnmountError(
            f"{path!r} may not be unmounted by this user: {exc.strerror}",
            "the user who mounted it can, and root",
        )
    return UnmountError(f"{path!r} cannot be unmounted: {exc.strerror}")


def _take_away(path: str, *, lazy: bool) -> None:
    """Unmount by system call where this user may, else through the set-user-ID helper."""
    try:
        mounttable.unmount(path, lazy=lazy)
    except PermissionError:
        _ask_helper(path, lazy=lazy)


def _ask_helper(path: str, *, lazy: bool) -> None:
    import subprocess  # here: root never comes this way
    from shutil import which

    helpers = mounttable.helpers(path, lazy=lazy)
    command = next((words for words in helpers if which(words[0])), None)
    if command is None and helpers:
        raise UnmountError(
            f"{path!r} cannot be unmounted: a user who is not root needs {helpers[0][0]} for that",
            "install it: apt-get install fuse3",
        )
    if command is None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    # LC_ALL: the helper's words decide below.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip()
        number = next(
            (n for n in (errno.EBUSY, errno.EPERM, errno.EACCES) if os.strerror(n) in said),
            errno.EIO,
        )
        if "not permitted" in said or "not found in" in said:
            number = errno.EPERM
        raise OSError(number, said or f"{command[0]} ended with status {done.returncode}")
