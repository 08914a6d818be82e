# SPDX-License-Identifier: MIT
"""What failed on Windows, as an errno.

Owns the tables from NTSTATUS and from the numbers of GetLastError() to errno.  Does not own what is done
about an error.

CPython has such a table too, but it calls two dozen errors EINVAL that are none (a full disk, a
missing privilege) and knows no NTSTATUS; and the system's own way from NTSTATUS to an error number
throws away what matters (STATUS_DELETE_PENDING and STATUS_FILE_IS_A_DIRECTORY become "access denied").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

__all__ = ["of_status", "of_winerror"]

#: Numbers of ntstatus.h that lose their meaning on the way to winerror.h.
_STATUS: Final = {
    0xC0000002: errno.EOPNOTSUPP,  # NOT_IMPLEMENTED
    0xC0000003: errno.EOPNOTSUPP,  # INVALID_INFO_CLASS
    0xC0000008: errno.EBADF,  # INVALID_HANDLE
    0xC0000010: errno.EOPNOTSUPP,  # INVALID_DEVICE_REQUEST
    0xC0000033: errno.EINVAL,  # OBJECT_NAME_INVALID
    0xC000003A: errno.ENOENT,  # OBJECT_PATH_NOT_FOUND
    0xC0000043: errno.EBUSY,  # SHARING_VIOLATION
    0xC0000056: errno.ENOENT,  # DELETE_PENDING: gone, but for those who have it open
    0xC000007F: errno.ENOSPC,  # DISK_FULL
    0xC00000BA: errno.EISDIR,  # FILE_IS_A_DIRECTORY
    0xC00000BB: errno.EOPNOTSUPP,  # NOT_SUPPORTED
    0xC0000101: errno.ENOTEMPTY,  # DIRECTORY_NOT_EMPTY
    0xC0000103: errno.ENOTDIR,  # NOT_A_DIRECTORY
    0xC0000106: errno.ENAMETOOLONG,  # NAME_TOO_LONG
    0xC0000121: errno.EACCES,  # CANNOT_DELETE: read-only
    0xC0000123: errno.ENOENT,  # FILE_DELETED
    0xC0000275: errno.EINVAL,  # NOT_A_REPARSE_POINT
    0xC000050B: errno.ELOOP,  # REPARSE_POINT_ENCOUNTERED: OBJ_DONT_REPARSE forbids to follow it
}

#: winerror.h.
_WINERROR: Final = {
    1: errno.ENOSYS,  # INVALID_FUNCTION
    2: errno.ENOENT,  # FILE_NOT_FOUND
    3: errno.ENOENT,  # PATH_NOT_FOUND
    4: errno.EMFILE,  # TOO_MANY_OPEN_FILES
    5: errno.EACCES,  # ACCESS_DENIED
    6: errno.EBADF,  # INVALID_HANDLE
    8: errno.ENOMEM,  # NOT_ENOUGH_MEMORY
    14: errno.ENOMEM,  # OUTOFMEMORY
    15: errno.ENOENT,  # INVALID_DRIVE
    16: errno.EBUSY,  # CURRENT_DIRECTORY
    17: errno.EXDEV,  # NOT_SAME_DEVICE
    19: errno.EROFS,  # WRITE_PROTECT
    21: errno.EIO,  # NOT_READY
    23: errno.EIO,  # CRC
    25: errno.EIO,  # SEEK
    27: errno.EIO,  # SECTOR_NOT_FOUND
    29: errno.EIO,  # WRITE_FAULT
    30: errno.EIO,  # READ_FAULT
    31: errno.EIO,  # GEN_FAILURE
    32: errno.EBUSY,  # SHARING_VIOLATION
    33: errno.EBUSY,  # LOCK_VIOLATION
    36: errno.ENFILE,  # SHARING_BUFFER_EXCEEDED
    39: errno.ENOSPC,  # HANDLE_DISK_FULL
    50: errno.EOPNOTSUPP,  # NOT_SUPPORTED
    53: errno.ENOENT,  # BAD_NETPATH
    64: errno.EIO,  # NETNAME_DELETED
    65: errno.EACCES,  # NETWORK_ACCESS_DENIED
    67: errno.ENOENT,  # BAD_NET_NAME
    80: errno.EEXIST,  # FILE_EXISTS
    82: errno.EACCES,  # CANNOT_MAKE
    87: errno.EINVAL,  # INVALID_PARAMETER
    108: errno.EBUSY,  # DRIVE_LOCKED
    112: errno.ENOSPC,  # DISK_FULL
    120: errno.ENOSYS,  # CALL_NOT_IMPLEMENTED
    123: errno.EINVAL,  # INVALID_NAME
    131: errno.EINVAL,  # NEGATIVE_SEEK
    145: errno.ENOTEMPTY,  # DIR_NOT_EMPTY
    170: errno.EBUSY,  # BUSY
    183: errno.EEXIST,  # ALREADY_EXISTS
    206: errno.ENAMETOOLONG,  # FILENAME_EXCED_RANGE
    223: errno.EFBIG,  # FILE_TOO_LARGE
    267: errno.ENOTDIR,  # DIRECTORY
    303: errno.ENOENT,  # DELETE_PENDING
    336: errno.EISDIR,  # DIRECTORY_NOT_SUPPORTED
    396: errno.EIO,  # CLOUD_FILE_NETWORK_UNAVAILABLE and its siblings: the data is elsewhere
    665: errno.ENOSPC,  # FILE_SYSTEM_LIMITATION
    1117: errno.EIO,  # IO_DEVICE
    1142: errno.EMLINK,  # TOO_MANY_LINKS
    1224: errno.EBUSY,  # USER_MAPPED_FILE
    1295: errno.ENOSPC,  # DISK_QUOTA_EXCEEDED
    1314: errno.EPERM,  # PRIVILEGE_NOT_HELD
    1392: errno.EIO,  # FILE_CORRUPT
    1450: errno.ENOMEM,  # NO_SYSTEM_RESOURCES
    1455: errno.ENOMEM,  # COMMITMENT_LIMIT
    1816: errno.ENOSPC,  # NOT_ENOUGH_QUOTA
    1920: errno.EACCES,  # CANT_ACCESS_FILE
    1921: errno.ELOOP,  # CANT_RESOLVE_FILENAME
    4390: errno.EINVAL,  # NOT_A_REPARSE_POINT
    4393: errno.EINVAL,  # REPARSE_TAG_INVALID
}


def of_winerror(number: int) -> OSError:
    """Return the exception for an error number of GetLastError(); EIO for one that nobody expects."""
    found = _WINERROR.get(number)
    if found is None:
        return OSError(errno.EIO, f"Windows error {number}")
    return OSError(found, os.strerror(found))


def of_status(status: int, to_winerror: Callable[[int], int]) -> OSError:
    """Return the exception for an NTSTATUS; *to_winerror* is RtlNtStatusToDosError()."""
    status &= 0xFFFFFFFF
    found = _STATUS.get(status)
    if found is not None:
        return OSError(found, os.strerror(found))
    number = to_winerror(status)
    if number not in _WINERROR:
        return OSError(errno.EIO, f"NTSTATUS {status:#010x}")
    return of_winerror(number)
