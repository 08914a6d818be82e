# SPDX-License-Identifier: MIT
"""Loopback: attributes of nodes and of the file system."""

from __future__ import annotations

import errno

from xloop.host import host
from xloop.loopback.base import LoopbackBase, OpenFile
from xloop.types import Attr, Caller, HandleId, Ino, SetAttr, StatFs

__all__ = ["Attrs"]


class Attrs(LoopbackBase):
    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return self.nodes.shown(host.statx(self._ref(ino, handle)))

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Attr:
        ref = self._ref(ino, handle)
        with self._as(caller):
            if changes.uid is not None or changes.gid is not None:
                host.chown(
                    ref,
                    -1 if changes.uid is None else changes.uid,
                    -1 if changes.gid is None else changes.gid,
                )
            if changes.size is not None:
                file = None if handle is None else self.handles[handle]
                with self._killing(changes.kill_suidgid):
                    if isinstance(file, OpenFile) and file.writable:
                        host.ftruncate(file.fd, changes.size)
                    else:
                        host.truncate(ref, changes.size)
            if changes.mode is not None:
                host.chmod(ref, changes.mode & 0o7777)
            if changes.atime is not None or changes.mtime is not None:
                host.utimens(ref, changes.atime, changes.mtime)
        return self.nodes.shown(host.statx(ref))

    def access(self, caller: Caller, ino: Ino, mask: int) -> None:
        with self._as(caller):
            host.access(self._ref(ino, None), mask)

    def statfs(self, caller: Caller, ino: Ino) -> StatFs:
        try:
            ref = self._ref(ino, None)
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
            # Asked of something that is gone.  `df` wants to hear of the whole.
            ref = self.nodes.ref(self.nodes.root)
        return host.statfs(ref)

    def syncfs(self, caller: Caller, ino: Ino) -> None:
        host.syncfs(host.open_dir(self.nodes.ref(self.nodes.root)))
