# SPDX-License-Identifier: MIT
"""Loopback: flock and record locks, taken on the source so that programs there are kept out.

Owns which open file of the source holds a lock for whom.

* flock(2) belongs to an open file: it is taken on the handle's own descriptor, and goes with it.
* A record lock belongs to an owner: a process (POSIX) or an open file (OFD).  All owners are served by
  one process, which to the source is one POSIX owner, so each gets an open file of its own on
  the source and locks with it as an OFD lock.  POSIX locks go when their owner closes *any*
  descriptor of the file (flush), and all of a handle's locks when it is released.

A flush for every close is a high price for what few mounts ever see.  So as long as nobody has asked for
a record lock, opens offer to do without (``Opened.no_flush``).  What was opened before the first one
keeps its locks until its last duplicate is closed: longer than natively, never shorter.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from xloop.host import Descriptor, host
from xloop.loopback.base import LockOwner, LoopbackBase, OpenFile
from xloop.nodes import Node
from xloop.types import Caller, HandleId, Ino, LockRange

__all__ = ["Locks"]

_END = 2**63 - 1


class Locks(LoopbackBase):
    def _owner(self, file: OpenFile, handle: HandleId, owner: int, pid: int) -> LockOwner:
        with self._files_lock:
            owners = self._owners.setdefault(file.node.ino, {})
            found = owners.get(owner)
            if found is None:
                found = owners[owner] = LockOwner(self._open_for_locking(file))
            found.pid = pid
            found.handles.add(handle)
            return found

    def _open_for_locking(self, file: OpenFile) -> Descriptor:
        # Readable and writable where that can be had: an owner may take a read lock through one
        # descriptor of its own and a write lock through another, and two open files here would
        # keep each other out.
        with suppress(OSError):
            return self.nodes.within_limits(host.reopen, file.fd, os.O_RDWR)
        try:
            return self.nodes.within_limits(host.reopen, file.fd, file.flags & host.O_ACCMODE)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.ESTALE):
                raise
            # It was made with a mode, or given to an owner, that does not let us open it again; or it
            # has no name any more, and this system opens by nothing else.  So its own open file:
            # better than no lock, though all who lock through it are one.
            return file.fd

    def getlk(
        self, caller: Caller, ino: Ino, handle: HandleId, owner: int, lock: LockRange
    ) -> LockRange:
        self._locking = True
        file = self._file(handle)
        with self._files_lock:
            owners = dict(self._owners.get(file.node.ino, {}))
        mine = owners.pop(owner, None)
        found = host.getlk(file.fd if mine is None else mine.fd, lock)
        if found.type != host.F_UNLCK and not found.pid:
            # An open file's lock has no process.  If it is one of ours we know whose it is: the
            # owner in whose own eyes nothing is there.
            probe = found._replace(type=host.F_WRLCK)
            for other in owners.values():
                if host.getlk(other.fd, probe)[:3] != found[:3]:
                    return found._replace(pid=other.pid)
        return found

    def setlk(
        self,
        caller: Caller,
        ino: Ino,
        handle: HandleId,
        owner: int,
        lock: LockRange,
        *,
        wait: bool,
    ) -> None:
        self._locking = True
        file = self._file(handle)
        host.setlk(self._owner(file, handle, owner, lock.pid).fd, lock, wait)

    def flock(self, caller: Caller, ino: Ino, handle: HandleId, operation: int) -> None:
        host.flock(self._file(handle).fd, operation)

    def _drop_owner(self, node: Node, owner: int) -> None:
        """*owner* has closed a descriptor of the file: POSIX takes all its locks there."""
        if not self._owners:
            return
        with self._files_lock:
            owners = self._owners.get(node.ino)
            if owners is not None:
                gone = owners.pop(owner, None)
                if not owners:
                    del self._owners[node.ino]
                if gone is not None and gone.fd in self._files.get(node.ino, ()):
                    host.setlk(gone.fd, LockRange(host.F_UNLCK, 0, _END), False)

    def _release_locks(self, node: Node, handle: HandleId) -> None:
        """*handle* is gone: drop the owners that locked through it and no other."""
        if not self._owners:
            return
        with self._files_lock:
            owners = self._owners.get(node.ino)
            if owners is None:
                return
            for owner, held in list(owners.items()):
                held.handles.discard(handle)
                if not held.handles:
                    del owners[owner]
            if not owners:
                del self._owners[node.ino]
