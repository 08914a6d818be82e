# SPDX-License-Identifier: MIT
"""Watching the directories that somebody knows, one by one: inotify(7), for everybody.

Owns the system's watches, and reading the events.  Does not own which directories are watched (:mod:`.directories`)
nor what follows.

Who made a change is not told: those of this process's own come back too.

**Names that lead nowhere.**  An event tells the name by which the file was opened, and not which file it was.  Who
had it open goes on writing when that name is gone, and the file may have another one in the same directory by then (as
one made by O_TMPFILE has, whose first name never was one).  So all that is known in that directory is told to
have changed: at most once in a while (:data:`~.base.LOOK`), because temporary files are written in this way too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from stat import S_IFDIR

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
from xloop.types import Ino

from .base import OpenFiles
from .directories import DirectoryWatch

__all__ = ["InotifyWatch"]

_LIMIT = "/proc/sys/fs/inotify/max_user_watches"
_KINDS = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | MOVED_FROM | MOVED_TO
#: Told of a file by a name that it had, and may not have any more; the others are about the name itself.
_OF_FILES = MODIFY | ATTRIB | CLOSE_WRITE
_LEAVES = DELETE | MOVED_FROM
_BUFFER = 256 * 1024


class InotifyWatch(DirectoryWatch):
    how = "inotify"

    def __init__(
        self, nodes: NodeTable, watchable: Watchable, open_files: OpenFiles, refused: str
    ) -> None:
        """*refused*: why it is not fanotify."""
        super().__init__(nodes, watchable, linux_watch.inotify(), open_files, _LIMIT)
        self._refused = refused
        #: Directories in which something was changed by a name that leads nowhere.
        self._suspect: dict[Node, None] = {}
        self._begin()

    def _add(self, node: Node) -> int:
        return linux_watch.add_watch(self._source, self._nodes.ref(node), _KINDS)

    def _remove(self, node: Node, number: int) -> None:
        linux_watch.remove_watch(self._source, number)

    def _look_for_watches(self) -> None:
        """Let go of the watches whose end may have gone unheard: the system has them no more."""
        with self._lock:
            living = linux_watch.watches(self._source)
            for number in self._by_number.keys() - living:
                self._watched.pop(self._by_number.pop(number), None)

    # -- events -------------------------------------------------------------------------

    def _read(self) -> list[Change]:
        try:
            events = os.read(self._source, _BUFFER)
        except BlockingIOError:
            return []
        self._moved()
        changes: list[Change] = []
        found = list(_parsed(events))
        # Names that were still there: what became of the file since is told further on.
        leaving = Counter((number, name) for number, mask, _, name in found if mask & _LEAVES)
        for number, mask, cookie, name in found:
            if mask & OVERFLOW:
                self._look_for_watches()
                changes.append(self._overflowed())
                continue
            if mask & _LEAVES:
                leaving[number, name] -= 1
            node = self._by_number.get(number)
            if node is None:
                continue
            if mask & IGNORED:
                with self._lock:
                    self._by_number.pop(number, None)
                    self._watched.pop(node, None)
                changes.append(Change(IGNORED, node.ino, target=node.ino))
                continue
            if not self._is_known(node):
                continue  # nor is anything in it
            changes += self._event(node, mask, name, cookie, leaves=leaving[number, name] > 0)
        return changes

    def _event(
        self, node: Node, mask: int, name: bytes, cookie: int, *, leaves: bool
    ) -> list[Change]:
        """*leaves*: that *name* is gone from the directory *node* is told after this."""
        kind = mask & (_KINDS | ISDIR)
        if not name:
            return [Change(kind, target=node.ino)]
        targets: list[Ino | None] = []
        if mask & _LEAVES:
            # The name is gone.  Who has the file open still sees its attributes.
            targets = [
                file.ino
                for file, _ in self._open_files()
                if file.parent is node and file.name == name
            ]
        else:
            try:
                found = self._nodes.find(host.statx(self._nodes.ref(node), name))
            except OSError:
                if mask & _OF_FILES and not mask & ISDIR and not leaves:
                    self._suspect[node] = None
                    self._looking = True
            else:
                targets = [] if found is None else [found.ino]
        return [Change(kind, node.ino, name, target, cookie) for target in targets or [None]]

    def _look(self) -> list[Change]:
        # Of what is open, this tells whether its data changed.
        changes = super()._look()
        suspect, self._suspect = self._suspect, {}
        if suspect:
            changes += [
                Change(ATTRIB, target=node.ino)
                for node in self._nodes.all()
                if node.parent in suspect and node.kind != S_IFDIR
            ]
        return changes

    def status(self) -> dict[str, object]:
        return {
            **super().status(),
            "refused": self._refused,
        }


def _parsed(events: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield number, mask, cookie and name of each event."""
    at = 0
    while at < len(events):
        number, mask, cookie, length = INOTIFY_EVENT.unpack_from(events, at)
        begin = at + INOTIFY_EVENT.size
        at = begin + length
        yield number, mask, cookie, events[begin:at].rstrip(b"\0")
