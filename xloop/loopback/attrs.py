# SPDX-License-Identifier: MIT
"""Loopback: attributes of nodes and of the file system."""

from __future__ import annotations

import errno

from xloop.host import Descriptor, host
from xloop.loopback.base import LoopbackBase, OpenFile
from xloop.types import Attr, Caller, HandleId, Ino, SetAttr, StatFs

__all__ = ["Attrs"]


class Attrs(LoopbackBase):
    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return self.nodes.shown(host.statx(self._ref(ino, handle)))

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Attr:
        ref = self._ref(ino, handle)
        if changes.nothing:
            self._lose_set_id(caller, ino, ref)
        with self._as(caller):
            if changes.uid is not None or changes.gid is not None:
                with self._killing(self._loses_set_id(caller, ref), caller, ref):
                    host.chown(
                        ref,
                        -1 if changes.uid is None else changes.uid,
                        -1 if changes.gid is None else changes.gid,
                    )
            if changes.size is not None:
                file = None if handle is None else self.handles[handle]
                with self._killing(changes.kill_suidgid, caller, ref):
                    if isinstance(file, OpenFile) and file.writable:
                        host.ftruncate(file.fd, changes.size)
                    else:
                        host.truncate(ref, changes.size)
            if changes.mode is not None:
                host.chmod(ref, changes.mode & 0o7777)
            if changes.atime is not None or changes.mtime is not None:
                host.utimens(ref, changes.atime, changes.mtime)
            if changes.crtime is not None:
                # After utimens: on macOS a modification before the birth moves the birth.
                host.setcrtime(ref, changes.crtime)
            if changes.flags is not None:
                # Last: UF_IMMUTABLE forbids all of the above.
                host.chflags(ref, changes.flags)
        return self.nodes.shown(host.statx(ref))

    def _lose_set_id(self, caller: Caller, ino: Ino, ref: Descriptor) -> None:
        """Let S_ISUID and S_ISGID go as chown(2) with neither owner nor group does it.

        The kernel asks the same, and has checked nothing, when somebody is about to write.  Who
        writes but may not chown is not told so: the write that follows does it.
        """
        try:
            with (
                self._own_rights(caller),
                self._killing(self._loses_set_id(caller, ref), caller, ref),
            ):
                host.chown(ref, -1, -1)
        except PermissionError:
            if not self._may_kill(caller, ino, ref):
                raise

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
