# SPDX-License-Identifier: MIT
"""The stand-in for WinFsp's library, from Python: requests as Windows would make them.

Owns the prototypes of standin.c, and a mount of the real adapter in this process.  Does not own what a test expects.
Paths are as Windows has them: ``\\dir\\name``, reserved characters as U+F000 and more.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xloop import MountOptions
from xloop.loopback import Loopback
from xloop.ops import Operations

# NTSTATUS, as ntstatus.h has them.
OK = 0
ACCESS_DENIED = 0xC0000022
NOT_FOUND = 0xC0000034
COLLISION = 0xC0000035
INVALID_REQUEST = 0xC0000010
INVALID_PARAMETER = 0xC000000D
NOT_A_DIRECTORY = 0xC0000103
NOT_EMPTY = 0xC0000101
WRITE_PROTECTED = 0xC00000A2
END_OF_FILE = 0xC0000011
DEVICE_BUSY = 0x80000011
NAME_TOO_LONG = 0xC0000106

READ, WRITE, BOTH = 0, 1, 2


class Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_int64)]

    @classmethod
    def of(cls, nanoseconds: int) -> Timespec:
        return cls(*divmod(nanoseconds, 1_000_000_000))

    @property
    def ns(self) -> int:
        return int(self.sec) * 1_000_000_000 + int(self.nsec)


class Stat(ctypes.Structure):
    """struct fuse_stat_ex, written down a second time: the adapter packs its own."""

    _fields_ = [
        ("dev", ctypes.c_uint32),
        ("ino", ctypes.c_uint64),
        ("mode", ctypes.c_uint32),
        ("nlink", ctypes.c_uint16),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("rdev", ctypes.c_uint32),
        ("size", ctypes.c_int64),
        ("atim", Timespec),
        ("mtim", Timespec),
        ("ctim", Timespec),
        ("blksize", ctypes.c_int32),
        ("blocks", ctypes.c_int64),
        ("birthtim", Timespec),
        ("flags", ctypes.c_uint32),
        ("reserved32", ctypes.c_uint32 * 3),
        ("reserved64", ctypes.c_uint64 * 2),
    ]


assert ctypes.sizeof(Stat) == 160

Space = ctypes.c_uint64 * 11
LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(Stat))


class Refused(Exception):
    """A request was answered with an NTSTATUS."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status & 0xFFFFFFFF:#010x}")
        self.status = status & 0xFFFFFFFF


def _checked(status: int) -> None:
    if status:
        raise Refused(status)


def refused(call: Any, *args: Any, **kwargs: Any) -> int:
    """Return the NTSTATUS with which *call* is refused."""
    try:
        call(*args, **kwargs)
    except Refused as exc:
        return exc.status
    raise AssertionError("was not refused")


class File:
    """An open file or directory of the mount."""

    def __init__(self, volume: Volume, handle: int, stat: Stat) -> None:
        self._dll = volume.dll
        self.handle = ctypes.c_void_p(handle)
        self.stat_at_open = stat
        self.spelled = self._dll.standin_spelled(self.handle)

    def stat(self) -> Stat:
        stat = Stat()
        _checked(self._dll.standin_stat(self.handle, ctypes.byref(stat)))
        return stat

    def read(self, size: int, offset: int = 0) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        done = ctypes.c_int()
        status = self._dll.standin_read(
            self.handle, buffer, ctypes.c_size_t(size), ctypes.c_int64(offset), ctypes.byref(done)
        )
        if status & 0xFFFFFFFF == END_OF_FILE:
            return b""
        _checked(status)
        return buffer.raw[: done.value]

    def write(self, data: bytes, offset: int = 0) -> int:
        done = ctypes.c_int()
        size = ctypes.c_size_t(len(data))
        at = ctypes.c_int64(offset)
        _checked(self._dll.standin_write(self.handle, data, size, at, ctypes.byref(done)))
        return done.value

    def append(self, data: bytes) -> int:
        return self.write(data, -1)

    def overwrite(self, flags: int = 0) -> Stat:
        stat = Stat()
        _checked(self._dll.standin_overwrite(self.handle, flags, ctypes.byref(stat)))
        return stat

    def set_size(self, size: int) -> None:
        _checked(self._dll.standin_set_size(self.handle, ctypes.c_int64(size)))

    def set_times(self, atime: int, mtime: int, crtime: int | None = None) -> None:
        two = (Timespec * 2)(Timespec.of(atime), Timespec.of(mtime))
        born = None if crtime is None else ctypes.byref(Timespec.of(crtime))
        _checked(self._dll.standin_set_times(self.handle, two, born))

    def set_flags(self, flags: int) -> None:
        _checked(self._dll.standin_set_flags(self.handle, flags))

    def flush(self) -> None:
        _checked(self._dll.standin_flush(self.handle))

    def list(self) -> dict[str, Stat | None]:
        found: dict[str, Stat | None] = {}

        def listen(name: bytes, stat: Any) -> None:
            text = name.decode("utf-8", "surrogatepass")
            assert text not in found, "a name was listed twice"
            found[text] = Stat.from_buffer_copy(stat.contents) if stat else None

        _checked(self._dll.standin_list(self.handle, LISTENER(listen)))
        return found

    def rename(self, path: str, *, replace: bool = False) -> None:
        _checked(self._dll.standin_rename(self.handle, path, replace))

    def delete(self) -> None:
        """Delete it, as Windows does: asked whether it may, then at the end of the last handle."""
        _checked(self._dll.standin_can_delete(self.handle))
        _checked(self._dll.standin_cleanup(self.handle))

    def symlink(self, target: str) -> None:
        _checked(self._dll.standin_symlink(self.handle, target.encode()))

    def close(self) -> None:
        handle, self.handle = self.handle, ctypes.c_void_p()
        if handle.value:
            self._dll.standin_close(handle)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Volume:
    """A mount of the real adapter by the stand-in, served by threads of this process."""

    def __init__(self, dll: Any, mountpoint: str) -> None:
        self.dll = dll
        self.mountpoint = mountpoint

    def open(self, path: str, flags: int = READ) -> File:
        handle, stat = ctypes.c_void_p(), Stat()
        _checked(self.dll.standin_open(path, flags, ctypes.byref(handle), ctypes.byref(stat)))
        return File(self, handle.value or 0, stat)

    def create(self, path: str, *, flags: int = 0, directory: bool = False) -> File:
        handle, stat = ctypes.c_void_p(), Stat()
        _checked(
            self.dll.standin_create(
                path, directory, flags, ctypes.byref(handle), ctypes.byref(stat)
            )
        )
        return File(self, handle.value or 0, stat)

    def readlink(self, path: str) -> str:
        buffer = ctypes.create_string_buffer(1024)
        _checked(self.dll.standin_readlink(path, buffer, ctypes.c_size_t(1024)))
        return buffer.value.decode()

    def space(self) -> list[int]:
        space = Space()
        self.dll.standin_space(space)
        return list(space)


def library() -> Any:
    """Return the stand-in, where FUSE_LIBRARY_PATH says that it is."""
    dll = ctypes.CDLL(os.environ["FUSE_LIBRARY_PATH"])
    for name in ("open", "create", "readlink"):
        getattr(dll, f"standin_{name}").argtypes = None
    for name in ("spelled", "options", "mountpoint"):
        getattr(dll, f"standin_{name}").restype = ctypes.c_char_p
    dll.standin_spelled.argtypes = [ctypes.c_void_p]
    dll.standin_want.restype = ctypes.c_uint32
    return dll


@contextmanager
def mounted(source: Path | Operations, mountpoint: Path | str, **fields: Any) -> Iterator[Volume]:
    """Mount *source* through the adapter, and unmount at the end."""
    from xloop_backends.winfsp import Winfsp

    operations = source if isinstance(source, Operations) else Loopback(source)
    options = MountOptions(**fields)
    backend = Winfsp()
    backend.check_options(options)
    session = backend.mount(operations, str(mountpoint), options)
    ready = threading.Event()
    errors: list[BaseException] = []

    def serve() -> None:
        try:
            session.serve(ready.set)
        except BaseException as exc:  # noqa: BLE001  # raised below
            errors.append(exc)

    thread = threading.Thread(target=serve, name="serve", daemon=True)
    thread.start()
    while not ready.wait(0.01):
        if errors:
            raise errors[0]
        assert thread.is_alive(), "served nothing, and said nothing"
    dll = library()
    try:
        yield Volume(dll, dll.standin_mountpoint().decode())
    finally:
        session.unmount()
        thread.join(30)
        assert not thread.is_alive(), "the mount does not end"
        if errors:
            raise errors[0]


def eventually(condition: Any, patience: float = 20.0) -> None:
    """Wait until *condition* holds; it is a failure if it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)
