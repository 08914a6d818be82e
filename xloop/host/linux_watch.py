# SPDX-License-Identifier: MIT
"""Linux: the calls by which changes of a file system are heard of: fanotify(7) and inotify(7).

Owns the system calls and the layout of what they return.  Does not own what is watched nor what an
event means for anybody (:mod:`xloop.watch`).  Nothing is loaded before the first call, so that every
system can import this.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, NamedTuple

from xloop.host.base import Descriptor

__all__ = [
    "FAN_EVENT_ON_CHILD",
    "FAN_RENAME",
    "INFO",
    "INFO_DFID_NAME",
    "INFO_FID",
    "INFO_NEW_DFID_NAME",
    "INFO_OLD_DFID_NAME",
    "INOTIFY_EVENT",
    "METADATA",
    "Handle",
    "add_watch",
    "fanotify",
    "file_handle",
    "file_system_id",
    "inotify",
    "mark_directory",
    "mark_file_system",
    "remove_watch",
    "unmark_directory",
    "wait",
    "watches",
]

FAN_RENAME: Final = 0x10000000
#: With a mark on a directory: changes of what is in it, too.
FAN_EVENT_ON_CHILD: Final = 0x08000000

_CLOEXEC, _NONBLOCK = 0x1, 0x2
_REPORT_TID, _REPORT_FID, _REPORT_DIR_FID, _REPORT_NAME = 0x100, 0x200, 0x400, 0x800
_REPORT_TARGET_FID = 0x1000
_MARK_ADD, _MARK_REMOVE, _MARK_ONLYDIR, _MARK_FILESYSTEM = 0x1, 0x2, 0x8, 0x100

_AT_FDCWD, _AT_EMPTY_PATH, _AT_HANDLE_FID = -100, 0x1000, 0x200
_MAX_HANDLE_SZ = 128

_IN_CLOEXEC, _IN_NONBLOCK = 0o2000000, 0o4000
#: Refuse what is no directory, and what was one until just now.
_IN_ONLYDIR = 0x01000000

# event_len vers metadata_len mask fd pid
METADATA: Final = struct.Struct("=IBxHQii")
# info_type pad len, fsid, handle_bytes handle_type
INFO: Final = struct.Struct("=BxH8sIi")
#: Types of a record that names the target, a directory and a name in it, the same for a rename.
INFO_FID: Final = 1
INFO_DFID_NAME: Final = 2
INFO_OLD_DFID_NAME: Final = 10
INFO_NEW_DFID_NAME: Final = 12
_POLLIN, _POLLPRI = 0x1, 0x2

# wd mask cookie len
INOTIFY_EVENT: Final = struct.Struct("=iIII")


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Handle(NamedTuple):
    """What fanotify calls an object by: name_to_handle_at(2)."""

    kind: int
    data: bytes


def fanotify(*, threads: bool) -> Descriptor:
    """Return a fanotify group whose events tell directory, name, target, and who did it.

    *threads*: that is the number of a thread; EPERM without CAP_SYS_ADMIN.  Otherwise of a process, and where
    this one has no CAP_SYS_ADMIN it is 0 for all but itself.  EINVAL before Linux 5.17.
    """
    flags = _CLOEXEC | _NONBLOCK | _REPORT_FID | _REPORT_DIR_FID | _REPORT_NAME
    if threads:
        flags |= _REPORT_TID
    return Descriptor(_done(_libc().fanotify_init(flags | _REPORT_TARGET_FID, os.O_RDONLY)))


def mark_file_system(group: int, ref: int, mask: int) -> None:
    """Have *group* told of what *mask* says, anywhere in the file system of the directory *ref*.

    EXDEV for a part of one (a subvolume of btrfs), EOPNOTSUPP where objects have no handles.
    """
    mark = _libc().fanotify_mark
    _done(mark(group, _MARK_ADD | _MARK_FILESYSTEM, ctypes.c_uint64(mask), ref, b"."))


def mark_directory(group: int, ref: int, mask: int) -> None:
    """Have *group* told of what *mask* says, in the directory *ref*.

    ENOSPC: this user has too many marks.  EACCES: he may not read the directory.  EOPNOTSUPP, ENODEV, EXDEV where
    objects have no handles that tell them apart.
    """
    mark = _libc().fanotify_mark
    path = b"/proc/self/fd/%d" % ref
    _done(mark(group, _MARK_ADD | _MARK_ONLYDIR, ctypes.c_uint64(mask), _AT_FDCWD, path))


def unmark_directory(group: int, ref: int, mask: int) -> None:
    """Take back mark_directory() with the same mask.  ENOENT: there is none."""
    mark = _libc().fanotify_mark
    path = b"/proc/self/fd/%d" % ref
    _done(mark(group, _MARK_REMOVE | _MARK_ONLYDIR, ctypes.c_uint64(mask), _AT_FDCWD, path))


def file_handle(ref: int) -> Handle:
    """Return the handle of the object behind *ref*, as events carry it."""
    for flags in (_AT_EMPTY_PATH | _AT_HANDLE_FID, _AT_EMPTY_PATH):
        buffer = ctypes.create_string_buffer(
            struct.pack("=Ii", _MAX_HANDLE_SZ, 0), 8 + _MAX_HANDLE_SZ
        )
        mount = ctypes.c_int()
        try:
            _done(_libc().name_to_handle_at(ref, b"", buffer, ctypes.byref(mount), flags))
        except OSError as exc:
            # Handles that serve for nothing but telling objects apart are of Linux 6.5.
            if exc.errno == errno.EINVAL and flags & _AT_HANDLE_FID:
                continue
            raise
        size, kind = struct.unpack_from("=Ii", buffer.raw)
        return Handle(kind, buffer.raw[8 : 8 + size])
    raise AssertionError("not reached")


def file_system_id(ref: int) -> int:
    """Return what events call the file system of *ref*: f_fsid of statfs(2)."""
    system: Any = os  # not every system has the call
    return int(system.fstatvfs(ref).f_fsid)


def inotify() -> Descriptor:
    """Return an inotify instance.  EMFILE where this user has too many."""
    return Descriptor(_done(_libc().inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)))


def add_watch(instance: int, ref: int, mask: int) -> int:
    """Watch the directory behind *ref*; the number that its events carry.  ENOSPC: too many."""
    path = b"/proc/self/fd/%d" % ref
    return _done(_libc().inotify_add_watch(instance, path, ctypes.c_uint32(mask | _IN_ONLYDIR)))


def remove_watch(instance: int, number: int) -> None:
    """End a watch.  EINVAL where the system has ended it already: the directory is gone."""
    _done(_libc().inotify_rm_watch(instance, number))


def watches(instance: int) -> set[int]:
    """Return the numbers of the watches that *instance* has."""
    with open(f"/proc/self/fdinfo/{instance:d}", "rb") as file:
        return {
            int(line.split()[1].removeprefix(b"wd:"), 16)
            for line in file
            if line.startswith(b"inotify ")
        }


def wait(readable: Iterable[int], urgent: Iterable[int], seconds: float | None) -> set[int]:
    """Wait until one of the descriptors *readable* can be read, or one of *urgent* has changed.

    *urgent* are tables of mounts, which can always be read, and say by POLLPRI that they changed.
    """
    poll = _select().poll()
    for fd in readable:
        poll.register(fd, _POLLIN)
    for fd in urgent:
        poll.register(fd, _POLLPRI)
    return {fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)}


def _select() -> Any:
    import select

    return select
