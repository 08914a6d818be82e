# SPDX-License-Identifier: MIT
"""Requests on a mount whose source is watched: the same handlers, with other lifetimes.

Owns which reply is believed for how long, and listing directories that were never opened.  Does not own
why that is safe (:mod:`.coherence`).

**Listings without opening.**  The kernel keeps a directory's listing, but opening the directory is a request,
unless the server says that it has no such thing (ENOSYS): then READDIR comes without a handle, and only
where the kernel does not have the listing.  It is said where opening decides nothing, because the
kernel checks who may read a directory, or nobody but root gets in; and where a position in a directory outlives
the open file that it came from.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from stat import S_ISDIR

from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import ROOT_INO, Attr, Caller, Entry, HandleId, Ino

from . import abi
from .abi import Opcode
from .coherence import LONG, Coherence
from .handlers import Handler, Handlers, Wait
from .negotiate import Terms
from .passthrough import Passthrough

__all__ = ["CoherentHandlers"]

#: Seconds for which attributes are believed that may change without anybody being told: the number of blocks
#: of a file that was just written, which the file system still places; and under a watch by directory all
#: those of what is no directory, because it may get a further name elsewhere, and be changed by that.
_UNTOLD = 60

#: Directories that are being listed, at most.
_LISTED = 64

_FH = struct.Struct("=Q")


class _Asked(threading.local):
    """The request that this thread serves."""

    #: The directory whose names are asked for; None where no reply may be believed for long.
    directory: Ino | None = None
    #: The inode whose attributes are.
    ino: Ino | None = None
    token = 0
    #: Whether the kernel drops the attributes of the reply if they were invalidated meanwhile.
    versioned = False


class CoherentHandlers(Handlers):
    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        terms: Terms,
        passthrough: Passthrough | None,
        wait: Wait,
        connection: int,
        *,
        coherence: Coherence,
        stateless: bool,
    ) -> None:
        """*coherence* tells the kernel what changes.

        *stateless*: directories are listed without being opened.
        """
        super().__init__(operations, options, terms, passthrough, wait, connection)
        coherence.believed = options.attr_timeout
        self.coherence = coherence
        self._watch = coherence.watch
        self._stateless = stateless
        self._asked = _Asked()
        self._listed: dict[Ino, tuple[HandleId, int]] = {}
        self._listed_lock = threading.Lock()

    def table(self) -> list[Handler | None]:
        table = super().table()
        made = (Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.CREATE, Opcode.LINK)
        for opcode in (*made, Opcode.READDIRPLUS, Opcode.LOOKUP):
            table[opcode] = self._about_names(table[opcode], versioned=opcode not in made)
        for opcode in (Opcode.GETATTR, Opcode.STATX):
            table[opcode] = self._about_attributes(table[opcode])
        return table

    def _about_names(self, handler: Handler | None, *, versioned: bool) -> Handler:
        assert handler is not None
        asked = self._asked
        before = self._watch.before

        def handle(fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
            asked.token = before(nodeid)
            asked.directory = nodeid
            asked.versioned = versioned
            try:
                handler(fd, unique, nodeid, caller, body)
            finally:
                asked.directory = None

        return handle

    def _about_attributes(self, handler: Handler | None) -> Handler:
        assert handler is not None
        asked = self._asked
        before = self._watch.before_attributes

        def handle(fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
            asked.token = before(nodeid)
            asked.ino = nodeid
            try:
                handler(fd, unique, nodeid, caller, body)
            finally:
                asked.ino = None

        return handle

    # -- lifetimes ----------------------------------------------------------------------

    def _names_hold(self, token: int, directory: Ino) -> bool:
        return self._watch.names_hold(token, directory) and self.coherence.keeps_up(directory)

    def _timeouts(self, entry: Entry) -> tuple[int, int, int, int]:
        name, attr, name_nsec, attr_nsec = super()._timeouts(entry)
        asked = self._asked
        directory = asked.directory
        if directory is None:
            return name, attr, name_nsec, attr_nsec
        self.coherence.children[directory] = entry.ino
        if entry.entry_timeout is None and self._names_hold(asked.token, directory):
            name, name_nsec = LONG, 0
        if (
            asked.versioned
            and entry.attr_timeout is None
            and entry.ino not in self._written
            and self._watch.attributes_hold(asked.token, entry.ino, entry.attr)
            and self.coherence.keeps_up(directory)
        ):
            attr, attr_nsec = self._life(entry.attr), 0
        return name, attr, name_nsec, attr_nsec

    def _attr_life(self, ino: Ino, attr: Attr) -> tuple[int, int]:
        if ino == ROOT_INO and self.coherence.asked_for_root < 2:
            self.coherence.asked_for_root += 1
            return 0, 0  # and so asks again: see Coherence
        asked = self._asked
        if (
            asked.ino == ino
            and ino not in self._written
            and self._watch.attributes_hold(asked.token, ino, attr)
            and self.coherence.keeps_up(ino)
        ):
            return self._life(attr), 0
        return super()._attr_life(ino, attr)

    def _life(self, attr: Attr) -> int:
        """Return for how long attributes are believed that hold, in seconds."""
        if self._watch.by_directory and not S_ISDIR(attr.mode):
            return _UNTOLD
        return LONG if abs(time.time() - attr.ctime) > _UNTOLD else _UNTOLD

    def _missing(self, fd: int, unique: int, directory: Ino, name: bytes) -> bool:
        # Noted first: what is noted after everything was dropped would be missed.
        self.coherence.is_missing(directory, name)
        if not self._names_hold(self._asked.token, directory):
            return super()._missing(fd, unique, directory, name)
        self._no_entry(fd, unique, LONG, 0)
        return True

    def setattr(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.coherence.answers_unversioned(nodeid)
        super().setattr(fd, unique, nodeid, caller, body)

    def link(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self.coherence.answers_unversioned(Ino(abi.LINK_IN.unpack_from(body)[0]))
        super().link(fd, unique, nodeid, caller, body)

    # -- names --------------------------------------------------------------------------

    def _still(self, directory: Ino, name: bytes) -> None:
        """Raise ESTALE where *name* is not what the kernel believes any more; it looks again then.

        The kernel takes the directory that it believes to have this name for dead when it loses it, and a
        dead one is never listed again, though it may have moved to another name meanwhile.
        """
        if self._watch.is_told(directory, name) is False:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def rmdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._still(nodeid, bytes(body[:-1]))
        super().rmdir(fd, unique, nodeid, caller, body)

    def rename(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._still_renamed(abi.RENAME_IN, body)
        super().rename(fd, unique, nodeid, caller, body)

    def rename2(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._still_renamed(abi.RENAME2_IN, body)
        super().rename2(fd, unique, nodeid, caller, body)

    def _still_renamed(self, layout: struct.Struct, body: memoryview) -> None:
        directory = Ino(layout.unpack_from(body)[0])
        self._still(directory, bytes(body[layout.size :]).split(b"\0", 2)[1])

    # -- directories --------------------------------------------------------------------

    def opendir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        if self._stateless:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        super().opendir(fd, unique, nodeid, caller, body)

    def _listing_flags(self, directory: Ino) -> int:
        if self._names_hold(self._watch.before(directory), directory):
            return abi.FOPEN_CACHE_DIR | abi.FOPEN_KEEP_CACHE
        return 0

    def _take(self, directory: Ino, caller: Caller, offset: int, now: int) -> HandleId:
        """Return a handle of *directory* that nobody else uses, to go on at *offset*.

        From the beginning it is always a new one: one that was first used at the end of a directory finds nothing
        at its beginning on ext4.  And what another has read ahead may have changed since.
        """
        if offset:
            with self._listed_lock:
                handle, since = self._listed.pop(directory, (None, 0))
            if handle is not None:
                if since == now:
                    return handle
                self.ops.releasedir(directory, handle)
        return self.ops.opendir(caller, directory, 0).handle

    def _put(self, directory: Ino, handle: HandleId, now: int) -> None:
        """Keep a handle for whoever goes on with the listing."""
        with self._listed_lock:
            surplus = []
            if directory in self._listed:
                surplus.append((directory, self._listed.pop(directory)[0]))
            self._listed[directory] = handle, now
            if len(self._listed) > _LISTED:
                oldest = next(iter(self._listed))
                surplus.append((oldest, self._listed.pop(oldest)[0]))
        for ino, other in surplus:
            self.ops.releasedir(ino, other)

    def _forgotten(self, ino: Ino) -> None:
        super()._forgotten(ino)
        self.coherence.children.pop(ino, None)
        if ino in self._listed:
            with self._listed_lock:
                listed = self._listed.pop(ino, None)
            if listed is not None:
                # Its number may become another directory's.
                self.ops.releasedir(ino, listed[0])

    def readdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._list(super().readdir, fd, unique, nodeid, caller, body)

    def readdirplus(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        self._list(super().readdirplus, fd, unique, nodeid, caller, body)

    def _list(
        self,
        handler: Handler,
        fd: int,
        unique: int,
        nodeid: Ino,
        caller: Caller,
        body: memoryview,
    ) -> None:
        if not self._stateless:
            handler(fd, unique, nodeid, caller, body)
            return
        now = self._watch.before(nodeid)
        _, offset, *_ = abi.READ_IN.unpack_from(body)
        handle = self._take(nodeid, caller, offset, now)
        try:
            _FH.pack_into(body, 0, handle)
            handler(fd, unique, nodeid, caller, body)
        finally:
            self._put(nodeid, handle, now)
        if not self._listing_flags(nodeid):
            # Without opening, the kernel keeps every listing.
            self.coherence.listing_is_not_kept(nodeid)

    def fsyncdir(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._with_handle(super().fsyncdir, fd, unique, nodeid, caller, body)

    def ioctl(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        self._with_handle(super().ioctl, fd, unique, nodeid, caller, body)

    def _with_handle(
        self,
        handler: Handler,
        fd: int,
        unique: int,
        nodeid: Ino,
        caller: Caller,
        body: memoryview,
    ) -> None:
        if _FH.unpack_from(body)[0]:
            handler(fd, unique, nodeid, caller, body)
            return
        # A directory, which was never opened.
        handle = self.ops.opendir(caller, nodeid, 0).handle
        try:
            _FH.pack_into(body, 0, handle)
            handler(fd, unique, nodeid, caller, body)
        finally:
            self.ops.releasedir(nodeid, handle)
