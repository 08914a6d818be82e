# SPDX-License-Identifier: MIT
"""Watching the directories that somebody knows, one by one: inotify(7), for everybody.

Owns the watches and their number, and reading the events.  Does not own what follows.

A directory is watched before the first name in it is read.  Watches are a user's, and all his programs
share them (fs.inotify.max_user_watches): at most a quarter (:data:`PART`) is taken here.  Where that is
not enough the oldest make room, and what is known of their directories does not hold any more.

What one watch tells is less than fanotify does, and so less holds:

* Changes come by names.  One that was made by another name of the file, in a directory that is not
  watched, is not told: attributes of a file with several names never hold.
* A directory's own time of change moves with what is made in it: its attributes hold if it is watched itself.
* Who made a change is not told: those of this process's own come back too.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress

from xloop.changes import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    IGNORED,
    ISDIR,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Change,
)
from xloop.host import host, linux_watch
from xloop.host.base import Watchable
from xloop.host.linux_watch import INOTIFY_EVENT
from xloop.nodes import Node, NodeTable
from xloop.types import Attr, Ino

from .base import OpenFiles, SourceWatch, is_directory

__all__ = ["InotifyWatch"]

#: The part of a user's watches that one mount takes at most.
PART = 4
#: The part of those that makes room when there are too many.
_AT_ONCE = 8

_LIMIT = "/proc/sys/fs/inotify/max_user_watches"
_KINDS = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | MOVED_FROM | MOVED_TO
_BUFFER = 256 * 1024


class InotifyWatch(SourceWatch):
    how = "inotify"

    def __init__(
        self, nodes: NodeTable, watchable: Watchable, open_files: OpenFiles, refused: str
    ) -> None:
        """*refused*: why it is not fanotify."""
        super().__init__(nodes, watchable, linux_watch.inotify(), open_files)
        with open(_LIMIT) as file:
            self._most = max(int(file.read()) // PART, 1)
        self._refused = refused
        self._lock = threading.Lock()
        #: The watched directories, the oldest first, each with the number of its watch.
        self._watched: dict[Node, int] = {}
        self._by_number: dict[int, Node] = {}
        self._dropped = 0
        self._unwatched = 0
        if not self._watch(nodes.root):
            raise OSError(errno.EOPNOTSUPP, "the root directory cannot be watched")

    # -- watches ------------------------------------------------------------------------

    def _watch(self, node: Node) -> bool:
        """Have the directory *node* watched from now on, if it can be."""
        if node in self._watched:
            return True
        try:
            ref = self._nodes.ref(node)
            with self._lock:
                if len(self._watched) >= self._most:
                    self._make_room()
                try:
                    number = linux_watch.add_watch(self._source, ref, _KINDS)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    # Other programs of this user have taken the rest.
                    self._most = max(len(self._watched), 1)
                    self._make_room()
                    number = linux_watch.add_watch(self._source, ref, _KINDS)
                before = self._by_number.get(number)
                if before is not None:
                    self._watched.pop(before, None)
                self._by_number[number] = node
                self._watched[node] = number
        except OSError:
            self._unwatched += 1
            return False
        return True

    def _make_room(self) -> None:
        """Drop those that nobody knows any more, and then the oldest.  With the lock held."""
        get = self._nodes.get
        gone = [node for node in self._watched if get(node.ino) is not node]
        enough = len(self._watched) // _AT_ONCE + 1
        known = [node for node in self._watched if get(node.ino) is node]
        dropped = known[: max(enough - len(gone), 0)]
        for node in gone + dropped:
            number = self._watched.pop(node)
            self._by_number.pop(number, None)
            with suppress(OSError):
                linux_watch.remove_watch(self._source, number)
        if dropped:
            self._dropped += len(dropped)
            self._moved()
            # From whatever thread: a listener only takes note.
            self._tell([Change(IGNORED, node.ino) for node in dropped])

    def _look_for_watches(self) -> None:
        """Let go of the watches whose end may have gone unheard: the system has them no more."""
        with self._lock:
            living = linux_watch.watches(self._source)
            for number in self._by_number.keys() - living:
                self._watched.pop(self._by_number.pop(number), None)

    # -- what holds ---------------------------------------------------------------------

    def before(self, directory: Ino) -> int:
        node = self._nodes.get(directory)
        if node is not None:
            self._watch(node)
        return self._sequence

    def before_attributes(self, ino: Ino) -> int:
        node = self._nodes.get(ino)
        if node is not None:
            at = node if node in self._watched or node.parent is None else node.parent
            self._watch(at)
        return self._sequence

    def names_hold(self, token: int, directory: Ino) -> bool:
        node = self._nodes.get(directory)
        return node in self._watched and token == self._sequence and not self._lost

    def attributes_hold(self, token: int, ino: Ino, attr: Attr) -> bool:
        node = self._nodes.get(ino)
        if node is None or token != self._sequence or self._lost:
            return False
        if is_directory(attr):
            return node in self._watched
        return attr.nlink == 1 and node.parent in self._watched

    # -- events -------------------------------------------------------------------------

    def _read(self) -> list[Change]:
        try:
            events = os.read(self._source, _BUFFER)
        except BlockingIOError:
            return []
        self._moved()
        changes: list[Change] = []
        at = 0
        while at < len(events):
            number, mask, cookie, length = INOTIFY_EVENT.unpack_from(events, at)
            begin = at + INOTIFY_EVENT.size
            at = begin + length
            if mask & OVERFLOW:
                self._look_for_watches()
                changes.append(self._overflowed())
                continue
            node = self._by_number.get(number)
            if node is None:
                continue
            if mask & IGNORED:
                with self._lock:
                    self._by_number.pop(number, None)
                    self._watched.pop(node, None)
                changes.append(Change(IGNORED, node.ino, target=node.ino))
                continue
            name = events[begin:at].rstrip(b"\0")
            changes += self._event(node, mask, name, cookie)
        return changes

    def _event(self, node: Node, mask: int, name: bytes, cookie: int) -> list[Change]:
        kind = mask & (_KINDS | ISDIR)
        if not name:
            return [Change(kind, target=node.ino)]
        targets: list[Ino | None] = []
        if mask & (DELETE | MOVED_FROM):
            # The name is gone.  Who has the file open still sees its attributes.
            targets = [
                file.ino
                for file, _ in self._open_files()
                if file.parent is node and file.name == name
            ]
        else:
            with suppress(OSError):
                found = self._nodes.find(host.statx(self._nodes.ref(node), name))
                if found is not None:
                    targets = [found.ino]
        return [Change(kind, node.ino, name, target, cookie) for target in targets or [None]]

    def status(self) -> dict[str, object]:
        return {
            **super().status(),
            "watches": len(self._watched),
            "most watches": self._most,
            "dropped": self._dropped,
            "not to be watched": self._unwatched,
            "refused": self._refused,
        }
