# SPDX-License-Identifier: MIT
"""What happens to a file system behind whoever serves it: the records, and who tells them.

Owns :class:`Change`, the kinds of change and the interface :class:`Watch`.  Does not own how
changes are heard of (:mod:`xloop.watch`) nor what is made of them (the adapters).

The kinds are bits, and carry the names and numbers of inotify(7), which fanotify(7) shares.  The
system puts several changes of one name together when nobody has read the first yet, so a change
may be of several kinds: ``CREATE | MODIFY | CLOSE_WRITE``, and ``CREATE | DELETE`` for what came and went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from xloop.types import Attr, Entry, Ino

__all__ = [
    "ATTRIB",
    "CLOSE_WRITE",
    "CREATE",
    "DELETE",
    "IGNORED",
    "ISDIR",
    "MODIFY",
    "MOVED_FROM",
    "MOVED_TO",
    "OF_NAMES",
    "OVERFLOW",
    "Change",
    "Watch",
]

MODIFY: Final = 0x2  #: the data of *target* changed
ATTRIB: Final = 0x4  #: attributes of *target*, the number of its names among them
CLOSE_WRITE: Final = 0x8  #: somebody closed *target*, who had it open for writing
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
OVERFLOW: Final = 0x4000  #: changes went unheard: whatever is known may be wrong
IGNORED: Final = 0x8000  #: *directory* is not watched any more
ISDIR: Final = 0x40000000  #: the change is about a directory

#: The kinds that say something about a name in *directory*.
OF_NAMES: Final = CREATE | DELETE | MOVED_FROM | MOVED_TO


class Change(NamedTuple):
    """One change that somebody else has made."""

    kind: int
    #: The directory of *name*, if its number is known to anybody; else None.
    directory: Ino | None = None
    #: Empty where the change came by no name.
    name: bytes = b""
    #: What was changed, if its number is known to anybody; else None.
    target: Ino | None = None
    #: The same for the MOVED_FROM and the MOVED_TO of one rename; 0 for everything else.
    cookie: int = 0
    #: The thread that did it, where the system tells; else 0.
    thread: int = 0
    #: What the system calls *directory* and *target* by, where that tells more than their numbers, which are
    #: used again: see :meth:`Watch.is_same`.
    handles: tuple[bytes, bytes] = (b"", b"")


class Watch(Protocol):
    """Tells what others change, and whether what was just read is going to be watched.

    A *token* is taken before something is read and shown afterwards: what was read holds until a
    change is told, unless a change was told meanwhile that nobody could know was meant for it.
    """

    #: The system's means: "fanotify", "fanotify by directory", "inotify".
    how: str
    #: Whether what this process does itself is left out.
    of_others: bool
    #: Whether what changes is heard of by the names in single directories only, and not by what was changed.
    by_directory: bool
    #: Whether a position in a directory means the same to every open file of it, at any time.
    lasting_positions: bool

    def listen(self, listener: Callable[[list[Change]], None]) -> None:
        """Have *listener* called with all further changes, in their order, from one thread.

        It must not wait for anything that waits for the file system.
        """
        ...

    def start(self) -> None:
        """Begin to tell."""
        ...

    def opened(self) -> None:
        """Hear that a file was opened: it is looked at from time to time, for what is not told."""
        ...

    def close(self) -> None:
        """End it.  No listener is called any more."""
        ...

    def watch_known(self) -> None:
        """From now on, tell what changes in every directory, before its number is told to anybody.

        Where that cannot be, status() counts it.
        """
        ...

    def before(self, directory: Ino) -> int:
        """Return a token for names in *directory*, and what they lead to, that are about to be read."""
        ...

    def before_attributes(self, ino: Ino) -> int:
        """Return a token for attributes of *ino* that are about to be read."""
        ...

    def names_hold(self, token: int, directory: Ino) -> bool:
        """Tell whether names that were read in *directory* hold, those that are not there included."""
        ...

    def attributes_hold(self, token: int, ino: Ino, attr: Attr) -> bool:
        """Tell whether *attr*, read of *ino*, holds."""
        ...

    def recall(self, ino: Ino) -> Entry | None:
        """Return what *ino* is or was, if it is known, under whatever name.  Lookup count: +1.

        What is gone has no names any more (nlink), and may have nothing left but its type.
        """
        ...

    def is_same(self, ino: Ino, handle: bytes) -> bool:
        """Tell whether *ino* is what a change meant by *handle*, and not what has its number by now.

        True where that cannot be told: it is gone, or there is no handle.
        """
        ...

    def name_of(self, ino: Ino) -> tuple[Ino, bytes] | None:
        """Return the directory and name by which *ino* was last told to anybody."""
        ...

    def names_of(self, ino: Ino) -> list[tuple[Ino, bytes]]:
        """Return the directory and name by which *ino* was last told, and those by which it was told before that."""
        ...

    def is_told(self, directory: Ino, name: bytes) -> bool | None:
        """Tell whether *name* leads, right now, to what was last told by exactly this name.

        None: it leads nowhere.
        """
        ...

    def known(self) -> Iterable[tuple[Ino, Ino | None, bytes]]:
        """Return every known number, with the directory and the name by which it was last told.

        What has several names may come a second time, with the one by which it was told before.
        """
        ...

    def on_other_name(self, displaced: Callable[[Ino, bytes], None]) -> None:
        """Have *displaced* called when something known gets told by another name than before.

        Its arguments are the directory and the name that known() no longer returns.
        """
        ...

    def status(self) -> dict[str, object]:
        """What is watched, and what went wrong."""
        ...
