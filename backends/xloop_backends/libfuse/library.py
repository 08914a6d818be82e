# SPDX-License-Identifier: MIT
"""Finding libfuse, loading it through mfusepy, and the functions of it that we call.

Owns which library is used and how libfuse 2 and 3 differ as libraries: mounting, receiving a request,
having it carried out, ending.  Does not own the callbacks that it carries requests out with.

mfusepy finds, loads and describes the library: its structures follow the version.  Its own way to
mount, ``FUSE(...)``, is one call that mounts, serves from threads of the library and returns when
all is over.  That leaves no room to say why a mount failed, to end it from another thread, or to serve
from threads that have state of their own (a umask; Python makes a new thread state for every
callback into a foreign thread).  So the library's smaller functions are called here: these are
exported, with the same arguments, by every version from 2.9 and from 3.0 on.
"""

from __future__ import annotations

import ctypes
import errno
import os
from importlib import import_module
from typing import Any, Protocol

from xloop.errors import BackendUnavailable
from xloop.fuselib import FuseArgs

from .abi import Buffer

__all__ = ["Library", "Library2", "Library3", "find", "library_of", "load", "version"]

#: By major version: what to install, and the names under which the loader knows the library.
PACKAGES = {3: "libfuse3-3", 2: "libfuse2"}
_NAMES = {3: ("libfuse3.so.4", "libfuse3.so.3", "libfuse3.so"), 2: ("libfuse.so.2",)}
_PATH = "FUSE_LIBRARY_PATH"


def find(major: int) -> str | None:
    """Return a name under which the loader finds libfuse *major*; None where there is none.

    The environment's FUSE_LIBRARY_PATH goes before everything else.
    """
    for name in filter(None, (os.environ.get(_PATH), *_NAMES[major])):
        try:
            library = ctypes.CDLL(name)
            version = int(library.fuse_version())
        except (OSError, AttributeError):
            continue
        if version // (10 if version < 100 else 100) == major:
            return name
    return None


def version(major: int) -> str:
    """Return the version of libfuse *major* that find() has found, for people."""
    library = ctypes.CDLL(find(major))
    try:
        library.fuse_pkgversion.restype = ctypes.c_char_p
        number = library.fuse_pkgversion().decode("ascii", "replace")
    except AttributeError:  # libfuse 2 has a number only: 29 is 2.9
        number = f"{major}.{library.fuse_version() % 10}"
    return f"libfuse {number}"


def load(major: int) -> Any:
    """Return the module mfusepy, bound to libfuse *major*.

    One process has one mfusepy, and that has one library: it is chosen by the first import.
    """
    name = find(major)
    if name is None:
        raise BackendUnavailable(
            f"libfuse {major} is not installed", f"install it: apt-get install {PACKAGES[major]}"
        )
    before = os.environ.get(_PATH)
    os.environ[_PATH] = name
    try:
        binding = import_module("mfusepy")
    except ImportError as exc:
        from xloop.remedies import python_package  # here: only what is missing needs it

        raise BackendUnavailable(
            f"mfusepy cannot be imported: {exc}", f"install it: {python_package('mfusepy')}"
        ) from exc
    except (OSError, AttributeError, NotImplementedError) as exc:  # what it raises at import
        raise BackendUnavailable(f"mfusepy cannot use {name}: {exc}") from exc
    finally:
        if before is None:
            del os.environ[_PATH]
        else:
            os.environ[_PATH] = before
    if binding.fuse_version_major != major:
        raise BackendUnavailable(
            f"mfusepy is bound to libfuse {binding.fuse_version_major} in this process already",
            f"mount with libfuse {major} from another process: xloop.mount()",
        )
    return binding


def library_of(binding: Any) -> Any:
    """Return the library, as ctypes has loaded it, that mfusepy is bound to."""
    return binding._libfuse  # noqa: SLF001  # it has no other name, and is the reason to ask mfusepy


class Library(Protocol):
    """One mount's side of a libfuse.  ``mount`` comes first, ``destroy`` last."""

    def mount(self, mountpoint: bytes, words: list[bytes], operations: Any) -> bool:
        """Mount; False if that failed, about which the library has written to stderr."""
        ...

    def buffer(self) -> Buffer:
        """Return a buffer for :meth:`receive`, to be given to :meth:`free`."""
        ...

    def free(self, buffer: Buffer) -> None: ...

    def receive(self, buffer: Buffer) -> int:
        """Wait for a request; its size, 0 for the end, or a negative errno."""
        ...

    def process(self, buffer: Buffer) -> None:
        """Carry out the request in *buffer* and reply to it."""
        ...

    @property
    def descriptor(self) -> int: ...

    def exit(self) -> None:
        """Make every receive() return 0 from now on.  From any thread."""
        ...

    def exited(self) -> bool: ...

    def invalidate(self, path: bytes) -> None:
        """Make the kernel forget what it has cached of *path*.  Not from inside of a callback."""
        ...

    def invalidate_attributes(self, node: int) -> None:
        """Make the kernel forget the attributes of the library's *node*.  From anywhere."""
        ...

    def destroy(self) -> None:
        """Free everything and close the connection.  No other thread may be using it."""
        ...


_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    # A function object of its own, not library.name: others may have set other types on that.
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


def _versioned(library: Any, name: str, version: str, result: Any, *arguments: Any) -> Any:
    """As _function(), in the *version* of several that the library has under one name.

    Debian's libfuse 2 has a fuse_new of 2004 without a version, which dlsym(3) prefers.
    """
    try:
        look_up = ctypes.CDLL(None)["dlvsym"]
    except AttributeError:  # a C library without versions: then there is only one
        return _function(library, name, result, *arguments)
    look_up.restype = _POINTER
    look_up.argtypes = [_POINTER, ctypes.c_char_p, ctypes.c_char_p]
    address = look_up(library._handle, name.encode(), version.encode())  # noqa: SLF001  # ctypes' own
    if not address:
        return _function(library, name, result, *arguments)
    return ctypes.CFUNCTYPE(result, *arguments)(address)


class Library3:
    """libfuse 3."""

    def __init__(self, lib: Any) -> None:
        args, buffer = ctypes.POINTER(FuseArgs), ctypes.POINTER(Buffer)
        self._new = _versioned(
            lib, "fuse_new", "FUSE_3.1", _POINTER, args, _POINTER, _SIZE, _POINTER
        )
        self._mount = _function(lib, "fuse_mount", _INT, _POINTER, ctypes.c_char_p)
        self._session = _function(lib, "fuse_get_session", _POINTER, _POINTER)
        self._fd = _function(lib, "fuse_session_fd", _INT, _POINTER)
        self._exit = _function(lib, "fuse_session_exit", None, _POINTER)
        self._exited = _function(lib, "fuse_session_exited", _INT, _POINTER)
        self._receive = _function(lib, "fuse_session_receive_buf", _INT, _POINTER, buffer)
        self._process = _function(lib, "fuse_session_process_buf", None, _POINTER, buffer)
        self._destroy = _function(lib, "fuse_destroy", None, _POINTER)
        self._invalidate = _function(lib, "fuse_invalidate_path", _INT, _POINTER, ctypes.c_char_p)
        self._notify = _function(
            lib,
            "fuse_lowlevel_notify_inval_inode",
            _INT,
            *(_POINTER, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int64),
        )
        self._free = _function(ctypes.CDLL(None), "free", None, _POINTER)
        self._fuse: int | None = None
        self._se: int | None = None

    def mount(self, mountpoint: bytes, words: list[bytes], operations: Any) -> bool:
        args = FuseArgs.of(words)
        size = ctypes.sizeof(operations)
        self._fuse = self._new(ctypes.byref(args), ctypes.addressof(operations), size, None)
        if not self._fuse:
            return False
        if self._mount(self._fuse, mountpoint):
            self.destroy()
            return False
        self._se = self._session(self._fuse)
        return True

    def buffer(self) -> Buffer:
        return Buffer()  # the library allocates what fits the connection

    def free(self, buffer: Buffer) -> None:
        self._free(buffer.mem)
        buffer.mem = None

    def receive(self, buffer: Buffer) -> int:
        return int(self._receive(self._se, buffer))

    def process(self, buffer: Buffer) -> None:
        self._process(self._se, buffer)

    @property
    def descriptor(self) -> int:
        return int(self._fd(self._se))

    def exit(self) -> None:
        self._exit(self._se)

    def exited(self) -> bool:
        return bool(self._exited(self._se))

    def invalidate(self, path: bytes) -> None:
        failed = -int(self._invalidate(self._fuse, path))
        if failed:
            raise OSError(failed, os.strerror(failed))

    def invalidate_attributes(self, node: int) -> None:
        # An offset below 0: the data stays, for which the kernel would have to wait.
        self._notify(self._se, node, -1, 0)

    def destroy(self) -> None:
        if self._fuse:
            self._destroy(self._fuse)
        self._fuse = self._se = None


class Library2:
    """libfuse 2.9: a connection is a "channel", and is mounted before there is a "fuse"."""

    def __init__(self, lib: Any) -> None:
        args = ctypes.POINTER(FuseArgs)
        self._mount = _versioned(lib, "fuse_mount", "FUSE_2.6", _POINTER, ctypes.c_char_p, args)
        self._unmount = _versioned(lib, "fuse_unmount", "FUSE_2.6", None, ctypes.c_char_p, _POINTER)
        self._new = _versioned(
            lib, "fuse_new", "FUSE_2.6", _POINTER, _POINTER, args, _POINTER, _SIZE, _POINTER
        )
        self._session = _function(lib, "fuse_get_session", _POINTER, _POINTER)
        self._fd = _function(lib, "fuse_chan_fd", _INT, _POINTER)
        self._size = _function(lib, "fuse_chan_bufsize", _SIZE, _POINTER)
        self._exit = _function(lib, "fuse_session_exit", None, _POINTER)
        self._exited = _function(lib, "fuse_session_exited", _INT, _POINTER)
        self._receive = _function(
            lib, "fuse_chan_recv", _INT, ctypes.POINTER(_POINTER), _POINTER, _SIZE
        )
        self._process = _function(
            lib, "fuse_session_process", None, _POINTER, _POINTER, _SIZE, _POINTER
        )
        self._destroy = _function(lib, "fuse_destroy", None, _POINTER)
        self._channel: int | None = None
        self._fuse: int | None = None
        self._se: int | None = None
        self._memory: dict[int, Any] = {}

    def mount(self, mountpoint: bytes, words: list[bytes], operations: Any) -> bool:
        args = FuseArgs.of(words)
        self._channel = self._mount(mountpoint, ctypes.byref(args))
        if not self._channel:
            return False
        size = ctypes.sizeof(operations)
        self._fuse = self._new(
            self._channel, ctypes.byref(args), ctypes.addressof(operations), size, None
        )
        if not self._fuse:
            self._unmount(mountpoint, self._channel)
            return False
        self._se = self._session(self._fuse)
        return True

    def buffer(self) -> Buffer:
        buffer = Buffer()
        buffer.mem_size = self._size(self._channel)
        memory = ctypes.create_string_buffer(buffer.mem_size)
        buffer.mem = ctypes.addressof(memory)
        self._memory[buffer.mem] = memory
        return buffer

    def free(self, buffer: Buffer) -> None:
        self._memory.pop(buffer.mem, None)
        buffer.mem = None

    def receive(self, buffer: Buffer) -> int:
        channel = ctypes.c_void_p(self._channel)
        buffer.size = size = self._receive(channel, buffer.mem, buffer.mem_size)
        return int(size)

    def process(self, buffer: Buffer) -> None:
        self._process(self._se, buffer.mem, buffer.size, self._channel)

    @property
    def descriptor(self) -> int:
        return int(self._fd(self._channel))

    def exit(self) -> None:
        self._exit(self._se)

    def exited(self) -> bool:
        return bool(self._exited(self._se))

    def invalidate(self, path: bytes) -> None:
        # The function of that name does nothing any more.
        raise OSError(errno.EOPNOTSUPP, "libfuse 2 cannot make the kernel forget a path")

    def invalidate_attributes(self, node: int) -> None:
        pass  # none are believed in the first place: Terms.words()

    def destroy(self) -> None:
        if self._fuse:
            self._destroy(self._fuse)
        self._fuse = self._se = self._channel = None
