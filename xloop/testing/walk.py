# SPDX-License-Identifier: MIT
"""Path resolution on an Operations, as a kernel does it: :class:`Walk`.

Owns the way from a path to a node: components, '.' and '..', symbolic links, limits.  Does not own
what is done with the node.  Everything that a walk looked up it forgets at its end, except what
was kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, deque
from typing import Final, NamedTuple, NoReturn

from xloop.ops import Operations
from xloop.testing.tree import Path
from xloop.types import Attr, Caller, Entry, Ino

__all__ = ["Last", "Node", "Walk", "fail"]

#: With the NUL at the end.
PATH_MAX: Final = 4096
#: The longest name that a kernel passes on; what is too long for the source it must say itself.
NAME_MAX: Final = 1024
MAX_LINKS: Final = 40


def fail(number: int) -> NoReturn:
    """Raise the OSError with this number."""
    raise OSError(number, os.strerror(number))


class Node(NamedTuple):
    """What a path led to."""

    ino: Ino
    attr: Attr

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.attr.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.attr.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.attr.mode)


class Last(NamedTuple):
    """The last step of a path: a name in a directory, and what is there, if anything is."""

    dir: Node
    name: bytes
    node: Node | None
    slash: bool  #: the path ends in '/': only a directory will do

    @property
    def is_dots(self) -> bool:
        return self.name in (b".", b"..")


class Walk:
    """One system call's resolutions, on behalf of *caller*, from the last directory of *top*."""

    def __init__(self, ops: Operations, caller: Caller, top: tuple[Node, ...]) -> None:
        self._ops = ops
        self._caller = caller
        self._top = top
        self._links = 0
        self._held: Counter[Ino] = Counter()

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        owed = [(ino, count) for ino, count in self._held.items() if count]
        # Both ways of forgetting are in use, as they are by a kernel.
        if len(owed) == 1:
            self._ops.forget(*owed[0])
        elif owed:
            self._ops.batch_forget(owed)

    def entry(self, entry: Entry) -> Node:
        """Take over an entry that was just answered."""
        self._held[entry.ino] += 1
        return Node(entry.ino, entry.attr)

    def keep(self, node: Node) -> bool:
        """Leave one lookup of *node* to the caller of this method, who must forget it.

        False: nothing was looked up, *node* belongs to the top of the tree, which holds it.
        """
        if not self._held[node.ino]:
            return False
        self._held[node.ino] -= 1
        return True

    # -- resolution -----------------------------------------------------------------------

    def find(self, path: Path, follow: bool = True) -> Node:
        """Return the node at *path*; ENOENT where there is none."""
        # What ends in '/' must be a directory, so a link there is followed.
        last = self.last(path, follow or os.fsencode(path).endswith(b"/"))
        if last.node is None:
            fail(errno.ENOENT)
        if last.slash and not last.node.is_dir:
            fail(errno.ENOTDIR)
        return last.node

    def last(self, path: Path, follow: bool) -> Last:
        """Walk to the last component of *path*, and where *follow* to what a link there says."""
        text = os.fsencode(path)
        if len(text) >= PATH_MAX:
            fail(errno.ENAMETOOLONG)
        stack = list(self._top)
        slash = False
        while True:
            names, ends_in_slash = self._split(text)
            slash = slash or ends_in_slash
            stack = self._down(stack, names[:-1])
            name = names[-1]
            if name in (b".", b".."):
                stack = self._down(stack, [name])
                return Last(stack[-1], name, stack[-1], slash)
            self._must_be_dir(stack[-1])
            node = self.probe(stack[-1], name)
            if node is None or not node.is_link or not follow:
                return Last(stack[-1], name, node, slash)
            text = self._target(node)

    def stack(self, path: Path) -> tuple[Node, ...]:
        """Return the nodes from the root down to the directory *path*."""
        stack = self._down(list(self._top), [*self._split(os.fsencode(path))[0], b"."])
        return tuple(stack)

    def probe(self, parent: Node, name: bytes) -> Node | None:
        """Look up *name*; None where there is nothing."""
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        try:
            return self.entry(self._ops.lookup(self._caller, parent.ino, name))
        except FileNotFoundError:
            return None

    def _split(self, text: bytes) -> tuple[list[bytes], bool]:
        if not text:
            fail(errno.ENOENT)
        if text.startswith(b"/"):
            # The kernel would leave the tree here, and so leave what is tested.
            raise ValueError(f"a tree has no absolute paths: {text!r}")
        return [name for name in text.split(b"/") if name], text.endswith(b"/")

    def _down(self, stack: list[Node], names: list[bytes]) -> list[Node]:
        stack = list(stack)
        todo = deque(names)
        while todo:
            name = todo.popleft()
            self._must_be_dir(stack[-1])
            if name == b"..":
                # Above the root is the root.
                del stack[max(len(stack) - 1, 1) :]
            elif name != b".":
                node = self.probe(stack[-1], name)
                if node is None:
                    fail(errno.ENOENT)
                if node.is_link:
                    todo.extendleft(reversed(self._split(self._target(node))[0]))
                else:
                    stack.append(node)
        self._must_be_dir(stack[-1])
        return stack

    def _target(self, node: Node) -> bytes:
        self._links += 1
        if self._links > MAX_LINKS:
            fail(errno.ELOOP)
        return self._ops.readlink(self._caller, node.ino)

    def _must_be_dir(self, node: Node) -> None:
        if not node.is_dir:
            fail(errno.ENOTDIR)
