# SPDX-License-Identifier: MIT
"""Finding macFUSE or FUSE-T, loading it through mfusepy, and the functions of it that we call.

Owns which library is used.  Does not own the callbacks.

mfusepy's own way to mount, ``FUSE(...)``, is one call that mounts, serves and returns when all is over:
no room to say why a mount failed, or to end it.  The library's smaller functions are called instead,
which are exported by both libraries with the same arguments, as by libfuse since 2.6.

Whether a library is there is told by its file.  Loading one to find out would initialise CoreFoundation
in this process, which then must not fork any more; and the command line forks its server.
"""

from __future__ import annotations

import ctypes
import os
import threading
from importlib import import_module
from typing import Any, Final

from xloop.backend import Availability
from xloop.errors import BackendUnavailable
from xloop.fuselib import FuseArgs

__all__ = ["Library", "find", "load", "probe"]

#: By backend: the files of the library, the usual one first, and how to install it.
_PLACES: Final = {
    "macfuse": (
        ("/usr/local/lib/libfuse.2.dylib", "/usr/local/lib/libosxfuse.2.dylib"),
        "macFUSE",
        "brew install --cask macfuse, then allow its kernel extension in "
        "System Settings > Privacy & Security",
    ),
    "fuse-t": (
        ("/usr/local/lib/libfuse-t.dylib",),
        "FUSE-T",
        "brew install --cask macos-fuse-t/cask/fuse-t",
    ),
}
_PATH = "FUSE_LIBRARY_PATH"


def find(name: str) -> str | None:
    """Return the file of the backend *name*'s library; None where there is none.

    The environment's FUSE_LIBRARY_PATH goes before everything else, for both backends.
    """
    given = os.environ.get(_PATH)
    if given:
        return given
    return next((path for path in _PLACES[name][0] if os.path.exists(path)), None)


def probe(name: str) -> Availability:
    """Tell whether a mount has a chance here."""
    _, product, install = _PLACES[name]
    found = find(name)
    if found is None:
        return Availability(False, f"{product} is not installed", f"install it: {install}", name)
    if not os.path.exists(found):
        return Availability(
            False,
            f"{_PATH} names {found!r}, which does not exist",
            f"correct it, or unset {_PATH}",
        )
    from importlib.util import find_spec  # here: finding is not importing, which may fail

    if find_spec("mfusepy") is None:
        from xloop.remedies import python_package  # here: only what is missing needs it

        return Availability(
            False,
            "the Python package mfusepy is not installed",
            f"install it: {python_package('mfusepy')}",
            "mfusepy",
        )
    return Availability(True)


def load(name: str) -> Any:
    """Return the module mfusepy, bound to the backend *name*'s library.

    One process has one mfusepy, and that has one library: it is chosen by the first import.
    """
    state = probe(name)
    path = find(name)
    if not state.ok or path is None:
        raise BackendUnavailable(state.why, state.fix)
    before = os.environ.get(_PATH)
    os.environ[_PATH] = path
    try:
        binding = import_module("mfusepy")
    except (OSError, AttributeError, NotImplementedError) as exc:  # what it raises at import
        raise BackendUnavailable(
            f"{path} cannot be loaded: {exc}", "is it built for the same processor as this Python?"
        ) from exc
    finally:
        if before is None:
            del os.environ[_PATH]
        else:
            os.environ[_PATH] = before
    loaded = binding._libfuse._name  # noqa: SLF001  # it has no other name
    if loaded != path:
        raise BackendUnavailable(
            f"mfusepy is bound to {loaded} in this process already",
            f"mount with {path} from another process: xloop.mount()",
        )
    return binding


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int


class Library:
    """One mount's side of the library.  ``mount`` comes first, ``destroy`` last."""

    def __init__(self, binding: Any) -> None:
        library = binding._libfuse  # noqa: SLF001
        args = ctypes.POINTER(FuseArgs)

        def define(name: str, result: Any, *arguments: Any) -> Any:
            # Not library.name: mfusepy has set other types on that.
            function = library[name]
            function.restype, function.argtypes = result, arguments
            return function

        self._mount = define("fuse_mount", _POINTER, ctypes.c_char_p, args)
        self._unmount = define("fuse_unmount", None, ctypes.c_char_p, _POINTER)
        self._new = define(
            "fuse_new", _POINTER, _POINTER, args, _POINTER, ctypes.c_size_t, _POINTER
        )
        self._loop = define("fuse_loop", _INT, _POINTER)
        self._loop_mt = define("fuse_loop_mt", _INT, _POINTER)
        self._exit = define("fuse_exit", None, _POINTER)
        self._destroy = define("fuse_destroy", None, _POINTER)
        self.get_context = define("fuse_get_context", ctypes.POINTER(binding.fuse_context))
        self._lock = threading.Lock()
        self._mountpoint = b""
        self._channel: int | None = None
        self._fuse: int | None = None

    def mount(self, mountpoint: bytes, words: list[bytes], operations: ctypes.Structure) -> bool:
        """Mount; False if that failed, about which the library has written to stderr."""
        args = FuseArgs.of(words)
        self._mountpoint = mountpoint
        self._channel = self._mount(mountpoint, ctypes.byref(args))
        if not self._channel:
            return False
        self._fuse = self._new(
            self._channel,
            ctypes.byref(args),
            ctypes.addressof(operations),
            ctypes.sizeof(operations),
            None,
        )
        if not self._fuse:
            self.destroy()
            return False
        return True

    def loop(self, *, one_thread: bool) -> int:
        """Serve until the end; 0 if that came as it should."""
        return int((self._loop if one_thread else self._loop_mt)(self._fuse))

    def exit(self) -> None:
        """Make loop() return when the next request comes.  From any thread."""
        if self._fuse:
            self._exit(self._fuse)

    def give_up(self) -> None:
        """Make loop() return now, also from another thread: its connection is closed."""
        self.exit()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel:
            self._unmount(self._mountpoint, channel)

    def destroy(self) -> None:
        """Unmount what is still mounted, and free everything.  Not while loop() is under way."""
        self.give_up()
        with self._lock:
            fuse, self._fuse = self._fuse, None
        if fuse:
            self._destroy(fuse)
