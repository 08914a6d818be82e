# SPDX-License-Identifier: MIT
"""Loopback: extended attributes."""

from __future__ import annotations

import stat

from xloop.host import host
from xloop.loopback.base import LoopbackBase
from xloop.types import Caller, Ino

__all__ = ["Xattrs"]


class Xattrs(LoopbackBase):
    def getxattr(self, caller: Caller, ino: Ino, name: bytes) -> bytes:
        ref = self._ref(ino, None)
        with self._as(caller):
            return host.getxattr(ref, name)

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
        ref = self._ref(ino, None)
        with self._as(caller):
            host.setxattr(ref, name, value, flags)
            if acl_kill_sgid:
                mode = host.statx(ref).mode
                if mode & stat.S_ISGID:
                    host.chmod(ref, stat.S_IMODE(mode) & ~stat.S_ISGID)

    def listxattr(self, caller: Caller, ino: Ino) -> list[bytes]:
        ref = self._ref(ino, None)
        with self._as(caller):
            return host.listxattr(ref)

    def removexattr(self, caller: Caller, ino: Ino, name: bytes) -> None:
        ref = self._ref(ino, None)
        with self._as(caller):
            host.removexattr(ref, name)
