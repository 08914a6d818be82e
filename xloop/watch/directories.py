# SPDX-License-Identifier: MIT
"""What the two ways of watching one directory at a time share: which are watched, and which make room.

Owns :class:`DirectoryWatch`: the list, and its bound.  Does not own the system's calls, nor reading events.

A directory is watched before the first name in it is read; for who relays events, before its number is told to
anybody (:meth:`DirectoryWatch.watch_known`).  Watches are a user's, and all his programs share them: at
most a quarter (:data:`PART`) is taken here.  Where that is not enough the oldest make room: what is known of
their directories does not hold any more, and what changes there is not told.

Directories that nobody knows any more, because they were forgotten or removed, are let go of now and then, before others
have to make room, and before they are counted.  The node of such a one means nothing to the table of nodes any
more, and its directory may be known again by another node, which then has the watch.

What one watch tells is less than that of a whole file system, and so less holds:

* Changes come by names.  One that was made by another name of the file, in a directory that is not
  watched, is not told: attributes of a file with several names never hold.  One that has a single name may get
  another one at any time, which is not told either: what is believed of it must not be believed for long,
  which whoever believes it sees to (:attr:`~xloop.changes.Watch.by_directory`).
* A directory's own time of change moves with what is made in it: its attributes hold if it is watched itself.
"""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import suppress
from stat import S_IFDIR

from xloop.changes import IGNORED, Change
from xloop.host import Descriptor
from xloop.host.base import Watchable
from xloop.nodes import Node, NodeTable
from xloop.types import Attr, Ino

from .base import OpenFiles, SourceWatch, is_directory

__all__ = ["DirectoryWatch"]

_log = logging.getLogger("xloop.watch")

#: The part of a user's watches that one mount takes at most.
PART = 4
#: The part of those that makes room when there are too many.
_AT_ONCE = 8
#: Of so few it is not looked for those that nobody knows any more.
_FEW = 64


class DirectoryWatch(SourceWatch):
    by_directory = True

    def __init__(
        self,
        nodes: NodeTable,
        watchable: Watchable,
        source: Descriptor,
        open_files: OpenFiles,
        limit: str,
    ) -> None:
        """*limit*: the file that says how many watches a user may have."""
        super().__init__(nodes, watchable, source, open_files)
        with open(limit, encoding="ascii") as file:
            self._most = max(int(file.read()) // PART, 1)
        self._limit = limit.removeprefix("/proc/sys/").replace("/", ".")
        self._lock = threading.Lock()
        #: The watched directories, the oldest first, each with the number of its watch.
        self._watched: dict[Node, int] = {}
        #: The same the other way round: a directory has one watch, whichever node it was asked for.
        self._by_number: dict[int, Node] = {}
        #: With so many, those are looked for that nobody knows any more.
        self._many = _FEW
        self._dropped = 0
        self._unwatched = 0
        #: Whether somebody relies on every directory that is known.
        self._all_known = False

    def _begin(self) -> None:
        """Watch the root.  OSError: it cannot be."""
        with self._lock:
            self._mark(self._nodes.root)

    def _add(self, node: Node) -> int:
        """Have the system watch *node*, and return the number of the directory's watch.  ENOSPC: too many."""
        raise NotImplementedError

    def _remove(self, node: Node, number: int) -> None:
        """Take it back, though *node* may be forgotten.

        OSError: the system has done so already, or it cannot be reached any more.
        """
        raise NotImplementedError

    def _mark(self, node: Node) -> None:
        """Watch *node*.  With the lock held."""
        number = self._add(node)
        before = self._by_number.get(number)
        if before is not None:
            self._watched.pop(before, None)
        self._by_number[number] = node
        self._watched[node] = number

    def _let_go(self, nodes: list[Node]) -> None:
        """Watch *nodes* no more.  With the lock held."""
        for node in nodes:
            number = self._watched.pop(node)
            del self._by_number[number]
            with suppress(OSError):
                self._remove(node, number)

    def _is_known(self, node: Node) -> bool:
        return self._nodes.get(node.ino) is node

    def _tidy(self) -> None:
        """Let go of those that nobody knows any more.  With the lock held."""
        self._let_go([node for node in self._watched if not self._is_known(node)])
        self._many = max(2 * len(self._watched), _FEW)

    def watch_known(self) -> None:
        self._all_known = True
        self._nodes.met = self._watch
        for node in self._nodes.all():
            if node.kind == S_IFDIR:
                self._watch(node)

    def _watch(self, node: Node) -> bool:
        """Have the directory *node* watched from now on, if it can be."""
        if node in self._watched:
            return True
        if not self._is_known(node):
            return False
        try:
            # Opened before the lock is held: it may take a while.
            self._nodes.ref(node)
            with self._lock:
                if len(self._watched) >= self._most:
                    self._make_room()
                elif len(self._watched) >= self._many:
                    self._tidy()
                try:
                    self._mark(node)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    # Other programs of this user have taken the rest.
                    self._most = max(len(self._watched), 1)
                    self._make_room()
                    self._mark(node)
        except OSError as exc:
            self._unwatched += 1
            _log.debug("the directory %r is not watched: %s", node.name, exc)
            return False
        return True

    def _make_room(self) -> None:
        """Let go of those that nobody knows any more, and then of the oldest but the root.  With the lock held."""
        enough = len(self._watched) // _AT_ONCE + 1
        before = len(self._watched)
        self._tidy()
        left = max(enough - (before - len(self._watched)), 0)
        dropped = [node for node in self._watched if node is not self._nodes.root][:left]
        self._let_go(dropped)
        if dropped:
            if self._all_known and not self._dropped:
                _log.warning(
                    "more directories are known than may be watched: the oldest are not watched any more,"
                    " and events in them are not told (raise %s)",
                    self._limit,
                )
            self._dropped += len(dropped)
            self._moved()
            # From whatever thread: a listener only takes note.
            self._tell([Change(IGNORED, node.ino) for node in dropped])

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
        at = node.parent
        return attr.nlink == 1 and at is not None and at in self._watched and self._is_known(at)

    def status(self) -> dict[str, object]:
        with self._lock:
            self._tidy()
            watches = len(self._watched)
        return {
            **super().status(),
            "watches": watches,
            "most watches": self._most,
            "dropped": self._dropped,
            "not to be watched": self._unwatched,
        }
