# SPDX-License-Identifier: MIT
"""Who makes the calls of a step, and on what: :class:`Side`, and the two kinds of :class:`World`.

Owns players and slots.  Does not own the calls themselves: those are the kit's trees
(:mod:`xloop.testing`).

A world lasts for a session (one mount, one set of threads and processes), a side for one sequence.
Slots are where open files are kept from step to step; the player "proc" is another process and has
slots of its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from differential.steps import USERS
from xloop.ops import Operations
from xloop.testing import InProcessTree, NativeTree, Tree
from xloop.testing.actor import Elsewhere
from xloop.testing.walk import Node, Walk
from xloop.types import Caller, Entry

__all__ = ["InProcessWorld", "NativeWorld", "NotHere", "Side", "Slot", "World"]

#: Whether it is the other process's, and its number.
Slot = tuple[bool, int]


class NotHere(Exception):
    """The step has nothing to act on, or this side has no such thing.  It is left out."""


class World:
    """Something that shows directories to players."""

    has_kernel = True
    #: The directory that it shows things of, or in.
    path: bytes

    def side(self, top: bytes) -> Side:
        """Return the directory *top*, for one sequence."""
        raise NotImplementedError

    def tree(self, who: str, umask: int) -> Tree:
        raise NotImplementedError

    def end(self) -> None:
        """The sequence is over, and what it opened is closed."""

    def shut(self) -> None:
        raise NotImplementedError


class Side:
    """A directory, and what a sequence has open in it."""

    def __init__(self, world: World, prefix: bytes) -> None:
        self.world = world
        self.prefix = prefix
        #: Descriptors, and the st_ino of what they are open on.
        self.slots: dict[Slot, tuple[int, int]] = {}
        self.me = world.tree("me", 0o022)

    def path(self, path: bytes) -> bytes:
        return self.prefix + path

    def tree(self, who: str, umask: int = 0o022) -> Tree:
        return self.world.tree(who, umask)

    def owner(self, slot: Slot) -> Tree:
        """Return the tree that knows the descriptor in *slot*."""
        return self.tree("proc") if slot[0] else self.me

    def fd(self, who: str, slot: int) -> int:
        found = self.slots.get((who == "proc", slot))
        if found is None:
            raise NotHere("nothing is open there")
        return found[0]

    def keep(self, who: str, slot: int, fd: int) -> None:
        ino = self.tree(who).fstat(fd).st_ino
        self.drop(who, slot)
        self.slots[who == "proc", slot] = fd, ino

    def drop(self, who: str, slot: int) -> None:
        found = self.slots.pop((who == "proc", slot), None)
        if found is not None:
            self.tree(who).close(found[0])

    def mapped(self, who: str, fd: int, call: Callable[[mmap.mmap], Any]) -> Any:
        """Return what *call* makes of a shared mapping of all of *fd*, made by *who*."""
        tree = self.tree(who)
        size = tree.fstat(fd).st_size
        if not self.world.has_kernel or not size or who == "proc":
            raise NotHere("nothing to map")

        def attempt() -> Any:
            with mmap.mmap(fd, size) as mapping:
                result = call(mapping)
                mapping.flush()
                return result

        return tree.actor.do(attempt) if isinstance(tree, Elsewhere) else attempt()

    def shut(self) -> None:
        """Close what is open.  Errors of the last close count too."""
        for process, slot in list(self.slots):
            self.drop("proc" if process else "me", slot)


class NativeWorld(World):
    """Directories below *path*, through the kernel."""

    def __init__(self, path: str) -> None:
        self.path = os.fsencode(path)
        self._base = NativeTree(path)
        self._trees: dict[tuple[str, int], Tree] = {}

    def side(self, top: bytes) -> Side:
        return Side(self, top + b"/")

    def tree(self, who: str, umask: int) -> Tree:
        found = self._trees.get((who, umask))
        if found is None:
            found = self._trees[who, umask] = self._made(who, umask)
        return found

    def _made(self, who: str, umask: int) -> Tree:
        if who == "proc":
            # One process, whatever the mask.
            known = [tree for (name, _), tree in self._trees.items() if name == who]
            return known[0] if known else self._base.process()
        if who in USERS:
            return self._base.as_user(*USERS[who], umask)
        # It shares the books on descriptors: what one opened another may close.
        tree = self._base.at(b".")
        tree.umask = umask
        return tree

    def shut(self) -> None:
        self._base.shut()


class _Remembering(Walk):
    """A walk after which the directories on its way stay known, as they do to a kernel."""

    def __init__(
        self, ops: Operations, caller: Caller, top: tuple[Node, ...], kept: list[Node]
    ) -> None:
        super().__init__(ops, caller, top)
        self._kept = kept

    def entry(self, entry: Entry) -> Node:
        node = super().entry(entry)
        if node.is_dir and not any(node.ino == known.ino for known in self._kept):
            self.keep(node)
            self._kept.append(node)
        return node


class _Kernel(InProcessTree):
    """A tree that remembers directories, and does not know where the end of a file is."""

    def _walk(self) -> Walk:
        return _Remembering(self.ledger, self._caller, self._top, self._kept)

    def write(self, fd: int, data: bytes) -> int:
        # Nothing written moves nothing, be it to the end.
        return super().write(fd, data) if data else self.pwrite(fd, data, 0)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        held = self._any(fd)
        if not data or not held.flags & os.O_APPEND:
            return super()._write(fd, data, offset)
        # An append goes to the end whatever the offset says (xloop.ops): so it says nonsense.
        kill = self._caller.uid != 0
        where = self._caller, *self._file(fd), 3
        return self.ledger.write(*where, memoryview(data), kill_suidgid=kill)


class InProcessWorld(World):
    """Directories below *path*, each as what *make* returns for its path: no kernel in between."""

    has_kernel = False

    def __init__(self, path: str, make: Callable[[str], Operations]) -> None:
        self.path = os.fsencode(path)
        self._make = make
        self._base: InProcessTree | None = None
        self._trees: dict[tuple[str, int], Tree] = {}

    def side(self, top: bytes) -> Side:
        self.end()
        self._base = _Kernel(self._make(os.fsdecode(os.path.join(self.path, top))))
        return Side(self, b"")

    def tree(self, who: str, umask: int) -> Tree:
        found = self._trees.get((who, umask))
        if found is None:
            assert self._base is not None
            if who == "proc":
                found = self._base.process()
            else:
                myself = os.geteuid(), os.getegid(), tuple(os.getgroups())
                found = self._base.as_user(*USERS.get(who, myself), umask)
            self._trees[who, umask] = found
        return found

    def end(self) -> None:
        """Demand that nothing is left of the sequence."""
        if (base := self._base) is None:
            return
        self._base = None
        self._trees.clear()
        operations: Any = base.ledger.inner
        base.shut()
        base.check_balanced()
        if hasattr(operations, "nodes"):
            known, open_ = len(operations.nodes), len(operations.handles)
            assert (known, open_) == (1, 0), f"{known} nodes and {open_} handles are left"

    def shut(self) -> None:
        self.end()
