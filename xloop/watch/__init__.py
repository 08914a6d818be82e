# SPDX-License-Identifier: MIT
"""Watching a source: who changes it, other than this process: :func:`open_watch`.

Owns the choice of the means.  What is where: fanotify in :mod:`.fanotify`, inotify in :mod:`.inotify`, watching one
directory at a time in :mod:`.directories`, what they all share in :mod:`.base`.  What they tell, and to whom, is
:mod:`xloop.changes`.

One mark of fanotify covers a whole file system, costs nothing for each directory and tells which thread made a
change, but is root's alone and asks for file handles that can be read.  Marks of fanotify on single directories are for
everybody, and still tell what this process has done itself.  inotify does not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterable

from xloop.changes import Watch
from xloop.host import Descriptor, host
from xloop.nodes import Node, NodeTable

__all__ = ["open_watch"]


def open_watch(
    nodes: NodeTable,
    own: Container[int],
    open_files: Callable[[], Iterable[tuple[Node, Descriptor]]],
) -> Watch:
    """Return a watch of the source whose root *nodes* knows.  Not started yet.

    *own*: the threads (by their number for the kernel) whose changes are this process's own, and
    are not told where the system knows who made one (:attr:`~xloop.changes.Watch.of_others`).  *open_files*: what is open there now.
    OSError(EOPNOTSUPP) says why it cannot be watched.
    """
    root = nodes.ref(nodes.root)
    watchable = host.watchable(root)
    if watchable.why_not:
        raise OSError(errno.EOPNOTSUPP, watchable.why_not)
    # Here: few mounts are watched, and no other system has these.
    from .fanotify import FanotifyDirectoryWatch, FanotifyWatch
    from .inotify import InotifyWatch

    try:
        return FanotifyWatch(nodes, watchable, own, open_files)
    except OSError as exc:
        refused = f"fanotify: {exc.strerror}"
    try:
        return FanotifyDirectoryWatch(nodes, watchable, own, open_files, refused)
    except OSError as exc:
        refused += f"; fanotify by directory: {exc.strerror or os.strerror(exc.errno or 0)}"
    try:
        return InotifyWatch(nodes, watchable, open_files, refused)
    except OSError as exc:
        why = f"{refused}; inotify: {exc.strerror or os.strerror(exc.errno or 0)}"
        raise OSError(errno.EOPNOTSUPP, why) from exc
