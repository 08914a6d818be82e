# SPDX-License-Identifier: MIT
"""A mount like the one that this process serves, nowhere in the tree, for who is not root: :class:`Aside`.

Owns keeping it, and letting it go in time.  Does not own making it (:mod:`xloop.host.linux_apart`) nor what is done
there (:mod:`.reach`).

Root makes one for each occasion.  Others make one before anybody can use the mount, and keep it: making it takes another
process, and where something is mounted inside they may not.

**Letting it go.**  It keeps nobody from unmounting the mount in the tree; but while it is there the file system is,
and its server would never be told of its end.  So the table of mounts is watched: when the file system is
mounted nowhere in it any more, that was its end.
"""

from __future__ import annotations

import socket
import threading

from xloop.host import Descriptor, linux_watch, mounttable
from xloop.host.linux_apart import clone_mount_apart

__all__ = ["Aside"]

#: Seconds until the table of mounts is read again, if that has failed.
_AGAIN = 0.5


class Aside:
    def __init__(self, mountpoint: str, device: tuple[int, int]) -> None:
        """Make it of what is mounted at *mountpoint*.  OSError says why it cannot be made.

        *device*: the number of that file system.
        """
        self._device = device
        self._root: Descriptor | None = clone_mount_apart(mountpoint)
        self._wake_receive, self._wake_send = socket.socketpair()
        self._thread = threading.Thread(target=self._keep, name="xloop-aside", daemon=True)
        self._thread.start()

    @property
    def root(self) -> Descriptor | None:
        """Its root directory; None: the file system is mounted nowhere any more."""
        return self._root

    def close(self) -> None:
        self._wake_send.send(b"\0")
        self._thread.join()
        self._wake_receive.close()
        self._wake_send.close()

    def _keep(self) -> None:
        wake = self._wake_receive.fileno()
        try:
            with open("/proc/self/mountinfo", "rb") as table:
                while True:
                    is_mounted = self._is_mounted()
                    if is_mounted is False:
                        return
                    patience = _AGAIN if is_mounted is None else None
                    if wake in linux_watch.wait((wake,), (table.fileno(),), patience):
                        return
        finally:
            self._root = None

    def _is_mounted(self) -> bool | None:
        """Whether the file system is mounted anywhere in the tree; None: that cannot be told now."""
        try:
            return any(entry.device == self._device for entry in mounttable.read())
        except OSError:  # for want of descriptors, mostly
            return None
