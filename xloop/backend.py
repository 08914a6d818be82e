# SPDX-License-Identifier: MIT
"""What a backend is: the protocols :class:`Backend` and :class:`Session`.

Owns the interface between mounting (:mod:`xloop.mount`) and the adapters.  Does not own any
adapter: the core never imports one, :mod:`xloop.registry` finds them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from xloop.host import Descriptor
from xloop.ops import Operations
from xloop.options import MountOptions

__all__ = ["Availability", "Backend", "PrivateBackend", "Session"]


class Availability(NamedTuple):
    """Whether a backend can mount here, and if not, why and what to do about it."""

    ok: bool
    why: str = ""
    fix: str = ""
    #: What must be installed, by the name under which :mod:`xloop.doctor` knows how: "fuse3", "libfuse2",
    #: "winfsp", ...  Empty where installing something would not help.
    needs: str = ""
    #: What it would mount with, and its version: "libfuse 3.14.0".  For people.
    version: str = ""


class Session(Protocol):
    """A mount that exists, served by this process."""

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until the file system is unmounted, by whomever, and return.

        *ready* is called once the kernel has agreed to the mount: from then on it answers.
        Raises MountError if that never happens.
        """
        ...

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount; serve() returns when the kernel has let go.  May be called from any thread.

        It is this mount that goes, never one that lies on top of it or took its place.

        *lazy*: out of the tree at once, served until its last user is gone.  Raises
        UnmountError if it is busy.
        """
        ...

    def abort(self) -> None:
        """Cut the connection: every request, also those under way, fails with ENOTCONN."""
        ...

    def status(self) -> dict[str, object]:
        """What was asked of the kernel, what it granted, and why the rest was refused."""
        ...


class Backend(Protocol):
    """A way to show an Operations at a mountpoint.  Made without arguments, cheap to make."""

    name: str

    def probe(self) -> Availability:
        """Tell whether mount() has a chance on this machine for this user, without mounting."""
        ...

    def check_options(self, options: MountOptions) -> None:
        """Raise OptionError for an option that this backend cannot honour."""
        ...

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        """Mount *operations* at the existing directory *mountpoint*.  MountError says why not.

        ``options.fsname`` is what mount tables show as the source.
        """
        ...


@runtime_checkable
class PrivateBackend(Protocol):
    """A backend that can also mount in one process and serve in another (``xloop run``).

    The first is in a mount namespace of its own, and perhaps in a user namespace.  The second is
    outside of both, or the namespace would not end before its server does.
    """

    name: str

    def probe_private(self) -> Availability:
        """As Backend.probe(), for such a mount: to be asked before there is a namespace."""
        ...

    def check_private(self, options: MountOptions) -> None:
        """As Backend.check_options(), for such a mount: to be asked before there is a namespace."""
        ...

    def attach(self, mountpoint: str, options: MountOptions) -> Descriptor:
        """Mount at *mountpoint*, in the namespaces of this process, what nobody serves yet.

        Returns what the serving process must be handed.  MountError says why not.
        """
        ...

    def adopt(
        self, connection: Descriptor, operations: Operations, shown: str, options: MountOptions
    ) -> Session:
        """Return the session of what another process has attached.

        *shown* names the mount in messages: no path of this process leads to it.  So unmount()
        raises UnmountError, does nothing if *lazy*, and the session ends when the namespace does.
        """
        ...
