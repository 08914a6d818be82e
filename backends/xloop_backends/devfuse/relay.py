# SPDX-License-Identifier: MIT
"""Events on the mount: what others change on the source is repeated through the mount, for those who watch there.

Owns the thread that repeats, and the choice of what is repeated.  Does not own how changes are heard of
(:mod:`xloop.watch`), the calls that repeat one (:mod:`.steps`) nor the server's part in it (:mod:`.play`).

The kernel sends events to watchers of a FUSE file system as it does for any other: when a program changes something
through it.  There is no message by which a server could cause one.  So a thread of the server is such a program: it
makes the name, takes it away, renames it; the server knows the thread by its number, and plays along.  The
events are the kernel's own, whoever watches, by whatever means.

**The mount is reached** by a mount like it that is nowhere in the tree (:mod:`.reach`): so unmounting is refused to
nobody, and nothing is reached that somebody has mounted inside.  Its directories are reached by the numbers that the
kernel knows them by, or by the names.

**What costs nothing**: changes where the kernel knows no directory.  The watch leaves them out.

**What is told by directory only** (see :class:`xloop.changes.Watch`) lacks what happens to a file by no name.  That it has one
more is seen by the name it had, and that it was replaced by what had its name before.
"""

from __future__ import annotations

import logging
import stat
import threading
from collections import deque

from xloop.changes import (
    ATTRIB,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    ISDIR,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Change,
    Watch,
)
from xloop.host import Descriptor
from xloop.ops import Operations
from xloop.types import Ino

from .play import Play
from .reach import GoneError, Reach
from .steps import Steps
from .writers import Writers

__all__ = ["Relay"]

_log = logging.getLogger("xloop.devfuse")

#: Most changes that wait; beyond that they are as good as unheard.
_MOST = 1 << 20
#: Changes for which the mount is reached once.
_BATCH = 512
#: Names of which it is remembered that they were taken away, at most.
_TAKEN = 4096
#: Seconds to wait for the second half of a rename.
_HALF = 0.02


class Relay:
    """The thread that repeats, for one connection."""

    def __init__(
        self,
        operations: Operations,
        watch: Watch,
        play: Play,
        reach: Reach,
        writers: Writers | None,
        connection: int,
        *,
        own: set[int],
    ) -> None:
        """*reach*: of the mount.  *writers*: who writes with passthrough.

        *own*: where the number of the thread goes, before it does anything.
        """
        self.play = play
        #: The thread's number for the kernel; 0: it does not run.
        self.tid = 0
        self._steps = Steps(operations, watch, play, reach, connection)
        self.caller = self._steps.caller
        self._watch = watch
        self._reach = reach
        self._writers = writers
        self._own = own
        self._queue: deque[Change] = deque()
        self._ready = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        #: Whether a number and a handle are of the same directory, for one batch.
        self._same: dict[tuple[Ino, bytes], bool] = {}
        #: What is about to get a further name.
        self._linked: Ino | None = None
        #: What had which name, for one batch; None: nobody has asked yet.
        self._names: dict[tuple[Ino, bytes], Ino] | None = None
        #: What had it before that, as far as it is known still.
        self._earlier: dict[tuple[Ino, bytes], Ino] = {}
        #: What had lost which name when that was relayed, the earliest first.
        self._taken: dict[tuple[Ino, bytes], Ino] = {}
        self._relayed = 0
        self._failed = 0
        self._overflows = 0
        watch.watch_known()
        watch.listen(self._hear)

    # -- life ---------------------------------------------------------------------------

    def start(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="xloop-relay", daemon=True
        )
        self._thread.start()
        started.wait()

    def close(self) -> None:
        """Begin nothing any more."""
        self._ended = True
        self._ready.set()

    def join(self) -> None:
        """Wait for the end: the connection is over, so nothing waits for an answer any more."""
        if self._thread is not None:
            self._thread.join(5)
        self._reach.close()

    def status(self) -> dict[str, object]:
        return {
            "mode": "relay",
            "relayed": self._relayed,
            "not relayed": self._failed,
            "waiting": len(self._queue),
            "overflows": self._overflows,
            "watch": self._watch.status(),
        }

    # -- what is heard ------------------------------------------------------------------

    def _hear(self, changes: list[Change]) -> None:
        if self._ended:
            return
        if len(self._queue) > _MOST:
            self._overflows += 1
            return
        self._queue.extend(change for change in changes if self._concerns(change))
        self._ready.set()

    def _concerns(self, change: Change) -> bool:
        kind, directory, name, target, _, thread, _ = change
        if kind & OVERFLOW:
            return True
        if kind & (MODIFY | CLOSE_WRITE) and target is not None and self._writers is not None:
            if self._writers.wrote(target, thread):
                return False
        if not name:
            # Files that are open are looked at from time to time, and nobody has changed them by a call.
            by_call = kind & ISDIR if self._watch.by_directory else thread or kind & ATTRIB
            return target is not None and bool(by_call)
        return directory is not None or bool(kind & (MOVED_FROM | MOVED_TO))

    # -- the thread ---------------------------------------------------------------------

    def _run(self, started: threading.Event) -> None:
        self.tid = threading.get_native_id()
        self._own.add(self.tid)
        started.set()
        while not self._ended:
            self._ready.wait()
            self._ready.clear()
            try:
                while self._queue and not self._ended:
                    self._same.clear()
                    self._names = None
                    with self._reach.reached():
                        for _ in range(_BATCH):
                            if not self._queue or self._ended:
                                break
                            self._relay(self._queue.popleft())
            except GoneError:
                self._queue.clear()
            except Exception as exc:  # noqa: BLE001  # the mount goes on without events
                _log.error("events are not relayed any more", exc_info=exc)
                self._ended = True
                self._queue.clear()

    # -- repeating ----------------------------------------------------------------------

    def _relay(self, change: Change) -> None:
        try:
            self._repeat(self._meant(change))
        except OSError as exc:
            # Whatever it was about is gone from the mount, and so is whoever watched it.
            self._failed += 1
            _log.debug("%r is not relayed: %s", change, exc)
        else:
            self._relayed += 1

    def _meant(self, change: Change) -> Change:
        """Return *change* without what only has the number of what was meant.

        Others change things anywhere in the file system, and their names are nobody's business here.
        """
        _, directory, _, target, *_, (at, of) = change
        if directory is not None:
            key = directory, at
            same = self._same.get(key)
            if same is None:
                same = self._same[key] = self._watch.is_same(*key)
            if not same:
                change = change._replace(directory=None)
        if target is not None and not self._watch.is_same(target, of):
            change = change._replace(target=None)
        return change

    def _repeat(self, change: Change) -> None:
        kind, directory, name, target, cookie, *_ = change
        if kind & (MOVED_FROM | DELETE) and directory is not None and target is not None:
            self._take(directory, name, target)
        if kind & OVERFLOW:
            self._overflows += 1
            return
        if kind & MOVED_FROM:
            self._rename(change, self._second_half(cookie))
            return
        if kind & MOVED_TO:
            self._rename(None, change)
            return
        if not name:
            if target is not None:
                self._nameless(change, target)
            return
        if directory is None:
            return
        at = self._reach.directory(directory)
        if kind & CREATE:
            self._create(at, change)
        if kind & (MODIFY | CLOSE_WRITE | ATTRIB):
            self._changed(at, change)
        if kind & DELETE:
            self._delete(at, change)
            if kind & CREATE:
                self._again(at, change)

    def _create(self, at: int, change: Change) -> None:
        kind, directory, name, *_ = change
        assert directory is not None
        # By the other name: it has to be reached before anybody is told of this one.
        linked, ref = self._about_to_be_linked(change)
        made = self._steps.there(directory, name)
        if made is not None and stat.S_ISDIR(made.attr.mode) != bool(kind & ISDIR):
            self._steps.forget(made)
            made = None
        if made is None:
            made = self._steps.play.phantom(directory=bool(kind & ISDIR))
        try:
            self._steps.make(at, change, made, ref if made.ino == linked else None)
        except PermissionError:
            if stat.S_IFMT(made.attr.mode) not in (stat.S_IFCHR, stat.S_IFBLK):
                raise
            # Whoever looks at the name finds the device.
            self._steps.make(at, change, self._steps.play.phantom(directory=False), None)

    def _about_to_be_linked(self, change: Change) -> tuple[Ino | None, Descriptor | None]:
        """Return what gets a further name by *change*, and a reference to it."""
        kind, directory, name, target, *_ = change
        linked, self._linked = self._linked, None
        if self._watch.by_directory and target is not None and not kind & ISDIR:
            # Nothing but its number tells that it had a name before.
            if self._watch.name_of(target) not in (None, (directory, name)):
                linked = target
        if linked is None:
            return None, None
        try:
            return linked, self._reach.open(linked)
        except OSError:
            return linked, None

    def _again(self, at: int, change: Change) -> None:
        """A name came and went: make it once more if it has come back since, or never went."""
        assert change.directory is not None
        found = self._steps.there(change.directory, change.name)
        if found is not None and found.ino == change.target:
            if self._watch.is_same(found.ino, change.handles[1]):
                self._create(at, change)
        self._steps.forget(found)

    def _changed(self, at: int, change: Change) -> None:
        kind, _, _, target, *_ = change
        if target is not None:
            self._steps.invalidate(target, 0 if kind & (MODIFY | CLOSE_WRITE) else -1)
        if target is None and self._was_ours(change):
            return
        if not self._steps.touch(at, change):
            self._failed += 1

    def _was_ours(self, change: Change) -> bool:
        """Whether it was a file that is gone since, and that the same thread had written through the mount."""
        assert change.directory is not None
        if self._writers is None or not self._writers.wrote_lately(change.thread):
            return False
        found = self._steps.there(change.directory, change.name)
        self._steps.forget(found)
        return found is None

    def _nameless(self, change: Change, target: Ino) -> None:
        """Something changed by no name that is known: a directory itself, or a file by another link."""
        kind = change.kind
        if kind & ATTRIB and not kind & ISDIR and self._queue:
            # The number of its names, mostly.  What changes that tells so by itself.
            following = self._queue[0]
            if following.target == target and following.kind & (CREATE | DELETE):
                kind &= ~ATTRIB
                if following.kind & CREATE:
                    self._linked = target
        entry = self._watch.recall(target)
        self._steps.forget(entry)
        if entry is None or not entry.attr.nlink:
            return  # its number may be that of something else by now, which is nobody's business here
        if kind & ISDIR:
            self._steps.invalidate(target, -1)
            if kind & ATTRIB:
                self._steps.mark(b"/proc/self/fd/%d/." % self._reach.directory(target))
            return
        if not kind & (MODIFY | CLOSE_WRITE | ATTRIB):
            return
        found = self._watch.name_of(target)
        if found is None:
            return
        self._changed(
            self._reach.directory(found[0]),
            Change(kind, found[0], found[1], target, 0, change.thread),
        )

    def _delete(self, at: int, change: Change) -> None:
        target = change.target
        if target is not None:
            self._reach.let_go(target)
        try:
            self._steps.remove(at, change, target)
        except PermissionError:
            if target is None:
                raise
            # It is somebody else's, in a sticky directory.
            self._steps.remove(at, change, None)

    # -- renaming -----------------------------------------------------------------------

    def _second_half(self, cookie: int) -> Change | None:
        """Take out the other half of a rename, which follows the first."""
        if not self._queue:
            self._ready.wait(_HALF)
        if self._queue:
            following = self._queue[0]
            if following.kind & MOVED_TO and following.cookie == cookie:
                return self._meant(self._queue.popleft())
        return None

    def _replaced(self, before: Change | None, after: Change) -> Ino | None:
        """Return what lost its name to a rename."""
        if self._watch.by_directory:
            return self._lost(before, after)
        # That is told right after it.
        if not self._queue:
            return None
        kind, _, name, target, *_ = self._meant(self._queue[0])
        if name or not kind & ATTRIB or target is None or target == after.target:
            return None
        if self._watch.name_of(target) != (after.directory, after.name):
            return None
        self._queue.popleft()
        return target

    def _take(self, directory: Ino, name: bytes, ino: Ino) -> None:
        """Note that *ino* has lost *name*, though the table of nodes may go on to say so."""
        if self._watch.by_directory:
            self._taken.pop((directory, name), None)
            self._taken[directory, name] = ino
            if len(self._taken) > _TAKEN:
                del self._taken[next(iter(self._taken))]

    def _lost(self, before: Change | None, after: Change) -> Ino | None:
        """Return what had the new name before, if it is gone: nothing tells."""
        assert after.directory is not None
        if self._names is None:
            self._note_names()
        assert self._names is not None
        target = after.target
        key = after.directory, after.name
        lost = self._names.pop(key, None)
        earlier = self._earlier.pop(key, None)
        if earlier is not None and lost is not None and not self._is_gone(lost):
            lost = earlier  # somebody has looked already: what has the name now is known by it too
        if target is not None:
            self._names[key] = target
        if lost is None or lost in (target, self._taken.pop(key, None)):
            return None
        if before is not None and before.directory is not None:
            exchanged = self._steps.there(before.directory, before.name)
            self._steps.forget(exchanged)
            if exchanged is not None and exchanged.ino == lost:
                return None
        return lost if self._is_gone(lost) else None

    def _is_gone(self, ino: Ino) -> bool:
        entry = self._watch.recall(ino)
        self._steps.forget(entry)
        return entry is not None and not entry.attr.nlink

    def _note_names(self) -> None:
        names: dict[tuple[Ino, bytes], Ino] = {}
        self._earlier.clear()
        for ino, at, name in self._watch.known():
            if at is not None:
                key = at, name
                if key in names:
                    self._earlier[key] = names[key]
                names[key] = ino
        self._names = names

    def _rename(self, before: Change | None, after: Change | None) -> None:
        if before is not None and before.directory is None:
            before = None
        if after is not None and after.directory is None:
            after = None
        change = after or before
        if change is None:
            return
        replaced = None if after is None else self._replaced(before, after)
        try:
            self._steps.move(before, after, replaced)
        except PermissionError:
            # One of them is somebody else's, in a sticky directory.
            self._steps.move(before, after, None, masked=True)
