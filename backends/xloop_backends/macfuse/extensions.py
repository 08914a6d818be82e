# SPDX-License-Identifier: MIT
"""The operations that macOS has beyond libfuse's: eleven callbacks more.

Owns them.  Does not own the rest of the table (:mod:`.callbacks`).

Three are refused with ENOTSUP, as by a source that has no such thing: exchange (APFS has none), setchgtime
(no kernel lets the time of the last change be set to anything but now) and setbkuptime (nothing
keeps it: Time Machine has its own attributes).  A setattr_x that asks for one of these changes nothing.
"""

from __future__ import annotations

import ctypes
import errno

from xloop.host.darwin_libc import RENAME_EXCL, RENAME_SWAP, TIMESPEC
from xloop.types import SetAttr

from . import abi
from .callbacks import Callbacks

__all__ = ["MacCallbacks"]

# renameat2(2), whose numbers the contract uses.
_FLAGS = {0: 0, RENAME_EXCL: 1, RENAME_SWAP: 2}


def _unsupported(what: str) -> OSError:
    return OSError(errno.ENOTSUP, what)


class MacCallbacks(Callbacks):
    """All callbacks of a mount on macOS."""

    #: What somebody called the volume since it was mounted.
    volume: str | None = None

    def renamex(self, path: bytes, newpath: bytes, flags: int) -> int:
        if flags not in _FLAGS:
            raise OSError(errno.EINVAL, f"unknown flags of renamex_np: {flags:#x}")
        if not flags:
            return self.rename(path, newpath)
        self._view.rename(self._caller(), path, newpath, _FLAGS[flags])
        return 0

    def statfs_x(self, path: bytes | None, buffer: int) -> int:
        packed = abi.packed_statfs(self._view.statfs(self._caller(), path))
        ctypes.memmove(buffer, packed, len(packed))
        return 0

    def setvolname(self, name: bytes) -> int:
        # It is the mount's, not the source's: kept for as long as that lasts.
        self.volume = name.decode(errors="backslashreplace")
        return 0

    def exchange(self, path: bytes, other: bytes, options: int) -> int:
        raise _unsupported("exchangedata(2)")

    def getxtimes(self, path: bytes, bkuptime: int, crtime: int) -> int:
        attr = self._view.getattr(self._caller(), path)
        born = (attr.btime, attr.btime_nsec) if attr.has_btime else (0, 0)
        for address, when in ((bkuptime, (0, 0)), (crtime, born)):
            ctypes.memmove(address, TIMESPEC.pack(*when), TIMESPEC.size)
        return 0

    def setbkuptime(self, path: bytes, when: int) -> int:
        raise _unsupported("the time of the last backup")

    def setchgtime(self, path: bytes, when: int) -> int:
        raise _unsupported("the time of the last change")

    def setcrtime(self, path: bytes, when: int) -> int:
        crtime = abi.read_time(when)
        if not isinstance(crtime, int):
            raise OSError(errno.EINVAL, "a birth time must be told")
        return self._setattr(path, SetAttr(crtime=crtime))

    def chflags(self, path: bytes, flags: int) -> int:
        return self._setattr(path, SetAttr(flags=flags))

    def setattr_x(self, path: bytes, address: int) -> int:
        return self.fsetattr_x(path, address, None)

    def fsetattr_x(self, path: bytes | None, address: int, info: int | None) -> int:
        changes, refused = abi.read_setattr_x(address)
        if refused:
            raise _unsupported("the time of the last change or backup")
        if changes.nothing:
            return 0
        return self._setattr(path, changes, info)
