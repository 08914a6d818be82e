# SPDX-License-Identifier: MIT
"""A mount over WinFsp that this process serves: its beginning and its end.

Owns when a mount is there, and how it is told to go.  Does not own the callbacks (:mod:`.callbacks`) nor the
threads they run in: those are WinFsp's, started as they are needed.

WinFsp mounts, serves and unmounts in one call, and says to nobody when the mount is there.  So
:meth:`WinfspSession.serve` looks, from a thread of its own, until the drive or the directory that was not
there before appears.  Killing the process leaves nothing mounted: WinFsp's driver sees to that.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from xloop.errors import MountError
from xloop.host import windows_mounts
from xloop.layers import ReadOnly
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.pathview import PathView

from . import options as winfsp_options
from .callbacks import Callbacks
from .library import Library

assert not TYPE_CHECKING or sys.platform == "win32"

__all__ = ["WinfspSession"]


def _source_of(operations: object) -> str | None:
    """Return the directory that *operations* shows, below whatever layers; None where it is none."""
    while operations is not None:
        source = getattr(operations, "source", None)
        if isinstance(source, str):
            return os.path.abspath(source)
        operations = getattr(operations, "inner", None)
    return None


#: Seconds between two looks whether the mount is there.
_LOOK = 0.01

#: Seconds that a mount may take to appear.
_PATIENCE = 30.0


class WinfspSession:
    """See :class:`xloop.backend.Session`.  It is mounted by serve(): WinFsp does both in one call."""

    def __init__(
        self, library: Library, operations: Operations, mountpoint: str, options: MountOptions
    ) -> None:
        self._library = library
        self._point = windows_mounts.parse(mountpoint)
        self._options = options
        if options.read_only:
            # WinFsp refuses changes of a volume that is read-only; what it lets through is refused here.
            operations = ReadOnly(operations)
        self._view = PathView(operations)
        self._callbacks = Callbacks(
            self._view,
            self._on_init,
            case_sensitive=operations.case_sensitive,
            read_only=options.read_only,
            source=_source_of(operations),
        )
        self._lock = threading.Lock()
        self._mount = 0  #: WinFsp's struct fuse
        self._stopped = False
        self._over = threading.Event()
        self._record: windows_mounts.Record | None = None

    # -- the life of a session ----------------------------------------------------------

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        point, library = self._point, self._library
        self._view.init()
        table = self._callbacks.table()
        words = winfsp_options.words(self._options, point.prefix)
        place = point.place()
        # "/" and not "\\": so that nobody takes it for an escape.  WinFsp takes a drive as "X:".
        words.append(place.encode("utf-8", "surrogatepass"))
        announced: list[BaseException | None] = []
        looking = threading.Thread(
            target=self._announce, args=(place, ready, announced), name="xloop-ready", daemon=True
        )
        looking.start()
        try:
            failed = library.main(words, table)
        finally:
            with self._lock:
                self._mount = 0
                self._over.set()
                if self._record is not None:
                    self._record.wake()
            looking.join()
            self._view.destroy()
        if announced and announced[0] is not None:
            raise announced[0]
        if failed and not announced:
            raise MountError(
                f"{point.shown!r} cannot be mounted on: WinFsp failed",
                "why is in the Windows event log, under the source WinFsp",
            )

    def _announce(
        self, place: str, ready: Callable[[], None] | None, announced: list[BaseException | None]
    ) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not windows_mounts.appears(place):
            if self._over.wait(_LOOK):
                return
            if time.monotonic() > deadline:
                announced.append(MountError(f"WinFsp mounts, but nothing appears at {place!r}"))
                self.unmount()
                return
        options = self._options
        try:
            record = windows_mounts.Record(
                self._point.shown, options.fsname or "xloop", options.subtype, place=place
            )
        except OSError as exc:
            announced.append(
                MountError(f"{self._point.shown!r}: the mount cannot be recorded: {exc}")
            )
            self.unmount()
            return
        announced.append(None)
        with record:
            with self._lock:
                self._record = record
                if self._over.is_set():
                    return
            if ready is not None:
                ready()
            record.wait()
            self.unmount()
            self._over.wait()  # the event is there for as long as the mount is

    def _on_init(self) -> None:
        with self._lock:
            self._mount = self._library.mount_of_callback()
            stopped = self._stopped
        if stopped:
            self._library.exit(self._mount)

    def unmount(self, *, lazy: bool = False) -> None:
        """End the mount.  WinFsp waits for nobody: what is open gets errors from then on."""
        with self._lock:
            self._stopped = True
            if self._mount:
                self._library.exit(self._mount)

    def abort(self) -> None:
        self.unmount()

    def status(self) -> dict[str, object]:
        version = self._library.version()
        return {
            "backend": "winfsp",
            "library": self._library.path,
            "interface": f"{version // 10}.{version % 10}",
            "capable": f"{self._callbacks.capable:#x}",
            "asked": f"{self._callbacks.want:#x}",
            "cache": {
                "mode": "timeout",
                "not coherent": winfsp_options.NOT_COHERENT
                if self._options.cache == "auto"
                else "",
            },
            **self._callbacks.calls.status(),
        }
