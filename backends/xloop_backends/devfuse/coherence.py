# SPDX-License-Identifier: MIT
"""Caches of the kernel that live until something changes: who tells the kernel, and how.

Owns the way from a change on the source to the kernel's word that it has dropped what it knew of it,
and for how long it may believe things meanwhile.  Does not own how changes are heard of
(:mod:`xloop.watch`) nor the replies (:mod:`.coherent`).

**What is believed for long** is what was read before any change that was not told yet: see
:mod:`xloop.watch.base`.  What is left are the moments between our reply and the end of the
client's system call.  The kernel's own rules decide them (fs/fuse/dir.c, inode.c):

* *Attributes.*  A reply to LOOKUP, READDIRPLUS, GETATTR or STATX is dropped if the inode was invalidated after the
  request was made (fuse_inode.attr_version).  If the kernel does not know the inode yet, there is nothing to
  invalidate, and the kernel says ENOENT: then a reply that makes it known may be on its way.  Such a
  reply is taken under the lock of the directory, and expiring the name there waits for this lock; so the
  name is expired first, and then the inode once more.  All other replies are taken whatever was invalidated
  meanwhile, and their attributes believed for attr_timeout only.  Those to CREATE, MKDIR and so on
  make an inode known, and so it is as above.  SETATTR and LINK hold the lock of the inode: where one was
  answered lately, a name "in" the inode is expired, which waits for this lock even where
  the inode is no directory (ENOTDIR comes after it), and then the inode once more.
* *Names.*  Everything but the revalidation of a name that is known runs under the lock of the directory, which
  FUSE_NOTIFY_INVAL_ENTRY takes too: it comes after whatever was under way.  A revalidation may set a
  long life after we expired the name.  So a name that does not lead any more to what it was last told to
  lead to is not expired but dropped: the entry that gets the long life then is found by nobody.  Where a directory is not watched
  any more and a name leads where it did, it is expired once more when such a reply is taken.
* *Listings* carry the value of a counter that moves with each name that is invalidated in their directory, if
  the kernel knows the name; a name that has just appeared it does not know.  (Their time of modification tells
  less: it may be set back.)  So any name that it was told there is expired instead, and where it knows none any
  more, the pages are dropped.  That alone would not do: of a listing that is being taken, the kernel would never
  keep the rest.

**Never from a thread that serves.**  Invalidating a name waits for the lock of its directory, and dropping pages
for those that are being read; whoever has them waits for us.  So threads of their own tell the kernel (:mod:`.tellers`),
holding no lock of ours, and the ones that serve go on.

**What waits is told in units**, one for each inode whose lock or pages it needs.  A client that never lets go of a directory (its
buffer may be on a file system of its own) holds up what is told of this directory, and nothing else.

* First, and at once, attributes are dropped: that waits for nothing.  So is seen which inodes the kernel does not know.
* The unit of a directory then has its names, and whatever else is told of it.  An inode that was not known comes after
  its name, in the unit of the directory that it has this name in; its data in a unit of its own after that.
* The unit of a file has its data, and the wait for a reply to SETATTR or LINK.
* Units of one inode follow each other.  Those of different ones come in any order, which is no matter: what is told of a
  change is right whenever it is told after it was heard of, and what leads where is looked up when it is told.

Of names in a directory that is held nothing further is believed for long (:meth:`Coherence.keeps_up`), and where so many are held
that a further one might find no thread, nothing at all.  What had been believed before, and changes then, is told
when somebody lets go.

A name is expired rather than dropped where it leads to the same thing as before: dropping the entry of a
directory would unmount what is mounted below, and leave processes there without a path.  For the same reason
there is neither FUSE_NOTIFY_INC_EPOCH nor FUSE_NOTIFY_DELETE: the first drops everything, the second tells
nothing that expiring and invalidating do not.

**When changes went unheard**, everything that may be believed is invalidated: all known nodes, and the names that
their nodes do not tell (:class:`_OtherNames`).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Container
from time import monotonic

from xloop.changes import (
    ATTRIB,
    CLOSE_WRITE,
    IGNORED,
    ISDIR,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    OF_NAMES,
    OVERFLOW,
    Change,
    Watch,
)
from xloop.types import ROOT_INO, Ino

from . import abi
from .tellers import Tellers, Unit, Units

__all__ = ["LONG", "Coherence"]

_log = logging.getLogger("xloop.devfuse")

#: Seconds for which something is believed that is watched: what no event tells (times of access)
#: is right again after that.
LONG = 3600

#: Seconds within which a reply that went out is taken by who waits for it.
_TAKEN = 10.0
#: Inodes that were answered lately, after which those are looked for that were not.
_ANSWERED = 4096

#: No program makes such a name; invalidating it waits for the directory's lock, and that is all.
_NOBODY = b"\xff.xloop: nobody\xff"

#: Where an inode is expected: none.
_NOTHING = Ino(0)

#: Names that are told at one go: some milliseconds of it.
_SLICE = 256

# What is told of an inode in its unit, and of a name in it.
#: The name may lead elsewhere.  Without it, it is expired, to wait for the lock of its directory.
_CHANGED = 1
#: Data, or a listing; with a name: that of the inode that comes after it.
_DATA = 2
#: Names in it changed.
_RELIST = 4
#: A reply that the kernel takes in any case may be on its way.
_REPLY = 8
#: Nobody has seen yet whether the kernel knows it.
_UNTOLD = 16


class _OtherNames:
    """Names that are believed and that no node tells: those that are not there, and further ones of files.

    At most *most*; beyond that the oldest are invalidated.
    """

    def __init__(self, most: int = 1 << 16) -> None:
        self._most = most
        self._names: dict[tuple[Ino, bytes], None] = {}

    def add(self, directory: Ino, name: bytes) -> None:
        self._names[directory, name] = None

    def __len__(self) -> int:
        return len(self._names)

    @property
    def too_many(self) -> bool:
        return len(self._names) > self._most

    def pop(self, part: int) -> list[tuple[Ino, bytes]]:
        """Take out the oldest, one of *part*; 1: all."""
        count = len(self._names) // part
        # list() of a dictionary is one step of the interpreter: others may add meanwhile.
        oldest = list(self._names)[:count]
        for key in oldest:
            self._names.pop(key, None)
        return oldest


class _Pending:
    """What is to be told to the kernel."""

    __slots__ = ("directories", "everything", "inodes", "listings", "names", "stale")

    def __init__(self) -> None:
        #: Inodes, and whether their data changed too.
        self.inodes: dict[Ino, bool] = {}
        self.names: dict[tuple[Ino, bytes], None] = {}
        #: Those in which names changed.
        self.directories: dict[Ino, None] = {}
        #: Those whose listing is not to be kept.
        self.listings: dict[Ino, None] = {}
        #: Those in which no name is to be believed.
        self.stale: set[Ino] = set()
        self.everything = False

    def __bool__(self) -> bool:
        return bool(self.inodes or self.names or self.listings or self.stale or self.everything)


class Coherence:
    """The caches of one connection, and the watch that they live by."""

    def __init__(
        self,
        watch: Watch,
        connection: int,
        passed_through: Container[Ino],
        fail: Callable[[BaseException], None],
        *,
        source_checks: bool,
    ) -> None:
        """*passed_through*: files whose attributes are never believed, and whose data is not cached.

        *fail*: called when the kernel cannot be told any more, and so is wrong.
        *source_checks*: who may search a directory is decided when a name is looked up in it.
        """
        self.watch = watch
        self._connection = connection
        self._passed_through = passed_through
        self._source_checks = source_checks
        #: Directories, and something that was told of each.
        self.children: dict[Ino, Ino] = {}
        self.others = _OtherNames()
        #: Seconds for which a reply is believed that does not depend on the watch.
        self.believed = 0.0
        #: Inodes, and when SETATTR or LINK was last answered.
        self._answered: dict[Ino, float] = {}
        self._lock = threading.Lock()
        self._pending = _Pending()
        #: Directories that are not watched any more, and when their names are expired once more.
        self._again: dict[Ino, float] = {}
        self._tellers = Tellers(self._tell_at_once, self._tell, fail)
        self._told = 0
        self._dropped = 0
        #: Since when everything is being dropped; 0: it is not.
        self._dropping = 0.0
        self._drop_took = 0.0
        #: How often the kernel has asked for the attributes of the root.
        self.asked_for_root = 0
        watch.listen(self._hear)
        watch.on_other_name(self.others.add)

    def start(self) -> None:
        self._tellers.start()
        self.watch.start()

    def close(self) -> None:
        """The connection is over: nobody waits for anything any more."""
        self._tellers.close()

    def keeps_up(self, ino: Ino) -> bool:
        """Whether the kernel can be told in time of what it is about to believe of *ino*, or of names in it."""
        return not self._tellers.is_held_up(ino)

    def status(self) -> dict[str, object]:
        return {
            "mode": "coherent",
            **self.watch.status(),
            "told": self._told,
            "everything dropped": self._dropped,
            "seconds the last time": self._drop_took,
            "other names": len(self.others),
            **self._tellers.status(),
        }

    # -- what is heard ------------------------------------------------------------------

    def _hear(self, changes: list[Change]) -> None:
        with self._lock:
            pending = self._pending
            inodes = pending.inodes
            for kind, directory, name, target, *_ in changes:
                if kind & OVERFLOW:
                    pending.everything = True
                    continue
                if kind & IGNORED and directory is not None:
                    pending.stale.add(directory)
                if kind & ATTRIB and kind & ISDIR and target is not None and self._source_checks:
                    pending.stale.add(target)
                if target is not None:
                    data = kind & (MODIFY | CLOSE_WRITE) != 0
                    if kind & ISDIR and kind & (MOVED_FROM | MOVED_TO):
                        data = True  # its listing has "..", which is another directory now
                    if not data or kind & OF_NAMES or target not in self._passed_through:
                        inodes[target] = data or inodes.get(target, False)
                if directory is not None and kind & OF_NAMES:
                    pending.names[directory, name] = None
                    pending.directories[directory] = None
            self._rouse()

    def listing_is_not_kept(self, directory: Ino) -> None:
        """Have the kernel drop the listing of *directory* that it is being given."""
        with self._lock:
            self._pending.listings[directory] = None
            self._rouse()

    def answers_unversioned(self, ino: Ino) -> None:
        """A reply with attributes of *ino* is about to go out that the kernel takes in any case."""
        answered = self._answered
        answered[ino] = now = monotonic()
        if len(answered) > _ANSWERED:
            for other, when in list(answered.items()):
                if now - when > self.believed + _TAKEN:
                    answered.pop(other, None)

    def is_missing(self, directory: Ino, name: bytes) -> None:
        """*name* is about to be told not to be there, for long."""
        self.others.add(directory, name)
        if self.others.too_many:
            with self._lock:
                for key in self.others.pop(4):
                    self._pending.names[key] = None
                self._rouse()

    # -- what is told -------------------------------------------------------------------

    def _rouse(self) -> None:
        """Have somebody tell what is pending.  With the lock held."""
        if self._pending:
            self._tellers.call()

    def _tell_at_once(self) -> Units:
        """Tell what waits for nothing; return the rest."""
        with self._lock:
            pending, self._pending = self._pending, _Pending()
        units = Units()
        for ino, data in pending.inodes.items():
            if not self._invalidate(ino, -1):
                self._await_reply(units, ino, data=data)
            elif data:
                units[ino].flags |= _DATA
        for ino in pending.directories:
            self._invalidate(ino, -1)
            units[ino].flags |= _RELIST
        for directory, name in pending.names:
            units[directory].names[name, _NOTHING] = _CHANGED
        for ino in pending.listings:
            units[ino].flags |= _REPLY | _DATA
        for ino in self._answered.keys() & (pending.inodes.keys() | pending.directories.keys()):
            self._await_answer(units, ino)
        stale = pending.stale | self._due_again(pending.stale)
        if stale:
            self._drop(units, lambda directory, ino: directory in stale)
        if pending.everything:
            self._drop_everything(units)
        return units

    def _due_again(self, stale: set[Ino]) -> set[Ino]:
        """Return the directories that were *stale* so long ago that their names are expired once more."""
        if not stale and not self._again:
            return set()
        now = monotonic()
        with self._lock:
            due = {directory for directory, when in self._again.items() if when <= now}
            for directory in due:
                del self._again[directory]
            for directory in stale:
                self._again[directory] = now + _TAKEN
            if self._again:
                self._tellers.call_in(min(self._again.values()) - now)
        return due

    def _tell(self, ino: Ino, unit: Unit) -> bool:
        """Tell what waits for the lock of *ino*, or of its pages.  True: there is more."""
        flags, unit.flags = unit.flags, 0
        later = Units()
        is_relisted = False
        for _ in range(min(len(unit.names), _SLICE)):
            (name, after), how = unit.names.popitem()
            if how & _CHANGED:
                is_relisted |= self._invalidate_name(ino, name)
            else:
                self._expire(ino, name)
            if after:
                self._invalidate(after, -1)
                if how & _DATA:
                    later[after].flags |= _DATA
        if later:
            self._tellers.add(later)
        if flags & _RELIST and not is_relisted and not self._expire_something(ino):
            flags |= _DATA
        if flags & _REPLY:
            self._expire(ino, _NOBODY)
        if flags & (_DATA | _REPLY):
            is_known = self._invalidate(ino, 0 if flags & _DATA else -1)
            if flags & _UNTOLD and not is_known:
                self._await_reply(later := Units(), ino, data=True)
                self._tellers.add(later)
        if self._dropping and not unit.names and self._tellers.quiet:
            self._dropped_everything()
        return bool(unit.names)

    def _await_reply(self, units: Units, ino: Ino, *, data: bool) -> None:
        """Have *ino* told once more after a reply that makes it known is taken, if one is on its way."""
        known = self.watch.name_of(ino)
        if known is not None:
            units[known[0]].names[known[1], ino] = _DATA if data else 0

    def _await_answer(self, units: Units, ino: Ino) -> None:
        """Have *ino* told once more after a reply that the kernel takes in any case, if one was sent lately."""
        if monotonic() - self._answered.get(ino, 0.0) <= self.believed + _TAKEN:
            units[ino].flags |= _REPLY

    def _drop_everything(self, units: Units) -> None:
        begun = monotonic()
        self._dropped += 1
        self._drop(units, lambda directory, ino: True)
        for ino in list(self._answered):
            self._await_answer(units, ino)
        for ino, unit in units.items():
            # What may have to wait for somebody; the rest is told as soon as this would be.
            if unit.names or self._tellers.is_held_up(ino):
                self._invalidate(ino, -1)
        self._dropping = begun

    def _dropped_everything(self) -> None:
        begun, self._dropping = self._dropping, 0.0
        self._drop_took = monotonic() - begun
        _log.info("changes went unheard: all that was known is asked for anew")

    def _drop(self, units: Units, concerns: Callable[[Ino | None, Ino], bool]) -> None:
        for directory, name in self.others.pop(1):
            if concerns(directory, _NOTHING):
                units[directory].names[name, _NOTHING] = _CHANGED
            else:
                self.others.add(directory, name)
        for ino, parent, name in self.watch.known():
            if concerns(parent, ino) or concerns(ino, ino):
                if parent is not None:
                    units[parent].names[name, _NOTHING] = _CHANGED
                units[ino].flags |= _DATA | _UNTOLD

    # -- the kernel ---------------------------------------------------------------------

    def _invalidate(self, ino: Ino, offset: int) -> bool:
        """Have attributes dropped, and from *offset* on the data, unless it is negative.

        False: the kernel does not know the inode.
        """
        if ino == ROOT_INO and self.asked_for_root < 2:
            # Until it takes the first reply, the kernel believes that nobody may enter the root; and if
            # that reply is void, it goes by this.  It has taken it when it asks again.
            return True
        return self._notify(
            abi.NOTIFY_INVAL_INODE.pack(
                abi.NOTIFY_INVAL_INODE.size, abi.NOTIFY_INVAL_INODE_CODE, 0, ino, offset, 0
            )
        )

    def _invalidate_name(self, directory: Ino, name: bytes) -> bool:
        is_told = self.watch.is_told(directory, name)
        return self._entry(directory, name, abi.EXPIRE_ONLY if is_told else 0)

    def _expire(self, directory: Ino, name: bytes) -> bool:
        return self._entry(directory, name, abi.EXPIRE_ONLY)

    def _expire_something(self, directory: Ino) -> bool:
        """Expire any name in *directory* that the kernel knows."""
        child = self.children.get(directory)
        known = None if child is None else self.watch.name_of(child)
        return known is not None and known[0] == directory and self._expire(*known)

    def _entry(self, directory: Ino, name: bytes, flags: int) -> bool:
        """Invalidate a name.  False: the kernel does not know it."""
        size = abi.NOTIFY_INVAL_ENTRY.size + len(name) + 1
        head = abi.NOTIFY_INVAL_ENTRY.pack(
            size, abi.NOTIFY_INVAL_ENTRY_CODE, 0, directory, len(name), flags
        )
        return self._notify(head + name + b"\0")

    def _notify(self, message: bytes) -> bool:
        self._told += 1
        try:
            os.write(self._connection, message)
        except OSError as exc:
            # ENOENT: not known, or not any more.  ENOTDIR: its number belongs to something else now.
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENOTCONN):
                return False
            raise
        return True
