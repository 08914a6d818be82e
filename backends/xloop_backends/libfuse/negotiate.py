# SPDX-License-Identifier: MIT
"""What is asked of libfuse and, through it, of the kernel when a mount begins.

Owns the choice of capabilities and of the library's own settings, and the reasons.  Does not own
the exchange itself: that is between the library and the kernel.
"""

from __future__ import annotations

import threading
from enum import IntFlag
from typing import Any

from xloop.fuselib import Agreement
from xloop.host import host
from xloop.options import MountOptions

__all__ = ["Capability", "Terms"]


class Capability(IntFlag):
    """fuse_common.h: FUSE_CAP_*."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 19
    HANDLE_KILLPRIV = 1 << 20
    CACHE_SYMLINKS = 1 << 23


_WANTED = {
    Capability.ASYNC_READ: "several reads of one file at a time",
    Capability.POSIX_LOCKS: "record locks exclude programs on the source",
    Capability.FLOCK_LOCKS: "flock excludes programs on the source",
    Capability.BIG_WRITES: "writes of more than a page",
    Capability.DONT_MASK: "a default ACL takes the place of the umask, so the source must see both",
    Capability.IOCTL_DIR: "file attributes of directories",
    Capability.AUTO_INVAL_DATA: "cached data goes when size or mtime change on the source",
    Capability.READDIRPLUS: "names and attributes in one request",
    Capability.READDIRPLUS_AUTO: "but only where the attributes are wanted",
    Capability.ASYNC_DIO: "direct reads and writes in parallel",
    Capability.PARALLEL_DIROPS: "look-ups in one directory in parallel",
}
_REFUSED = {
    Capability.ATOMIC_O_TRUNC: "set-user-ID bits go in the truncation that the kernel sends after "
    "the open, and the library does not pass on that they must",
    Capability.HANDLE_KILLPRIV: "the kernel clears set-user-ID bits itself",
    Capability.SPLICE_READ: "requests are looked at in memory",
    Capability.SPLICE_WRITE: "replies are made in memory",
    Capability.SPLICE_MOVE: "replies are made in memory",
    Capability.WRITEBACK_CACHE: "the source may change behind the mount",
    Capability.CACHE_SYMLINKS: "the library takes a new link of the same name for the old one",
}
#: What 2.9 does without being told, or cannot say although it is called the same.
_ONLY_2 = Capability.BIG_WRITES


class Terms(Agreement[Capability]):
    """What one mount agreed on.  :meth:`init` is the library's callback of that name."""

    def __init__(
        self, binding: Any, options: MountOptions, signal: int, *, kernel_checks: bool
    ) -> None:
        super().__init__(Capability(0), _WANTED, _REFUSED)
        self._binding = binding
        self._options = options
        self._signal = signal
        self.major: int = binding.fuse_version_major
        self.done = False
        self.max_write = 0
        self._config: Any = None
        self._lock = threading.Lock()
        self._distrusting = 0
        if self.major == 3:
            del self.asked[_ONLY_2]  # always on
        if not host.OWNS_LOCKS:
            # FreeBSD: then its kernel keeps the locks of the mount by itself.
            del self.asked[Capability.POSIX_LOCKS]
            self.refused[Capability.POSIX_LOCKS] = "no record lock belongs to an open file here"
        if not kernel_checks:
            self.refused[Capability.POSIX_ACL] = (
                "permissions are checked by the source, not by the kernel"
            )
        else:
            self.asked[Capability.POSIX_ACL] = (
                "the kernel checks permissions, and so must know the ACLs"
            )

    def init(self, connection: int, config: int | None = None) -> int:
        conn = self._binding.fuse_conn_info.from_address(connection)
        self.agree(conn, f"libfuse {self.major} or this kernel does not have it")
        # Requests that nobody waits for (read-ahead, release): the kernel's default of 12 at a time
        # makes descriptors of closed files pile up.
        conn.max_background, conn.congestion_threshold = 256, 192
        self.max_write = conn.max_write
        if config:
            self._config = self._binding.fuse_config.from_address(config)
            self._configure(self._config)
        self.done = True
        return 0

    def _configure(self, config: Any) -> None:
        """What libfuse 2 is told by words on its command line (:meth:`words`)."""
        config.use_ino = 1
        config.nullpath_ok = 1
        config.entry_timeout = self._options.entry_timeout
        config.negative_timeout = self._options.negative_timeout
        config.attr_timeout = self._options.attr_timeout
        config.intr = 1
        config.intr_signal = self._signal

    def words(self) -> list[str]:
        """Return the -o words with the settings that have no other way into the library."""
        if self.major == 3:
            return []
        options = self._options
        return [
            "use_ino",
            "intr",
            f"intr_signal={self._signal}",
            f"entry_timeout={options.entry_timeout:f}",
            f"negative_timeout={options.negative_timeout:f}",
            "attr_timeout=0",  # all or nothing: see distrust()
        ]

    def distrust(self) -> None:
        """From now on the kernel is to believe no attributes, until as many calls of :meth:`trust`.

        The library has a node for each name.  What is changed through one name of a file with several
        would not be seen through another, as long as the kernel believes what it was told about
        that.  The library has one setting for all, and reads it for each reply.
        """
        if self._config is None:
            return
        with self._lock:
            self._distrusting += 1
            self._config.attr_timeout = 0.0

    def trust(self) -> None:
        if self._config is None:
            return
        with self._lock:
            self._distrusting -= 1
            if not self._distrusting:
                self._config.attr_timeout = self._options.attr_timeout

    def status(self) -> dict[str, object]:
        said = super().status()
        return {"protocol": said.pop("protocol"), "max_write": self.max_write, **said}
