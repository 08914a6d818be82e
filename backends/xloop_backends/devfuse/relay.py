# SPDX-License-Identifier: MIT
"""Events on the mount: what others change on the source is repeated through the mount, for those who watch there.

Owns the thread that repeats, and the choice of what is repeated and how.  Does not own how changes are heard of
(:mod:`xloop.watch`) nor the server's part in it (:mod:`.play`).

The kernel sends events to watchers of a FUSE file system as it does for any other: when a program changes something
through it.  There is no message by which a server could cause one.  So a thread of the server is such a program: it
makes the name, takes it away, renames it; the server knows the thread by its number, and plays along.  The
events are the kernel's own, whoever watches, by whatever means.

* A name appears: mknod(2), mkdir(2) or symlink(2), which cause IN_CREATE alone.
* Data changed: utimensat(2) of the time of modification alone, which is IN_MODIFY.  What the kernel has of the data is
  dropped before, for whoever hears of it reads.
* Attributes changed: setxattr(2).  Its reply brings no attributes, so nothing of what the kernel believes moves.
* A file that was written was closed: open(2) and close(2), so IN_OPEN comes first.
* A name is gone, or another: unlink(2), rmdir(2), rename(2).  What is renamed from or to a place that nobody knows
  on the mount goes to, or comes from, a directory that nobody ever sees: so the other half is not told.

**The mount is reached** by a mount like it that is nowhere in the tree, for as long as there is something to repeat: so
unmounting is refused to nobody, and nothing is reached that somebody has mounted inside.  Its directories are reached
by the numbers that the kernel knows them by.

**What costs nothing**: changes where the kernel knows no directory.  The watch leaves them out.

**Root only.**  What others have, inotify, does not tell who made a change, so what is done through the mount would be told
twice; and the mount that is nowhere in the tree is root's.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import sleep
from typing import TypeVar

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
from xloop.host import host
from xloop.ops import Operations
from xloop.types import Caller, Entry, Ino

from . import abi
from .play import Answer, Play, absent
from .reach import GoneError, Reach
from .writers import Writers

__all__ = ["Relay"]

T = TypeVar("T")

_log = logging.getLogger("xloop.devfuse")

#: How often, and after how many seconds, to open what cannot be opened now.
_TRIES, _PAUSE = 5, 0.004

#: Most changes that wait; beyond that they are as good as unheard.
_MOST = 1 << 20
#: Changes for which the mount is reached once.
_BATCH = 512
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
        self._ops = operations
        self._watch = watch
        self._reach = reach
        self._writers = writers
        self._connection = connection
        self._own = own
        self.caller = Caller(os.geteuid(), os.getegid(), os.getpid())
        self._queue: deque[Change] = deque()
        self._ready = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        #: Whether a number and a handle are of the same directory, for one batch.
        self._same: dict[tuple[Ino, bytes], bool] = {}
        self._hidden = count()
        #: What is about to get a further name.
        self._linked: Ino | None = None
        self._relayed = 0
        self._failed = 0
        self._overflows = 0
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

    def status(self) -> dict[str, object]:
        return {
            "relayed": self._relayed,
            "not relayed": self._failed,
            "waiting": len(self._queue),
            "overflows": self._overflows,
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
            return target is not None and bool(thread or kind & ATTRIB)
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

    # -- answers ------------------------------------------------------------------------

    def _there(self, directory: Ino, name: bytes) -> Entry | None:
        try:
            return self._ops.lookup(self.caller, directory, name)
        except OSError:
            return None

    def _forget(self, entry: Entry | None) -> None:
        if entry is not None:
            self._ops.forget(entry.ino, 1)

    def _thing(self, change: Change) -> Answer:
        """Answer with what has the name of *change*, or had it when it was changed."""
        kind, directory, name, target, *_ = change
        assert directory is not None

        def answer() -> Entry | None:
            return self._now_or_then(directory, name, target, directory=bool(kind & ISDIR))

        return answer

    def _now_or_then(
        self, at: Ino | None, name: bytes, target: Ino | None, *, directory: bool
    ) -> Entry:
        """Return what has a name now if that is *target*, or nobody knows what is; and else what *target* was."""
        found = None if at is None else self._there(at, name)
        if found is not None and target not in (None, found.ino):
            self._forget(found)
            found = None
        if found is None and target is not None:
            found = self._reach.recalled(target)
        if found is not None and stat.S_ISDIR(found.attr.mode) != directory:
            self._forget(found)
            found = None
        return found or self.play.phantom(directory=directory)

    def _victim(self, target: Ino | None, *, directory: bool) -> Answer:
        """Answer with *target* as it was before it lost the name that it is about to lose."""

        def answer() -> Entry | None:
            entry = None if target is None else self._watch.recall(target)
            if entry is not None:
                attr = entry.attr
                # A directory that is taken away cannot be used any more: none that is there.
                if stat.S_ISDIR(attr.mode) == directory and not (directory and attr.nlink):
                    return entry._replace(attr=attr._replace(nlink=attr.nlink + 1))
                self._forget(entry)
            return self.play.phantom(directory=directory)

        return answer

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
        kind, directory, name, _, *_ = change
        assert directory is not None
        made = self._there(directory, name)
        if made is not None and stat.S_ISDIR(made.attr.mode) != bool(kind & ISDIR):
            self._forget(made)
            made = None
        if made is None:
            made = self.play.phantom(directory=bool(kind & ISDIR))
        mode = made.attr.mode
        linked, self._linked = self._linked, None
        try:
            ref = self._reach.open(made.ino) if made.ino == linked else None
        except OSError:
            ref = None
        self.play.begin({(directory, name): absent}, made)
        try:
            if ref is not None:
                os.link(b"/proc/self/fd/%d" % ref, name, dst_dir_fd=at)
            elif stat.S_ISDIR(mode):
                os.mkdir(name, dir_fd=at)
            elif stat.S_ISLNK(mode):
                os.symlink(b"elsewhere", name, dir_fd=at)
            else:
                os.mknod(name, mode, made.attr.rdev, dir_fd=at)
        finally:
            self._forget(self.play.end())

    def _again(self, at: int, change: Change) -> None:
        """A name came and went: make it once more if it has come back since, or never went."""
        assert change.directory is not None
        found = self._there(change.directory, change.name)
        if found is not None and found.ino == change.target:
            if self._watch.is_same(found.ino, change.handles[1]):
                self._create(at, change)
        self._forget(found)

    def _changed(self, at: int, change: Change) -> None:
        kind, directory, name, target, *_ = change
        assert directory is not None
        if target is not None:
            self._invalidate(target, 0 if kind & (MODIFY | CLOSE_WRITE) else -1)
        if target is None and self._was_ours(change):
            return
        self.play.begin({(directory, name): self._thing(change)})
        try:
            file = self._asked_anew(directory, name, lambda: self._reach.named(name, at))
            if kind & MODIFY:
                host.utimens(file, None, 0)
                if target is not None:
                    # By its reply the kernel knows the time of data that it may have read before.
                    self._invalidate(target, 0)
            if kind & ATTRIB:
                self._mark(b"/proc/self/fd/%d/%b" % (at, name))
            # Opening anything else acts on it.
            if kind & CLOSE_WRITE and stat.S_ISREG(os.fstat(file).st_mode):
                self._open_and_close(file)
        finally:
            self.play.end()

    def _open_and_close(self, file: int) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        for _ in range(_TRIES):
            try:
                os.close(os.open(b"/proc/self/fd/%d" % file, flags))
            except OSError as exc:
                # EIO: somebody has it open with passthrough, then the kernel wants that from everybody.
                if exc.errno != errno.EIO:
                    raise
                sleep(_PAUSE)
            else:
                return
        self._failed += 1

    def _was_ours(self, change: Change) -> bool:
        """Whether it was a file that is gone since, and that the same thread had written through the mount."""
        assert change.directory is not None
        if self._writers is None or not self._writers.wrote_lately(change.thread):
            return False
        found = self._there(change.directory, change.name)
        self._forget(found)
        return found is None

    def _mark(self, path: bytes) -> None:
        os.setxattr(path, "trusted.xloop", b"", follow_symlinks=False)

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
        self._forget(entry)
        if entry is None or not entry.attr.nlink:
            return  # its number may be that of something else by now, which is nobody's business here
        if kind & ISDIR:
            self._invalidate(target, -1)
            if kind & ATTRIB:
                self._mark(b"/proc/self/fd/%d/." % self._reach.directory(target))
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
        kind, directory, name, target, *_ = change
        assert directory is not None
        is_directory = bool(kind & ISDIR)
        if target is not None:
            self._reach.let_go(target)
        self.play.begin({(directory, name): self._victim(target, directory=is_directory)})
        try:
            remove = os.rmdir if is_directory else os.unlink
            self._asked_anew(directory, name, lambda: remove(name, dir_fd=at))
        finally:
            self.play.end()

    def _asked_anew(self, directory: Ino, name: bytes, call: Callable[[], T]) -> T:
        """Do *call*; where it fails because the kernel believes to know *name* already, have it ask and repeat it."""
        for _ in range(_TRIES):
            try:
                return call()
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                    raise
            self._drop(directory, name, abi.EXPIRE_ONLY)
        return call()

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

    def _replaced(self, moved: Change) -> Ino | None:
        """Take out and return what lost its name to a rename: that is told right after it."""
        if not self._queue:
            return None
        kind, _, name, target, *_ = self._meant(self._queue[0])
        if name or not kind & ATTRIB or target is None or target == moved.target:
            return None
        if self._watch.name_of(target) != (moved.directory, moved.name):
            return None
        self._queue.popleft()
        return target

    def _rename(self, before: Change | None, after: Change | None) -> None:
        if before is not None and before.directory is None:
            before = None
        if after is not None and after.directory is None:
            after = None
        change = after or before
        if change is None:
            return
        kind, _, _, target, *_ = change
        is_directory = bool(kind & ISDIR)
        replaced = None if after is None else self._replaced(after)
        old, old_at, old_name = self._place(before)
        new, new_at, new_name = self._place(after)

        def moved() -> Entry:
            there = None if after is None else new
            found = self._now_or_then(there, new_name, target, directory=is_directory)
            if found.ino != replaced:
                return found
            # By now something of its number has the name again: but renaming a file to itself is nothing at all.
            self._forget(found)
            return self.play.phantom(directory=is_directory)

        lost = self._victim(replaced, directory=is_directory)

        def victim() -> Entry | None:
            # Unless what is renamed was asked for, it may be the same; and then the kernel does nothing at all.
            there = replaced is not None and self.play.was_asked(old, old_name)
            return lost() if there else None

        self.play.begin({(old, old_name): moved, (new, new_name): victim})
        try:
            # A directory that the kernel knows by another name cannot be found under the locks of a rename.
            ref = None
            if is_directory:
                ref = self._asked_anew(old, old_name, lambda: self._reach.named(old_name, old_at))
            self._asked_anew(
                old,
                old_name,
                lambda: os.rename(old_name, new_name, src_dir_fd=old_at, dst_dir_fd=new_at),
            )
            del ref
        finally:
            self.play.end()
        if after is None:
            self._drop(new, new_name, 0)

    def _place(self, change: Change | None) -> tuple[Ino, int, bytes]:
        if change is None:
            return (*self._reach.elsewhere, b"%d" % next(self._hidden))
        assert change.directory is not None
        return change.directory, self._reach.directory(change.directory), change.name

    # -- the kernel ---------------------------------------------------------------------

    def _invalidate(self, ino: Ino, offset: int) -> None:
        """Have attributes dropped, and from *offset* on the data, unless it is negative."""
        size = abi.NOTIFY_INVAL_INODE.size
        self._tell(
            abi.NOTIFY_INVAL_INODE.pack(size, abi.NOTIFY_INVAL_INODE_CODE, 0, ino, offset, 0)
        )

    def _drop(self, directory: Ino, name: bytes, flags: int) -> None:
        size = abi.NOTIFY_INVAL_ENTRY.size + len(name) + 1
        head = abi.NOTIFY_INVAL_ENTRY.pack(
            size, abi.NOTIFY_INVAL_ENTRY_CODE, 0, directory, len(name), flags
        )
        self._tell(head + name + b"\0")

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # ENOENT: it is not known
            os.write(self._connection, message)
