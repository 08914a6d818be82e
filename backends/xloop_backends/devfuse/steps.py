# SPDX-License-Identifier: MIT
"""The calls that repeat a change on the mount, one by one, with the answers that go with them: :class:`Steps`.

Owns which system call causes which event.  Does not own what is repeated, nor when (:mod:`.relay`), nor the server's
part in it (:mod:`.play`).

* A name appears: mknod(2), mkdir(2) or symlink(2), which cause IN_CREATE alone.
* Data changed: utimensat(2) of the time of modification alone, which is IN_MODIFY.  What the kernel has of the data is
  dropped before, for whoever hears of it reads.
* Attributes changed: setxattr(2), of a name that the kernel lets anybody set and no file system has.  Its reply
  brings no attributes, so nothing of what the kernel believes moves.
* A file that was written was closed: open(2) and close(2), so IN_OPEN comes first.
* A name is gone, or another: unlink(2), rmdir(2), rename(2).  What is renamed from or to a place that nobody knows
  on the mount goes to, or comes from, a directory that nobody ever sees: so the other half is not told.

**Who is not root** repeats what he may.  Where the kernel does not check permissions (no default_permissions) it still
checks who may take something from a sticky directory, link to the file of somebody else, or make a device; there
something else is shown that has the same name and is his own (a phantom).  Where it does check them, some of the calls fail.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import sleep
from typing import TypeVar

from xloop.changes import ATTRIB, CLOSE_WRITE, DELETE, ISDIR, MODIFY, Change, Watch
from xloop.host import Descriptor, host
from xloop.ops import Operations
from xloop.types import Caller, Entry, Ino

from . import abi
from .play import Answer, Play, absent
from .reach import Reach

__all__ = ["Steps"]

T = TypeVar("T")

#: How often, and after how many seconds, to open what cannot be opened now.
_TRIES, _PAUSE = 5, 0.004
#: An attribute that no file has.  Of those of "system" the kernel itself forbids nobody to set any.
_ATTRIBUTE = "system.xloop"


class Steps:
    """From one thread, while the mount is reached."""

    def __init__(
        self, operations: Operations, watch: Watch, play: Play, reach: Reach, connection: int
    ) -> None:
        self.play = play
        self.caller = Caller(os.geteuid(), os.getegid(), os.getpid())
        self._ops = operations
        self._watch = watch
        self._reach = reach
        self._connection = connection
        self._hidden = count()

    # -- answers ------------------------------------------------------------------------

    def there(self, directory: Ino, name: bytes) -> Entry | None:
        try:
            return self._ops.lookup(self.caller, directory, name)
        except OSError:
            return None

    def forget(self, entry: Entry | None) -> None:
        if entry is not None:
            self._ops.forget(entry.ino, 1)

    def _thing(self, change: Change) -> Answer:
        """Answer with what has the name of *change*, or had it when it was changed."""
        kind, directory, name, target, *_ = change
        assert directory is not None

        def answer() -> Entry | None:
            return self._now_or_then(directory, name, target, directory=bool(kind & ISDIR))

        return answer

    def _now_or_then(
        self, at: Ino | None, name: bytes, target: Ino | None, *, directory: bool
    ) -> Entry:
        """Return what has a name now if that is *target*, or nobody knows what is; and else what *target* was."""
        found = None if at is None else self.there(at, name)
        if found is not None and target not in (None, found.ino):
            self.forget(found)
            found = None
        if found is None and target is not None:
            found = self._reach.recalled(target)
        if found is not None and stat.S_ISDIR(found.attr.mode) != directory:
            self.forget(found)
            found = None
        return found or self.play.phantom(directory=directory)

    def _victim(self, target: Ino | None, *, directory: bool) -> Answer:
        """Answer with *target* as it was before it lost the last name that it is about to lose.

        With something else where it has names left: the kernel would count one off from whatever number somebody
        else has been told meanwhile, and take it for gone.  Nor can a directory that is there be taken away.
        """

        def answer() -> Entry | None:
            entry = None if target is None else self._watch.recall(target)
            if entry is not None:
                if not entry.attr.nlink and self.play.removals is not None:
                    self.play.removals.are_told(entry.ino)
                attr = entry.attr
                if stat.S_ISDIR(attr.mode) == directory and not attr.nlink:
                    return entry._replace(attr=attr._replace(nlink=1))
                self.forget(entry)
            return self.play.phantom(directory=directory)

        return answer

    # -- calls --------------------------------------------------------------------------

    def make(self, at: int, change: Change, made: Entry, ref: Descriptor | None) -> None:
        """Have *made* made, or linked if there is a reference to it."""
        _, directory, name, *_ = change
        assert directory is not None
        mode = made.attr.mode
        self.play.begin({(directory, name): absent}, made)
        try:
            if ref is not None and self._link(ref, at, name):
                return
            if stat.S_ISDIR(mode):
                os.mkdir(name, dir_fd=at)
            elif stat.S_ISLNK(mode):
                os.symlink(b"elsewhere", name, dir_fd=at)
            else:
                os.mknod(name, mode, made.attr.rdev, dir_fd=at)
        finally:
            self.forget(self.play.end())

    def _link(self, ref: Descriptor, at: int, name: bytes) -> bool:
        """Link to *ref*; False where this user may not (fs.protected_hardlinks)."""
        try:
            os.link(b"/proc/self/fd/%d" % ref, name, dst_dir_fd=at)
        except PermissionError:
            return False
        return True

    def touch(self, at: int, change: Change, *, patient: bool) -> bool:
        """Change what has the name of *change* as it was changed; False: it could not be closed after writing.

        *patient*: nobody else waits meanwhile.
        """
        kind, directory, name, target, *_ = change
        assert directory is not None
        closed = True
        # Its number, and not the exception: that would hold this frame, which would hold it, and both the descriptor of
        # the mount below, and so the mount, until the collector looks.
        refused = 0
        self.play.begin({(directory, name): self._thing(change)})
        try:
            file = self._asked_anew(directory, name, lambda: self._reach.named(name, at))
            if kind & MODIFY:
                try:
                    host.utimens(file, None, 0)
                except PermissionError as exc:
                    refused = exc.errno or errno.EPERM
                if target is not None:
                    # By its reply the kernel knows the time of data that it may have read before.
                    self.invalidate(target, 0)
            if kind & ATTRIB:
                self.mark(b"/proc/self/fd/%d/%b" % (at, name))
            if kind & CLOSE_WRITE and self._may_be_opened(file):
                closed = self._open_and_close(file, patient=patient)
        finally:
            self.play.end()
        if refused:
            raise OSError(refused, os.strerror(refused))
        return closed

    def _may_be_opened(self, file: int) -> bool:
        """Whether nobody but watchers sees that *file* is opened for writing.

        Anything but a regular file acts on it, and what is open for writing cannot be executed (ETXTBSY).
        """
        mode = os.fstat(file).st_mode
        return stat.S_ISREG(mode) and not mode & 0o111

    def _open_and_close(self, file: int, *, patient: bool) -> bool:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        for _ in range(_TRIES if patient else 1):
            try:
                os.close(os.open(b"/proc/self/fd/%d" % file, flags))
            except OSError as exc:
                # EIO: somebody has it open with passthrough, then the kernel wants that from everybody.
                if exc.errno != errno.EIO:
                    raise
                sleep(_PAUSE)
            else:
                return True
        return False

    def mark(self, path: bytes) -> None:
        """Change the attributes of what is at *path*."""
        os.setxattr(path, _ATTRIBUTE, b"", follow_symlinks=False)

    def mark_alone(self, ino: Ino) -> None:
        """Have those hear who watch the file *ino* itself, and nobody else, that its attributes have changed.

        The number of its names is one of them: it gets one more that nobody sees.  Where this user may not give
        it one, who watches its directory hears of it too.
        """
        self.invalidate(ino, -1)
        ref = self._reach.open(ino)
        made = self._reach.recalled(ino)
        if made is None:
            return
        directory, at = self._reach.elsewhere
        name = b"%d" % next(self._hidden)
        self.play.begin({(directory, name): absent}, made)
        try:
            if not self._link(ref, at, name):
                os.setxattr(b"/proc/self/fd/%d" % ref, _ATTRIBUTE, b"")
        finally:
            self.forget(self.play.end())
        self._drop(directory, name, 0)

    def bury(self, ino: Ino) -> None:
        """Have those hear who watch the file *ino* that it has lost its last name, and nobody else."""
        directory, at = self._reach.elsewhere
        self.remove(at, Change(DELETE, directory, b"%d" % next(self._hidden), ino), ino)

    def remove(self, at: int, change: Change, target: Ino | None) -> None:
        kind, directory, name, *_ = change
        assert directory is not None
        is_directory = bool(kind & ISDIR)
        self.play.begin({(directory, name): self._victim(target, directory=is_directory)})
        try:
            remove = os.rmdir if is_directory else os.unlink
            self._asked_anew(directory, name, lambda: remove(name, dir_fd=at))
        finally:
            self.play.end()

    def move(
        self,
        before: Change | None,
        after: Change | None,
        replaced: Ino | None,
        *,
        masked: bool = False,
    ) -> None:
        """Rename what was renamed, or with *masked* something that looks like it, over *replaced*."""
        change = after or before
        assert change is not None
        target = change.target
        is_directory = bool(change.kind & ISDIR)
        old, old_at, old_name = self._place(before)
        new, new_at, new_name = self._place(after)

        def moved() -> Entry:
            if masked:
                return self.play.phantom(directory=is_directory)
            there = None if after is None else new
            found = self._now_or_then(there, new_name, target, directory=is_directory)
            if found.ino != replaced:
                return found
            # By now something of its number has the name again: but renaming a file to itself is nothing at all.
            self.forget(found)
            return self.play.phantom(directory=is_directory)

        lost = self._victim(replaced, directory=is_directory)

        def victim() -> Entry | None:
            # Unless what is renamed was asked for, it may be the same; and then the kernel does nothing at all.
            there = replaced is not None and self.play.was_asked(old, old_name)
            return lost() if there else None

        self.play.begin({(old, old_name): moved, (new, new_name): victim})
        try:
            # A directory that the kernel knows by another name cannot be found under the locks of a rename.
            ref = None
            if is_directory:
                ref = self._asked_anew(old, old_name, lambda: self._reach.named(old_name, old_at))
            self._asked_anew(
                old,
                old_name,
                lambda: os.rename(old_name, new_name, src_dir_fd=old_at, dst_dir_fd=new_at),
            )
            del ref
        finally:
            self.play.end()
        if after is None:
            self._drop(new, new_name, 0)

    def _place(self, change: Change | None) -> tuple[Ino, int, bytes]:
        if change is None:
            return (*self._reach.elsewhere, b"%d" % next(self._hidden))
        assert change.directory is not None
        return change.directory, self._reach.directory(change.directory), change.name

    # -- the kernel ---------------------------------------------------------------------

    def _asked_anew(self, directory: Ino, name: bytes, call: Callable[[], T]) -> T:
        """Do *call*; where it fails because the kernel believes to know *name* already, have it ask and repeat it."""
        for _ in range(_TRIES):
            self.play.ask_again(directory, name)
            try:
                return call()
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                    raise
            self._drop(directory, name, abi.EXPIRE_ONLY)
        self.play.ask_again(directory, name)
        return call()

    def invalidate(self, ino: Ino, offset: int) -> None:
        """Have attributes dropped, and from *offset* on the data, unless it is negative."""
        size = abi.NOTIFY_INVAL_INODE.size
        self._tell(
            abi.NOTIFY_INVAL_INODE.pack(size, abi.NOTIFY_INVAL_INODE_CODE, 0, ino, offset, 0)
        )

    def _drop(self, directory: Ino, name: bytes, flags: int) -> None:
        size = abi.NOTIFY_INVAL_ENTRY.size + len(name) + 1
        head = abi.NOTIFY_INVAL_ENTRY.pack(
            size, abi.NOTIFY_INVAL_ENTRY_CODE, 0, directory, len(name), flags
        )
        self._tell(head + name + b"\0")

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # ENOENT: it is not known
            os.write(self._connection, message)
