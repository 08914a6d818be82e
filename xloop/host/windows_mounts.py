# SPDX-License-Identifier: MIT
r"""Windows: what can be a mount point, what is mounted, and how a mount is told to go.

Owns the forms of mount points, and the records of mounts.  Does not own mounting (that is WinFsp's), nor what
a record means to people (:mod:`xloop.mounts`).

**Mount points.**  A drive letter that is free (``X:``), ``*`` for the last such one, a directory that does not
exist (WinFsp makes it, and it goes with the mount), or a name in the network, ``\\server\share``, that
nobody else has.

**Records.**  Windows has no table that tells which program serves a mount.  So a server notes its mount
in a file, and creates a named event; whoever sets that ends the mount.  The event is gone with the last
process that holds it, so a record without its event is of a server that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from ctypes import c_uint32, c_void_p, c_wchar_p
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from xloop.errors import MountError
from xloop.host import windows_api as api
from xloop.host.windows_errors import of_winerror

assert not TYPE_CHECKING or sys.platform == "win32"

__all__ = ["Point", "Record", "Recorded", "appears", "check", "normal", "parse", "recorded", "stop"]

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_CreateEvent = _kernel32.CreateEventW
_CreateEvent.argtypes = [c_void_p, ctypes.c_int, ctypes.c_int, c_wchar_p]
_CreateEvent.restype = c_void_p
_OpenEvent = _kernel32.OpenEventW
_OpenEvent.argtypes = [c_uint32, ctypes.c_int, c_wchar_p]
_OpenEvent.restype = c_void_p
_SetEvent = _kernel32.SetEvent
_SetEvent.argtypes = [c_void_p]
_WaitForSingleObject = _kernel32.WaitForSingleObject
_WaitForSingleObject.argtypes = [c_void_p, c_uint32]

_EVENT_MODIFY_STATE: Final = 2
_INFINITE: Final = 0xFFFFFFFF

# -- mount points -----------------------------------------------------------------------

_DRIVE = re.compile(r"([A-Za-z]):[\\/]?")
_UNC = re.compile(r"[\\/]{2}([^\\/?.:*][^\\/:*]*)[\\/]([^\\/:*]+)[\\/]?")

#: In the order in which WinFsp takes them for "*".
_LETTERS: Final = "ZYXWVUTSRQPONMLKJIHGFED"


class Point(NamedTuple):
    """A mount point."""

    #: As people see it, and as it is recorded: ``X:``, an absolute path, ``\\\\server\\share``.
    shown: str
    #: For a name in the network: what WinFsp calls VolumePrefix.
    prefix: str | None = None

    def place(self) -> str:
        """Return where WinFsp is to mount: a drive or a directory."""
        return self.shown if self.prefix is None else _free_letter()


def parse(text: str) -> Point:
    """Return the mount point that *text* means; MountError for none."""
    drive = _DRIVE.fullmatch(text)
    if drive:
        return Point(f"{drive[1].upper()}:")
    unc = _UNC.fullmatch(text)
    if unc:
        return Point(f"\\\\{unc[1]}\\{unc[2]}", f"\\{unc[1]}\\{unc[2]}")
    if text == "*":
        return Point(_free_letter())
    if text.startswith(("\\\\", "//")):
        raise MountError(
            f"mountpoint {text!r} is neither a drive nor a directory nor \\\\server\\share",
            "xloop mounts at a free drive letter (X:), any of them (*), a new directory, "
            "or a name in the network (\\\\server\\share)",
        )
    return Point(os.path.abspath(text))


def normal(text: str) -> str:
    """Return *text*, a path that may be a mount point, as it is recorded; asks no file system."""
    if _DRIVE.fullmatch(text) or _UNC.fullmatch(text):
        return parse(text).shown
    return os.path.abspath(text)


def _drives() -> int:
    return int(_kernel32.GetLogicalDrives())


def _taken(letter: str) -> bool:
    return bool(_drives() >> ord(letter) - ord("A") & 1)


def _free_letter() -> str:
    for letter in _LETTERS:
        if not _taken(letter):
            return f"{letter}:"
    raise MountError("no drive letter is free", "mount at a directory that does not exist")


def check(text: str) -> str:
    """Return the mount point *text* as it is shown; MountError says why nothing can be mounted there."""
    point = parse(text)
    path = point.shown
    if point.prefix is not None:
        return path
    if _DRIVE.fullmatch(path):
        if _taken(path[0]):
            raise MountError(
                f"mountpoint {text!r} is in use: there is a drive {path}",
                "choose another letter, or * for any that is free",
            )
        return path
    if os.path.lexists(path):
        raise MountError(
            f"mountpoint {text!r} exists already",
            "on Windows the directory must not exist: it comes with the mount, and goes with it",
        )
    if not os.path.isdir(os.path.dirname(path)):
        raise MountError(
            f"mountpoint {text!r} cannot be made: {os.path.dirname(path)!r} is no directory"
        )
    return path


def appears(place: str) -> bool:
    """Tell whether something is mounted at *place*, where nothing was before."""
    return os.path.isdir(place + "\\" if _DRIVE.fullmatch(place) else place)


# -- records ----------------------------------------------------------------------------


class Recorded(NamedTuple):
    """A mount that is served, as its server noted it."""

    pid: int
    event: str
    mountpoint: str
    source: str
    subtype: str
    place: str  #: the drive or directory; another than mountpoint for a name in the network


def _folder() -> str:
    import platformdirs  # here: who serves one mount and looks for no others needs it once

    return platformdirs.user_runtime_dir("xloop", False)


_counter = itertools.count(1)


class Record:
    """The note of a mount that this process serves; as a context manager it goes at the end."""

    def __init__(self, mountpoint: str, source: str, subtype: str, *, place: str) -> None:
        name = f"{os.getpid()}-{next(_counter)}"
        event = f"Local\\xloop-{name}"
        handle = _CreateEvent(None, True, False, event)
        if not handle:
            raise of_winerror(ctypes.get_last_error())
        self._event: api.Handle | None = api.Handle(handle)
        folder = _folder()
        os.makedirs(folder, exist_ok=True)
        self._path = os.path.join(folder, f"{name}.json")
        note = Recorded(os.getpid(), event, mountpoint, source, subtype, place)
        # Nobody shall read half of it.
        with open(self._path + ".new", "w", encoding="ascii") as file:
            json.dump(note._asdict(), file)
        os.replace(self._path + ".new", self._path)

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._event = None  # closed, and so gone

    def wait(self) -> None:
        """Return when somebody wants the mount to go, or :meth:`wake` was called."""
        assert self._event is not None
        _WaitForSingleObject(self._event, _INFINITE)

    def wake(self) -> None:
        event = self._event
        if event is not None:
            _SetEvent(event)


def _open_event(name: str) -> api.Handle | None:
    handle = _OpenEvent(_EVENT_MODIFY_STATE, False, name)
    return api.Handle(handle) if handle else None


def recorded() -> Iterator[Recorded]:
    """Yield what this user's servers have mounted; notes of those that were killed are removed."""
    folder = _folder()
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    for name in names:
        if not name.endswith(".json"):
            continue
        path = os.path.join(folder, name)
        try:
            with open(path, encoding="ascii") as file:
                note = Recorded(**json.load(file))
        except (OSError, ValueError, TypeError):
            continue  # gone meanwhile, or none of ours
        if _open_event(note.event) is not None:
            yield note
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


#: Seconds that a server may take to end its mount.
_PATIENCE: Final = 30.0


def stop(mountpoint: str) -> None:
    """End the mount at *mountpoint*, and return when it is gone.

    FileNotFoundError: nothing is mounted there.  EBUSY: it would not end.
    """
    note = next((n for n in recorded() if n.mountpoint.lower() == mountpoint.lower()), None)
    event = _open_event(note.event) if note is not None else None
    if note is None or event is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not _SetEvent(event):
        raise of_winerror(ctypes.get_last_error())
    del event  # or it would stay, and look alive
    deadline = time.monotonic() + _PATIENCE
    while _open_event(note.event) is not None or appears(note.place):
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        time.sleep(0.01)
