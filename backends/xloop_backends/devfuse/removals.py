# SPDX-License-Identifier: MIT
"""What others removed, and watchers are still to be told of: it keeps one name until then.

Owns :class:`Removals`.  Does not own how anybody is told (:mod:`.relay`).

The kernel tells watchers of a file that it is gone (IN_DELETE_SELF), and watches it for them no longer, when it lets go of its last
name and knows that the file has no further one.  It lets go of a name that others removed when it asks for it, or when it is told
that it changed; and whoever looks at the file meanwhile brings it the number of names, 0.  Both come before
the relay has repeated what had happened before, and so all that would be told too late.  But while the number is 1, losing
the name means nothing, and removing it once more tells everything.

**Which removals are meant**: those that nobody made through the mount.  Through the mount, the table of nodes takes the
name from the node, and the kernel counts by itself.

**Not for long**: what is not repeated within :data:`_OWED` seconds, for whatever reason, has no name.
"""

from __future__ import annotations

import threading
from time import monotonic

from xloop.changes import Watch
from xloop.types import Attr, Ino

__all__ = ["Removals"]

#: Seconds for which something removed keeps a name at most.
_OWED = 5.0
#: What is remembered at most.
_MOST = 4096


class Removals:
    """From any thread."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        #: What was found to be removed, and until when it is not told, the earliest first.
        self._until: dict[Ino, float] = {}

    def are_told(self, ino: Ino) -> None:
        """Watchers are about to be told of *ino*, which is known, and so will be forgotten."""
        self._note(ino, 0.0)

    def forget(self, ino: Ino) -> None:
        """The number *ino* may become something else's."""
        if ino in self._until:
            with self._lock:
                self._until.pop(ino, None)

    def _note(self, ino: Ino, until: float) -> None:
        with self._lock:
            self._until.pop(ino, None)
            self._until[ino] = until
            if len(self._until) > _MOST:
                del self._until[next(iter(self._until))]

    def _is_owed(self, ino: Ino) -> bool:
        until = self._until.get(ino)
        now = monotonic()
        if until is None:
            if self._watch.name_of(ino) is None:
                return False  # it was removed through the mount
            until = now + _OWED
            self._note(ino, until)
        return now < until

    def shown(self, ino: Ino, attr: Attr) -> Attr | None:
        """Return *attr*, which says that *ino* has no name, as it is to be shown for now; None: as it is."""
        return attr._replace(nlink=1) if self._is_owed(ino) else None
