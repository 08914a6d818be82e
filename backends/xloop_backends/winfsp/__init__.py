# SPDX-License-Identifier: MIT
"""Windows: mounts over WinFsp, through refuse.

Owns the backend "winfsp".  What is where: finding and loading the library in library, layouts and error numbers
in abi, the table of callbacks in callbacks, the words that WinFsp is given in options, the life of a mount in
session.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from xloop.backend import Availability, Session
from xloop.errors import BackendUnavailable
from xloop.ops import Operations
from xloop.options import MountOptions

__all__ = ["Winfsp", "backend"]

_INSTALL = "install it: winget install WinFsp.WinFsp, or https://winfsp.dev/rel/"


class Winfsp:
    """See :class:`xloop.backend.Backend`."""

    name = "winfsp"

    def probe(self) -> Availability:
        from importlib.util import find_spec  # here: finding is not importing, which may fail

        from . import library

        if library.find() is None:
            return Availability(False, "WinFsp is not installed", _INSTALL, "winfsp")
        if find_spec("refuse") is None:
            from xloop.remedies import python_package  # here: only what is missing needs it

            return Availability(
                False,
                "the Python package refuse is not installed",
                f"install it: {python_package('refuse')}",
                "refuse",
            )
        return Availability(True)

    def check_options(self, options: MountOptions) -> None:
        from .options import check_options

        check_options(options)

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        from . import library

        state = self.probe()
        if not state.ok:
            raise BackendUnavailable(state.why, state.fix)
        try:
            loaded = library.load()
        except OSError as exc:
            raise BackendUnavailable(f"WinFsp's library cannot be loaded: {exc}", _INSTALL) from exc
        # Only Windows can import it, and type checkers look at it for that alone.
        session: Any = import_module(".session", __name__)
        made: Session = session.WinfspSession(loaded, operations, mountpoint, options)
        return made


backend = Winfsp
