# SPDX-License-Identifier: MIT
"""Playing along: requests by which a change that has happened already is repeated through the mount.

Owns the answers to the thread that repeats (:mod:`.relay`).  Does not own what is repeated, nor when.

The kernel asks as always: is the name there, make it, take it away.  It gets the answers that go with a change
which is only now being made, and so does what it does with every change: it sorts its names, and sends events to
whoever watches.  The source is looked at, and never touched.

**Whether a name is there** is answered as it was just before the change.  What the kernel believes already it does
not ask; so whoever takes away a name that was not asked for is told ESTALE, and the kernel asks, once more and
whatever it believes.

**What is gone, and was never known to anybody**, is a phantom: a number that no node has, and that no name
leads to outside of this thread's requests.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable

from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import Attr, Caller, Entry, Ino

from . import abi
from .abi import Opcode
from .handlers import Handler
from .passthrough import Passthrough
from .replies import Replies

__all__ = ["Answer", "Play", "absent"]

#: Returns what a name leads to, with a lookup count of one more; None: to nothing.
Answer = Callable[[], Entry | None]

#: The handle of everything that is opened only to be closed.
_HANDLE = (1 << 64) - 1

#: Numbers from here down to the last real one are phantoms', the odd ones those of directories.
_PHANTOMS = (1 << 64) - 2
_LAST_REAL = _PHANTOMS - (1 << 48)

#: Answered as to anybody.
_HARMLESS = frozenset(
    {
        Opcode.STATX,
        Opcode.GETXATTR,
        Opcode.LISTXATTR,
        Opcode.READLINK,
        Opcode.STATFS,
    }
)
_MAKE = frozenset({Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK})
_REMOVE = frozenset({Opcode.UNLINK, Opcode.RMDIR})
_RENAME = {Opcode.RENAME: abi.RENAME_IN.size, Opcode.RENAME2: abi.RENAME2_IN.size}


def absent() -> None:
    """The answer that a name is not there."""


class Play(Replies):
    """The server's part.  One request at a time: they all come from one thread."""

    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        passthrough: Passthrough | None,
        connection: int,
        table: list[Handler | None],
        recall: Callable[[Ino], Entry | None],
    ) -> None:
        """*table*: what answers everybody else.  *recall*: see :meth:`xloop.changes.Watch.recall`."""
        super().__init__(operations, options, passthrough, connection)
        self._table = table
        release = table[Opcode.RELEASE]
        assert release is not None
        self._release = release
        table[Opcode.RELEASE] = self._closed
        self._recall = recall
        self._numbers = itertools.count(_PHANTOMS, -2)
        self._names: dict[tuple[Ino, bytes], Answer] = {}
        self._asked: set[tuple[Ino, bytes]] = set()
        self._made: Entry | None = None

    def _closed(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        # The kernel says so in nobody's name.
        if abi.RELEASE_IN.unpack_from(body)[0] == _HANDLE:
            self.ok(fd, unique)
        else:
            self._release(fd, unique, nodeid, caller, body)

    # -- what is played -----------------------------------------------------------------

    def begin(self, names: dict[tuple[Ino, bytes], Answer], made: Entry | None = None) -> None:
        """Play the next change: answer for *names* as given, and to making something with *made*."""
        self._names = names
        self._asked.clear()
        self._made = made

    def also(self, directory: Ino, name: bytes, answer: Answer) -> None:
        self._names[directory, name] = answer

    def ask_again(self, directory: Ino, name: bytes) -> None:
        """A call begins: what the kernel has asked for another does not count."""
        self._asked.discard((directory, name))

    def was_asked(self, directory: Ino, name: bytes) -> bool:
        return (directory, name) in self._asked

    def end(self) -> Entry | None:
        """Return what nobody has made after all."""
        made, self._made = self._made, None
        self._names = {}
        return made

    def phantom(self, *, directory: bool) -> Entry:
        ino = Ino(next(self._numbers) | directory)
        return Entry(ino, _phantom_attr(ino), 0, 0)

    # Nothing is to be believed by anybody else, nor by this thread the next time.

    def _timeouts(self, entry: Entry) -> tuple[int, int, int, int]:
        return 0, 0, 0, 0

    def _attr_life(self, ino: Ino, attr: Attr) -> tuple[int, int]:
        return 0, 0

    # -- answers ------------------------------------------------------------------------

    def answer(
        self, fd: int, unique: int, opcode: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        if opcode == Opcode.LOOKUP:
            self._lookup(fd, unique, nodeid, caller, body)
        elif opcode in _HARMLESS and nodeid <= _LAST_REAL:
            handler = self._table[opcode]
            assert handler is not None
            handler(fd, unique, nodeid, caller, body)
        elif opcode == Opcode.GETXATTR:  # the ACL of a phantom
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        elif opcode in (Opcode.SETATTR, Opcode.GETATTR):
            self._attr(fd, unique, nodeid, self._attributes(caller, nodeid))
        elif opcode in _MAKE:
            made, self._made = self._made, None
            if made is None:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            self._entry(fd, unique, made)
        elif opcode in _REMOVE:
            self._as_asked(fd, unique, nodeid, bytes(body[:-1]))
        elif opcode in _RENAME:
            self._as_asked(
                fd, unique, nodeid, bytes(body[_RENAME[Opcode(opcode)] :]).split(b"\0")[0]
            )
        elif opcode in (Opcode.SETXATTR, Opcode.ACCESS):
            self.ok(fd, unique)
        elif opcode == Opcode.OPEN:
            # Nothing is read or written, and what the kernel has of the file stays as it is.
            flags = abi.FOPEN_DIRECT_IO | abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH
            reply = abi.OPEN_REPLY
            self._send(fd, reply.pack(reply.size, 0, unique, _HANDLE, flags, 0))
        else:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def _lookup(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        key = nodeid, bytes(body[:-1])
        answer = self._names.get(key)
        if answer is None:
            handler = self._table[Opcode.LOOKUP]
            assert handler is not None
            handler(fd, unique, nodeid, caller, body)
            return
        self._asked.add(key)
        entry = answer()
        if entry is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._entry(fd, unique, entry)

    def _as_asked(self, fd: int, unique: int, directory: Ino, name: bytes) -> None:
        if (directory, name) not in self._asked:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self.ok(fd, unique)

    def _attributes(self, caller: Caller, ino: Ino) -> Attr:
        if ino > _LAST_REAL:
            return _phantom_attr(ino)
        try:
            return self.ops.getattr(caller, ino, None)
        except OSError:
            gone = self._recall(ino)
            if gone is None:
                raise
            self.ops.forget(ino, 1)
            return gone.attr


def _phantom_attr(ino: Ino) -> Attr:
    # This user's own: in a sticky directory nobody else may take it away.
    mode = stat.S_IFDIR | 0o700 if ino & 1 else stat.S_IFREG | 0o600
    return Attr.make(mode, ino=ino, uid=os.geteuid(), gid=os.getegid())
