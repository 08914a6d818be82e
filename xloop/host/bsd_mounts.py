# SPDX-License-Identifier: MIT
"""The mount tables of macOS and FreeBSD, and their unmount(2).

Owns getfsstat(2), and what its answer means in the terms of :mod:`xloop.host.mounttable`.  Does not
own who may unmount what.  getfsstat(2) with MNT_NOWAIT asks no file system anything, so it does not
hang on one whose server does.

How a mount of a user-space file system looks:

* macFUSE: type ``macfuse``, or ``macfuse_NAME`` after the mount option fstypename=NAME.
* FUSE-T: an NFS mount whose source is ``fuse-t:/VOLUME``.
* FreeBSD: type ``fusefs``, or ``fusefs.NAME`` after subtype=NAME.

All become what Linux says: ``fuse.NAME``.  FUSE-T has no place for a name but the volume's, which
begins with "xloop" if we mounted it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any, Final

from xloop.host import darwin_libc
from xloop.host.darwin_libc import MNT_FORCE, MNT_NOWAIT, Mounted

__all__ = [
    "FREEBSD_STATFS",
    "darwin_mounts",
    "freebsd_mounts",
    "fuse_type",
    "parents",
    "parse_freebsd",
    "unmount",
]

#: struct statfs of FreeBSD 12 and later (version 0x20140518): version type flags bsize iosize blocks
#: bfree bavail files ffree syncwrites asyncwrites syncreads asyncreads, nvnodelistsize and spares, namemax
#: owner fsid[2], spare characters, fstypename mntfromname mntonname.
FREEBSD_STATFS: Final = struct.Struct("=IIQQQQQqQq4QII72xII2i80x16s1024s1024s")

#: What macFUSE and its predecessors put before fstypename.
_PREFIXES = ("macfuse", "osxfuse")


def fuse_type(fstype: str, source: str) -> str:
    """Return *fstype* as Linux would call it, if it is that of a user-space file system."""
    for prefix in _PREFIXES:
        if fstype == prefix:
            return "fuse"
        if fstype.startswith(f"{prefix}_"):
            return f"fuse.{fstype.removeprefix(f'{prefix}_')}"
    if fstype == "fusefs":
        return "fuse"
    if fstype.startswith("fusefs."):
        return f"fuse.{fstype.removeprefix('fusefs.')}"
    if fstype == "nfs" and source.startswith("fuse-t:/"):
        return "fuse.xloop" if source.startswith("fuse-t:/xloop") else "fuse.fuse-t"
    return fstype


def parse_freebsd(buffer: bytes) -> list[Mounted]:
    """Return the mounts in what FreeBSD's getfsstat(2) has filled."""
    found = []
    for fields in FREEBSD_STATFS.iter_unpack(buffer):
        fsid = fields[18], fields[19]
        fstype, source, mountpoint = (
            field.partition(b"\0")[0].decode(errors="surrogateescape") for field in fields[20:]
        )
        found.append(Mounted(fsid, fstype, mountpoint, source))
    return found


def parents(mounts: list[Mounted]) -> list[int]:
    """Return for each of *mounts*, in the order in which they were mounted, which one it lies on.

    The root, and whatever lies on none of them, lies on itself.
    """
    found: list[int] = []
    for index, mount in enumerate(mounts):
        best = index
        for earlier in range(index):
            point = mounts[earlier].mountpoint
            inside = point == "/" or f"{mount.mountpoint}/".startswith(f"{point}/")
            # Of several on one place the last is on top.
            if inside and (best == index or len(point) >= len(mounts[best].mountpoint)):
                best = earlier
        found.append(best)
    return found


def _filled(getfsstat: Any, size: int) -> bytes:
    count = getfsstat(None, 0, MNT_NOWAIT)
    while count >= 0:
        room = count + 8  # more may be mounted meanwhile
        buffer = ctypes.create_string_buffer(room * size)
        count = getfsstat(buffer, len(buffer), MNT_NOWAIT)
        if 0 <= count < room:
            return buffer.raw[: count * size]
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def darwin_mounts(libc: darwin_libc.DarwinLibc | None = None) -> list[Mounted]:
    libc = libc or darwin_libc.DarwinLibc()
    return darwin_libc.parse_mounts(_filled(libc.getfsstat, darwin_libc.STATFS.size))


def freebsd_mounts(library: Any = None) -> list[Mounted]:
    library = ctypes.CDLL(None, use_errno=True) if library is None else library
    getfsstat = library["getfsstat"]
    getfsstat.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    return parse_freebsd(_filled(getfsstat, FREEBSD_STATFS.size))


def unmount(path: str, *, force: bool, library: Any = None) -> None:
    library = ctypes.CDLL(None, use_errno=True) if library is None else library
    call = library["unmount"]
    call.argtypes = [ctypes.c_char_p, ctypes.c_int]
    if call(os.fsencode(path), MNT_FORCE if force else 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
