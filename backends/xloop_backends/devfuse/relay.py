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
from contextlib import suppress

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
#: What is told of a file by whatever name it was changed.
_BY_ANY_NAME = MODIFY | CLOSE_WRITE | ATTRIB
#: Seconds to wait before the mount is tried once more, each time that it cannot be reached for a reason that passes.
_PAUSES = (0.02, 0.1, 0.4, 1.0)
#: Names of which it is remembered that they were taken away, at most.
_TAKEN = 4096


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
        self._over = threading.Event()
        #: How often in a row the mount could not be reached, though it is there.
        self._attempts = 0
        #: Why the mount could not be reached the last time.
        self._unreached = ""
        #: What it has ended by, other than the end of the mount.
        self._why = ""
        self._thread: threading.Thread | None = None
        #: Whether a number and a handle are of the same directory, for one batch.
        self._same: dict[tuple[Ino, bytes], bool] = {}
        #: What is about to get a further name.
        self._linked: Ino | None = None
        #: What had which name, for one batch; None: nobody has asked yet.
        self._names: dict[tuple[Ino, bytes], list[Ino]] | None = None
        #: What had lost which name when that was relayed, the earliest first.
        self._taken: dict[tuple[Ino, bytes], set[Ino]] = {}
        self._relayed = 0
        self._failed = 0
        self._overflows = 0
        watch.watch_known()
        watch.listen(self._hear)

    # -- life ---------------------------------------------------------------------------

    def start(self) -> None:
        started = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(started,), name="xloop-relay", daemon=True
        )
        thread.start()
        # Not before: one that could not be started cannot be waited for.
        self._thread = thread
        started.wait()

    def close(self) -> None:
        """Begin nothing any more."""
        self._ended = True
        self._over.set()
        self._ready.set()

    def join(self) -> None:
        """Wait for the end: the connection is over, so nothing waits for an answer any more."""
        if self._thread is not None:
            self._thread.join(5)
        self._reach.close()

    def status(self) -> dict[str, object]:
        return {
            "mode": "ended" if self._why else "relay",
            "ended": self._why,
            "not reached": self._unreached,
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
        # A list: the two halves of a rename are there in one step, or not at all.
        self._queue.extend([change for change in changes if self._concerns(change)])
        self._ready.set()

    def _concerns(self, change: Change) -> bool:
        kind, directory, name, target, _, thread, _ = change
        if kind & OVERFLOW:
            return True
        if kind & (MODIFY | CLOSE_WRITE) and target is not None and self._writers is not None:
            if self._writers.is_told(target, thread):
                return False
        if not name:
            # Files that are open are looked at from time to time, and nobody has changed them by a call.
            by_call = kind & ISDIR if self._watch.by_directory else thread or kind & ATTRIB
            return target is not None and bool(by_call)
        if directory is None and kind & _BY_ANY_NAME:
            return target is not None
        return directory is not None or bool(kind & (MOVED_FROM | MOVED_TO))

    # -- the thread ---------------------------------------------------------------------

    def _run(self, started: threading.Event) -> None:
        try:
            self.tid = threading.get_native_id()
            self._own.add(self.tid)
            started.set()
            self._go_on()
        except BaseException as exc:  # noqa: BLE001  # the mount goes on without events
            _log.error("events are not relayed any more", exc_info=exc)
            self._why = f"{type(exc).__name__}: {exc}"
        finally:
            # Whatever gets the number next is nobody that the server knows.
            tid, self.tid = self.tid, 0
            self._own.discard(tid)
            self._ended = True
            self._queue.clear()
            started.set()

    def _go_on(self) -> None:
        while not self._ended:
            self._ready.wait()
            self._ready.clear()
            while self._queue and not self._ended:
                self._relay_some()

    def _relay_some(self) -> None:
        """Relay what waits, as much of it as is worth to reach the mount for; or give it up."""
        self._same.clear()
        self._names = None
        if self._writers is not None:
            self._writers.begin()
        try:
            with self._reach.reached():
                self._attempts, self._unreached = 0, ""
                for _ in range(_BATCH):
                    if not self._queue or self._ended:
                        break
                    change = self._queue.popleft()
                    if not self._was_told(change):
                        self._relay(change)
        except GoneError as exc:
            self._give_up(str(exc), logging.INFO)
        except OSError as exc:
            # For want of descriptors or memory, mostly, and that passes.
            if self._attempts < len(_PAUSES):
                self._over.wait(_PAUSES[self._attempts])
                self._attempts += 1
            else:
                self._give_up(exc.strerror or str(exc), logging.WARNING)

    def _give_up(self, why: str, level: int) -> None:
        """Drop what waits: the mount cannot be reached."""
        if not self._unreached and not self._ended:
            _log.log(level, "events are not relayed: the mount cannot be reached: %s", why)
        self._unreached = why
        for _ in range(len(self._queue)):  # and what is heard meanwhile is not lost uncounted
            self._queue.popleft()
            self._failed += 1

    def _was_told(self, change: Change) -> bool:
        """Whether a program has made *change* through the mount, past the server: the kernel has told it."""
        if self._writers is None or change.target is None:
            return False
        written = change.kind & (MODIFY | CLOSE_WRITE)
        return bool(written) and self._writers.wrote(change.target, change.thread)

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
        kind, directory, name, target, *_, (at, of) = change
        if directory is not None:
            key = directory, at
            same = self._same.get(key)
            if same is None:
                same = self._same[key] = self._watch.is_same(*key)
            if not same:
                change = change._replace(directory=None)
        if target is not None and not self._watch.is_same(target, of):
            found = None
            if kind & DELETE and change.directory is not None:
                # Something else has its number already, and somebody has looked at that.
                had = self._known_names().get((change.directory, name), ())
                found = next(filter(self._is_gone, had), None)
            change = change._replace(target=found)
        return change

    def _repeat(self, change: Change) -> None:
        kind, directory, name, target, cookie, *_ = change
        if directory is not None and self._watch.by_directory:
            if kind & CREATE:
                self._give(directory, name, target)
            if kind & (MOVED_FROM | DELETE) and target is not None:
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
        if not name or directory is None:
            if target is not None and (not name or kind & _BY_ANY_NAME):
                self._nameless(change, target)
            return
        at = self._reach.directory(directory)
        if kind & CREATE:
            self._create(at, change)
        if kind & _BY_ANY_NAME:
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
            if any(other != (directory, name) for other in self._watch.names_of(target)):
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
        if not self._steps.touch(at, change, patient=not self._queue):
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
        left = self._names_left(target)
        if left is None:
            return
        if not left:
            # Its number may be that of something else by now, which is nobody's business here.
            if kind & ATTRIB and not kind & ISDIR:
                # A rename has taken its name, and was repeated before this was told.
                self._steps.bury(target)
            return
        if kind & ISDIR:
            self._steps.invalidate(target, -1)
            if kind & ATTRIB:
                self._steps.mark(b"/proc/self/fd/%d/." % self._reach.directory(target))
            return
        if kind & ATTRIB:
            self._mark_alone(target)
            kind &= ~ATTRIB
        if not kind & _BY_ANY_NAME:
            return
        found = self._watch.name_of(target)
        if found is None:
            return
        self._changed(
            self._reach.directory(found[0]),
            Change(kind, found[0], found[1], target, 0, change.thread),
        )

    def _skip_count(self, ino: Ino) -> None:
        """Leave out what comes next if it is that *ino* has a name less.

        That was told before the name was removed, and the removal has been put together with an earlier change.
        """
        if self._queue:
            following = self._queue[0]
            if following.target == ino and not following.name and following.kind == ATTRIB:
                self._queue.popleft()

    def _mark_alone(self, ino: Ino) -> None:
        # ESTALE: the kernel has forgotten it meanwhile, so nobody watches it, and the rest is told all the same.
        with suppress(OSError):
            self._steps.mark_alone(ino)

    def _delete(self, at: int, change: Change) -> None:
        target = change.target
        if target is not None:
            self._reach.let_go(target)
            if not change.kind & ISDIR and self._has_names(target):
                # As natively: it hears that it has a name less, and then its directory which.
                self._mark_alone(target)
                if change.kind & ~DELETE:
                    self._skip_count(target)
                target = None
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
        assert after.directory is not None
        if (after.directory, after.name) not in self._watch.names_of(target):
            return None
        self._queue.popleft()
        return target

    def _take(self, directory: Ino, name: bytes, ino: Ino) -> None:
        """Note that *ino* has lost *name*, though the table of nodes may go on to say so."""
        self._taken[directory, name] = {ino, *self._taken.pop((directory, name), ())}
        if len(self._taken) > _TAKEN:
            del self._taken[next(iter(self._taken))]

    def _give(self, directory: Ino, name: bytes, ino: Ino | None) -> None:
        """Note that *name* has been made again, which may be something with a number that has lost it before."""
        taken = self._taken.pop((directory, name), set())
        taken = {old for old in taken - {ino} if self._watch.name_of(old) is not None}
        if taken:
            self._taken[directory, name] = taken

    def _lost(self, before: Change | None, after: Change) -> Ino | None:
        """Return what had the new name before: nothing tells."""
        assert after.directory is not None
        target = after.target
        key = after.directory, after.name
        names = self._known_names()
        # Several, where somebody has looked up the new one already.
        had = names.pop(key, [])
        if target is not None:
            names[key] = [target]
        not_lost = {target, *self._taken.pop(key, ())}
        if before is not None and before.directory is not None:
            exchanged = self._steps.there(before.directory, before.name)
            self._steps.forget(exchanged)
            if exchanged is not None:
                not_lost.add(exchanged.ino)
        had = [ino for ino in had if ino not in not_lost]
        gone = next(filter(self._is_gone, had), None)
        if gone is not None:
            return gone
        # Or else what has this name no more, but others.
        told = (ino for ino in had if self._watch.name_of(ino) == key)
        return next(filter(self._has_names, told), None)

    def _known_names(self) -> dict[tuple[Ino, bytes], list[Ino]]:
        if self._names is None:
            self._names = {}
            for ino, at, name in self._watch.known():
                if at is not None:
                    self._names.setdefault((at, name), []).append(ino)
        return self._names

    def _is_gone(self, ino: Ino) -> bool:
        """Whether *ino* is known, and has no name any more."""
        return self._names_left(ino) == 0

    def _has_names(self, ino: Ino) -> bool:
        """Whether *ino* is known, and has names left."""
        return bool(self._names_left(ino))

    def _names_left(self, ino: Ino) -> int | None:
        """Return how many names *ino* has; None: it is not known."""
        entry = self._watch.recall(ino)
        self._steps.forget(entry)
        return None if entry is None else entry.attr.nlink

    def _rename(self, before: Change | None, after: Change | None) -> None:
        if before is not None and before.directory is None:
            before = None
        if after is not None and after.directory is None:
            after = None
        change = after or before
        if change is None:
            return
        replaced = None if after is None else self._replaced(before, after)
        kept = replaced if replaced is not None and self._has_names(replaced) else None
        try:
            self._steps.move(before, after, None if kept is not None else replaced)
        except PermissionError:
            # One of them is somebody else's, in a sticky directory.
            self._steps.move(before, after, None, masked=True)
        if kept is not None:
            self._mark_alone(kept)
