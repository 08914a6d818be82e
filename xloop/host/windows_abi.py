# SPDX-License-Identifier: MIT
"""The structures and numbers of ntdll that xloop uses, as Windows has them on 64 and on 32 bits.

Owns layouts and constants, and nothing that needs Windows: a test holds them against literal tables on
any system.  Does not own the calls (:mod:`xloop.host.windows_api`).

Names are those of ntifs.h and winnt.h.  What is packed and not a ctypes structure is so because one
``unpack`` is ten times as fast as reading the fields.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

# -- access rights ----------------------------------------------------------------------

FILE_READ_DATA: Final = 0x1
FILE_WRITE_DATA: Final = 0x2
FILE_APPEND_DATA: Final = 0x4
FILE_EXECUTE: Final = 0x20
FILE_READ_ATTRIBUTES: Final = 0x80
FILE_WRITE_ATTRIBUTES: Final = 0x100
DELETE: Final = 0x10000
SYNCHRONIZE: Final = 0x100000
FILE_LIST_DIRECTORY: Final = FILE_READ_DATA

#: FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE.  With anything less, nobody could rename or
#: delete what we hold, and WinFsp has every file renamed and deleted while it is open.
SHARE_ALL: Final = 7

# -- NtCreateFile -----------------------------------------------------------------------

OBJ_CASE_INSENSITIVE: Final = 0x40
OBJ_DONT_REPARSE: Final = 0x1000

FILE_OPEN: Final = 1
FILE_CREATE: Final = 2

FILE_DIRECTORY_FILE: Final = 0x1
FILE_WRITE_THROUGH: Final = 0x2
FILE_SYNCHRONOUS_IO_NONALERT: Final = 0x20
FILE_NON_DIRECTORY_FILE: Final = 0x40
FILE_OPEN_FOR_BACKUP_INTENT: Final = 0x4000
FILE_OPEN_REPARSE_POINT: Final = 0x200000

# CreateFileW
OPEN_EXISTING: Final = 3
FILE_FLAG_BACKUP_SEMANTICS: Final = 0x02000000
FILE_FLAG_OPEN_REPARSE_POINT: Final = 0x00200000

# -- information classes ----------------------------------------------------------------

FileBasicInformation: Final = 4
FileRenameInformation: Final = 10
FileLinkInformation: Final = 11
FileDispositionInformation: Final = 13
FileAllInformation: Final = 18
FileEndOfFileInformation: Final = 20
FileAttributeTagInformation: Final = 35
FileIdFullDirectoryInformation: Final = 38
FileIdInformation: Final = 59
FileDispositionInformationEx: Final = 64
FileRenameInformationEx: Final = 65

FileFsVolumeInformation: Final = 1
FileFsFullSizeInformation: Final = 7

DISPOSITION_DELETE: Final = 1
DISPOSITION_POSIX_SEMANTICS: Final = 2
RENAME_REPLACE_IF_EXISTS: Final = 1
RENAME_POSIX_SEMANTICS: Final = 2

# -- attributes -------------------------------------------------------------------------

FILE_ATTRIBUTE_READONLY: Final = 0x1
FILE_ATTRIBUTE_HIDDEN: Final = 0x2
FILE_ATTRIBUTE_SYSTEM: Final = 0x4
FILE_ATTRIBUTE_DIRECTORY: Final = 0x10
FILE_ATTRIBUTE_ARCHIVE: Final = 0x20
FILE_ATTRIBUTE_NORMAL: Final = 0x80
FILE_ATTRIBUTE_REPARSE_POINT: Final = 0x400

# The same as flags of chflags(2), which is what the core and WinFsp know.
UF_SYSTEM: Final = 0x80
UF_ARCHIVE: Final = 0x800
UF_READONLY: Final = 0x1000
UF_HIDDEN: Final = 0x8000

IO_REPARSE_TAG_SYMLINK: Final = 0xA000000C
IO_REPARSE_TAG_MOUNT_POINT: Final = 0xA0000003
#: The bit of a tag that says: this stands for something else (links, junctions, mounted volumes).
NAME_SURROGATE: Final = 0x20000000
SYMLINK_FLAG_RELATIVE: Final = 1

FSCTL_SET_REPARSE_POINT: Final = 0x900A4
FSCTL_GET_REPARSE_POINT: Final = 0x900A8
MAXIMUM_REPARSE_DATA_BUFFER_SIZE: Final = 16384

# -- status -----------------------------------------------------------------------------

STATUS_BUFFER_OVERFLOW: Final = 0x80000005
STATUS_NO_MORE_FILES: Final = 0x80000006
STATUS_END_OF_FILE: Final = 0xC0000011
STATUS_NO_SUCH_FILE: Final = 0xC000000F
STATUS_OBJECT_NAME_NOT_FOUND: Final = 0xC0000034
STATUS_ACCESS_DENIED: Final = 0xC0000022
#: What a file system answers that has no such information class, or not with these flags.
STATUS_UNKNOWN_CLASS: Final = frozenset(
    {
        0xC0000002,  # NOT_IMPLEMENTED
        0xC0000003,  # INVALID_INFO_CLASS
        0xC000000D,  # INVALID_PARAMETER
        0xC0000010,  # INVALID_DEVICE_REQUEST
        0xC00000BB,  # NOT_SUPPORTED
    }
)

# -- structures -------------------------------------------------------------------------


class UNICODE_STRING(ctypes.Structure):  # noqa: N801  # the name that everybody knows it by
    _fields_ = [
        ("Length", ctypes.c_uint16),  # bytes
        ("MaximumLength", ctypes.c_uint16),
        ("Buffer", ctypes.c_void_p),
    ]


class OBJECT_ATTRIBUTES(ctypes.Structure):  # noqa: N801
    _fields_ = [
        ("Length", ctypes.c_uint32),
        ("RootDirectory", ctypes.c_void_p),
        ("ObjectName", ctypes.c_void_p),
        ("Attributes", ctypes.c_uint32),
        ("SecurityDescriptor", ctypes.c_void_p),
        ("SecurityQualityOfService", ctypes.c_void_p),
    ]


class IO_STATUS_BLOCK(ctypes.Structure):  # noqa: N801
    _fields_ = [
        ("Status", ctypes.c_void_p),  # a union of NTSTATUS and a pointer
        ("Information", ctypes.c_size_t),
    ]


class _RootedName(ctypes.Structure):
    _fields_ = [
        ("Flags", ctypes.c_uint32),  # or BOOLEAN ReplaceIfExists
        ("RootDirectory", ctypes.c_void_p),
        ("FileNameLength", ctypes.c_uint32),
        ("FileName", ctypes.c_uint16 * 1),
    ]


#: Where the name begins in FILE_RENAME_INFORMATION and FILE_LINK_INFORMATION.
ROOTED_NAME_AT: Final = _RootedName.FileName.offset


def rooted_name(flags: int, root: int, name: bytes) -> bytes:
    """Return a FILE_RENAME_INFORMATION, or FILE_LINK_INFORMATION, for the stored *name*."""
    head = _RootedName(flags, root, len(name))
    data = ctypes.string_at(ctypes.addressof(head), ROOTED_NAME_AT) + name
    return data.ljust(ctypes.sizeof(_RootedName), b"\0")


#: FILE_BASIC_INFORMATION: creation, last access, last write, change, attributes.  To set: 0 leaves alone.
BASIC: Final = struct.Struct("<qqqqIxxxx")

#: FILE_ALL_INFORMATION as far as its name: BASIC; then of FILE_STANDARD_INFORMATION allocation, end of file,
#: links, delete pending, directory; then of FILE_INTERNAL_INFORMATION the file id.  What comes
#: behind is EA size, access, position, mode, alignment and the name.
ALL: Final = struct.Struct("<qqqqIxxxxqqIBBxxQ")
ALL_SIZE: Final = 104

#: FILE_ID_INFORMATION: serial number of the volume, and the id as two halves.
ID: Final = struct.Struct("<QQQ")

#: FILE_ATTRIBUTE_TAG_INFORMATION.
ATTRIBUTE_TAG: Final = struct.Struct("<II")

#: FILE_FS_FULL_SIZE_INFORMATION: units, available to the caller, available, sectors a unit, bytes a sector.
FULL_SIZE: Final = struct.Struct("<qqqII")

#: FILE_FS_VOLUME_INFORMATION as far as the label: creation, serial, label length, supports objects.
VOLUME: Final = struct.Struct("<qIIBx")

#: FILE_ID_FULL_DIR_INFORMATION as far as the name: next, index, creation, access, write, change, end of
#: file, allocation, attributes, name length, EA size (or reparse tag), id.
ID_FULL_DIR: Final = struct.Struct("<IIqqqqqqIIIxxxxQ")

#: REPARSE_DATA_BUFFER: tag, length of what follows the first eight bytes, 0; then for both kinds of links
#: offset and length of the substitute name, of the print name; then the flags for a symbolic link.
REPARSE_HEAD: Final = struct.Struct("<IHH")
REPARSE_NAMES: Final = struct.Struct("<HHHH")
REPARSE_FLAGS: Final = struct.Struct("<I")

#: 100-nanosecond units from 1601 to 1970.
EPOCH: Final = 116444736000000000
