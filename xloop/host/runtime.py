# SPDX-License-Identifier: MIT
"""Where a user's servers keep their records and sockets, and who is at the other end of a socket.

Owns the choice of the directory, its mode and owner, and the calls that systems differ in.  Does
not own what lies there (:mod:`xloop.records`).

The directory is platformdirs' runtime directory, but for two cases.  Where XDG_RUNTIME_DIR is in
order platformdirs says the same, and is not asked: importing it takes 8 ms of each mount.  And
root's are in /run/xloop: /run/user/0 goes when root logs out, which a mount does not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

__all__ = [
    "CAN_LISTEN",
    "Peer",
    "listening",
    "locked",
    "make",
    "open_file",
    "open_place",
    "peer",
    "places",
    "stream",
]

#: Whether servers can be asked through sockets in files.  Windows has them, but Python's does not
#: know them there, and nobody to tell who is at the other end.
CAN_LISTEN = sys.platform != "win32"

_NAME = "xloop"


class Peer(NamedTuple):
    """Who is at the other end of a socket."""

    uid: int
    pid: int | None  #: None where that is not told


def places() -> list[str]:
    """Return the directories of this user's records, the one for new records first."""
    root = _user() == 0
    found = []
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if (
        os.path.isabs(given)
        and not (root and given.startswith("/run/user/"))
        and _is_private(given)
    ):
        found.append(os.path.join(given, _NAME))
    if root:
        found.append(f"/run/{_NAME}" if sys.platform == "linux" else f"/var/run/{_NAME}")
    elif not found:
        import warnings

        import platformdirs

        with warnings.catch_warnings(), contextlib.suppress(OSError):
            warnings.simplefilter("ignore")  # of a fall back: it is as good for this
            found.append(platformdirs.user_runtime_dir(_NAME, False))
    return found


def _user() -> int:
    if sys.platform == "win32":
        return -1
    return os.geteuid()


def _is_private(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == _user() and not found.st_mode & 0o077


def make() -> str:
    """Return the directory for new records, made if need be.  OSError says why there is none."""
    why = "there is no runtime directory"
    for path in places():
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            os.close(open_place(path, _user()))
        except OSError as exc:
            why = f"{path!r}: {exc.strerror}"
            continue
        if os.access(path, os.W_OK):
            return path
        why = f"{path!r} cannot be written to"
    raise OSError(0, why)


def open_place(path: str, owner: int | None = None) -> int:
    """Open the directory *path* of records, whose *owner*, if that is said, it must belong to.

    OSError: it is not there, is a link, belongs to somebody else, or lets others in.
    """
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    found = os.fstat(fd)
    why = ""
    if owner is not None and found.st_uid != owner:
        why = f"it belongs to user {found.st_uid}"
    elif found.st_mode & 0o077:
        why = f"its mode is {stat.S_IMODE(found.st_mode):04o}, which lets others in"
    if why:
        os.close(fd)
        raise OSError(0, why)
    return fd


def open_file(place: int, name: str) -> IO[bytes]:
    """Open the file *name* in the directory *place* for reading.  OSError: also for what is no file."""
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, "records are kept elsewhere here")
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no file")
    return open(fd, "rb")


@contextlib.contextmanager
def locked(directory: str, *, wait: bool = False) -> Iterator[int]:
    """Yield a descriptor of *directory*, in which nobody else makes or removes records meanwhile.

    *wait*: until it is free, which takes no longer than that; else BlockingIOError.
    """
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, "records are kept elsewhere here")
    import fcntl  # here: there is none on Windows

    place = open_place(directory)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield place
    finally:
        os.close(place)


def stream() -> socket.socket:
    """Return a new socket for paths."""
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, "servers cannot be asked on this system")
    return socket.socket(socket.AF_UNIX)


_SOCKET = re.compile(rf"/.*/{_NAME}/\d+-\d+\.sock")


def listening() -> list[str]:
    """Return the paths of all users' sockets, for root, whom none of them would refuse.

    As far as the system tells: Linux, in this network namespace.
    """
    if sys.platform != "linux" or _user() != 0:
        return []
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.read().split("\n")
    except OSError:
        return []
    # Num RefCount Protocol Flags Type St Inode Path; bit 16 of Flags is __SO_ACCEPTCON.
    rows = [line.split(None, 7) for line in lines[1:]]
    return sorted(
        {
            row[7]
            for row in rows
            if len(row) == 8 and int(row[3], 16) & 1 << 16 and _SOCKET.fullmatch(row[7])
        }
    )


def peer(sock: socket.socket) -> Peer | None:
    """Return who is at the other end of *sock*; None where the system does not tell."""
    if sys.platform == "linux":
        size = struct.calcsize("iII")
        pid, uid, _ = struct.unpack(
            "iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return Peer(uid, pid or None)  # 0: it is in a process namespace that this one cannot see
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        # sys/ucred.h, struct xucred: version, uid, ...; sys/un.h: LOCAL_PEERCRED
        _, uid = struct.unpack_from("=II", sock.getsockopt(0, 1, 128))
        return Peer(uid, None)
    return None
