# SPDX-License-Identifier: MIT
"""What is asked of the library and, through it, of the kernel when a mount begins.

Owns the choice of capabilities, and the reasons.  Does not own the exchange itself.
"""

from __future__ import annotations

import threading
from enum import IntFlag
from typing import Any

from xloop.fuselib import Agreement

__all__ = ["Capability", "Terms"]


class Capability(IntFlag):
    """macFUSE's fuse_common.h: FUSE_CAP_*."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    ACCESS_EXTENDED = 1 << 23
    NODE_RWLOCK = 1 << 24
    RENAME_SWAP = 1 << 25
    RENAME_EXCL = 1 << 26
    ALLOCATE = 1 << 27
    EXCHANGE_DATA = 1 << 28
    CASE_INSENSITIVE = 1 << 29
    VOL_RENAME = 1 << 30
    XTIMES = 1 << 31


_WANTED = {
    Capability.ASYNC_READ: "several reads of one file at a time",
    Capability.BIG_WRITES: "writes of more than a page",
    Capability.NODE_RWLOCK: "several readers of one file at a time",
    Capability.RENAME_SWAP: "renamex_np(RENAME_SWAP) is carried out by the source, in one step",
    Capability.RENAME_EXCL: "renamex_np(RENAME_EXCL) is decided by the source, in one step",
    Capability.ALLOCATE: "fcntl(F_PREALLOCATE) reaches the source",
    Capability.VOL_RENAME: "the volume can be renamed in the Finder",
    Capability.XTIMES: "birth times are shown and can be set",
}
_REFUSED = {
    Capability.ATOMIC_O_TRUNC: "the kernel truncates by itself after the open",
    Capability.DONT_MASK: "the kernel applies the umask before it asks",
    Capability.ACCESS_EXTENDED: "access(2) has three bits; ACLs are checked where the source is used",
    Capability.EXCHANGE_DATA: "APFS has no exchangedata(2), and no other call does the same",
}


class Terms(Agreement[Capability]):
    """What one mount agreed on.  :meth:`init` is the library's callback of that name."""

    def __init__(self, binding: Any, *, case_sensitive: bool) -> None:
        super().__init__(Capability(0), _WANTED, _REFUSED)
        self._connection = binding.fuse_conn_info.from_address
        self.done = threading.Event()
        if not case_sensitive:
            self.asked[Capability.CASE_INSENSITIVE] = "as the source is"
        else:
            self.refused[Capability.CASE_INSENSITIVE] = "the source tells names apart by case"

    def init(self, connection: int) -> int:
        self.agree(self._connection(connection), "this library or kernel does not have it")
        self.done.set()
        return 0
