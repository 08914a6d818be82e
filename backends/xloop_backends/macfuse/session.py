# SPDX-License-Identifier: MIT
"""A mount over macFUSE or FUSE-T that this process serves: its beginning and its end.

Owns when the mount counts as there, and how it is ended.  Does not own the threads: they are the
library's, which calls back from them.

**Ready.**  The library's mount function returns before anything is mounted: macFUSE's kernel shakes
hands with us first, and FUSE-T has an NFS server mount afterwards.  So the mount is there when the
handshake is done *and* the system's table of mounts shows it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from xloop import mounts
from xloop.errors import MountError, UnmountError
from xloop.host import process
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.pathview import PathView

from . import mounting
from .extensions import MacCallbacks
from .library import Library, load
from .negotiate import Terms

__all__ = ["MacFuseSession"]

_log = logging.getLogger("xloop.macfuse")

#: Seconds between two looks at the table of mounts, and after which nothing comes any more.
_LOOK, _PATIENCE = 0.02, 60.0


class MacFuseSession:
    """See :class:`xloop.backend.Session`."""

    def __init__(
        self, name: str, operations: Operations, mountpoint: str, options: MountOptions
    ) -> None:
        """Mount.  MountError says why not."""
        self._name = name
        # As the table of mounts will show it: /tmp and /var are links there.
        self._mountpoint = os.path.realpath(mountpoint)
        checks = options.default_permissions
        if checks is None:
            checks = options.allow_other or options.allow_root
        self._kernel_checks = checks
        self._not_coherent = mounting.NOT_COHERENT if options.cache == "auto" else ""
        self._one_thread = options.max_threads == 1
        self._view = PathView(operations)
        binding = load(name)
        self._binding = binding
        self._terms = Terms(binding, case_sensitive=operations.case_sensitive)
        self._lib = Library(binding)
        self._callbacks = MacCallbacks(self._view, binding, self._lib.get_context, self._terms)
        self._volume = mounting.volume_name(name, options)
        self._before = mounts.mount_at(mounts.read_table(), self._mountpoint)
        self._over = threading.Event()
        chosen = mounting.words(name, options, kernel_checks=checks)
        command = [b"xloop", b"-o", os.fsencode(",".join(chosen))]
        table = self._callbacks.table()
        point = os.fsencode(self._mountpoint)
        done, said = process.overheard(lambda: self._lib.mount(point, command, table))
        if not done:
            raise mounting.refused(name, said, mountpoint)

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        announced = threading.Event()
        waiter = threading.Thread(
            target=self._announce, args=(ready, announced), name="xloop-ready", daemon=True
        )
        try:
            self._view.init(kernel_checks=self._kernel_checks)
            try:
                with process.blocked():
                    waiter.start()
                    status = self._lib.loop(one_thread=self._one_thread)
            finally:
                self._over.set()
                waiter.join()
                self._lib.destroy()
                self._view.destroy()
        finally:
            self._over.set()
        if not announced.is_set():
            raise MountError(
                f"{self._mountpoint!r} was not mounted: {self._name} gave up "
                f"{'during' if not self._terms.done.is_set() else 'after'} the handshake",
                "its own messages may be in the system's log: log show --last 1m",
            )
        if status:
            _log.error("%s ended serving %r with an error", self._name, self._mountpoint)

    def _announce(self, ready: Callable[[], None] | None, announced: threading.Event) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._over.wait(_LOOK):
            if self._terms.done.is_set() and self._is_mounted():
                announced.set()
                if ready is not None:
                    ready()
                return
            if time.monotonic() > deadline:
                self._lib.give_up()
                return

    def _is_mounted(self) -> bool:
        entry = mounts.mount_at(mounts.read_table(), self._mountpoint)
        return entry is not None and entry != self._before

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount.  *lazy* is by force: macOS cannot detach what is in use, it cuts it off."""
        mounts.take_away(self._mountpoint, lazy=lazy)

    def abort(self) -> None:
        self._lib.exit()
        try:
            self.unmount(lazy=True)
        except (OSError, UnmountError) as exc:
            _log.warning("%s", exc)

    def status(self) -> dict[str, object]:
        binding = self._binding
        return {
            "backend": self._name,
            "library": binding._libfuse._name,  # noqa: SLF001  # it has no other name
            "version": f"{binding.fuse_version_major}.{binding.fuse_version_minor}",
            "cache": {"mode": "timeout", "not coherent": self._not_coherent},
            "volume": self._callbacks.volume or self._volume,
            **self._callbacks.calls.status(),
            **self._terms.status(),
        }
