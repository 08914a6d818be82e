# SPDX-License-Identifier: MIT
"""What the two ways of watching share: the thread that listens, and the questions about what holds.

Owns :class:`SourceWatch`.  Does not own reading events.

**What was read, and what is told.**  A server reads names or attributes, and hands them out to be believed for
long.  Between the two somebody may change them.  Three cases:

* The change is told after the server made the object known (:meth:`NodeTable.intern
  <xloop.nodes.NodeTable.intern>`): the event finds the node, and listeners hear of it.  What they do
  about an answer that is still under way is theirs.
* It is told between reading and making known: nobody knows yet that it matters.  So
  each batch of events raises a number *before* its nodes are looked for.  Whoever was given the
  number before reading compares it after making known: if it moved, what was read does not hold.
* It was told before the number was taken: then it had happened before, and what was read shows it.

Events come after the change that they tell of, so nothing that was read before a change is missed
by all three.

**What no event tells.**  A write to a mapping, and one by libaio, is told when its file is closed, and not
before.  So the files that somebody has open here are looked at every second (:data:`LOOK`).  Access times and
what chattr(1) sets are not told at all.  Somebody who mounts over a directory of the source is noticed
by the mount table.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic

from xloop.changes import MODIFY, OVERFLOW, Change
from xloop.host import Descriptor, host, linux_watch, mounttable
from xloop.host.base import Watchable
from xloop.nodes import Node, NodeTable
from xloop.types import Attr, Entry, Ino

__all__ = ["LOOK", "PACE", "OpenFiles", "SourceWatch", "is_directory"]

_log = logging.getLogger("xloop.watch")

#: Seconds between two batches: reading each event by itself would take the interpreter from the
#: threads that serve, thousands of times a second.
PACE = 0.002
#: Seconds between two looks at what is open.
LOOK = 1.0
#: Files with several names of which a former one is remembered, at most.
_FORMER = 4096

OpenFiles = Callable[[], Iterable[tuple[Node, Descriptor]]]


class SourceWatch:
    """See :class:`xloop.changes.Watch`."""

    how = ""
    of_others = False
    by_directory = False

    def __init__(
        self,
        nodes: NodeTable,
        watchable: Watchable,
        source: Descriptor,
        open_files: OpenFiles,
    ) -> None:
        """*source*: what the system tells of changes by."""
        self.lasting_positions = watchable.lasting_positions
        self._nodes = nodes
        self._source = source
        self._open_files = open_files
        self._listeners: list[Callable[[list[Change]], None]] = []
        self._numbers = itertools.count(1)
        #: Moves with each batch of events, before their nodes are looked for.
        self._sequence = 0
        self._cookies = itertools.count(1)
        #: Why nothing is told any more.
        self._lost = ""
        self._overflows = 0
        self._batches = 0
        self._ended = threading.Event()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_send.setblocking(False)
        self._looking = False
        self._thread: threading.Thread | None = None
        self._stamps: dict[Ino, tuple[int, ...]] = {}
        self._mounts: frozenset[object] = frozenset()
        #: By which name what has several was told before the last one.
        self._former: dict[Ino, tuple[Ino, bytes]] = {}
        self._displaced: Callable[[Ino, bytes], None] | None = None
        nodes.displaced = self._other_name

    # -- life ---------------------------------------------------------------------------

    def listen(self, listener: Callable[[list[Change]], None]) -> None:
        self._listeners.append(listener)

    def start(self) -> None:
        self._mounts = self._mounts_below()
        self._thread = threading.Thread(target=self._run, name="xloop-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._wake_receive.close()
        self._wake_send.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):  # a full buffer wakes it just as well
            self._wake_send.send(b"\0")

    def _run(self) -> None:
        try:
            with open("/proc/self/mountinfo", "rb") as table:
                self._listen(table.fileno())
        except Exception as exc:  # noqa: BLE001  # whatever it is, nothing is believed from now on
            if self._ended.is_set():
                return
            _log.error("the source is not watched any more", exc_info=exc)
            self._lost = f"{type(exc).__name__}: {exc}"
            self._moved()
            self._tell([Change(OVERFLOW)])

    def _listen(self, table: int) -> None:
        source = self._source
        wake = self._wake_receive.fileno()
        looked = monotonic()
        while True:
            patience = LOOK if self._looking else None
            came = linux_watch.wait((source, wake), (table,), patience)
            begun = monotonic()
            if self._ended.is_set():
                return
            if wake in came:
                self._wake_receive.recv(4096)
            changes: list[Change] = []
            if source in came:
                changes += self._read()
            if table in came and self._mounts_changed():
                self._moved()
                changes.append(Change(OVERFLOW))
            if self._looking and begun - looked >= LOOK:
                looked = begun
                changes += self._look()
            if changes:
                self._tell(changes)
            if source in came:
                self._ended.wait(PACE)

    def opened(self) -> None:
        """Something was opened: there is something to look at."""
        if not self._looking:
            self._looking = True
            self._wake()

    def _read(self) -> list[Change]:
        """Return what the source told."""
        raise NotImplementedError

    def _moved(self) -> None:
        self._sequence = next(self._numbers)

    def _tell(self, changes: list[Change]) -> None:
        self._batches += 1
        for listener in self._listeners:
            listener(changes)

    def _overflowed(self) -> Change:
        self._overflows += 1
        self._moved()
        return Change(OVERFLOW)

    def _look(self) -> list[Change]:
        """Return what changed in open files, whether or not it was told."""
        changes = []
        stamps: dict[Ino, tuple[int, ...]] = {}
        self._looking = False  # first: what is opened from here on says so
        for node, fd in self._open_files():
            if node.ino in stamps:
                continue
            st = os.fstat(fd)
            stamp = st.st_mtime_ns, st.st_size, st.st_ctime_ns
            stamps[node.ino] = stamp
            # One that is looked at for the first time may have changed since it was opened.
            if self._stamps.get(node.ino) != stamp:
                changes.append(Change(MODIFY, target=node.ino))
        self._stamps = stamps
        if stamps:
            self._looking = True
        return changes

    def _mounts_changed(self) -> bool:
        """Whether something was mounted or unmounted in the source, or nobody can say."""
        try:
            mounts = self._mounts_below()
        except OSError as exc:
            # For want of descriptors, mostly.  Everything is read anew, and the watch goes on.
            _log.debug("what is mounted in the source cannot be told: %s", exc)
            return True
        changed = mounts != self._mounts
        self._mounts = mounts
        return changed

    def _mounts_below(self) -> frozenset[object]:
        top = os.readlink(f"/proc/self/fd/{self._nodes.ref(self._nodes.root):d}").rstrip("/") + "/"
        return frozenset(entry for entry in mounttable.read() if entry.mountpoint.startswith(top))

    # -- what is known ------------------------------------------------------------------

    def recall(self, ino: Ino) -> Entry | None:
        node = self._nodes.again(ino)
        if node is None:
            return None
        try:
            attr = host.statx(self._nodes.ref(node))
        except OSError:
            by_other_name = self._by_former_name(node)
            if by_other_name is None:
                attr = Attr.make(node.kind | 0o600, ino=node.st_ino, nlink=0)
                return Entry(ino, attr, 0, 0)
            attr = by_other_name
        return Entry(ino, self._nodes.shown(attr), 0, 0)

    def _by_former_name(self, node: Node) -> Attr | None:
        """Return the attributes of a file that is gone by the name it was told by last, and has another."""
        known = self._former.get(node.ino)
        if known is None:
            return None
        try:
            attr = host.statx(self._nodes.ref(self._nodes[known[0]]), known[1])
        except OSError:
            return None
        return attr if self._nodes.find(attr) is node else None

    def is_same(self, ino: Ino, handle: bytes) -> bool:
        return True

    def name_of(self, ino: Ino) -> tuple[Ino, bytes] | None:
        node = self._nodes.get(ino)
        if node is None or node.parent is None:
            return None
        return node.parent.ino, node.name

    def names_of(self, ino: Ino) -> list[tuple[Ino, bytes]]:
        names = self.name_of(ino), self._former.get(ino)
        return [name for name in names if name is not None]

    def is_told(self, directory: Ino, name: bytes) -> bool | None:
        try:
            at = self._nodes[directory]
            node = self._nodes.find(host.statx(self._nodes.ref(at), name))
        except OSError:
            return None
        return node is not None and node.parent is at and node.name == name

    def known(self) -> Iterable[tuple[Ino, Ino | None, bytes]]:
        for node in self._nodes.all():
            parent = node.parent
            yield node.ino, None if parent is None else parent.ino, node.name
        for ino, (directory, name) in self._former.copy().items():
            if self._nodes.get(ino) is not None:
                yield ino, directory, name

    def on_other_name(self, displaced: Callable[[Ino, bytes], None]) -> None:
        self._displaced = displaced

    def _other_name(self, node: Node) -> None:
        """*node* is about to be told by another name."""
        if node.parent is None:
            return
        former = self._former
        former[node.ino] = name = node.parent.ino, node.name
        if len(former) > _FORMER:
            former.pop(next(iter(former)), None)
        if self._displaced is not None:
            self._displaced(*name)

    def watch_known(self) -> None:
        """Everything is watched anyway."""

    def before(self, directory: Ino) -> int:
        return self._sequence

    def before_attributes(self, ino: Ino) -> int:
        return self._sequence

    def names_hold(self, token: int, directory: Ino) -> bool:
        raise NotImplementedError

    def attributes_hold(self, token: int, ino: Ino, attr: Attr) -> bool:
        raise NotImplementedError

    def status(self) -> dict[str, object]:
        return {
            "means": self.how,
            "batches": self._batches,
            "overflows": self._overflows,
            "lost": self._lost,
        }


def is_directory(attr: Attr) -> bool:
    return stat.S_ISDIR(attr.mode)
