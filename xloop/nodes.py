# SPDX-License-Identifier: MIT
"""The nodes that somebody knows: their numbers, their identity, their lookup counts, their descriptors.

Owns :class:`NodeTable`.  Does not own what is done with a node.

**Identity.**  An object of the source is (device, inode number, birth time), never a path.  The
birth time stands for the generation: an inode number is used again after its file is gone,
and then nothing else tells the new file from the old.  Where the source keeps no birth time, or
anybody may set it but numbers are not used again, the type of the object takes its place.  While
we hold a descriptor of an object its number cannot be used again, and the birth time is not asked
(on overlayfs it changes at copy-up).

**Numbers.**  A node's is its inode number, which costs nothing to keep and to find; one of a range of
its own where that is taken: by a node that somebody still knows though its object is gone, by
the root (always 1), or because the object is on another device.  A number comes again only
after every lookup of it was forgotten.

**Descriptors are a cache.**  A node knows its parent and its name there; a descriptor is opened
when it is needed, checked against the identity, and closed when there are too many, the one
that was not used for longest first (a clock: one bit a node, set by every use).  So a tree of
a million files works with a thousand descriptors.  What has no name any more keeps its
descriptor, because nothing could open it again.

**Closing.**  A :class:`~xloop.host.Descriptor` closes itself when the last thread lets go of it, so
dropping one here is safe while others are using it.

**A reference must not keep what others delete.**  While one is open on a file, the space of the file
is not freed.  So those of files are closed when they have not been used for a while
(:meth:`NodeTable.sweep`).  Directories keep theirs: they hold little, and are needed most.

**Locking.**  One lock guards the maps and the counts.  Reading a node from the map, and a
node's descriptor, needs none: both are single steps of the interpreter.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from hashlib import blake2b
from stat import S_IFDIR, S_IFMT
from time import monotonic, sleep
from typing import ParamSpec, TypeVar

from xloop.host import Descriptor, host
from xloop.types import ROOT_INO, Attr, Ino

__all__ = ["TICKS", "Node", "NodeTable"]

#: Of the clock of :meth:`NodeTable.tick`, in a second.
TICKS = 16

P = ParamSpec("P")
R = TypeVar("R")


def _stale() -> OSError:
    # Linux looks the path up again when it meets ESTALE, and so finds what is there now.
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


_KINDS = {kind: kind for kind in range(0, 1 << 16, 1 << 12)}

#: How often, two milliseconds apart, to look whether something was forgotten.
_PATIENCE = 10

#: Numbers from here on are not made from inode numbers.
_OWN_NUMBERS = 1 << 63


class Node:
    """One object of the source, for as long as somebody knows its number."""

    __slots__ = (
        "born",
        "dev",
        "fd",
        "file",
        "ino",
        "kind",
        "name",
        "nlookup",
        "parent",
        "st_ino",
        "told",
        "used",
    )

    def __init__(self, ino: Ino, attr: Attr, dev: int, parent: Node | None, name: bytes) -> None:
        self.ino = ino
        self.st_ino = attr.ino
        # A tree has millions of nodes: what they have in common is one object.
        self.dev = dev
        self.kind = _KINDS[S_IFMT(attr.mode)]
        self.born = _born(attr)
        #: The directory of the name below; None: of the root, and of what has lost its last known
        #: name through us.
        self.parent = parent
        self.name = name  #: one of its names, the last that was seen
        self.nlookup = 0
        #: When the name was last told to somebody, in ticks.
        self.told = 0
        #: A reference; None: to be opened when needed.
        self.fd: Descriptor | None = None
        #: An open file of the node, while there is one: as good as a reference, and not the
        #: cache's to close.
        self.file: Descriptor | None = None
        self.used = False


_REUSES_INO = host.REUSES_INO


def _born(attr: Attr) -> int:
    if not attr.has_btime or not _REUSES_INO:
        return -1
    # To 16 nanoseconds: no two objects of one number are made within so short a time, and the
    # integer is smaller by a third.
    return attr.btime << 26 | attr.btime_nsec >> 4


def _is(node: Node, attr: Attr) -> bool:
    """Tell whether *attr* was read from the object that *node* stands for."""
    return (
        node.st_ino == attr.ino
        and node.dev == attr.dev
        and node.kind == S_IFMT(attr.mode)
        and node.born == _born(attr)
    )


def _still(node: Node, attr: Attr) -> bool:
    """As _is(), where it is known that device and inode number agree.

    A descriptor of the object proves that the number was not used again in between.
    """
    fd = node.fd
    return (fd is not None and not fd.by_name) or node.file is not None or _is(node, attr)


class NodeTable:
    """All known nodes.  *budget*: how many descriptors they may hold between them."""

    def __init__(self, root: Descriptor, budget: int) -> None:
        attr = host.statx(root)
        self.root = Node(ROOT_INO, attr, attr.dev, None, b"")
        self.root.fd = root
        self.root.nlookup = 1
        self.root_dev = attr.dev
        self.budget = max(budget, 16)
        self._lock = threading.Lock()
        self._by_ino: dict[int, Node] = {ROOT_INO: self.root}
        #: Those whose number is not their inode number, by device and inode number.
        #: The root is not among them: most sources have nothing else here, and then nobody looks.
        self._others: dict[tuple[int, int], Node] = {}
        self._devices = {attr.dev: attr.dev}
        self._next = _OWN_NUMBERS
        self._now = 0
        #: Those that have lost their last name, and are known all the same.
        self._lost: set[Ino] = set()
        # In the order in which they were opened: the hand of the clock is at the front.
        self._cached: dict[int, Node] = {}
        #: Set while there are references of files, for whoever calls :meth:`sweep`.
        self.referenced = threading.Event()
        #: Called, with the lock held, with what is about to be known by another name than so far.
        self.displaced: Callable[[Node], object] | None = None
        #: Called with each directory that is about to be told to somebody, whether or not it was known before.
        self.met: Callable[[Node], object] | None = None
        self.get = self._by_ino.get

    # -- numbers ------------------------------------------------------------------------

    def __getitem__(self, ino: Ino) -> Node:
        """Return the node of *ino*.  ESTALE for a number that nobody was given, or forgot."""
        node = self.get(ino)
        if node is None:
            raise _stale()
        return node

    def __len__(self) -> int:
        return len(self._by_ino)

    @property
    def descriptors(self) -> int:
        """How many descriptors the cache holds now."""
        return len(self._cached)

    def _known(self, attr: Attr) -> Node | None:
        ino, dev = attr.ino, attr.dev
        if self._others:
            node = self._others.get((dev, ino))
            if node is not None:
                return node
        if dev != self.root_dev:
            return None
        if ino == self.root.st_ino:
            return self.root
        node = self.get(ino)
        return node if node is None or node.st_ino == ino else None

    def _add(self, attr: Attr, parent: Node, name: bytes) -> Node:
        dev = self._devices.setdefault(attr.dev, attr.dev)
        number = attr.ino
        if dev != self.root_dev or number in self._by_ino or not 1 < number < _OWN_NUMBERS:
            number = self._next
            self._next += 1
        node = Node(Ino(number), attr, dev, parent, name)
        self._by_ino[number] = node
        if number != attr.ino:
            self._others[dev, attr.ino] = node
        return node

    def shown_ino(self, dev: int, ino: int) -> int:
        """Return the st_ino to show for an object: its own, on the device of the root.

        A source may span several file systems, and a mount has one st_dev: elsewhere the number is
        made from both, with the top bit set, so that tar and rsync do not take two files for one.
        """
        if dev == self.root_dev:
            return ino
        digest = blake2b(b"%d:%d" % (dev, ino), digest_size=8).digest()
        return int.from_bytes(digest, "little") | 1 << 63

    def shown(self, attr: Attr) -> Attr:
        """Return *attr* with the st_ino to show."""
        if attr.dev == self.root_dev:
            return attr
        return attr._replace(ino=self.shown_ino(attr.dev, attr.ino))

    # -- finding and forgetting ---------------------------------------------------------

    def intern(
        self, attr: Attr, parent: Node, name: bytes, fd: Descriptor | None, *, pin: bool = False
    ) -> Node:
        """Return the node of the object that *attr* describes, and raise its lookup count by 1.

        The object was just found or made as *name* in *parent*.  *fd*, where given, is a
        descriptor of it; with *pin* it is an open file's, and not the cache's to close.
        """
        with self._lock:
            node = self._known(attr)
            if node is None or not _still(node, attr):
                node = self._add(attr, parent, name)
            elif node.parent is not parent or node.name != name or node.file is not None:
                if node is not self.root:
                    self._named(node, parent, name)
            node.nlookup += 1
            node.told = self.tick()
            if pin:
                self.pin(node, fd)
            elif fd is not None and node.fd is None:
                self._adopt(node, fd)
        if self.met is not None and node.kind == S_IFDIR:
            self.met(node)
        return node

    def _named(self, node: Node, parent: Node, name: bytes) -> None:
        if self.displaced is not None and (node.name != name or node.parent is not parent):
            self.displaced(node)
        fd = node.fd
        if fd is not None and fd.placed and (node.name != name or node.parent is not parent):
            self._cached.pop(node.ino, None)
            node.fd = None
        if node.file is not None and node.file.placed and parent.fd is not None:
            node.file.moved(parent.fd, name)
        found = node.parent is None
        node.parent = parent
        node.name = name
        if found:
            self._lost.discard(node.ino)
            if node.fd is not None:
                self._adopt(node, node.fd)

    def tick(self) -> int:
        """Return the time in :data:`TICKS` a second; the same object as long as it is the same."""
        now = int(monotonic() * TICKS)
        if now != self._now:
            self._now = now
        return self._now

    def find(self, attr: Attr) -> Node | None:
        """Return the node of the object that *attr* describes, if it is known."""
        node = self._known(attr)
        return node if node is not None and _still(node, attr) else None

    def at(self, dev: int, ino: int) -> Node | None:
        """Return the node that is known by an inode number, whatever has that number by now."""
        node = self._others.get((dev, ino))
        if node is not None or dev != self.root_dev:
            return node
        if ino == self.root.st_ino:
            return self.root
        node = self.get(ino)
        return node if node is None or (node.st_ino == ino and node.dev == dev) else None

    def again(self, ino: Ino) -> Node | None:
        """Return the node of *ino*, if it is known, and raise its lookup count by 1."""
        with self._lock:
            node = self._by_ino.get(ino)
            if node is not None:
                node.nlookup += 1
        return node

    def all(self) -> list[Node]:
        """Return every node that is known at this moment."""
        with self._lock:
            return list(self._by_ino.values())

    def forget(self, ino: Ino, nlookup: int) -> None:
        """Lower a lookup count; at zero the number is gone for good."""
        with self._lock:
            self._forget(ino, nlookup)

    def batch_forget(self, forgets: Iterable[tuple[Ino, int]]) -> None:
        with self._lock:
            for ino, nlookup in forgets:
                self._forget(ino, nlookup)

    def _forget(self, ino: Ino, nlookup: int) -> None:
        node = self._by_ino.get(ino)
        if node is None or node is self.root:
            return
        node.nlookup -= nlookup
        if node.nlookup > 0:
            return
        del self._by_ino[ino]
        if node.parent is None:
            self._lost.discard(ino)
        if ino != node.st_ino or node.dev != self.root_dev:
            key = node.dev, node.st_ino
            if self._others.get(key) is node:
                del self._others[key]
        self._cached.pop(ino, None)
        node.fd = node.file = None

    # -- names --------------------------------------------------------------------------

    def renamed(self, node: Node, parent: Node, name: bytes) -> None:
        """Note that *node* is now *name* in *parent*."""
        with self._lock:
            self._named(node, parent, name)

    def removed(self, node: Node, parent: Node, name: bytes, *, last: bool) -> None:
        """Note that *name* in *parent*, which was *node*, is gone; *last*: and was its only name.

        The caller made sure, before, that the node has a descriptor (:meth:`keep`).  It keeps that
        until it is forgotten or found under another name: it may be in use without one (O_PATH).
        """
        with self._lock:
            if last or (node.parent is parent and node.name == name):
                node.parent = None
                self._lost.add(node.ino)
                self._cached.pop(node.ino, None)

    def disown(self, node: Node) -> None:
        """Take its object away from *node*, whose number stands for something dead from now on.

        Whoever finds the object again is given another number.  *node* keeps its descriptor until it is forgotten:
        what is known below it is reached by that.
        """
        with self._lock:
            key = node.dev, node.st_ino
            if self._others.get(key) is node:
                del self._others[key]
            node.st_ino = 0  # nothing has this number
            node.parent = None
            self._lost.add(node.ino)
            self._cached.pop(node.ino, None)

    # -- descriptors --------------------------------------------------------------------

    def ref(self, node: Node) -> Descriptor:
        """Return a descriptor of the object behind *node*, opening one where there is none.

        ESTALE when the object is no longer where it was last seen.  So it is, too, where what is known of the names leads
        in a circle: some of them were learnt before the source was changed, and others after.
        """
        fd = node.fd
        if fd is not None:
            node.used = True
            return fd
        fd = node.file
        if fd is not None:
            return fd
        # Down from the nearest ancestor that is open.  Not by recursion: a tree may be deeper
        # than the interpreter's stack.
        missing: dict[Node, None] = {}
        at: Node | None = node
        while at is not None and at not in missing:
            fd = at.fd if at.fd is not None else at.file
            if fd is not None:
                break
            missing[at] = None
            at = at.parent
        if fd is None:
            raise _stale()
        for node in reversed(missing):
            fd = self._open(node, fd)
        return fd

    def _open(self, node: Node, parent_fd: Descriptor) -> Descriptor:
        try:
            fd = self.within_limits(host.open_ref, parent_fd, node.name)
        except FileNotFoundError:
            raise _stale() from None
        except NotADirectoryError:
            raise _stale() from None
        if not _is(node, host.statx(fd)):
            raise _stale()
        self.keep(node, fd)
        return fd

    def keep(self, node: Node, fd: Descriptor) -> None:
        """Give *node* the reference *fd*, which is to it, unless it has one."""
        with self._lock:
            if node.fd is None and node.ino in self._by_ino:
                self._adopt(node, fd)

    def _adopt(self, node: Node, fd: Descriptor) -> None:
        node.fd = fd
        self._cached[node.ino] = node
        node.used = True
        if not self.referenced.is_set() and node.kind != S_IFDIR:
            self.referenced.set()
        if len(self._cached) > self.budget:
            self._shrink(self.budget)

    def _shrink(self, target: int) -> None:
        cached = self._cached
        chances = len(cached)
        while len(cached) > target and cached:
            ino = next(iter(cached))
            node = cached.pop(ino)
            if node.used and chances > 0:
                node.used = False
                cached[ino] = node
                chances -= 1
            else:
                node.fd = None

    def sweep(self) -> bool:
        """Close the references of files that were not used since the last sweep.

        Returns whether any are left for the next one.
        """
        left = False
        with self._lock:
            for ino, node in list(self._cached.items()):
                if node.kind == S_IFDIR:
                    continue
                if node.used:
                    node.used = False
                    left = True
                else:
                    del self._cached[ino]
                    node.fd = None
            if not left:
                self.referenced.clear()
        return left

    def within_limits(self, call: Callable[P, R], *args: P.args, **kw: P.kwargs) -> R:
        """Do *call*; where descriptors or the room of the file system run out, make some and repeat it."""
        try:
            return call(*args, **kw)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                if not self._room_comes():
                    raise
            elif exc.errno in (errno.EMFILE, errno.ENFILE) and self._cached:
                with self._lock:
                    # The limit is lower, or other descriptors are more, than the budget reckoned with.
                    self.budget = max(len(self._cached) // 2, 16)
                    self._shrink(len(self._cached) // 2)
            else:
                raise
        return call(*args, **kw)

    def _room_comes(self) -> bool:
        """Wait until what was removed is forgotten: its room is free then, as it would be natively.

        The kernel says so a moment after the removal, and in no certain order to other requests.
        """
        before = len(self._lost)
        for _ in range(_PATIENCE if before else 0):
            if len(self._lost) < before:
                return True
            sleep(0.002)
        return False

    def pin(self, node: Node, fd: Descriptor | None) -> None:
        """Note an open file of *node*: its descriptor serves where the node has none of its own.

        The node's own may be closed to stay within the budget, while its name gets lost.
        """
        node.file = fd
        if node.fd is not None and node.fd.by_name:
            self._cached.pop(node.ino, None)
            node.fd = None  # now there is a better one

    def unpin(self, node: Node, other: Descriptor | None) -> None:
        """An open file of *node* is being closed; *other* is one that stays open, if there is one."""
        with self._lock:
            file = node.file
            node.file = other
            if other is None and file is not None and node.fd is None:
                if node.parent is None and node.nlookup > 0:
                    # Nothing could open it again, but somebody may still hold it by a descriptor
                    # that the server was never told of (O_PATH).
                    node.fd = host.reopen_ref(file)
