# SPDX-License-Identifier: MIT
"""Linux and FreeBSD: mounts over libfuse 3 or 2, through mfusepy.

Owns the backend "libfuse", which takes libfuse 3 where it is installed and 2 where not, and
"libfuse3" and "libfuse2", which take only that.  What is where: the library and its functions in
library, layouts in abi and request, the callbacks in callbacks and versions, what is open in handles, what is
agreed with the kernel in negotiate, mounting and its errors in mounting, threads in session.
"""

from __future__ import annotations

import os

from xloop.backend import Availability, Session
from xloop.errors import BackendUnavailable
from xloop.ops import Operations
from xloop.options import MountOptions

__all__ = ["Libfuse", "Libfuse2", "Libfuse3", "backend"]


class Libfuse:
    """See :class:`xloop.backend.Backend`."""

    name = "libfuse"
    #: Major versions of the library, the preferred one first.
    versions: tuple[int, ...] = (3, 2)

    def probe(self) -> Availability:
        return self._choose()[1]

    def _choose(self) -> tuple[int, Availability]:
        """Return the version to use and its state, or the preferred one's where none can be."""
        from . import mounting

        states = [(version, mounting.probe(version)) for version in self.versions]
        return next((found for found in states if found[1].ok), states[0])

    def check_options(self, options: MountOptions) -> None:
        from . import mounting

        mounting.check_options(self.name, options)

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        from .session import LibfuseSession  # here: probing must stay cheap

        version, state = self._choose()
        if not state.ok:
            raise BackendUnavailable(state.why, state.fix)
        checks = options.default_permissions
        if checks is None:
            checks = options.allow_other or options.allow_root
        return LibfuseSession(
            self.name,
            version,
            operations,
            os.path.abspath(mountpoint),
            options,
            kernel_checks=checks,
        )


class Libfuse3(Libfuse):
    name = "libfuse3"
    versions = (3,)


class Libfuse2(Libfuse):
    name = "libfuse2"
    versions = (2,)


backend = Libfuse
