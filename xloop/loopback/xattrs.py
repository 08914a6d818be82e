# SPDX-License-Identifier: MIT
"""Loopback: extended attributes."""

from __future__ import annotations

import errno
import os
import stat

from xloop.host import host
from xloop.loopback.base import LoopbackBase
from xloop.types import Caller, Ino

__all__ = ["Xattrs"]

_ACL = b"system.posix_acl_access"


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
            names = host.listxattr(ref)
        # For these it is the lister's capability that counts, and where the kernel checks the
        # server is the lister.
        if self._impersonates and any(name.startswith(b"trusted.") for name in names):
            if not host.sees_trusted(caller):
                return [name for name in names if not name.startswith(b"trusted.")]
        return names

    def removexattr(self, caller: Caller, ino: Ino, name: bytes) -> None:
        ref = self._ref(ino, None)
        if name == b"security.capability" and self.kernel_checks:
            # The kernel's own wish, because of a write, a truncation or a chown: the last it has
            # not checked, and natively S_ISUID and S_ISGID would have made it fail before.
            set_id = host.statx(ref).mode & (stat.S_ISUID | stat.S_ISGID)
            if set_id and not self._may_kill(caller, ino, ref):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if name == _ACL and self.kernel_checks and self._loses_set_id(caller, ref):
            # Whoever is not in the group loses S_ISGID with the ACL.  The kernel tells with a new
            # ACL (acl_kill_sgid), but not with a removal.
            with host.without_fsetid(caller):
                host.removexattr(ref, name)
            return
        with self._as(caller):
            host.removexattr(ref, name)
