# SPDX-License-Identifier: MIT
r"""Symbolic links and junctions of Windows: between REPARSE_DATA_BUFFER and the text of a link.

Owns the two directions of that.  Does not own the calls (:mod:`xloop.host.windows`).

A link's text is a path as Windows writes it.  Shown is the same path with slashes; one that begins at a
drive or at a share is shown as ``C:/...`` or ``//server/share/...``, for the root of the mount is
another one.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from xloop.host import windows_abi as abi

__all__ = ["parse_link", "symlink_data"]

#: How the object manager writes what people write as C:\ and \\server.
_NT: Final = "\\??\\"
_NT_UNC: Final = "\\??\\UNC\\"


def parse_link(data: bytes) -> bytes:
    """Return the text of the link that REPARSE_DATA_BUFFER *data* is.  EINVAL where it is none."""
    tag, length, _ = abi.REPARSE_HEAD.unpack_from(data)
    if tag not in (abi.IO_REPARSE_TAG_SYMLINK, abi.IO_REPARSE_TAG_MOUNT_POINT):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    at, size, _, _ = abi.REPARSE_NAMES.unpack_from(data, abi.REPARSE_HEAD.size)
    names = abi.REPARSE_HEAD.size + abi.REPARSE_NAMES.size
    if tag == abi.IO_REPARSE_TAG_SYMLINK:
        names += abi.REPARSE_FLAGS.size
    if names + at + size > min(len(data), abi.REPARSE_HEAD.size + length):
        raise OSError(errno.EIO, "a link that is longer than its data")
    # The substitute name and not the one to print: it is where the link leads.
    text = data[names + at : names + at + size].decode("utf-16-le", "surrogatepass")
    if text.startswith(_NT_UNC):
        text = "\\\\" + text[len(_NT_UNC) :]
    else:
        text = text.removeprefix(_NT)
    return text.replace("\\", "/").encode("utf-8", "surrogatepass")


def symlink_data(target: bytes) -> bytes:
    """Return the REPARSE_DATA_BUFFER of a symbolic link with the text *target*.

    EINVAL for an empty target, EOPNOTSUPP for an absolute one: on the source it would lead somewhere
    else than in the mount, and out of both.
    """
    if not target or b"\0" in target:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        text = target.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "a target that is not UTF-8") from None
    if text.startswith(("/", "\\")) or text[1:2] == ":":
        raise OSError(errno.EOPNOTSUPP, "only relative symbolic links can be made")
    name = text.replace("/", "\\").encode("utf-16-le", "surrogatepass")
    names = abi.REPARSE_NAMES.pack(0, len(name), len(name), len(name))
    body = names + abi.REPARSE_FLAGS.pack(abi.SYMLINK_FLAG_RELATIVE) + name + name
    if abi.REPARSE_HEAD.size + len(body) > abi.MAXIMUM_REPARSE_DATA_BUFFER_SIZE:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return abi.REPARSE_HEAD.pack(abi.IO_REPARSE_TAG_SYMLINK, len(body), 0) + body
