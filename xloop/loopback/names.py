# SPDX-License-Identifier: MIT
"""Loopback: finding, making, renaming and removing names.

Owns lookup, forget and everything that changes a directory, except create and tmpfile, which
open (:mod:`xloop.loopback.data`).
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable

from xloop.host import Descriptor, host
from xloop.loopback.base import LoopbackBase
from xloop.nodes import Node
from xloop.types import Caller, Entry, Ino

__all__ = ["Names"]

_RENAME_EXCHANGE = 2
_RENAME_WHITEOUT = 4


class Names(LoopbackBase):
    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        directory, ref = self._directory(parent, name)
        with self._as(caller):
            return self._found(directory, ref, name)

    def spelling(self, caller: Caller, parent: Ino, name: bytes) -> bytes:
        _, ref = self._directory(parent, name)
        with self._as(caller):
            return host.spelling(ref, name)

    def forget(self, ino: Ino, nlookup: int) -> None:
        self.nodes.forget(ino, nlookup)

    def batch_forget(self, forgets: Iterable[tuple[Ino, int]]) -> None:
        self.nodes.batch_forget(forgets)

    def readlink(self, caller: Caller, ino: Ino) -> bytes:
        return host.readlink(self._ref(ino, None))

    def symlink(self, caller: Caller, parent: Ino, name: bytes, target: bytes) -> Entry:
        directory, ref = self._directory(parent, name)
        with self._as_creator(caller):
            self.nodes.within_limits(host.symlink, ref, name, target)
        return self._found(directory, ref, name)

    def mknod(
        self, caller: Caller, parent: Ino, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        directory, ref = self._directory(parent, name)
        with self._as_creator(caller), host.masking(umask):
            self.nodes.within_limits(host.mknod, ref, name, mode, rdev)
        return self._found(directory, ref, name)

    def mkdir(self, caller: Caller, parent: Ino, name: bytes, mode: int, umask: int) -> Entry:
        directory, ref = self._directory(parent, name)
        with self._as_creator(caller), host.masking(umask):
            self.nodes.within_limits(host.mkdir, ref, name, mode)
        return self._found(directory, ref, name)

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> Entry:
        node = self.nodes[ino]
        ref = self.nodes.ref(node)
        directory, directory_ref = self._directory(newparent, newname)
        with self._as(caller):
            self.nodes.within_limits(host.link, ref, directory_ref, newname)
        attr = host.statx(ref)
        # Not with *ref*: that may be an open file's, and must not be kept when the file is closed.
        self.nodes.intern(attr, directory, newname, None)
        return Entry(ino, self.nodes.shown(attr))

    # -- removing -----------------------------------------------------------------------

    def _victim(self, ref: Descriptor, name: bytes) -> tuple[Node, bool] | None:
        """Return the node that is about to lose *name*, and whether that is its only name.

        It gets a descriptor now, while it can still be opened: programs that hold it (open files,
        working directories, O_PATH) go on using it after its last name is gone.
        """
        try:
            # Opened before anybody knows whether that is needed: mostly it is.
            fd = self.nodes.within_limits(host.open_ref, ref, name)
            attr = host.statx(fd)
        except OSError:
            return None  # whatever it is, the operation itself reports it
        node = self.nodes.find(attr)
        if node is None:
            return None
        self.nodes.keep(node, fd)
        return node, attr.nlink <= 1 or stat.S_ISDIR(attr.mode)

    def _lost_name(self, victim: Node, last: bool, directory: Node, name: bytes) -> None:
        """Note that *name* is gone, which was *victim* when it was looked at, just before.

        Somebody may have put another directory in its place in between, and that is gone now.  Whoever asked for
        it takes the one that was there for removed, and its number for a dead one's (S_DEAD: the kernel lists
        nothing there any more).  So where that lives on it gets another number.
        """
        if stat.S_ISDIR(victim.kind) and self._lives(victim):
            self.nodes.disown(victim)
        else:
            self.nodes.removed(victim, directory, name, last=last)

    def _lives(self, directory: Node) -> bool:
        try:
            return host.statx(self.nodes.ref(directory)).nlink > 0
        except OSError:
            return False

    def unlink(self, caller: Caller, parent: Ino, name: bytes) -> None:
        directory, ref = self._directory(parent, name)
        victim = self._victim(ref, name)
        with self._as(caller):
            host.unlink(ref, name)
        if victim is not None:
            self.nodes.removed(victim[0], directory, name, last=victim[1])

    def rmdir(self, caller: Caller, parent: Ino, name: bytes) -> None:
        directory, ref = self._directory(parent, name)
        victim = self._victim(ref, name)
        with self._as(caller):
            host.rmdir(ref, name)
        if victim is not None:
            self._lost_name(*victim, directory, name)

    def rename(
        self,
        caller: Caller,
        parent: Ino,
        name: bytes,
        newparent: Ino,
        newname: bytes,
        flags: int,
    ) -> None:
        old, old_ref = self._directory(parent, name)
        new, new_ref = self._directory(newparent, newname)
        victim = None if flags & _RENAME_EXCHANGE else self._victim(new_ref, newname)
        # WHITEOUT leaves a device node behind, which has an owner like any other.
        with self._as_creator(caller) if flags & _RENAME_WHITEOUT else self._as(caller):
            self.nodes.within_limits(host.rename, old_ref, name, new_ref, newname, flags)
        moved = self._moved(new, new_ref, newname)
        if flags & _RENAME_EXCHANGE:
            self._moved(old, old_ref, name)
        elif victim is not None and victim[0] is not moved:
            self._lost_name(*victim, new, newname)

    def _moved(self, directory: Node, ref: Descriptor, name: bytes) -> Node | None:
        """Tell the node that has *name* now, if it is known, so that it can be opened again."""
        try:
            node = self._known_as(ref, name)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return None  # renamed again already
        if node is not None:
            self.nodes.renamed(node, directory, name)
        return node

    def _known_as(self, ref: Descriptor, name: bytes) -> Node | None:
        return self.nodes.find(host.statx(ref, name))
