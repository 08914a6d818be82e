# SPDX-License-Identifier: MIT
"""macOS: mounts over macFUSE or FUSE-T, through mfusepy.

Owns the backends "macfuse" (a kernel extension) and "fuse-t" (an NFS server that macOS mounts): two
libraries with the interface of libfuse 2.9 and macOS's additions to it.  What is where: the library and
its functions in library, layouts in abi, the table of callbacks in callbacks, macOS's additions in
extensions, what is agreed with the kernel in negotiate, words and errors of mounting in mounting,
serving in session.
"""

from __future__ import annotations

import os

from xloop.backend import Availability, Session
from xloop.errors import BackendUnavailable
from xloop.ops import Operations
from xloop.options import MountOptions

__all__ = ["FuseT", "MacFuse", "backend"]


class MacFuse:
    """See :class:`xloop.backend.Backend`."""

    name = "macfuse"

    def probe(self) -> Availability:
        from . import library

        return library.probe(self.name)

    def check_options(self, options: MountOptions) -> None:
        from . import mounting

        mounting.check_options(self.name, options)

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        from .session import MacFuseSession  # here: probing must stay cheap

        state = self.probe()
        if not state.ok:
            raise BackendUnavailable(state.why, state.fix)
        return MacFuseSession(self.name, operations, os.path.abspath(mountpoint), options)


class FuseT(MacFuse):
    name = "fuse-t"


backend = MacFuse
