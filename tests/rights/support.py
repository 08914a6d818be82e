# SPDX-License-Identifier: MIT
"""What the tests of rights share: POSIX ACLs as bytes, and a watch over what happens in a directory.

Owns no test and no mount.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = [
    "ACCESS",
    "ALICE",
    "ATTRIB",
    "BOB",
    "CAPABILITY",
    "DEFAULT",
    "NET_RAW",
    "OTHERS",
    "STAFF",
    "TEAM",
    "acl",
    "watching",
]

#: Users and groups that need no name.  Each user's own group has the user's number.
ALICE: Final = 1001
BOB: Final = 1002
STAFF: Final = 2001
TEAM: Final = 2002
OTHERS: Final = 2003

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
CAPABILITY: Final = b"security.capability"
#: A file capability as setcap(8) writes it: version 2, cap_net_raw, effective.
NET_RAW: Final = bytes.fromhex("0100000200200000000000000000000000000000")

_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def acl(
    owner: int,
    group: int,
    others: int,
    *,
    users: Iterable[tuple[int, int]] = (),
    groups: Iterable[tuple[int, int]] = (),
    mask: int | None = None,
) -> bytes:
    """Return an ACL as an extended attribute: acl(5), linux/posix_acl_xattr.h.

    Permissions are numbers from 0 to 7; *users* and *groups* are (id, permissions).
    """
    rows = [(_USER_OBJ, owner, _NOBODY)]
    rows += [(_USER, bits, number) for number, bits in users]
    rows += [(_GROUP_OBJ, group, _NOBODY)]
    rows += [(_GROUP, bits, number) for number, bits in groups]
    if mask is not None:
        rows.append((_MASK, mask, _NOBODY))
    rows.append((_OTHER, others, _NOBODY))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


# linux/inotify.h
ATTRIB: Final = 0x04
_CREATE = 0x100
_EVENT = struct.Struct("iIII")


class Watch:
    """The events in one directory since the watch began."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def events(self) -> list[tuple[int, bytes]]:
        """Return (mask, name) of what happened since the last call."""
        found = []
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return []
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            found.append((mask & (ATTRIB | _CREATE), data[at : at + length].rstrip(b"\0")))
            at += length
        return found

    def made(self, name: bytes) -> list[str]:
        """Return what happened to *name*: "made", "changed", in their order."""
        words = {_CREATE: "made", ATTRIB: "changed"}
        return [words[mask] for mask, whose in self.events() if whose == name]


@contextmanager
def watching(path: bytes) -> Iterator[Watch]:
    """Watch the directory *path* for names that are made and for attributes that change (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if fd < 0 or libc.inotify_add_watch(fd, path, ATTRIB | _CREATE) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        yield Watch(fd)
    finally:
        os.close(fd)
