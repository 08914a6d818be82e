# SPDX-License-Identifier: MIT
r"""Windows: references to objects of a source, and what stat(2) tells of them.

Owns opening a reference and reading attributes.  Does not own changing them, nor files and directories that
are open (:mod:`xloop.host.windows`, which also offers these functions as its own).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from xloop.host import windows_abi as abi
from xloop.host import windows_api as api
from xloop.host.base import Descriptor
from xloop.host.windows_names import encode
from xloop.types import Attr

assert not TYPE_CHECKING or sys.platform == "win32"

__all__ = ["FLAGS", "REFERENCE", "open_ref", "open_root", "reopen_ref", "statx", "type_of"]

#: The access that a reference has.
REFERENCE: Final = abi.FILE_READ_ATTRIBUTES


def open_root(path: str, *, private: bool = False) -> Descriptor:
    # private: a mount inside of the source does not appear in it anyway, for it is a reparse point.
    root = api.create_file(_extended(path), REFERENCE)
    if not stat.S_ISDIR(statx(root).mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return root


def _extended(path: str) -> str:
    r"""Return *path* in the form that Windows takes as it is, and of any length: ``\\?\...``."""
    path = os.path.abspath(path)
    if path.startswith(("\\\\?\\", "\\\\.\\")):
        return path
    return "\\\\?\\UNC" + path[1:] if path.startswith("\\\\") else "\\\\?\\" + path


def open_ref(dir_ref: int, name: bytes) -> Descriptor:
    try:
        return api.nt_open(dir_ref, encode(name), REFERENCE)
    except FileNotFoundError:
        # Windows says the same of a name that is not there and of a directory that is none.
        if not stat.S_ISDIR(statx(dir_ref).mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise


def reopen_ref(ref: int) -> Descriptor:
    return api.nt_open(ref, b"", REFERENCE)


# -- attributes of an object ------------------------------------------------------------

#: Attributes that are told and set as flags of chflags(2).
FLAGS: Final = (
    (abi.FILE_ATTRIBUTE_READONLY, abi.UF_READONLY),
    (abi.FILE_ATTRIBUTE_HIDDEN, abi.UF_HIDDEN),
    (abi.FILE_ATTRIBUTE_SYSTEM, abi.UF_SYSTEM),
    (abi.FILE_ATTRIBUTE_ARCHIVE, abi.UF_ARCHIVE),
)
_TELLABLE = sum(attribute for attribute, _ in FLAGS)
#: By the bits that can be told, what they are as flags: looked up for each stat.
_FLAGS_OF = {
    bits: sum(flag for attribute, flag in FLAGS if bits & attribute)
    for bits in range(_TELLABLE + 1)
    if not bits & ~_TELLABLE
}


def type_of(attributes: int, tag: int) -> int:
    """Return the type bits of st_mode."""
    if attributes & abi.FILE_ATTRIBUTE_REPARSE_POINT and tag & abi.NAME_SURROGATE:
        return stat.S_IFLNK
    return stat.S_IFDIR if attributes & abi.FILE_ATTRIBUTE_DIRECTORY else stat.S_IFREG


def _tag(ref: int, attributes: int) -> int:
    if not attributes & abi.FILE_ATTRIBUTE_REPARSE_POINT:
        return 0
    data = api.query(ref, abi.FileAttributeTagInformation, abi.ATTRIBUTE_TAG.size)
    tag: int = abi.ATTRIBUTE_TAG.unpack(data)[1]
    return tag


def _split(filetime: int) -> tuple[int, int]:
    seconds, units = divmod(filetime - abi.EPOCH, 10_000_000)
    return seconds, units * 100


def _where(ref: int, internal: int) -> tuple[int, int]:
    """Return the number of the volume and that of the object on it."""
    try:
        data = api.query(ref, abi.FileIdInformation, abi.ID.size)
    except OSError as exc:
        if api.status_of(exc) not in abi.STATUS_UNKNOWN_CLASS:
            raise
        # FAT, and servers that are older than SMB 3.
        volume = api.query_volume(ref, abi.FileFsVolumeInformation, 24)
        return abi.VOLUME.unpack_from(volume)[1], internal
    serial, low, high = abi.ID.unpack(data)
    if not high:
        return serial, low
    # ReFS: 128 bits.  Two files of one mount with the same 64 are as likely as anywhere else.
    return serial, int.from_bytes(blake2b(data[8:24], digest_size=8).digest(), "little")


def statx(ref: int, name: bytes = b"") -> Attr:
    if name:
        ref = open_ref(ref, name)
    data = api.query(ref, abi.FileAllInformation, abi.ALL_SIZE)
    born, read, written, changed, attributes, allocated, size, links, _, _, internal = (
        abi.ALL.unpack_from(data)
    )
    mode = type_of(attributes, _tag(ref, attributes))
    mode |= 0o555 if attributes & abi.FILE_ATTRIBUTE_READONLY and mode == stat.S_IFREG else 0o777
    dev, ino = _where(ref, internal)
    atime, mtime = _split(read), _split(written)
    ctime = _split(changed) if changed else mtime  # FAT keeps none
    btime, btime_nsec = _split(born)
    return Attr(
        ino,
        size,
        (allocated + 511) // 512,
        atime[0],
        mtime[0],
        ctime[0],
        atime[1],
        mtime[1],
        ctime[1],
        mode,
        links or 1,
        0,
        0,
        0,
        4096,
        dev,
        btime,
        btime_nsec,
        born != 0,
        _FLAGS_OF[attributes & _TELLABLE],
    )
