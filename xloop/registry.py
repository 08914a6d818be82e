# SPDX-License-Identifier: MIT
"""Which backends there are, and which one a mount uses.

Owns the table of bundled backends, the entry points of other people's, and the choice.  Does
not own any backend: a module is imported when its backend is wanted, never before.

A distribution adds a backend with an entry point in the group ``xloop.backends``, whose value
names a class that implements :class:`xloop.backend.Backend`.  It cannot take over the name of a
bundled one: what ``--backend devfuse`` does must not depend on what else is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from xloop.backend import Availability, Backend, PrivateBackend
from xloop.errors import BackendUnavailable
from xloop.options import nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "AUTO",
    "GROUP",
    "available",
    "bundled",
    "check_name",
    "choose",
    "choose_private",
    "load",
    "system",
    "tables",
]

#: The name that stands for "the first that works here".
AUTO: Final = "auto"

#: The entry point group of backends that are not bundled.
GROUP: Final = "xloop.backends"

#: By system, best first: the modules whose attribute ``backend`` is the class.
_BUNDLED: Final[Mapping[str, Mapping[str, str]]] = {
    "linux": {
        "devfuse": "xloop_backends.devfuse",
        "libfuse": "xloop_backends.libfuse",
        "libfuse3": "xloop_backends.libfuse.three",
        "libfuse2": "xloop_backends.libfuse.two",
    },
    "darwin": {
        "macfuse": "xloop_backends.macfuse",
        "fuse-t": "xloop_backends.macfuse.fuse_t",
    },
    "freebsd": {
        "libfuse": "xloop_backends.libfuse",
        "libfuse3": "xloop_backends.libfuse.three",
        "libfuse2": "xloop_backends.libfuse.two",
    },
    "win32": {"winfsp": "xloop_backends.winfsp"},
}


def bundled() -> Mapping[str, str]:
    """Return the backends that come with xloop for this system, best first, and their modules."""
    return _BUNDLED.get(system(), {})


def tables() -> Mapping[str, Mapping[str, str]]:
    """Return the bundled backends of every system, and their modules."""
    return _BUNDLED


def system() -> str:
    """Return the system's name in the table of backends: sys.platform without a version."""
    # FreeBSD tells its major version too: "freebsd14".
    return "freebsd" if sys.platform.startswith("freebsd") else sys.platform


def load(name: str) -> Backend:
    """Return the backend *name*, whether or not it can mount here.

    BackendUnavailable: there is none of that name here, or its module cannot be loaded.
    """
    module = bundled().get(name)
    if module is not None:
        try:
            return _made(name, getattr(import_module(module), "backend", None))
        except ImportError as exc:
            raise BackendUnavailable(
                f"backend '{name}' comes with xloop but cannot be loaded: {exc}", "reinstall xloop"
            ) from exc
    return _load_foreign(name)


def choose(name: str = AUTO, *, passed_over: list[BackendUnavailable] | None = None) -> Backend:
    """Return the backend *name*, or with ``"auto"`` the best bundled one that can mount here.

    A backend asked for by name is used or refused, with its own reason; nothing takes its place.
    *passed_over* gets the reasons for which "auto" did not take the better ones, best first.
    """
    if name == AUTO:
        return _choose_best([] if passed_over is None else passed_over)
    backend = load(name)
    state = backend.probe()
    if not state.ok:
        raise BackendUnavailable(f"backend '{name}' cannot mount here: {state.why}", state.fix)
    return backend


def choose_private(name: str = AUTO) -> PrivateBackend:
    """Return the backend *name*, or the best, that can mount in a namespace of the caller's own."""
    for candidate in bundled() if name == AUTO else [name]:
        backend = load(candidate)
        if not isinstance(backend, PrivateBackend):
            continue
        state = backend.probe_private()
        if not state.ok:
            raise BackendUnavailable(
                f"backend '{candidate}' cannot mount here: {state.why}", state.fix
            )
        return backend
    raise BackendUnavailable(
        f"backend '{name}' cannot be served from outside of the mount namespace that it mounts in",
        "leave out --backend, or use it with `xloop mount`",
    )


def available() -> dict[str, Availability]:
    """Return for each bundled backend of this system whether it can mount, and why not."""
    states = {}
    for name in bundled():
        try:
            states[name] = load(name).probe()
        except BackendUnavailable as exc:
            states[name] = Availability(False, exc.why, exc.fix)
    return states


def check_name(name: str) -> None:
    """Raise BackendUnavailable for a name that no backend has, on no system.  Loads none."""
    if name == AUTO or any(name in table for table in _BUNDLED.values()):
        return
    found = _foreign()
    if name not in found:
        raise _unknown(name, [AUTO, *bundled(), *found])


def _choose_best(refusals: list[BackendUnavailable]) -> Backend:
    for name in bundled():
        try:
            return choose(name)
        except BackendUnavailable as exc:
            refusals.append(exc)
    if not refusals:
        raise BackendUnavailable(
            f"xloop has no backend for {sys.platform} yet",
            "install one that registers itself under the entry point group "
            f"'{GROUP}', and name it: --backend NAME",
        )
    if len(refusals) == 1:
        raise refusals[0]
    raise BackendUnavailable(
        "no backend can mount here: " + "; ".join(refusal.why for refusal in refusals),
        "\n".join(dict.fromkeys(refusal.fix for refusal in refusals if refusal.fix)),
    )


def _foreign() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # here: reads every installed distribution

    return {point.name: point for point in entry_points(group=GROUP)}


def _load_foreign(name: str) -> Backend:
    found = _foreign()
    if name not in found:
        raise _unknown(name, [AUTO, *bundled(), *found])
    try:
        return _made(name, found[name].load())
    except BackendUnavailable:
        raise
    except Exception as exc:  # other people's code: whatever it raises, it must not be ours
        raise BackendUnavailable(
            f"backend '{name}' ({found[name].value}) cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc


def _unknown(name: str, names: list[str]) -> BackendUnavailable:
    for system, table in _BUNDLED.items():
        if name in table:
            return BackendUnavailable(
                f"backend '{name}' is for {system}, this is {sys.platform}",
                f"here there are: {', '.join(names)}",
            )
    return BackendUnavailable(
        f"there is no backend {name!r}{nearest(name, names)}", f"there are: {', '.join(names)}"
    )


def _made(name: str, factory: object) -> Backend:
    """Return a new instance of a backend class, having seen that it is one."""
    wanted = ("name", "probe", "check_options", "mount")
    missing = [attribute for attribute in wanted if not hasattr(factory, attribute)]
    if not callable(factory) or (missing and missing != ["name"]):
        raise BackendUnavailable(
            f"backend '{name}' is none: {factory!r} lacks {', '.join(missing) or 'a constructor'}",
            "it must name a class that implements xloop.backend.Backend",
        )
    return cast("Callable[[], Backend]", factory)()
