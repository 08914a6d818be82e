# SPDX-License-Identifier: MIT
"""What the core needs of an operating system: :class:`Host`, and :class:`Descriptor`.

Owns the contract that every platform module fulfils, function by function.  Does not own an
implementation; what a platform lacks raises OSError(EOPNOTSUPP) there, it never does nothing.

Two kinds of descriptor occur.  A *reference* pins an object and gives no access to its data
(Linux: O_PATH); an *open file* is one that was opened for reading or writing.  Functions that
take *ref* take either.  None of them follows a symbolic link, and none takes a path: an object
is named by a reference, or by a reference to its directory and one name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from xloop.types import Attr, Caller, DirEntry, LockRange, StatFs, TimeOrNow

__all__ = ["Descriptor", "Host", "Watchable"]


class Descriptor(int):
    """A file descriptor (Windows: a HANDLE, by a subclass) that closes itself when the last reference to this object is gone.

    A node's descriptor may be dropped by one thread (to stay within a budget) while another
    is about to use it.  Closing the number then would let the second thread work on whatever
    file is opened next under it.  Here the number stays open while anybody holds the object: CPython
    counts references, at no cost to the operation that uses one.
    """

    __slots__ = ()

    #: It was opened by a name, which some of its uses go by still: of no use for those once the
    #: object has got another name.
    placed = False
    #: It is not open on the object itself: it is a directory's, and a name in it.  Then the object
    #: is not held, and its inode number may be used again.
    by_name = False

    def moved(self, directory: Descriptor, name: bytes) -> None:
        """Hear that the object is *name* in *directory* now.  Matters where ``placed``."""

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        _close(self)


class Watchable(NamedTuple):
    """What a file system is like for whoever watches it."""

    #: Why changes there go untold; empty: they are told.
    why_not: str = ""
    #: Whether a position in a directory means the same to every open file of it, at any time.
    lasting_positions: bool = False


class Host(Protocol):
    """The functions of a platform module.  Errors are OSError with the system's errno."""

    #: The numbers of this system: flags of open(2), 0 for one that it lacks; whence of lseek(2);
    #: types of record locks.
    O_ACCMODE: int
    O_DIRECT: int
    O_NOATIME: int
    O_SYNC: int
    O_DSYNC: int
    SEEK_DATA: int
    SEEK_HOLE: int
    F_WRLCK: int
    F_UNLCK: int

    #: Whether a record lock can belong to an open file.  Else all clients would be one owner.
    OWNS_LOCKS: bool

    #: Whether the number of an object is used again once it is gone.  Then the birth time must tell the
    #: objects apart, and nobody may be able to set it.
    REUSES_INO: bool

    # -- references ---------------------------------------------------------------------

    def open_root(self, path: str, *, private: bool = False) -> Descriptor:
        """Return a reference to the directory at *path*, following symbolic links to it.

        *private*: to a copy of the tree of mounts there, in which nothing that is mounted later
        appears, if this process may make one; else as without.
        """
        ...

    def open_ref(self, dir_ref: int, name: bytes) -> Descriptor:
        """Return a reference to *name* in *dir_ref*, whatever it is."""
        ...

    def reopen_ref(self, ref: int) -> Descriptor:
        """Return a new reference to the same object."""
        ...

    def is_case_sensitive(self, ref: int) -> bool:
        """Tell whether names that differ in case only are different in the file system of *ref*."""
        ...

    def spelling(self, dir_ref: int, name: bytes) -> bytes:
        """Return *name* in *dir_ref* as it is spelled there; only where is_case_sensitive() is false."""
        ...

    def statx(self, ref: int, name: bytes = b"") -> Attr:
        """Return the attributes of the object, or of *name* in it."""
        ...

    def stack_depth(self, ref: int) -> int:
        """Return how many file systems the object's own one is stacked on: 1 for an overlayfs."""
        ...

    def watchable(self, ref: int) -> Watchable:
        """Tell whether this system tells of all changes in the file system of *ref*."""
        ...

    # -- open files ---------------------------------------------------------------------

    def reopen(self, ref: int, flags: int) -> Descriptor:
        """Open the regular file behind *ref* with open(2) *flags*; permissions are checked."""
        ...

    def open_dir(self, ref: int, flags: int = 0) -> Descriptor:
        """Open the directory behind *ref* for reading its names; *flags* may be O_NOATIME."""
        ...

    def create(self, dir_ref: int, name: bytes, flags: int, mode: int) -> Descriptor:
        """Create and open *name*; EEXIST where something is there, whatever it is."""
        ...

    def tmpfile(self, dir_ref: int, flags: int, mode: int) -> Descriptor:
        """Create and open a file without a name."""
        ...

    def clear_status_flags(self, fd: int, flags: int) -> None:
        """Take *flags* (O_DIRECT) away from the open file."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes: ...

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int: ...

    def pwrite_in_place(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write at *offset* also where *fd* is open for appending; EOPNOTSUPP where that cannot be had."""
        ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def syncfs(self, fd: int) -> None: ...

    def close_reports(self, ref: int) -> bool:
        """Tell whether closing an open file there can report an error that was not reported before."""
        ...

    def report_close(self, fd: int) -> None:
        """Raise the error that closing a duplicate of *fd* reports (quota, network)."""
        ...

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None: ...

    def seek_data_hole(self, fd: int, offset: int, whence: int) -> int: ...

    def copy_file_range(
        self, fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int, flags: int
    ) -> int: ...

    def ioctl(self, fd: int, command: int, data: bytes, out_size: int) -> bytes: ...

    def read_dir(self, fd: int, buffer: bytearray) -> list[DirEntry]:
        """Return the next records of an open directory; none at its end."""
        ...

    def seek_dir(self, fd: int, offset: int) -> None: ...

    def listing_moves_atime(self, fd: int, attr: Attr) -> bool:
        """Whether reading the directory *fd*, whose attributes are *attr*, moves its atime; True: or nobody knows."""
        ...

    # -- attributes ---------------------------------------------------------------------

    def chmod(self, ref: int, mode: int) -> None: ...

    def chown(self, ref: int, uid: int, gid: int) -> None:
        """Change owner and group; -1 leaves one alone."""
        ...

    def chflags(self, ref: int, flags: int) -> None:
        """Set all flags of chflags(2) that this system has; EOPNOTSUPP for another one."""
        ...

    def setcrtime(self, ref: int, crtime: int) -> None:
        """Set the birth time, in nanoseconds since the epoch."""
        ...

    def truncate(self, ref: int, size: int) -> None:
        """Set the size through a reference: needs write permission now."""
        ...

    def ftruncate(self, fd: int, size: int) -> None:
        """Set the size through an open file: needs none any more."""
        ...

    def utimens(self, ref: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None: ...

    def access(self, ref: int, mask: int) -> None: ...

    def readlink(self, ref: int) -> bytes: ...

    def statfs(self, ref: int) -> StatFs: ...

    def getxattr(self, ref: int, name: bytes) -> bytes: ...

    def setxattr(self, ref: int, name: bytes, value: bytes, flags: int) -> None: ...

    def listxattr(self, ref: int) -> list[bytes]: ...

    def removexattr(self, ref: int, name: bytes) -> None: ...

    # -- names --------------------------------------------------------------------------

    def mkdir(self, dir_ref: int, name: bytes, mode: int) -> None: ...

    def mknod(self, dir_ref: int, name: bytes, mode: int, rdev: int) -> None: ...

    def symlink(self, dir_ref: int, name: bytes, target: bytes) -> None: ...

    def unlink(self, dir_ref: int, name: bytes) -> None: ...

    def rmdir(self, dir_ref: int, name: bytes) -> None: ...

    def rename(
        self, dir_ref: int, name: bytes, new_dir_ref: int, new_name: bytes, flags: int
    ) -> None: ...

    def link(self, ref: int, new_dir_ref: int, new_name: bytes) -> None:
        """Give the object behind *ref* another name, also if it has none left."""
        ...

    # -- locks --------------------------------------------------------------------------

    def getlk(self, fd: int, lock: LockRange) -> LockRange: ...

    def setlk(self, fd: int, lock: LockRange, wait: bool) -> None:
        """Lock on behalf of the open file.  With *wait*, EINTR when a signal comes."""
        ...

    def flock(self, fd: int, operation: int) -> None:
        """flock(2); EINTR when a signal comes while it waits."""
        ...

    # -- identity of this thread --------------------------------------------------------

    def acting_as(self, caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
        """While the context lasts, this thread makes system calls with *caller*'s identity.

        *checked*: the kernel has already decided that the caller may; objects are created as
        the caller, with its label, but the source's own permission bits are not asked again.
        """
        ...

    def is_self(self, caller: Caller) -> bool:
        """Tell whether *caller* has the identity that this process has anyway."""
        ...

    def may_act_as_others(self) -> bool:
        """Tell whether acting_as() can succeed for anybody but this process's own user."""
        ...

    def masking(self, umask: int) -> AbstractContextManager[object]:
        """While the context lasts, *umask* holds for what this thread creates."""
        ...

    def told(self, caller: Caller) -> Caller:
        """Return *caller* with the ids and groups that the kernel did not tell, where they can be found."""
        ...

    def keeps_set_id(self, caller: Caller) -> bool:
        """Tell whether *caller* may change a file without its S_ISUID and S_ISGID being cleared.

        False where that cannot be told: clearing them is the safe side.
        """
        ...

    def sees_trusted(self, caller: Caller) -> bool:
        """Whether *caller* is shown extended attributes in "trusted." (CAP_SYS_ADMIN)."""
        ...

    def without_fsetid(self, caller: Caller | None = None) -> AbstractContextManager[object]:
        """While the context lasts, changing a file clears its S_ISUID and S_ISGID bits.

        *caller*: whose groups decide whether S_ISGID stays where the group may not execute.
        """
        ...

    def drop_fsetid(self) -> None:
        """As :meth:`without_fsetid`, of the calling thread, until :meth:`restore_fsetid`.

        For what is done again and again: each change of capabilities takes as long as a stat.  For threads
        that have called :meth:`own_file_system_state`.
        """
        ...

    def restore_fsetid(self) -> None:
        """Take back :meth:`drop_fsetid`, if that is in force.  Must precede whatever changes a file or its mode."""
        ...

    def own_file_system_state(self) -> None:
        """Give this thread a umask of its own.  For threads that a backend started itself."""
        ...

    # -- limits -------------------------------------------------------------------------

    def raise_descriptor_limit(self) -> int:
        """Raise the soft limit of open files to the hard one, and return it."""
        ...
