# SPDX-License-Identifier: MIT
"""Which handles are open for which of the library's nodes: :class:`OpenHandles`.

Owns that table.  Does not own the handles themselves (:mod:`xloop.pathview`) nor what is done with them
(:mod:`.callbacks`).  The library knows it too, and tells nobody.
"""

from __future__ import annotations

import threading

from xloop.types import HandleId

__all__ = ["OpenHandles"]

_RENAME_EXCHANGE = 2


class OpenHandles:
    """The open handles of each node, by the library's numbers.  For several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_node: dict[int, list[HandleId]] = {}
        #: The handles that were made with their files, of which no node is known yet, and their paths.
        self._made: dict[HandleId, bytes] = {}
        #: The nodes whose handles are not all of one file.
        self._mixed: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._by_node.values())) + len(self._made)

    def opened(self, node: int, handle: HandleId, *, mixed: bool = False) -> None:
        """*mixed*: it is another file than the handles before it have."""
        with self._lock:
            self._by_node.setdefault(node, []).append(handle)
            if mixed:
                self._mixed.add(node)

    def is_mixed(self, node: int) -> bool:
        """Tell whether handles of several files are, or were just now, open for *node*."""
        return node in self._mixed

    def made(self, handle: HandleId, path: bytes) -> None:
        """A CREATE does not tell which node it makes: the first request about that will."""
        with self._lock:
            self._made[handle] = path

    def moved(self, path: bytes, newpath: bytes, flags: int) -> None:
        """Follow a rename that was carried out."""
        if not self._made:
            return
        ways = [(path, newpath)]
        if flags & _RENAME_EXCHANGE:
            ways.append((newpath, path))
        with self._lock:
            for handle, at in self._made.items():
                for old, new in ways:
                    if at == old or at.startswith(old + b"/"):
                        self._made[handle] = new + at[len(old) :]
                        break

    def released(self, node: int, handle: HandleId) -> None:
        with self._lock:
            self._made.pop(handle, None)
            handles = self._by_node.get(node, [])
            if handle in handles:
                handles.remove(handle)
                if not handles:
                    del self._by_node[node]
                    self._mixed.discard(node)

    def first(self, node: int, path: bytes | None) -> HandleId | None:
        """Return a handle that was opened for *node*, which the library finds at *path* by now."""
        if not self._made and node not in self._by_node:
            return None
        with self._lock:
            handles = self._by_node.get(node)
            if not handles:
                handles = [handle for handle, at in self._made.items() if at == path]
                if handles:
                    self._by_node[node] = handles
                    for handle in handles:
                        del self._made[handle]
            return handles[0] if handles else None
