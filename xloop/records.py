# SPDX-License-Identifier: MIT
"""The records of mounts: what each server notes of its mount, and finding that again.

Owns the files of a runtime directory, two for each mount: ``MAJOR-MINOR.json``, the record, and
``MAJOR-MINOR.sock``, the socket that its server listens on.  They are named by the mount's device number,
which nobody else has while the mount is there.  Does not own the directory
(:mod:`xloop.host.runtime`) nor what is said through the socket (:mod:`xloop.control_socket`).

A record is true for as long as its server lives, and a server that lives listens: a socket that refuses
a connection has none any more.  Whoever meets such a record removes it.

Windows has records of its own (:mod:`xloop.host.windows_mounts`), made by the backend, which are its
table of mounts; nobody listens there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterable
from typing import IO, NamedTuple

from xloop.host import runtime
from xloop.host.mounttable import MountEntry

__all__ = ["Found", "Kept", "Record", "connect", "find", "keep", "recorded"]

#: A record is far smaller, whatever its paths; who has written a larger one means no good.
_MOST = 64 * 1024


class Record(NamedTuple):
    """A mount as its server noted it."""

    device: tuple[int, int]
    mountpoint: str
    source: str
    fstype: str
    backend: str
    #: Those that differ from the default, as they are written after -o.
    options: str
    #: Seconds since the epoch.
    since: float
    pid: int
    #: Who mounted: a user id.
    owner: int
    #: Whether the process ends with the mount; else it serves as a part of what it does.
    ends: bool


class Found(NamedTuple):
    """A record that was found."""

    record: Record
    socket: str  #: path of the socket


class Kept:
    """The record of a mount that this process serves, from :func:`keep` to :meth:`close`."""

    def __init__(self, record: Record, listener: socket.socket, path: str) -> None:
        self._record = record
        self.listener = listener
        self.path = path  #: of the socket

    def note(self, record: Record) -> None:
        """Put *record*, of the same mount, in the place of what was noted.  OSError says why that cannot be."""
        directory, name = self._name()
        with runtime.locked(directory, wait=True) as place:
            if _read(place, f"{name}.json") == self._record:  # as close()
                _write(place, name, record)
                self._record = record

    def close(self) -> None:
        """Remove the record, and listen no longer."""
        directory, name = self._name()
        with contextlib.suppress(OSError), runtime.locked(directory) as place:
            # A mount that came after this one may have got its number, and the files are that one's.
            if _read(place, f"{name}.json") == self._record:
                _remove(place, name)
        self.listener.close()

    def _name(self) -> tuple[str, str]:
        directory, name = os.path.split(self.path)
        return directory, name.removesuffix(".sock")


def keep(record: Record) -> Kept:
    """Note *record*, and listen.  OSError says why that cannot be."""
    listener = runtime.stream()
    try:
        directory = runtime.make()
        name = f"{record.device[0]}-{record.device[1]}"
        path = os.path.join(directory, f"{name}.sock")
        with runtime.locked(directory, wait=True) as place:
            _remove(place, name)  # of a mount that is gone, for the number is ours
            try:
                listener.bind(path)
            except OSError as exc:
                if exc.errno is None:  # Python's own: longer than a socket's name may be
                    raise OSError(errno.ENAMETOOLONG, f"{path!r}: the path is too long") from None
                raise
            listener.listen(128)
            listener.setblocking(False)
            try:
                _write(place, name, record)
            except OSError:
                _remove(place, name)
                raise
        return Kept(record, listener, path)
    except BaseException:
        listener.close()
        raise


def recorded() -> list[Found]:
    """Return the records of this user's servers; for root all users'."""
    found: dict[str, Found] = {}
    for directory in runtime.places():
        for name in _names(directory):
            _look(directory, name, found)
    for path in runtime.listening():
        if path not in found:
            directory, name = os.path.split(path)
            _look(directory, name.removesuffix(".sock"), found)
    return list(found.values())


def find(entry: MountEntry, among: Iterable[Found] | None = None) -> Found | None:
    """Return the record of the mount *entry*; *among*: what :func:`recorded` returned."""
    for found in recorded() if among is None else among:
        record = found.record
        # Anybody may write a record of somebody else's mount; nobody shall believe it.
        if record.device == entry.device and entry.owner in (None, record.owner):
            return found
    return None


def connect(path: str) -> socket.socket | None:
    """Return a socket that is connected, or being so, to the server that listens at *path*.

    None: there is none.  Never waits; the socket does not block.
    """
    try:
        sock = runtime.stream()
    except OSError:  # no descriptor is left, or nobody listens on this system
        return None
    sock.setblocking(False)
    try:
        sock.connect(path)
    except BlockingIOError:
        pass  # so many others wait: it is there, but does not answer
    except OSError:
        sock.close()
        return None
    return sock


def _names(directory: str) -> list[str]:
    try:
        return sorted(n.removesuffix(".json") for n in os.listdir(directory) if n.endswith(".json"))
    except OSError:
        return []


def _look(directory: str, name: str, found: dict[str, Found]) -> None:
    """Add the record *name* in *directory* to *found*; if its server is gone, remove it."""
    path = os.path.join(directory, f"{name}.sock")
    try:
        place = runtime.open_place(directory)
    except OSError:
        return  # nobody could rely on what lies there
    try:
        record = _read(place, f"{name}.json")
    finally:
        os.close(place)
    if record is None:
        return
    sock = connect(path)
    if sock is not None:
        sock.close()
        found[path] = Found(record, path)
        return
    with contextlib.suppress(OSError), runtime.locked(directory) as place:
        sock = connect(path)  # a new server may have come since
        if sock is None:
            _remove(place, name)
        else:
            sock.close()


def _read(place: int, name: str) -> Record | None:
    """Return the record in the file *name*; None: there is none, or none that is to be believed."""
    try:
        with runtime.open_file(place, name) as file:
            owner = os.fstat(file.fileno()).st_uid
            told = json.loads(file.read(_MOST))
        major, minor = told["device"]
        return Record(
            device=(int(major), int(minor)),
            mountpoint=str(told["mountpoint"]),
            source=str(told["source"]),
            fstype=str(told["fstype"]),
            backend=str(told["backend"]),
            options=str(told["options"]),
            since=float(told["since"]),
            pid=int(told["pid"]),
            owner=owner,
            ends=bool(told["ends"]),
        )
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _write(place: int, name: str, record: Record) -> None:
    with _created(place, f"{name}.new") as file:
        json.dump(record._asdict(), file)
    os.rename(f"{name}.new", f"{name}.json", src_dir_fd=place, dst_dir_fd=place)


def _created(place: int, name: str) -> IO[str]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return open(os.open(name, flags, 0o600, dir_fd=place), "w", encoding="ascii")


def _remove(place: int, name: str) -> None:
    for end in (".json", ".new", ".sock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name + end, dir_fd=place)
