# SPDX-License-Identifier: MIT
"""The layer that shows everything as belonging to one user and group: :class:`Squash`.

Owns what is shown.  Does not own who may do what: that stays with the source, which is asked as
the server's own user.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xloop.layers.base import Layer
from xloop.ops import Operations
from xloop.types import Attr, Caller, DirEntry, Entry, HandleId, Ino, Opened, SetAttr

__all__ = ["Squash"]


class Squash(Layer):
    """Shows :attr:`inner`, with *uid* and *gid* as the owner and the group of everything.

    For a mount in a user namespace that knows one user.  The kernel takes an owner that is not known there
    for nobody's, and refuses to write to such a file or to delete it, whatever the source would allow.
    """

    def __init__(self, inner: Operations, uid: int, gid: int) -> None:
        super().__init__(inner)
        self._uid = uid
        self._gid = gid

    def _attr(self, attr: Attr) -> Attr:
        if attr.uid == self._uid and attr.gid == self._gid:
            return attr
        return attr._replace(uid=self._uid, gid=self._gid)

    def _entry(self, entry: Entry) -> Entry:
        return entry._replace(attr=self._attr(entry.attr))

    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return self._attr(super().getattr(caller, ino, handle))

    def statx(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return self._attr(super().statx(caller, ino, handle))

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Attr:
        return self._attr(super().setattr(caller, ino, changes, handle))

    def lookup(self, *args: Any, **kwargs: Any) -> Entry:
        return self._entry(super().lookup(*args, **kwargs))

    def symlink(self, *args: Any, **kwargs: Any) -> Entry:
        return self._entry(super().symlink(*args, **kwargs))

    def mknod(self, *args: Any, **kwargs: Any) -> Entry:
        return self._entry(super().mknod(*args, **kwargs))

    def mkdir(self, *args: Any, **kwargs: Any) -> Entry:
        return self._entry(super().mkdir(*args, **kwargs))

    def link(self, *args: Any, **kwargs: Any) -> Entry:
        return self._entry(super().link(*args, **kwargs))

    def create(self, *args: Any, **kwargs: Any) -> tuple[Entry, Opened]:
        entry, opened = super().create(*args, **kwargs)
        return self._entry(entry), opened

    def tmpfile(self, *args: Any, **kwargs: Any) -> tuple[Entry, Opened]:
        entry, opened = super().tmpfile(*args, **kwargs)
        return self._entry(entry), opened

    def readdirplus(self, *args: Any, **kwargs: Any) -> Iterator[tuple[DirEntry, Entry | None]]:
        for name, entry in super().readdirplus(*args, **kwargs):
            yield name, None if entry is None else self._entry(entry)
