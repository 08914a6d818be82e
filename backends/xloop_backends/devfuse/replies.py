# SPDX-License-Identifier: MIT
"""Replies to the kernel, and what is told it unasked.

Owns writing to the connection, the timeouts that go with a reply, and what follows when nobody
wants one any more.  Does not own which reply a request gets (:mod:`.handlers`).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import Attr, Entry, Ino

from . import abi
from .passthrough import Passthrough

if TYPE_CHECKING:  # few mounts relay
    from .removals import Removals

__all__ = ["Replies", "split_timeout"]

_HEADER = abi.OUT_HEADER.size
_ENTRY_REPLY = abi.ENTRY_REPLY
_ATTR_REPLY = abi.ATTR_REPLY
_pack_header = abi.OUT_HEADER.pack
_write = os.write


def split_timeout(seconds: float) -> tuple[int, int]:
    """Return whole seconds and nanoseconds."""
    whole = int(seconds)
    return whole, min(int((seconds - whole) * 1_000_000_000), 999_999_999)


class Replies:
    """How the handlers answer."""

    #: Where events are relayed, what others removed and nobody was told of yet.
    removals: Removals | None = None

    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        passthrough: Passthrough | None,
        connection: int,
    ) -> None:
        self.ops = operations
        self.passthrough = passthrough
        self._connection = connection
        self._written = passthrough.written if passthrough is not None else frozenset[Ino]()
        self._entry_timeout = split_timeout(options.entry_timeout)
        self._attr_timeout = split_timeout(options.attr_timeout)
        (name, name_nsec), (attr, attr_nsec) = self._entry_timeout, self._attr_timeout
        self._usual_timeouts = name, attr, name_nsec, attr_nsec

    def error(self, fd: int, unique: int, number: int) -> bool:
        return self._send(fd, _pack_header(_HEADER, -number, unique))

    def ok(self, fd: int, unique: int) -> bool:
        return self._send(fd, _pack_header(_HEADER, 0, unique))

    def _send(self, fd: int, reply: bytes) -> bool:
        try:
            _write(fd, reply)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                return False  # nobody waits for it any more
            raise
        return True

    def _send_data(self, fd: int, unique: int, data: bytes | memoryview) -> bool:
        size = _HEADER + len(data)
        try:
            os.writev(fd, (_pack_header(size, 0, unique), data))
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                return False
            raise
        return True

    def _notify_attributes(self, ino: Ino) -> None:
        """Tell the kernel to ask for the attributes of *ino* anew.

        Attributes alone can be dropped at any time: only dropping pages waits for locks that a
        request for the same inode may hold (fuse_reverse_inval_inode).
        """
        size = abi.NOTIFY_INVAL_INODE.size
        # ENOENT: the kernel does not know the inode, or not any more.
        self._send(
            self._connection,
            abi.NOTIFY_INVAL_INODE.pack(size, abi.NOTIFY_INVAL_INODE_CODE, 0, ino, -1, 0),
        )

    def _timeouts(self, entry: Entry) -> tuple[int, int, int, int]:
        """Return for how long name and attributes may be believed: seconds of both, nanoseconds of both."""
        ino, _, name, attr = entry
        if name is None and attr is None and ino not in self._written:
            return self._usual_timeouts
        name_timeout = self._entry_timeout if name is None else split_timeout(name)
        attr_timeout = self._attr_timeout if attr is None else split_timeout(attr)
        if ino in self._written:
            attr_timeout = 0, 0
        return name_timeout[0], attr_timeout[0], name_timeout[1], attr_timeout[1]

    def _entry(self, fd: int, unique: int, entry: Entry) -> None:
        ino = entry.ino
        if self.removals is not None and not entry.attr.nlink:
            shown = self.removals.shown(ino, entry.attr)
            if shown is not None:
                entry = entry._replace(attr=shown, attr_timeout=0.0)
        if not self._send(
            fd,
            _ENTRY_REPLY.pack(
                _ENTRY_REPLY.size, 0, unique, ino, 0, *self._timeouts(entry), *entry.attr[:15], 0
            ),
        ):
            self.ops.forget(ino, 1)

    def _attr_life(self, ino: Ino, attr: Attr) -> tuple[int, int]:
        """Return for how long *attr* of *ino* may be believed."""
        return (0, 0) if ino in self._written else self._attr_timeout

    def _no_entry(self, fd: int, unique: int, seconds: int, nsec: int) -> None:
        """Say that a name is not there, which may be believed for some time."""
        self._send(
            fd,
            _ENTRY_REPLY.pack(_ENTRY_REPLY.size, 0, unique, 0, 0, seconds, 0, nsec, 0, *(0,) * 16),
        )

    def _attr(self, fd: int, unique: int, ino: Ino, attr: Attr) -> None:
        seconds, nsec = self._attr_life(ino, attr)
        if not attr.nlink:
            attr, seconds, nsec = self._nameless(ino, attr, seconds, nsec)
        self._send(fd, _ATTR_REPLY.pack(_ATTR_REPLY.size, 0, unique, seconds, nsec, *attr[:15], 0))

    def _nameless(self, ino: Ino, attr: Attr, seconds: int, nsec: int) -> tuple[Attr, int, int]:
        """Return what is told of *ino*, which has no name, and for how long that may be believed."""
        if self.removals is not None:
            shown = self.removals.shown(ino, attr)
            if shown is not None:
                return shown, 0, 0
        return attr, seconds, nsec
