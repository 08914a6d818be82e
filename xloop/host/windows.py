# SPDX-License-Identifier: MIT
r"""The functions of :class:`xloop.host.base.Host` on Windows.

Owns what is asked of a source.  Does not own the calls themselves (:mod:`xloop.host.windows_api`), nor
how a name is stored (:mod:`xloop.host.windows_names`).

A reference is a HANDLE that may read attributes and nothing else; such a one stands in nobody's way
(share modes are about data and deletion).  A name is opened relative to the handle of its
directory, one component at a time, and never through a link: what is reached lies below the root by
construction.  **Links** are all reparse points that stand for something else (the name surrogate
bit of their tag: symbolic links, junctions, mounted volumes); the other kinds (cloud files,
deduplication) are the files that they look like.

**Owners and permission bits** do not exist here.  Every object belongs to the user who serves, and has
all bits, but those for writing if it is read-only.  The source's own access control lists decide
what this process may do.

**Names are found in whatever case** they are asked for, as the source's system does it.

What an open handle forbids here and nowhere else: a directory in which anything is open cannot be
renamed, whoever holds the handle.  So the core is told to hold few (:func:`raise_descriptor_limit`).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NoReturn

from xloop.host import windows_abi as abi
from xloop.host import windows_api as api
from xloop.host import windows_dirs, windows_refs
from xloop.host.base import Descriptor, Watchable
from xloop.host.windows_links import parse_link, symlink_data
from xloop.host.windows_names import encode
from xloop.types import NOW, Attr, Caller, LockRange, StatFs, TimeOrNow

assert not TYPE_CHECKING or sys.platform == "win32"

#: Flags of open(2) that this system lacks are 0.
O_ACCMODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
O_DIRECT = 0
O_NOATIME = 0
O_SYNC = 0
O_DSYNC = 0
# Numbers that no call here takes: what asks with one is refused.
SEEK_DATA = 3
SEEK_HOLE = 4
F_WRLCK = 1
F_UNLCK = 2
# A file id has a part that counts how often the rest of it was used.
REUSES_INO = False
OWNS_LOCKS = False


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


# -- references and directories ---------------------------------------------------------

open_root = windows_refs.open_root
open_ref = windows_refs.open_ref
reopen_ref = windows_refs.reopen_ref
statx = windows_refs.statx

open_dir = windows_dirs.open_dir
read_dir = windows_dirs.read_dir
seek_dir = windows_dirs.seek_dir


def listing_moves_atime(fd: int, attr: Attr) -> bool:
    return True


spelling = windows_dirs.spelling


def is_case_sensitive(ref: int) -> bool:
    return False  # a directory can be told otherwise (fsutil), but no volume is so by default


def stack_depth(ref: int) -> int:
    return 0


def watchable(ref: int) -> Watchable:
    return Watchable("what others change is heard of on Linux only")


# -- open files -------------------------------------------------------------------------

_ACCESS = {
    os.O_RDONLY: abi.FILE_READ_DATA,
    os.O_WRONLY: abi.FILE_WRITE_DATA | abi.FILE_APPEND_DATA,
    os.O_RDWR: abi.FILE_READ_DATA | abi.FILE_WRITE_DATA | abi.FILE_APPEND_DATA,
}


def _access(flags: int) -> int:
    """Return the access rights that open(2) *flags* ask for."""
    mode = _ACCESS.get(flags & O_ACCMODE)
    if mode is None:
        _fail(errno.EINVAL)
    wanted = mode | abi.FILE_READ_ATTRIBUTES
    if flags & os.O_APPEND and wanted & abi.FILE_APPEND_DATA:
        # Whoever may only append does so, wherever a write says that it goes: in one step.
        wanted &= ~abi.FILE_WRITE_DATA
    if flags & O_ACCMODE != os.O_RDONLY:
        wanted |= abi.FILE_WRITE_ATTRIBUTES
    return wanted


def reopen(ref: int, flags: int) -> Descriptor:
    # Without FILE_OPEN_REPARSE_POINT: a file in the cloud has its data brought in.  What has become a
    # link meanwhile is ELOOP all the same (OBJ_DONT_REPARSE).
    file = api.nt_open(ref, b"", _access(flags), abi.FILE_NON_DIRECTORY_FILE)
    if flags & os.O_TRUNC:
        if flags & O_ACCMODE == os.O_RDONLY or flags & os.O_APPEND:
            truncate(ref, 0)  # that handle may not
        else:
            ftruncate(file, 0)
    return file


def create(dir_ref: int, name: bytes, flags: int, mode: int) -> Descriptor:
    attributes = abi.FILE_ATTRIBUTE_NORMAL if mode & 0o222 else abi.FILE_ATTRIBUTE_READONLY
    return api.nt_open(
        dir_ref,
        encode(name),
        _access(flags),
        abi.FILE_NON_DIRECTORY_FILE | abi.FILE_OPEN_REPARSE_POINT,
        disposition=abi.FILE_CREATE,
        attributes=attributes | abi.FILE_ATTRIBUTE_ARCHIVE,
    )


def tmpfile(dir_ref: int, flags: int, mode: int) -> Descriptor:
    _fail(errno.EOPNOTSUPP)


def clear_status_flags(fd: int, flags: int) -> None:
    _fail(errno.EOPNOTSUPP)


def pread(fd: int, size: int, offset: int) -> bytes:
    return api.read_at(fd, size, offset)


def pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
    return api.write_at(fd, data, offset)


def pwrite_in_place(fd: int, data: bytes | memoryview, offset: int) -> int:
    _fail(
        errno.EOPNOTSUPP
    )  # a handle may append, or write where it likes; which, its opening decides


def fsync(fd: int) -> None:
    try:
        api.flush(fd)
    except PermissionError:
        # Only who may write may flush; but fsync(2) is for readers too.
        api.flush(api.nt_open(fd, b"", abi.FILE_WRITE_DATA))


fdatasync = fsync


def syncfs(fd: int) -> None:
    _fail(errno.EOPNOTSUPP)  # needs a handle of the volume, and so an administrator


def close_reports(ref: int) -> bool:
    return False


def report_close(fd: int) -> None:
    """Nothing is held back here: every error was reported by the write that met it."""


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _fail(errno.EOPNOTSUPP)


def seek_data_hole(fd: int, offset: int, whence: int) -> int:
    _fail(errno.EOPNOTSUPP)


def copy_file_range(
    fd_in: int, offset_in: int, fd_out: int, offset_out: int, length: int, flags: int
) -> int:
    _fail(errno.EOPNOTSUPP)


def ioctl(fd: int, command: int, data: bytes, out_size: int) -> bytes:
    _fail(errno.ENOTTY)


# -- changing attributes ----------------------------------------------------------------


def _attributes(ref: int) -> int:
    data = api.query(ref, abi.FileAttributeTagInformation, abi.ATTRIBUTE_TAG.size)
    attributes: int = abi.ATTRIBUTE_TAG.unpack(data)[0]
    return attributes


def _set_basic(
    ref: int, *, born: int = 0, read: int = 0, written: int = 0, attributes: int = 0
) -> None:
    data = abi.BASIC.pack(born, read, written, 0, attributes)
    try:
        api.set_information(ref, abi.FileBasicInformation, data)  # a file that is open for writing
    except PermissionError:
        file = api.nt_open(ref, b"", abi.FILE_WRITE_ATTRIBUTES)
        api.set_information(file, abi.FileBasicInformation, data)


def chmod(ref: int, mode: int) -> None:
    # As the C library does it: the one bit that there is.
    attributes = _attributes(ref) & ~abi.FILE_ATTRIBUTE_NORMAL
    if mode & 0o222:
        changed = attributes & ~abi.FILE_ATTRIBUTE_READONLY
    else:
        changed = attributes | abi.FILE_ATTRIBUTE_READONLY
    if changed != attributes:
        _set_basic(ref, attributes=changed or abi.FILE_ATTRIBUTE_NORMAL)


def chown(ref: int, uid: int, gid: int) -> None:
    if (uid, gid) != (-1, -1):
        _fail(errno.EOPNOTSUPP)


#: What chflags() leaves as it is: it cannot be set there, or means something else.
_KEPT = (
    ~(sum(attribute for attribute, _ in windows_refs.FLAGS) | abi.FILE_ATTRIBUTE_NORMAL)
    & 0xFFFFFFFF
)


def chflags(ref: int, flags: int) -> None:
    if flags & ~sum(flag for _, flag in windows_refs.FLAGS):
        _fail(errno.EOPNOTSUPP)
    attributes = _attributes(ref) & _KEPT
    attributes |= sum(attribute for attribute, flag in windows_refs.FLAGS if flags & flag)
    _set_basic(ref, attributes=attributes or abi.FILE_ATTRIBUTE_NORMAL)


def setcrtime(ref: int, crtime: int) -> None:
    _set_basic(ref, born=_filetime(crtime))


def truncate(ref: int, size: int) -> None:
    file = api.nt_open(ref, b"", abi.FILE_WRITE_DATA, abi.FILE_NON_DIRECTORY_FILE)
    ftruncate(file, size)


def ftruncate(fd: int, size: int) -> None:
    api.set_information(fd, abi.FileEndOfFileInformation, struct.pack("<q", size))


def _filetime(when: TimeOrNow | None) -> int:
    """Return a time as Windows counts it; 0 leaves alone what is there."""
    if when is None:
        return 0
    if when is NOW:
        when = time.time_ns()
    units = when // 100 + abi.EPOCH
    if units <= 0:  # 0 and below have other meanings; nothing before 1601 can be told
        _fail(errno.EINVAL)
    return units


def utimens(ref: int, atime: TimeOrNow | None, mtime: TimeOrNow | None) -> None:
    _set_basic(ref, read=_filetime(atime), written=_filetime(mtime))


def access(ref: int, mask: int) -> None:
    wanted = (
        (abi.FILE_READ_DATA if mask & os.R_OK else 0)
        | (abi.FILE_WRITE_DATA if mask & os.W_OK else 0)
        | (abi.FILE_EXECUTE if mask & os.X_OK else 0)
    )
    try:
        api.nt_open(ref, b"", wanted or windows_refs.REFERENCE)
    except OSError as exc:
        if (
            exc.errno != errno.EBUSY
        ):  # somebody shares it with nobody: that is no question of rights
            raise


def readlink(ref: int) -> bytes:
    if not _attributes(ref) & abi.FILE_ATTRIBUTE_REPARSE_POINT:
        _fail(errno.EINVAL)  # a file system without links has other words for it
    data = api.control(ref, abi.FSCTL_GET_REPARSE_POINT, size=abi.MAXIMUM_REPARSE_DATA_BUFFER_SIZE)
    return parse_link(data)


def statfs(ref: int) -> StatFs:
    data = api.query_volume(ref, abi.FileFsFullSizeInformation, abi.FULL_SIZE.size)
    total, mine, free, sectors, sector = abi.FULL_SIZE.unpack(data)
    unit = sectors * sector
    # File systems of Windows do not count files: 0 of 0, as statvfs(3) has it.
    return StatFs(total, free, mine, 0, 0, unit, 255, unit)


def getxattr(ref: int, name: bytes) -> bytes:
    _fail(errno.EOPNOTSUPP)


def setxattr(ref: int, name: bytes, value: bytes, flags: int) -> None:
    _fail(errno.EOPNOTSUPP)


def listxattr(ref: int) -> list[bytes]:
    _fail(errno.EOPNOTSUPP)


def removexattr(ref: int, name: bytes) -> None:
    _fail(errno.EOPNOTSUPP)


# -- names ------------------------------------------------------------------------------


def mkdir(dir_ref: int, name: bytes, mode: int) -> None:
    api.nt_open(
        dir_ref,
        encode(name),
        windows_refs.REFERENCE,
        abi.FILE_DIRECTORY_FILE | abi.FILE_OPEN_REPARSE_POINT,
        disposition=abi.FILE_CREATE,
    )


def mknod(dir_ref: int, name: bytes, mode: int, rdev: int) -> None:
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        _fail(errno.EOPNOTSUPP)
    create(dir_ref, name, os.O_RDONLY, mode)


def symlink(dir_ref: int, name: bytes, target: bytes) -> None:
    data = symlink_data(target)
    is_directory = _is_directory(dir_ref, target)
    link = api.nt_open(
        dir_ref,
        encode(name),
        abi.FILE_WRITE_ATTRIBUTES | abi.DELETE,
        abi.FILE_OPEN_REPARSE_POINT
        | (abi.FILE_DIRECTORY_FILE if is_directory else abi.FILE_NON_DIRECTORY_FILE),
        disposition=abi.FILE_CREATE,
    )
    try:
        api.control(link, abi.FSCTL_SET_REPARSE_POINT, data)
    except BaseException:
        _dispose(link)
        raise


def _is_directory(dir_ref: int, target: bytes) -> bool:
    """Tell whether a link in *dir_ref* to *target* would lead to a directory below that.

    Windows wants to know when it makes the link.  Where the target is elsewhere or missing, the answer
    is no: looking there would look outside of the source.
    """
    at = dir_ref
    try:
        for name in target.rstrip(b"/").split(b"/"):
            if name != b".":
                at = open_ref(at, name)
        return stat.S_ISDIR(statx(at).mode)
    except OSError:
        return False


def _named(dir_ref: int, name: bytes) -> api.Handle:
    """Return a handle of *name* that may delete and rename it."""
    return api.nt_open(dir_ref, encode(name), abi.DELETE | abi.FILE_READ_ATTRIBUTES)


def _dispose(handle: int) -> None:
    """Delete what *handle* is: its name now, where the file system can (NTFS, Windows 10 1709)."""
    flags = abi.DISPOSITION_DELETE | abi.DISPOSITION_POSIX_SEMANTICS
    try:
        api.set_information(handle, abi.FileDispositionInformationEx, flags.to_bytes(4, "little"))
    except OSError as exc:
        if api.status_of(exc) not in abi.STATUS_UNKNOWN_CLASS:
            raise
        # The name stays until the last handle is closed; who asks for it is told that it is gone.
        api.set_information(handle, abi.FileDispositionInformation, b"\1")


def unlink(dir_ref: int, name: bytes) -> None:
    victim = _named(dir_ref, name)
    if stat.S_ISDIR(statx(victim).mode):
        _fail(errno.EISDIR)
    _dispose(victim)


def rmdir(dir_ref: int, name: bytes) -> None:
    victim = _named(dir_ref, name)
    if not stat.S_ISDIR(statx(victim).mode):
        _fail(errno.ENOTDIR)
    _dispose(victim)


_RENAME_NOREPLACE = 1


def rename(dir_ref: int, name: bytes, new_dir_ref: int, new_name: bytes, flags: int) -> None:
    if flags & ~_RENAME_NOREPLACE:
        _fail(errno.EINVAL)
    replace = 0 if flags & _RENAME_NOREPLACE else abi.RENAME_REPLACE_IF_EXISTS
    stored = encode(new_name)
    moved = _named(dir_ref, name)
    try:
        data = abi.rooted_name(replace | abi.RENAME_POSIX_SEMANTICS, new_dir_ref, stored)
        api.set_information(moved, abi.FileRenameInformationEx, data)
    except OSError as exc:
        if api.status_of(exc) not in abi.STATUS_UNKNOWN_CLASS:
            raise
        data = abi.rooted_name(replace, new_dir_ref, stored)
        api.set_information(moved, abi.FileRenameInformation, data)


def link(ref: int, new_dir_ref: int, new_name: bytes) -> None:
    file = api.nt_open(ref, b"", abi.FILE_WRITE_ATTRIBUTES)
    data = abi.rooted_name(0, new_dir_ref, encode(new_name))
    api.set_information(file, abi.FileLinkInformation, data)


# -- locks ------------------------------------------------------------------------------

# WinFsp keeps the locks of a mount itself and passes none on.


def getlk(fd: int, lock: LockRange) -> LockRange:
    _fail(errno.EOPNOTSUPP)


def setlk(fd: int, lock: LockRange, wait: bool) -> None:
    _fail(errno.EOPNOTSUPP)


def flock(fd: int, operation: int) -> None:
    _fail(errno.EOPNOTSUPP)


# -- identity of this thread ------------------------------------------------------------

_nothing: AbstractContextManager[object] = nullcontext()


def acting_as(caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
    _fail(errno.EOPNOTSUPP)


def is_self(caller: Caller) -> bool:
    return True  # ids have no meaning here: whoever reaches the mount is served as this user


def may_act_as_others() -> bool:
    return False


def masking(umask: int) -> AbstractContextManager[object]:
    return _nothing  # there are no bits that a mask could take away


def told(caller: Caller) -> Caller:
    return caller


def keeps_set_id(caller: Caller) -> bool:
    return False


def sees_trusted(caller: Caller) -> bool:
    return False


def without_fsetid(caller: Caller | None = None) -> AbstractContextManager[object]:
    return _nothing


def drop_fsetid() -> None:
    """There are no such bits."""


def restore_fsetid() -> None:
    """There are no such bits."""


def own_file_system_state() -> None:
    """There is no umask to have for oneself."""


# -- limits -----------------------------------------------------------------------------


def raise_descriptor_limit() -> int:
    # A process may have millions; but each that is open keeps the directories above it from being
    # renamed, by anybody.
    return 1024
