# SPDX-License-Identifier: MIT
r"""WinFsp's library: where it is, and the few functions of it that are called.

Owns finding and loading, through refuse.  Does not own the table of operations (:mod:`.abi`).

refuse looks the library up when it is imported, by a name that it does not define (``sys``; NameError), and
knows no ARM64: so the path is found here, and told in FUSE_LIBRARY_PATH, which refuse takes without
looking.  Everything else of refuse would have to be replaced: its table is libfuse's and not
WinFsp's, its wrappers know no flags, no birth time and no errno of WinFsp's.
"""

from __future__ import annotations

import ctypes
import os
import threading
from importlib import import_module
from typing import Any, Final

from . import abi

__all__ = ["Library", "file_name", "find", "load"]

#: By sysconfig.get_platform(), which tells of the process and not of the machine.
_FILES: Final = {
    "win-amd64": "winfsp-x64.dll",
    "win-arm64": "winfsp-a64.dll",
    "win32": "winfsp-x86.dll",
}
_VARIABLE: Final = "FUSE_LIBRARY_PATH"
_lock = threading.Lock()


def file_name(platform: str) -> str | None:
    """Return the name of the library for a process of *platform*."""
    return _FILES.get(platform)


def find() -> str | None:
    """Return the path of the library; None where WinFsp is not installed."""
    told = os.environ.get(_VARIABLE)
    if told:
        return told
    import sysconfig

    winreg: Any = import_module("winreg")  # not every system has it
    name = file_name(sysconfig.get_platform())
    if name is None:
        return None
    try:
        # WinFsp's installer writes into the 32-bit view on every machine.
        access = winreg.KEY_READ | winreg.KEY_WOW64_32KEY
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\WinFsp", 0, access) as key:
            directory = str(winreg.QueryValueEx(key, "InstallDir")[0])
    except OSError:
        return None
    path = os.path.join(directory, "bin", name)
    return path if os.path.exists(path) else None


class Library:
    """The functions of the library."""

    def __init__(self, path: str, dll: Any) -> None:
        self.path = path
        # fuse_main_real(argc, argv, operations, their size, data)
        self._main = ctypes.CFUNCTYPE(
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
        )(("fuse_main_real", dll))
        self._context = ctypes.CFUNCTYPE(ctypes.POINTER(abi.Context))(("fuse_get_context", dll))
        self._exit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("fuse_exit", dll))
        self._version = ctypes.CFUNCTYPE(ctypes.c_int)(("fuse_version", dll))

    def version(self) -> int:
        """Return the version of the interface, times ten."""
        return int(self._version())

    def main(self, words: list[bytes], table: abi.Operations) -> int:
        """Mount and serve; return when it is over: 0 if it ever was mounted."""
        argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        return int(
            self._main(len(words), argv, ctypes.addressof(table), ctypes.sizeof(table), None)
        )

    def mount_of_callback(self) -> int:
        """Return the address of the ``struct fuse`` that the callback in this thread is for."""
        return int(self._context().contents.fuse or 0)

    def exit(self, mount: int) -> None:
        """End main().  From any thread; fuse_get_context() tells only callbacks which mount is meant."""
        self._exit(mount)


def load() -> Library:
    """Load the library.  OSError where it is not there, ImportError where refuse is not."""
    path = find()
    if path is None:
        raise OSError("WinFsp is not installed")
    with _lock:
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = path
        try:
            from refuse import high
        finally:
            if before is None:
                del os.environ[_VARIABLE]
    return Library(path, vars(high)["_libfuse"])
