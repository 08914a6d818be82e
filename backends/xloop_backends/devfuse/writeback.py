# SPDX-License-Identifier: MIT
"""Writes that the kernel delays (FUSE_WRITEBACK_CACHE): what it then does by itself, and what follows for us.

Owns the times and the sizes of files as the kernel believes them, and how files are opened for it.  Does not own
writing a page to the source, which is ``write(cached=True)`` of the contract (:mod:`xloop.ops`).

While it delays writes, the kernel is the authority on size, mtime and ctime of every regular file that it knows
(fs/fuse/inode.c, fuse_get_cache_mask).  It takes them from the first reply that tells of the file, and from none
after that, until it forgets the file.

* **It reads what is opened for writing only**, to complete a page of which a part is written, and computes the end of
  the file for O_APPEND.  So files are opened for both, and without O_APPEND.  Where the source refuses that (a file
  that its owner may not read, chattr +a), the open is as the caller wants it, and past the kernel's cache
  (FOPEN_DIRECT_IO).
* **It sends its times** in a SETATTR, by themselves when a file is written out, and with a truncation.  The source
  lets only a file's owner set a time; whoever may write it moves it to now.  So what the kernel has made up is never
  refused: the write has moved the source's own times already.  What a program has asked for is.  A SETATTR does not
  say which it is; see :meth:`WritebackHandlers._by_the_kernel`.
* **It sends them too early**, where it writes out by itself: pages are on their way when the times come, and the write moves
  the source's to now.  And it sends none where what was written has moved none, within a tick of its clock.  So the time
  that the kernel has is set again before anybody hears that the file is flushed, synced or closed.
* **What others change on the source it does not see.**  So the belief of the kernel is kept here for each file,
  and compared.  Where it is wrong and nobody has the file open, the kernel is told ESTALE when it looks the name up:
  then it drops the name and with it the file, and asks anew.  An open that finds it wrong says so, too, and the kernel looks the
  name up again.  If that did not help, because something holds the file (another name, a watch), it is opened past the
  cache, as above: nobody appends at an end that is none any more.
* **It answers SEEK_DATA and SEEK_HOLE by ours**, and does not write out before.  It is made to.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from xloop.layers import Layer
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import NOW, Attr, Caller, DirEntry, Entry, HandleId, Ino, Opened, SetAttr

from . import abi
from .handlers import Handlers, Wait
from .negotiate import Terms
from .passthrough import Passthrough

__all__ = ["Delayed", "WritebackHandlers"]

_T = TypeVar("_T")

#: Size and mtime, in nanoseconds.
_State = tuple[int, int]

_FALLOC_FL_KEEP_SIZE = 1

#: Nanoseconds: more than a tick of any clock that file systems take their times from.
_TICK = 20_000_000


#: Inodes of one file of which the kernel has not said yet that it has dropped them, at most.
_MOST_BELIEFS = 8


class _Belief:
    """What an inode of the kernel takes for true."""

    __slots__ = ("lookups", "mtime", "size")

    def __init__(self, size: int, mtime: int) -> None:
        self.size = size
        self.mtime = mtime
        #: How many of its lookups are not forgotten yet.
        self.lookups = 1

    def is_wrong(self, state: _State) -> bool:
        return state != (self.size, self.mtime)


class _File:
    """What the kernel believes of a regular file, as far as we know."""

    __slots__ = ("beliefs", "moved", "opens", "refused", "told", "writers")

    def __init__(self, state: _State) -> None:
        #: The last one is the kernel's, if it has dropped the others when it was told to.  That it has it says
        #: (FORGET) some requests later; until then it may be the first.
        self.beliefs = [_Belief(*state)]
        self.opens = 0
        #: Those of them that may write.
        self.writers = 0
        #: Whether the source's time has been moved by what the kernel has sent, and is not the kernel's now.
        self.moved = False
        #: Whether the kernel was told to drop what it has, and has not looked the file up since.
        self.told = False
        #: The state of the source for which an open was refused already.
        self.refused: _State | None = None

    def looked_up(self, state: _State) -> None:
        """Note that the kernel is told of the file."""
        beliefs = self.beliefs
        if not self.told:
            beliefs[-1].lookups += 1
            return
        self.told = False
        beliefs.append(_Belief(*state))
        if len(beliefs) > _MOST_BELIEFS:
            beliefs[-1].lookups += beliefs.pop(-2).lookups

    def forgotten(self, lookups: int) -> None:
        """Note that the kernel has forgotten so many *lookups*."""
        beliefs = self.beliefs
        beliefs[0].lookups -= lookups
        while beliefs[0].lookups <= 0 and len(beliefs) > 1:
            beliefs[1].lookups += beliefs.pop(0).lookups

    @property
    def gone(self) -> bool:
        return not self.opens and self.beliefs[-1].lookups <= 0

    def grown(self, end: int) -> None:
        for belief in self.beliefs:
            belief.size = max(belief.size, end)

    def set(self, changes: SetAttr) -> None:
        for belief in self.beliefs:
            if changes.size is not None:
                belief.size = changes.size
            if isinstance(changes.mtime, int):
                belief.mtime = changes.mtime


class Delayed(Layer):
    """*inner* as a kernel needs it that delays writes."""

    def __init__(self, inner: Operations, *, told_all_times: bool) -> None:
        super().__init__(inner)
        self._told_all_times = told_all_times
        self._lock = threading.Lock()
        self._files: dict[Ino, _File] = {}
        #: The open files that may write, and whether they are past the cache.
        self._writing: dict[HandleId, bool] = {}

    def is_being_written(self, ino: Ino) -> bool:
        """Tell whether the kernel may have something of *ino* that the source has not."""
        file = self._files.get(ino)
        return file is not None and file.writers > 0

    # -- names --------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        entry = self.inner.lookup(caller, parent, name)
        if stat.S_ISREG(entry.attr.mode):
            state = _state(entry.attr)
            with self._lock:
                file = self._files.get(entry.ino)
                stale = (
                    file is not None
                    and not (file.opens or file.told)
                    and file.beliefs[-1].is_wrong(state)
                )
                if file is None:
                    self._files[entry.ino] = _File(state)
                elif stale:
                    file.told = True
                else:
                    file.looked_up(state)
            if stale:
                self.inner.forget(entry.ino, 1)
                raise _stale()
        return entry

    def readdirplus(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Entry | None]]:
        for name, entry in self.inner.readdirplus(caller, ino, handle, offset):
            if entry is not None and stat.S_ISREG(entry.attr.mode):
                file = self._files.get(entry.ino)
                state = _state(entry.attr)
                if file is not None and not file.opens and file.beliefs[-1].is_wrong(state):
                    # Else the kernel would go on believing for another while.
                    self.inner.forget(entry.ino, 1)
                    yield name, None
                    continue
                self._noted(entry)
            yield name, entry

    def mknod(
        self, caller: Caller, parent: Ino, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        return self._noted(self.inner.mknod(caller, parent, name, mode, rdev, umask))

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> Entry:
        return self._noted(self.inner.link(caller, ino, newparent, newname))

    def _noted(self, entry: Entry) -> Entry:
        """Note that the kernel is told of *entry*, whatever it believes."""
        if stat.S_ISREG(entry.attr.mode):
            with self._lock:
                file = self._files.get(entry.ino)
                if file is None:
                    self._files[entry.ino] = _File(_state(entry.attr))
                else:
                    file.looked_up(_state(entry.attr))
        return entry

    def forget(self, ino: Ino, nlookup: int) -> None:
        self._forgotten(ino, nlookup)
        self.inner.forget(ino, nlookup)

    def batch_forget(self, forgets: Iterable[tuple[Ino, int]]) -> None:
        forgets = list(forgets)
        for ino, nlookup in forgets:
            self._forgotten(ino, nlookup)
        self.inner.batch_forget(forgets)

    def _forgotten(self, ino: Ino, nlookup: int) -> None:
        with self._lock:
            file = self._files.get(ino)
            if file is not None:
                file.forgotten(nlookup)
                if file.gone:
                    del self._files[ino]

    # -- opening and closing ------------------------------------------------------------

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        def how(flags: int) -> Opened:
            return self.inner.open(caller, ino, flags, kill_suidgid=kill_suidgid)

        # That the kernel reads what is opened for writing only is its own affair.
        opened, past = _readable(how, flags, os.O_NOATIME)
        try:
            wrong = self._is_wrong(caller, ino, opened, flags)
        except BaseException:
            self.inner.release(ino, opened.handle)
            raise
        if wrong and flags & os.O_APPEND and not past:
            self.inner.release(ino, opened.handle)
            opened = how(flags)
        return self._opened(ino, opened, flags, past or wrong)

    def _is_wrong(self, caller: Caller, ino: Ino, opened: Opened, flags: int) -> bool:
        """Tell whether the kernel may be wrong about a file that was just opened; ESTALE: it shall look again."""
        file = self._files.get(ino)
        if file is not None and (file.opens or flags & os.O_TRUNC):
            return False  # whoever has it open goes by what is believed; what is truncated is so
        state = self._state(caller, ino, opened)
        if file is None:
            file = self._files.setdefault(ino, _File(state))
        if not any(belief.is_wrong(state) for belief in file.beliefs):
            return False
        if file.refused != state:
            file.refused = state
            raise _stale()
        return True

    def create(
        self,
        caller: Caller,
        parent: Ino,
        name: bytes,
        flags: int,
        mode: int,
        umask: int,
        *,
        kill_suidgid: bool = False,
    ) -> tuple[Entry, Opened]:
        (entry, opened), past = _readable(
            lambda flags: self.inner.create(
                caller, parent, name, flags, mode, umask, kill_suidgid=kill_suidgid
            ),
            flags,
        )
        return self._noted(entry), self._opened(entry.ino, opened, flags, past)

    def tmpfile(
        self, caller: Caller, parent: Ino, flags: int, mode: int, umask: int
    ) -> tuple[Entry, Opened]:
        (entry, opened), past = _readable(
            lambda flags: self.inner.tmpfile(caller, parent, flags, mode, umask), flags
        )
        return self._noted(entry), self._opened(entry.ino, opened, flags, past)

    def _state(self, caller: Caller, ino: Ino, opened: Opened) -> _State:
        if opened.fd is None:
            return _state(self.inner.getattr(caller, ino, opened.handle))
        st = os.fstat(opened.fd)
        return st.st_size, st.st_mtime_ns

    def _opened(self, ino: Ino, opened: Opened, flags: int, past: bool) -> Opened:
        with self._lock:
            file = self._files[ino]
            file.opens += 1
            if flags & os.O_ACCMODE != os.O_RDONLY:
                file.writers += 1
                self._writing[opened.handle] = past
            if flags & os.O_TRUNC:
                file.set(SetAttr(size=0))
                file.moved = True
        return opened._replace(direct_io=True) if past else opened

    def flush(self, caller: Caller, ino: Ino, handle: HandleId, lock_owner: int) -> None:
        self._set_again(ino, handle)
        self.inner.flush(caller, ino, handle, lock_owner)

    def fsync(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        self._set_again(ino, handle)
        self.inner.fsync(caller, ino, handle, datasync)

    def release(self, ino: Ino, handle: HandleId) -> None:
        self._set_again(ino, handle)
        with self._lock:
            file = self._files[ino]
            file.opens -= 1
            if self._writing.pop(handle, None) is not None:
                file.writers -= 1
            if file.gone:
                del self._files[ino]
        self.inner.release(ino, handle)

    def _set_again(self, ino: Ino, handle: HandleId) -> None:
        """Give the source the kernel's time, if it was moved and the kernel has not sent one since.

        Then the kernel's is the one that it had: it sends another one before it flushes, syncs or closes.
        """
        file = self._files[ino]
        if not file.moved:
            return
        file.moved = False
        mtime = file.beliefs[-1].mtime
        with suppress(OSError):  # not ours to set: the kernel will be found to be wrong
            if not self._told_all_times:
                now = self.inner.getattr(_ourselves(), ino, handle).mtime_ns
                if now - mtime > _TICK:
                    return  # perhaps it could not send the one that it has
            self.inner.setattr(_ourselves(), ino, SetAttr(mtime=mtime), handle)

    # -- data ---------------------------------------------------------------------------

    def write(
        self,
        caller: Caller,
        ino: Ino,
        handle: HandleId,
        offset: int,
        data: bytes | memoryview,
        *,
        cached: bool = False,
        kill_suidgid: bool = False,
    ) -> int:
        file = self._files[ino]
        end = offset
        try:
            taken = self.inner.write(
                caller, ino, handle, offset, data, cached=cached, kill_suidgid=kill_suidgid
            )
            end += taken
        finally:
            with self._lock:
                # What comes from its cache the kernel counts in any case.
                file.grown(offset + len(data) if cached else end)
                # Only now: a time that has come meanwhile was set before this moved it.  Past its cache
                # the kernel moves none, and the source's is right.
                file.moved = not self._writing.get(handle, False)
        return taken

    def fallocate(
        self, caller: Caller, ino: Ino, handle: HandleId, mode: int, offset: int, length: int
    ) -> None:
        self.inner.fallocate(caller, ino, handle, mode, offset, length)
        self._changed(ino, 0 if mode & _FALLOC_FL_KEEP_SIZE else offset + length)

    def copy_file_range(
        self,
        caller: Caller,
        ino_in: Ino,
        handle_in: HandleId,
        offset_in: int,
        ino_out: Ino,
        handle_out: HandleId,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        copied = self.inner.copy_file_range(
            caller, ino_in, handle_in, offset_in, ino_out, handle_out, offset_out, length, flags
        )
        self._changed(ino_out, offset_out + copied)
        return copied

    def _changed(self, ino: Ino, end: int) -> None:
        file = self._files[ino]
        with self._lock:
            file.grown(end)
            file.moved = True

    # -- attributes ---------------------------------------------------------------------

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Attr:
        file = self._files.get(ino)  # None: no regular file
        if file is None:
            return self.inner.setattr(caller, ino, changes, handle)
        moved = file.moved
        if changes.mtime is not None:
            # Before it is set: a page may be written at the same time, and move it once more.
            file.moved = False
        try:
            attr = self.inner.setattr(caller, ino, changes, handle)
        except BaseException:
            file.moved |= moved
            raise
        with self._lock:
            file.set(changes)
        return attr

    def is_believed(self, ino: Ino, mtime: int, attr: Attr) -> bool:
        """Tell whether the kernel has had *mtime* for *ino*, whose attributes are *attr*, already."""
        file = self._files.get(ino)
        believed = () if file is None else file.beliefs
        return mtime == attr.mtime_ns or any(belief.mtime == mtime for belief in believed)

    def not_taken(self, ino: Ino, mtime: int) -> None:
        """The source keeps a time of its own in place of the kernel's *mtime*."""
        file = self._files.get(ino)
        if file is not None:
            with self._lock:
                file.set(SetAttr(mtime=mtime))


class WritebackHandlers(Handlers):
    """See the module."""

    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        terms: Terms,
        passthrough: Passthrough | None,
        wait: Wait,
        connection: int,
        *,
        told_all_times: bool,
    ) -> None:
        """*told_all_times*: False where the kernel's own threads cannot send a time: they ask as root, who is unknown
        in the user namespace of the mount."""
        self._delayed = Delayed(operations, told_all_times=told_all_times)
        super().__init__(self._delayed, options, terms, passthrough, wait, connection)

    def _by_the_kernel(
        self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None, ctime: int
    ) -> Attr:
        """Set attributes for a kernel that sends an mtime of its own wherever one moves.

        Natively: anybody who may write a file may set both its times to now, and truncate it; its owner alone may set
        any other time.  fs/fuse/dir.c gives away who it was:

        * with a handle, and no size, the kernel writes out what it has;
        * with a size, the truncation has moved the time already;
        * both times, one of them "now", and the other equal to ctime: both are now (utimes(2) without times);
        * mtime alone is a program's, or the kernel's own after a rename, when nobody has the file open.
          The kernel's own is one that it has sent before.
        """
        mtime = changes.mtime
        if not isinstance(mtime, int):
            return self.ops.setattr(caller, ino, changes, handle)
        writes_out = handle is not None and changes.size is None
        try:
            return self.ops.setattr(_ourselves() if writes_out else caller, ino, changes, handle)
        except PermissionError as exc:
            if exc.errno != errno.EPERM:
                raise
        if changes.size is not None:
            changes.mtime = None
            attr = self.ops.setattr(caller, ino, changes, handle)
        elif changes.atime is NOW and mtime == ctime:
            changes.mtime = NOW
            attr = self.ops.setattr(caller, ino, changes, handle)
        else:
            attr = self.ops.getattr(caller, ino, handle)
            if not writes_out and (
                changes.atime is not None or not self._delayed.is_believed(ino, mtime, attr)
            ):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self._delayed.not_taken(ino, mtime)
        return attr

    def _changed_xattr(self, ino: Ino, name: bytes) -> None:
        # That ctime has moved is no reason to ask for one who keeps it (fuse_update_get_attr).
        if name == b"system.posix_acl_access":
            self._notify_attributes(ino)

    def lseek(self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview) -> None:
        if not self._delayed.is_being_written(nodeid):
            super().lseek(fd, unique, nodeid, caller, body)
            return
        # The kernel writes out with this, and drops, what it has of the file.  It waits for the others
        # who serve.  bytes(): the buffer is for the next request.
        request = memoryview(bytes(body))

        def call() -> bool:
            self._send(
                self._connection,
                abi.NOTIFY_INVAL_INODE.pack(
                    abi.NOTIFY_INVAL_INODE.size, abi.NOTIFY_INVAL_INODE_CODE, 0, nodeid, 0, 0
                ),
            )
            super(WritebackHandlers, self).lseek(fd, unique, nodeid, caller, request)
            return True

        self._wait(fd, unique, call)


def _ourselves() -> Caller:
    return Caller(os.geteuid(), os.getegid(), 0)


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _state(attr: Attr) -> _State:
    return attr.size, attr.mtime_ns


def _readable(how: Callable[[int], _T], flags: int, reading: int = 0) -> tuple[_T, bool]:
    """Open for a kernel that reads what is written, and knows where it ends; True: it must not.

    *reading*: flags for a file that would not be read otherwise.
    """
    access = flags & os.O_ACCMODE
    if access not in (os.O_WRONLY, os.O_RDWR):
        return how(flags), False
    wanted = flags & ~(os.O_ACCMODE | os.O_APPEND) | os.O_RDWR
    if access == os.O_WRONLY:
        wanted |= reading
    if wanted == flags:
        return how(flags), False
    try:
        return how(wanted), False
    except PermissionError:
        # It may not be read (EACCES), or be written at its end only (EPERM); or neither.
        return how(flags), True
