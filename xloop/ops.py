# SPDX-License-Identifier: MIT
"""The contract between file systems and whoever serves them: :class:`Operations` and its table :class:`Op`.

Owns what each operation means.  Does not own how a kernel asks for it (the adapters) nor how
a source directory answers (:mod:`xloop.loopback`).

The rules that hold for every operation:

* **Inodes, not paths.**  A node is named by an :class:`~xloop.types.Ino` that the file system gave
  out; a new name is always one component below a directory's number.
* **Lookup counts.**  Every :class:`~xloop.types.Entry` that is returned or yielded raises the count of its
  node by one; :meth:`Operations.forget` lowers it.  A number stays valid, and stays the same
  object, until its count is zero *and* its last handle is released, whatever happens to its
  names.  The root is always known.
* **Handles.**  Each successful open is matched by exactly one release.  A handle works for its
  node after unlink and rename.
* **Errors.**  An operation raises OSError with the errno that the same system call gives on a
  real file system, and nothing else.  Any other exception is a bug; adapters log it and
  answer EIO.  An operation that does not exist raises ENOSYS, which a kernel may remember for
  the life of the mount: raise it only for "never".
* **Threads.**  Operations are synchronous and are called from several threads at once.  One that
  may wait for another process (a blocking lock) must not hold anything that others need, and
  raises EINTR when a signal interrupts its thread.
* **The caller** is who the operation is done for; permissions are those of the caller unless the
  mount leaves the checking to the kernel (``default_permissions``).

Names are bytes: POSIX names have no encoding.  Offsets and sizes are bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterable, Iterator
from enum import Enum
from typing import NoReturn

from xloop.changes import Watch
from xloop.types import (
    Attr,
    Caller,
    DirEntry,
    Entry,
    HandleId,
    Ino,
    LockRange,
    Opened,
    SetAttr,
    StatFs,
)

__all__ = ["Mutates", "Op", "Operations", "Subject"]


def _unsupported() -> NoReturn:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class Operations:
    """A file system.  Subclass it and define what it can do; everything else answers ENOSYS."""

    #: How many file systems are stacked on one another below the descriptors that
    #: :class:`~xloop.types.Opened` offers: 0 for a plain one, 1 for an overlayfs.
    stack_depth: int = 0

    #: Seconds for which who asks believes a name and the attributes that came with it.  Set before
    #: init() by a backend whose kernel asks readdirplus for what it may have been told already: an
    #: entry that is still believed need not be told again.  0: tell everything.
    believed: float = 0.0

    #: Whether names that differ in case only are different names.
    case_sensitive: bool = True

    # -- life ---------------------------------------------------------------------------

    def init(self, *, kernel_checks: bool = False) -> None:
        """Called once, before the first operation, in the process that serves.

        *kernel_checks*: the kernel decides by owner, mode and ACL whether a caller may, before it
        asks (the mount option default_permissions); otherwise each operation decides.
        """

    def destroy(self) -> None:
        """Called once, after the last operation.  Nobody knows any number any more."""

    def watch(self, own: Container[int]) -> Watch:
        """Begin to watch what others change; between init() and destroy(), at most once.

        *own*: the threads, by their numbers for the kernel, that serve: what they change is not told, where the
        system knows who changed it.  OSError says why it cannot be watched (ENOSYS, EOPNOTSUPP); then what
        was read may be wrong at any time.
        """
        raise OSError(errno.ENOSYS, "this file system does not tell what changes in it")

    # -- nodes --------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        """Find *name* in the directory *parent*; a symbolic link is found itself, never followed.

        Lookup count: +1.  ENOENT, ENOTDIR, EACCES, ENAMETOOLONG; ESTALE when *parent* is gone.
        """
        _unsupported()

    def spelling(self, caller: Caller, parent: Ino, name: bytes) -> bytes:
        """Return *name* as the directory *parent* spells it, where case does not tell names apart.

        ENOENT where it is not there.  Asked only of what is not :attr:`case_sensitive`: by default, and
        for everything else, a name is spelled as it is.
        """
        return name

    def forget(self, ino: Ino, nlookup: int) -> None:
        """Lower the lookup count of *ino* by *nlookup*.  Never fails."""

    def batch_forget(self, forgets: Iterable[tuple[Ino, int]]) -> None:
        """Do :meth:`forget` for each (number, nlookup) pair."""
        for ino, nlookup in forgets:
            self.forget(ino, nlookup)

    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        """Return the attributes of *ino*; through *handle* where the caller came by one."""
        _unsupported()

    def statx(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        """As getattr, for callers that want the birth time too."""
        return self.getattr(caller, ino, handle)

    def setattr(self, caller: Caller, ino: Ino, changes: SetAttr, handle: HandleId | None) -> Attr:
        """Apply *changes* and return the attributes that result.

        Owner first, then size, mode, times and flags; the first error ends it and is reported.  A
        symbolic link's own attributes are changed, never its target's.  EPERM, EACCES, EROFS,
        EFBIG, ETXTBSY; EOPNOTSUPP for the mode of a symbolic link, and for flags and a birth time
        where the source has no such thing.
        """
        _unsupported()

    def access(self, caller: Caller, ino: Ino, mask: int) -> None:
        """Raise EACCES or EROFS unless *caller* may do all of *mask* (os.R_OK | os.W_OK | os.X_OK)."""
        _unsupported()

    def readlink(self, caller: Caller, ino: Ino) -> bytes:
        """Return the text of the symbolic link *ino*, as stored.  EINVAL where it is none."""
        _unsupported()

    # -- names --------------------------------------------------------------------------

    def symlink(self, caller: Caller, parent: Ino, name: bytes, target: bytes) -> Entry:
        """Make a symbolic link with the text *target*.  Lookup count: +1.  EEXIST, ENOSPC, ..."""
        _unsupported()

    def mknod(
        self, caller: Caller, parent: Ino, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        """Make a regular file, FIFO, socket or device node.  Lookup count: +1.

        *mode* holds the type and the bits before *umask*, which gives way to a default ACL of
        *parent*.  *rdev* is as os.makedev() makes it.
        """
        _unsupported()

    def mkdir(self, caller: Caller, parent: Ino, name: bytes, mode: int, umask: int) -> Entry:
        """Make a directory.  Lookup count: +1.  *umask* as for mknod."""
        _unsupported()

    def unlink(self, caller: Caller, parent: Ino, name: bytes) -> None:
        """Remove the name of anything but a directory.

        The node lives on until its count is zero and its last handle is released.  EISDIR or
        EPERM for a directory; never ENOTEMPTY, that is rmdir.
        """
        _unsupported()

    def rmdir(self, caller: Caller, parent: Ino, name: bytes) -> None:
        """Remove an empty directory.  ENOTEMPTY, ENOTDIR, EBUSY."""
        _unsupported()

    def rename(
        self,
        caller: Caller,
        parent: Ino,
        name: bytes,
        newparent: Ino,
        newname: bytes,
        flags: int,
    ) -> None:
        """Rename, in one step.  *flags* as for renameat2(2): 1 NOREPLACE, 2 EXCHANGE, 4 WHITEOUT.

        A flag that cannot be honoured raises EINVAL: one that is ignored destroys a file.  A
        replaced node lives on as after unlink.
        """
        _unsupported()

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> Entry:
        """Give *ino* another name.  The entry is the same number, its lookup count is raised by 1."""
        _unsupported()

    # -- files --------------------------------------------------------------------------

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        """Open the regular file *ino*; *flags* as for open(2), without O_CREAT and O_EXCL.

        O_TRUNC truncates in the same step: a failing open has truncated nothing.
        *kill_suidgid*: as in SetAttr, for O_TRUNC.
        """
        _unsupported()

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
        """Create and open a regular file in one step.  Lookup count: +1.

        If the name exists and *flags* lack O_EXCL, what is there is opened with the rights of
        *caller*: a privileged server must not open for somebody what they could not.
        """
        _unsupported()

    def tmpfile(
        self, caller: Caller, parent: Ino, flags: int, mode: int, umask: int
    ) -> tuple[Entry, Opened]:
        """Create and open a file without a name on the file system of *parent* (O_TMPFILE).

        Lookup count: +1.  EOPNOTSUPP where the file system has no such thing.
        """
        _unsupported()

    def read(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int
    ) -> bytes | memoryview:
        """Return up to *size* bytes at *offset*: fewer only at the end of the file."""
        _unsupported()

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
        """Write *data* and return how many bytes were taken.

        With O_APPEND the data goes to the end of the file, in one step, whatever *offset* says,
        unless *cached*: then it comes from a page cache (a mapping, delayed writing), *handle* is any
        writable one, *offset* holds, and all of it is taken or the call fails: what is left out a kernel
        takes for written, and nobody would hear of it.  *kill_suidgid*: as in SetAttr.  *data* is only valid
        during the call.
        """
        _unsupported()

    def flush(self, caller: Caller, ino: Ino, handle: HandleId, lock_owner: int) -> None:
        """A descriptor of *handle* is being closed; there may be others.

        Reports errors of delayed writing, and drops the record locks of *lock_owner* on the file.
        """
        _unsupported()

    def release(self, ino: Ino, handle: HandleId) -> None:
        """The last descriptor of *handle* is gone.  Its locks go too.  Never fails for the caller."""
        _unsupported()

    def fsync(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        """Return when the file is on stable storage; with *datasync* as fdatasync(2)."""
        _unsupported()

    def fallocate(
        self, caller: Caller, ino: Ino, handle: HandleId, mode: int, offset: int, length: int
    ) -> None:
        """fallocate(2) with its *mode* bits.  EOPNOTSUPP for a mode that is not to be had."""
        _unsupported()

    def lseek(self, caller: Caller, ino: Ino, handle: HandleId, offset: int, whence: int) -> int:
        """Find data or a hole (os.SEEK_DATA, os.SEEK_HOLE).  ENXIO at or beyond the end."""
        _unsupported()

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
        """Copy within the file system and return the number of bytes copied.

        EXDEV and EOPNOTSUPP let the kernel copy by itself.
        """
        _unsupported()

    def ioctl(
        self, caller: Caller, ino: Ino, handle: HandleId, command: int, data: bytes, out_size: int
    ) -> bytes:
        """Carry out the ioctl *command* with *data*, and return at most *out_size* bytes.

        ENOTTY for a command that the file does not know.
        """
        _unsupported()

    def poll(self, caller: Caller, ino: Ino, handle: HandleId, events: int) -> int:
        """Return which of *events* are ready.  ENOSYS: always ready, as every regular file is."""
        _unsupported()

    # -- directories --------------------------------------------------------------------

    def opendir(self, caller: Caller, ino: Ino, flags: int) -> Opened:
        """Open the directory *ino* for reading its names."""
        _unsupported()

    def readdir(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[DirEntry]:
        """Yield the names after the cookie *offset* (0: from the start), '.' and '..' included.

        The consumer stops when it has enough, and comes back with the offset of the last entry
        it took.  A name that is there throughout is yielded exactly once, whatever comes and
        goes meanwhile.
        """
        _unsupported()

    def readdirplus(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Entry | None]]:
        """As readdir, with the entry that lookup would give.  Lookup count: +1 for each entry.

        None for '.' and '..', for what could not be looked up, and for what is still believed
        (:attr:`believed`): the kernel asks for it when it is wanted.  A consumer that has no room for an entry forgets it.  By default all of
        readdir with None.
        """
        return ((entry, None) for entry in self.readdir(caller, ino, handle, offset))

    def releasedir(self, ino: Ino, handle: HandleId) -> None:
        """As release, for a directory."""
        _unsupported()

    def fsyncdir(self, caller: Caller, ino: Ino, handle: HandleId, datasync: bool) -> None:
        """As fsync, for the names in a directory."""
        _unsupported()

    # -- extended attributes ------------------------------------------------------------

    def getxattr(self, caller: Caller, ino: Ino, name: bytes) -> bytes:
        """Return the value of *name*.  ENODATA: not set; EOPNOTSUPP: no such class of names."""
        _unsupported()

    def setxattr(
        self,
        caller: Caller,
        ino: Ino,
        name: bytes,
        value: bytes,
        flags: int,
        *,
        acl_kill_sgid: bool = False,
    ) -> None:
        """Set *name*; *flags* as for setxattr(2): 1 XATTR_CREATE, 2 XATTR_REPLACE.

        *acl_kill_sgid*: this is an access ACL and the caller may not keep S_ISGID; clear it.
        """
        _unsupported()

    def listxattr(self, caller: Caller, ino: Ino) -> list[bytes]:
        """Return the names that are set."""
        _unsupported()

    def removexattr(self, caller: Caller, ino: Ino, name: bytes) -> None:
        """Remove *name*.  ENODATA where it is not set."""
        _unsupported()

    # -- locks --------------------------------------------------------------------------

    def getlk(
        self, caller: Caller, ino: Ino, handle: HandleId, owner: int, lock: LockRange
    ) -> LockRange:
        """Return a lock of somebody else that is in the way of *lock*, or F_UNLCK as its type."""
        _unsupported()

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
        """Take or drop a record lock for *owner*.  EAGAIN, or with *wait* a wait that EINTR may end.

        An owner is a process (POSIX locks) or an open file (OFD locks).  Locks are taken on the
        source too, so that programs there are kept out.
        """
        _unsupported()

    def flock(self, caller: Caller, ino: Ino, handle: HandleId, operation: int) -> None:
        """flock(2) for the open file: LOCK_SH, LOCK_EX or LOCK_UN, with LOCK_NB unless it may wait."""
        _unsupported()

    # -- the whole ----------------------------------------------------------------------

    def statfs(self, caller: Caller, ino: Ino) -> StatFs:
        """Describe the file system that *ino* lies on."""
        _unsupported()

    def syncfs(self, caller: Caller, ino: Ino) -> None:
        """Return when everything written is on stable storage."""
        _unsupported()


class Subject(Enum):
    """What the first argument of an operation, after the caller, is about."""

    NAME = "name"  #: a name in a directory: parent, name, ...
    INODE = "inode"  #: a node
    HANDLE = "handle"  #: an open file or directory: ino, handle, ...
    LIFE = "life"  #: the file system itself, or what is known of it


class Mutates(Enum):
    """Whether an operation changes what others see of the file system."""

    NO = "no"
    YES = "yes"
    BY_FLAGS = "by flags"  #: its arguments decide


class Op(Enum):
    """The table of operations.  Layers, traces, tests and documents derive from it.

    ``Op.UNLINK.value`` is the method's name; a test checks that every operation of the contract
    has a row and the other way round.
    """

    subject: Subject
    mutates: Mutates

    def __new__(cls, method: str, subject: Subject, mutates: Mutates) -> Op:
        self = object.__new__(cls)
        self._value_ = method
        self.subject = subject
        self.mutates = mutates
        return self

    INIT = "init", Subject.LIFE, Mutates.NO
    DESTROY = "destroy", Subject.LIFE, Mutates.NO
    WATCH = "watch", Subject.LIFE, Mutates.NO
    LOOKUP = "lookup", Subject.NAME, Mutates.NO
    SPELLING = "spelling", Subject.NAME, Mutates.NO
    FORGET = "forget", Subject.LIFE, Mutates.NO
    BATCH_FORGET = "batch_forget", Subject.LIFE, Mutates.NO
    GETATTR = "getattr", Subject.INODE, Mutates.NO
    STATX = "statx", Subject.INODE, Mutates.NO
    SETATTR = "setattr", Subject.INODE, Mutates.YES
    ACCESS = "access", Subject.INODE, Mutates.NO
    READLINK = "readlink", Subject.INODE, Mutates.NO
    SYMLINK = "symlink", Subject.NAME, Mutates.YES
    MKNOD = "mknod", Subject.NAME, Mutates.YES
    MKDIR = "mkdir", Subject.NAME, Mutates.YES
    UNLINK = "unlink", Subject.NAME, Mutates.YES
    RMDIR = "rmdir", Subject.NAME, Mutates.YES
    RENAME = "rename", Subject.NAME, Mutates.YES
    LINK = "link", Subject.INODE, Mutates.YES
    OPEN = "open", Subject.INODE, Mutates.BY_FLAGS
    CREATE = "create", Subject.NAME, Mutates.YES
    TMPFILE = "tmpfile", Subject.INODE, Mutates.YES
    READ = "read", Subject.HANDLE, Mutates.NO
    WRITE = "write", Subject.HANDLE, Mutates.YES
    FLUSH = "flush", Subject.HANDLE, Mutates.NO
    RELEASE = "release", Subject.HANDLE, Mutates.NO
    FSYNC = "fsync", Subject.HANDLE, Mutates.NO
    FALLOCATE = "fallocate", Subject.HANDLE, Mutates.YES
    LSEEK = "lseek", Subject.HANDLE, Mutates.NO
    COPY_FILE_RANGE = "copy_file_range", Subject.HANDLE, Mutates.YES
    IOCTL = "ioctl", Subject.HANDLE, Mutates.BY_FLAGS
    POLL = "poll", Subject.HANDLE, Mutates.NO
    OPENDIR = "opendir", Subject.INODE, Mutates.NO
    READDIR = "readdir", Subject.HANDLE, Mutates.NO
    READDIRPLUS = "readdirplus", Subject.HANDLE, Mutates.NO
    RELEASEDIR = "releasedir", Subject.HANDLE, Mutates.NO
    FSYNCDIR = "fsyncdir", Subject.HANDLE, Mutates.NO
    GETXATTR = "getxattr", Subject.INODE, Mutates.NO
    SETXATTR = "setxattr", Subject.INODE, Mutates.YES
    LISTXATTR = "listxattr", Subject.INODE, Mutates.NO
    REMOVEXATTR = "removexattr", Subject.INODE, Mutates.YES
    GETLK = "getlk", Subject.HANDLE, Mutates.NO
    SETLK = "setlk", Subject.HANDLE, Mutates.NO
    FLOCK = "flock", Subject.HANDLE, Mutates.NO
    STATFS = "statfs", Subject.INODE, Mutates.NO
    SYNCFS = "syncfs", Subject.INODE, Mutates.NO
