# SPDX-License-Identifier: MIT
"""Bugs that the differential test must find: :data:`PLANTED`, each a loopback with one realistic mistake.

Owns the mistakes.  Does not own the proof that they are found: that is test_planted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from differential.subjects import small_loopback
from xloop import Loopback
from xloop.host import host
from xloop.nodes import Node
from xloop.types import (
    NOW,
    Caller,
    DirEntry,
    Entry,
    HandleId,
    Ino,
    LockRange,
    Opened,
    SetAttr,
)

__all__ = ["PLANTED"]


class RenameIgnoresExchange(Loopback):
    """A flag that the implementation does not know is dropped: a file is destroyed."""

    def rename(
        self, caller: Caller, parent: Ino, name: bytes, newparent: Ino, newname: bytes, flags: int
    ) -> None:
        super().rename(caller, parent, name, newparent, newname, flags & ~2)


class OmitIsNow(Loopback):
    """A time that is to be left alone is set to the current one."""

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Any:
        if changes.atime is not None or changes.mtime is not None:
            changes.atime = NOW if changes.atime is None else changes.atime
            changes.mtime = NOW if changes.mtime is None else changes.mtime
        return super().setattr(caller, ino, changes, handle)


class LinkMakesANode(Loopback):
    """A hard link gets a node of its own."""

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> Entry:
        node = self.nodes[ino]
        entry = super().link(caller, ino, newparent, newname)
        self.nodes.forget(ino, 1)
        identity: Any = self.nodes._by_identity
        for key in [key for key, known in identity.items() if known is node]:
            del identity[key]
        directory = self.nodes[newparent]
        return self._found(directory, self.nodes.ref(directory), newname)._replace(attr=entry.attr)


class AppendIsLost(Loopback):
    """O_APPEND does not reach the source."""

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        return super().open(caller, ino, flags & ~os.O_APPEND, kill_suidgid=kill_suidgid)


class UmaskTwice(Loopback):
    """The umask is taken off by the server too, although a default ACL should have its place."""

    def mkdir(self, caller: Caller, parent: Ino, name: bytes, mode: int, umask: int) -> Entry:
        return super().mkdir(caller, parent, name, mode & ~umask, umask)


class ServersUmask(Loopback):
    """The server forgot to clear its own umask."""

    def create(
        self, caller: Caller, parent: Ino, name: bytes, flags: int, mode: int, umask: int, **kw: Any
    ) -> tuple[Entry, Opened]:
        return super().create(caller, parent, name, flags, mode & ~0o022, umask, **kw)


class TruncatesByName(Loopback):
    """ftruncate(2) forgets the handle, and needs a right that was checked at open(2)."""

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Any:
        return super().setattr(caller, ino, changes, None if changes.size is not None else handle)


class SetIdSurvivesChown(Loopback):
    """The mode is set after the owner, and brings back the S_ISUID that chown(2) has cleared."""

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Any:
        if changes.uid is not None or changes.gid is not None:
            ref = self._ref(ino, handle)
            mode = stat.S_IMODE(host.statx(ref).mode)
            answer = super().setattr(caller, ino, changes, handle)
            if not stat.S_ISLNK(answer.mode):
                host.chmod(ref, mode)
            return self.getattr(caller, ino, handle)
        return super().setattr(caller, ino, changes, handle)


class XattrFlagsDropped(Loopback):
    """XATTR_CREATE and XATTR_REPLACE are ignored."""

    def setxattr(
        self, caller: Caller, ino: Ino, name: bytes, value: bytes, flags: int, **kw: Any
    ) -> None:
        super().setxattr(caller, ino, name, value, 0, **kw)


class CookieOffByOne(Loopback):
    """Each entry carries the cookie of the one before it."""

    def readdir(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[DirEntry]:
        before = offset
        for count, entry in enumerate(super().readdir(caller, ino, handle, offset)):
            # The first one must move on, or no listing would ever end.
            yield entry._replace(offset=before) if count else entry
            before = entry.offset


class LookupsLeak(Loopback):
    """Forgetting several nodes at once forgets one of them too little."""

    def batch_forget(self, forgets: Any) -> None:
        super().batch_forget(list(forgets)[1:])


class StaleNameAfterRename(Loopback):
    """A node is not told of its new name, and cannot be opened again."""

    def _moved(self, directory: Node, ref: Any, name: bytes) -> Node | None:
        return None


class ChmodByStaleName(Loopback):
    """fchmod(2) goes to whatever has the node's last known name now."""

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Any:
        node = self.nodes[ino]
        if changes.mode is not None and handle is not None and node.parent is not None:
            ref = host.open_ref(self.nodes.ref(node.parent), node.name or b".")
            with self._as(caller):
                host.chmod(ref, changes.mode)
            changes.mode = None
        return super().setattr(caller, ino, changes, handle)


class KeepSizeIgnored(Loopback):
    """FALLOC_FL_KEEP_SIZE is dropped from a plain allocation."""

    def fallocate(
        self, caller: Caller, ino: Ino, handle: HandleId, mode: int, offset: int, length: int
    ) -> None:
        super().fallocate(caller, ino, handle, 0 if mode == 1 else mode, offset, length)


class SetIdSurvives(Loopback):
    """A write by another user does not clear S_ISUID, because the server's own would not."""

    def _killing(self, *_: Any) -> Any:
        return nullcontext()


class LocksOfOneOwner(Loopback):
    """Record locks are taken for the server, which never is in its own way."""

    def setlk(
        self, caller: Caller, ino: Ino, handle: HandleId, owner: int, lock: LockRange, *, wait: bool
    ) -> None:
        super().setlk(caller, ino, handle, 1, lock, wait=wait)


def _planted(kind: type[Loopback]) -> Callable[[str], Loopback]:
    return lambda path: small_loopback(path, kind)


PLANTED = {
    kind.__name__: _planted(kind)
    for kind in (
        RenameIgnoresExchange,
        OmitIsNow,
        LinkMakesANode,
        AppendIsLost,
        UmaskTwice,
        ServersUmask,
        TruncatesByName,
        SetIdSurvivesChown,
        XattrFlagsDropped,
        CookieOffByOne,
        LookupsLeak,
        StaleNameAfterRename,
        ChmodByStaleName,
        KeepSizeIgnored,
        SetIdSurvives,
        LocksOfOneOwner,
    )
}
