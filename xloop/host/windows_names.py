# SPDX-License-Identifier: MIT
r"""Names on Windows: between the bytes of the core and what the file system stores.

Owns the encoding of one name.  Does not own paths: no path is ever put together.

The core's names are UTF-8.  Windows reserves ``" * : < > ? | \`` and the control characters; the systems
that bring POSIX names there (Cygwin, WinFsp) store such a character as U+F000 plus its code, and turn
it back where a name is shown.  WinFsp has turned it back in what it sends, so a name may hold a backslash
or a colon.  Stored as it is, the first would lead through directories (``..\..\secret``), the
second to an alternate data stream: here both become ordinary characters of one name again.

A name that is no valid UTF-16 is told in UTF-8 with its unpaired surrogates (WTF-8), and comes
back as that.
"""

from __future__ import annotations

import errno
import os
from typing import Final

__all__ = ["MOST_UNITS", "decode", "encode"]

#: UTF-16 units in one name, on every file system of Windows.
MOST_UNITS: Final = 255

_RESERVED: Final = '"*:<>?|\\' + "".join(map(chr, range(1, 32)))
_TO_STORED: Final = {ord(c): 0xF000 | ord(c) for c in _RESERVED}
_FROM_STORED: Final = {stored: plain for plain, stored in _TO_STORED.items()}

# Most names need no change; looking for what does is cheaper than translating.
_HAS_RESERVED: Final = frozenset(_RESERVED)


def encode(name: bytes) -> bytes:
    """Return *name* as the file system stores it, in UTF-16.

    EINVAL for what is no name of one directory entry, ENAMETOOLONG, EILSEQ for what is no UTF-8.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, "not the name of one directory entry")
    try:
        text = name.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "a name that is not UTF-8") from None
    if not _HAS_RESERVED.isdisjoint(text):
        text = text.translate(_TO_STORED)
    stored = text.encode("utf-16-le", "surrogatepass")
    if len(stored) > 2 * MOST_UNITS:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return stored


def decode(stored: bytes) -> bytes:
    """Return a stored name, in UTF-16, as the core knows it."""
    text = stored.decode("utf-16-le", "surrogatepass")
    if not text.isascii():
        text = text.translate(_FROM_STORED)
    return text.encode("utf-8", "surrogatepass")
