# SPDX-License-Identifier: MIT
"""What is mounted where, as the kernel tells it, and the system call that takes a mount away.

Owns the reading of the mount table and umount2(2).  On Windows there is neither: there the records that
servers of xloop keep are the table (:mod:`xloop.host.windows_mounts`).  Does not own what a mount means to xloop,
nor who may remove one: that is :mod:`xloop.mounts`.

The table is the only safe way to learn about a mountpoint: stat(2) of a user-space file system
asks its server, and hangs when the server does.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from xloop.host.darwin_libc import Mounted

__all__ = [
    "CAN_DETACH",
    "COVERS_DIRECTORIES",
    "OUTLIVES_SERVER",
    "Changes",
    "MountEntry",
    "abort",
    "check_point",
    "device_of",
    "from_bsd",
    "helpers",
    "normal",
    "parse",
    "read",
    "root_of",
    "unmount",
    "visible",
]

#: Whether a mount covers a directory that is there.  Else (Windows) it brings the place where it is seen.
COVERS_DIRECTORIES = sys.platform != "win32"

#: Whether a mount that is in use can be taken out of the tree, and its users go on.  Else a lazy unmount
#: cuts them off.
CAN_DETACH = sys.platform == "linux"

#: Whether a mount stays, dead, when its server ends without unmounting.  WinFsp's go with their server.
OUTLIVES_SERVER = sys.platform != "win32"


class MountEntry(NamedTuple):
    """One line of /proc/self/mountinfo; proc_pid_mountinfo(5)."""

    id: int
    parent: int  #: id of the mount that this one lies on
    device: tuple[int, int]  #: major and minor number, as st_dev of everything in it
    mountpoint: str
    fstype: str  #: with the subtype: fuse.xloop
    source: str
    #: The user whose mount it is, as user-space file systems tell; None: not told.
    owner: int | None = None
    group: int | None = None  #: that user's, when it was mounted

    @property
    def is_fuse(self) -> bool:
        return self.fstype in ("fuse", "fuseblk") or self.fstype.startswith(("fuse.", "fuseblk."))

    @classmethod
    def of(cls, fields: Sequence[Any]) -> MountEntry:
        """Return the entry that json.dumps() was given."""
        return cls(fields[0], fields[1], tuple(fields[2]), *fields[3:])

    def is_same_as(self, other: MountEntry) -> bool:
        """Tell whether this is the mount *other*, which may have moved meanwhile."""
        return (self.id, self.device, self.fstype) == (other.id, other.device, other.fstype)


_ESCAPE = re.compile(rb"\\([0-7]{3})")


def _text(field: bytes) -> str:
    """Undo the kernel's escapes for blanks, newlines and backslashes."""
    if b"\\" in field:
        field = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)
    return os.fsdecode(field)


def parse(mountinfo: bytes) -> list[MountEntry]:
    """Return the lines of a mountinfo file, in the order in which they were mounted."""
    entries = []
    # Not splitlines(): that also splits at bytes that the kernel does not escape.
    for line in mountinfo.split(b"\n"):
        before, dash, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < 6 or len(kind) < 2:
            continue  # the empty end of the file
        major, _, minor = fields[2].partition(b":")
        entries.append(
            MountEntry(
                id=int(fields[0]),
                parent=int(fields[1]),
                device=(int(major), int(minor)),
                mountpoint=_text(fields[4]),
                fstype=_text(kind[0]),
                source=_text(kind[1]),
                owner=_number(b"user_id", kind[-1]),
                group=_number(b"group_id", kind[-1]),
            )
        )
    return entries


def _number(name: bytes, options: bytes) -> int | None:
    found = re.search(rb"(?:^|,)" + name + rb"=(\d+)(?:,|$)", options)
    return int(found[1]) if found is not None else None


def read() -> list[MountEntry]:
    """Return what is mounted in this process's mount namespace."""
    if sys.platform == "win32":
        from xloop.host import windows_mounts

        return [
            MountEntry(
                id=note.pid,
                parent=0,
                device=(0, 0),  # never looked at: a mount there has a name of its own
                mountpoint=note.mountpoint,
                fstype=f"fuse.{note.subtype}",
                source=note.source,
            )
            for note in windows_mounts.recorded()
        ]
    if sys.platform == "linux":
        with open("/proc/self/mountinfo", "rb", buffering=0) as file:
            return parse(file.read())
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        from xloop.host import bsd_mounts  # here: Linux has no use for it

        darwin = sys.platform == "darwin"
        return from_bsd(bsd_mounts.darwin_mounts() if darwin else bsd_mounts.freebsd_mounts())
    raise OSError(errno.EOPNOTSUPP, "there is no mount table to read here")


class Changes:
    """Waits for changes of the mount table since this was made."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._table = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115

    def wait(self) -> None:
        """Return when something was mounted or unmounted since the last time, or for no reason."""
        if sys.platform == "linux":
            from select import POLLERR, POLLPRI, poll  # here: what only reads the table needs none

            changed = poll()
            changed.register(self._table, POLLPRI | POLLERR)  # proc_pid_mounts(5)
            changed.poll()
        else:
            time.sleep(1)


def from_bsd(mounts: list[Mounted]) -> list[MountEntry]:
    """Return what getfsstat(2) tells of *mounts* as entries.

    A mount's id is made from its fsid, which stays the same for as long as it is mounted.
    """
    from xloop.host import bsd_mounts

    ids = [mount.fsid[0] & 0xFFFFFFFF | (mount.fsid[1] & 0xFFFFFFFF) << 32 for mount in mounts]
    return [
        MountEntry(
            id=ids[index],
            parent=ids[parent],
            device=_bsd_device(mount.fsid[0]),
            mountpoint=mount.mountpoint,
            fstype=bsd_mounts.fuse_type(mount.fstype, mount.source),
            source=mount.source,
        )
        for index, (mount, parent) in enumerate(
            zip(mounts, bsd_mounts.parents(mounts), strict=True)
        )
    ]


def _bsd_device(number: int) -> tuple[int, int]:
    # st_dev is the first half of the fsid there.  Any way to cut it in two will do for comparing.
    return number >> 24 & 0xFF, number & 0xFFFFFF


def device_of(st_dev: int) -> tuple[int, int]:
    """Return the major and minor number in an st_dev."""
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        return _bsd_device(st_dev)
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, "devices have no major and minor number here")
    return os.major(st_dev), os.minor(st_dev)


def unmount(path: str, *, lazy: bool = False) -> None:
    """Take away the topmost mount at *path*; *lazy*: out of the tree now, gone with its last user.

    macOS and FreeBSD cannot detach a mount that is in use: there *lazy* takes it away by force, and
    whoever uses it gets errors.

    On Windows its server is told to end it, and waited for; nobody is waited for who uses it.
    """
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        from xloop.host import bsd_mounts

        bsd_mounts.unmount(path, force=lazy)
        return
    if sys.platform == "win32":
        from xloop.host import windows_mounts

        windows_mounts.stop(path)
        return
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "unmounting is not supported here yet")
    import ctypes  # here: what only reads the table need not pay for it

    detach, nofollow = 2, 8  # linux/fs.h: MNT_DETACH, UMOUNT_NOFOLLOW
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), nofollow | (detach if lazy else 0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def abort(device: tuple[int, int]) -> None:
    """Have every request to the user-space file system *device* fail, from now on.

    By the kernel, whatever its server does.  OSError: the kernel's files for that are not mounted, or this
    user may not.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "there is no such call here")
    # Documentation/filesystems/fuse.rst, "Control filesystem"; fs/fuse/control.c names it by the device.
    number = os.makedev(*device) if device[0] else device[1]
    with open(f"/sys/fs/fuse/connections/{number}/abort", "wb", buffering=0) as file:
        file.write(b"1")


def helpers(path: str, *, lazy: bool) -> list[list[str]]:
    """Return the commands that unmount *path* for who may not make the system call, best first."""
    if sys.platform == "darwin":
        # Its daemon unmounts for the user whose volume it is, and asks those who use it to let go.
        return [["/usr/sbin/diskutil", "unmount", *(["force"] if lazy else []), path]]
    if sys.platform == "linux":
        words = ["-u", *(["-z"] if lazy else []), "--", path]
        return [["fusermount3", *words], ["fusermount", *words]]
    return []  # FreeBSD: who may mount (vfs.usermount) may unmount


def check_point(text: str) -> str:
    """Return the mount point *text* in its normal form; MountError says why nothing can be mounted there.

    Only where mounts cover no directories.
    """
    if sys.platform == "win32":
        from xloop.host import windows_mounts

        return windows_mounts.check(text)
    raise OSError(errno.EOPNOTSUPP, "mounts cover directories here")


def normal(path: str) -> str:
    """Return *path* as a record names it.  Only where mounts cover no directories."""
    if sys.platform == "win32":
        from xloop.host import windows_mounts

        return windows_mounts.normal(path)
    raise OSError(errno.EOPNOTSUPP, "mounts cover directories here")


def root_of(mountpoint: str) -> str:
    """Return a path by which the root of the mount at *mountpoint* can be asked for its attributes."""
    # "X:" is the directory on drive X that this process last worked in.
    return mountpoint if COVERS_DIRECTORIES else mountpoint.rstrip("\\") + "\\"


def visible(entries: Iterable[MountEntry], path: str) -> MountEntry | None:
    """Return the mount that a walk down the absolute *path*, free of symbolic links, ends in.

    Not just the longest mountpoint that fits: a mount may be hidden by one on top of it or on
    top of a directory above it.
    """
    if not COVERS_DIRECTORIES:
        lower = path.lower()
        around = [e for e in entries if _is_below(lower, e.mountpoint.lower())]
        return max(around, key=lambda entry: len(entry.mountpoint), default=None)
    at: dict[str, list[MountEntry]] = {}
    for entry in entries:
        at.setdefault(entry.mountpoint, []).append(entry)
    current: MountEntry | None = None
    here = ""
    for part in ["", *path.strip("/").split("/")]:
        here = f"{here.rstrip('/')}/{part}"
        stack = at.get(here, [])
        if current is None and stack:
            # The lowest of the stack: what it lies on is not mounted here itself (or, for the
            # root of a namespace, is itself).
            ids = {entry.id for entry in stack}
            current = next((e for e in stack if e.parent not in ids or e.parent == e.id), stack[0])
        while current is not None:
            below = current
            above = next((e for e in stack if e.parent == below.id and e.id != below.id), None)
            if above is None:
                break
            current = above
    return current


def _is_below(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip("\\") + "\\")
