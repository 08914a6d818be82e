# SPDX-License-Identifier: MIT
"""A mount over libfuse that this process serves: its threads, its end.

Owns receiving requests and the threads that have the library carry them out.  Does not own the callbacks
in which that ends (:mod:`.callbacks`) nor what was agreed with the kernel (:mod:`.negotiate`).

**Threads.**  They are ours and not the library's: each has a umask of its own (unshare(2)), which must
last longer than one request.  One is always waiting for the next request; when the last one gets
something to do another is started.  A thread that waits for a lock does not count, however
many do: the request that gives the lock up must find one.

**Signals.**  When a caller is interrupted the library sends WAKE to the thread that works for it, until
that is done: a wait ends with EINTR, and everything else goes on.  So do all waits at the end of the
connection: whoever cut it off has taken away those who could give the lock up.

**Recursion.**  A request that one of our own threads causes (the mountpoint lies in the source) is answered
with ELOOP: it would need another thread, and that one a third.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from xloop import mounts
from xloop.errors import MountError, UnmountError
from xloop.host import Descriptor, host
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.pathview import PathView
from xloop.types import Caller

from . import abi, mounting
from .library import Library, Library2, Library3, library_of, load
from .negotiate import Terms
from .request import Request
from .versions import Callbacks2, Callbacks3

__all__ = ["LibfuseSession"]

_log = logging.getLogger("xloop.libfuse")

#: Threads that stay when there is nothing to do.
_IDLE_THREADS = 2
_MAX_THREADS = 64
#: Seconds between two wake-ups of a thread that has not noticed the first.
_AGAIN = 0.02

_signal: Any = signal  # not every system has all of it
#: They have no meaning of their own, and the C library keeps the first few.
_WAKE = _signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else _signal.SIGUSR2

#: What may come from our own threads without harm: the end of something that is open.
_FROM_SELF = frozenset(
    {
        abi.FORGET,
        abi.RELEASE,
        abi.RELEASEDIR,
        abi.FLUSH,
        abi.INTERRUPT,
        abi.DESTROY,
        abi.BATCH_FORGET,
    }
)
_FORGETS = (abi.FORGET, abi.BATCH_FORGET)
_HEADER = abi.HEADER.size


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """What matters is that a system call was interrupted."""


class LibfuseSession:
    """See :class:`xloop.backend.Session`."""

    def __init__(
        self,
        name: str,
        major: int,
        operations: Operations,
        mountpoint: str,
        options: MountOptions,
        *,
        kernel_checks: bool,
    ) -> None:
        """Mount.  MountError says why not."""
        self._name = name
        self._mountpoint = mountpoint
        self._kernel_checks = kernel_checks
        self._not_coherent = mounting.NOT_COHERENT if options.cache == "auto" else ""
        self._max_threads = options.max_threads or _MAX_THREADS
        self._view = PathView(operations)
        self._binding = load(major)
        self._lib: Library = (Library3 if major == 3 else Library2)(library_of(self._binding))
        self._terms = Terms(self._binding, options, _WAKE, kernel_checks=kernel_checks)
        self._request = Request()
        kind = Callbacks3 if major == 3 else Callbacks2
        self._callbacks = kind(
            self._view,
            self._binding,
            self._request,
            self._wait,
            self._terms,
            self._lib.invalidate_attributes,
            kernel_checks=kernel_checks,
        )
        self._lock = threading.Lock()
        self._finished = threading.Condition(self._lock)
        self._threads: set[int] = set()  #: by threading ident
        self._tids: set[int] = {threading.get_native_id()}
        self._idle = 0
        self._waiting = 0  #: threads that wait for a lock
        self._failure: BaseException | None = None
        self._over = False
        self._cut = False  #: nobody is there any more who could be replied to
        try:
            signal.signal(_WAKE, _nothing)
        except ValueError:
            raise MountError(
                "a file system must be mounted from the main thread of its server",
                "mount it from another process: xloop.mount()",
            ) from None
        chosen = mounting.words(options, kernel_checks=kernel_checks) + self._terms.words()
        command = [b"xloop", b"-o", os.fsencode(",".join(chosen))]
        table = self._callbacks.table()
        point = os.fsencode(mountpoint)
        done, said = mounting.overheard(lambda: self._lib.mount(point, command, table))
        if not done:
            raise mounting.refused(said, mountpoint, major)

    # -- the life of a session ----------------------------------------------------------

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        try:
            self._shake_hands()
            self._view.init(kernel_checks=self._kernel_checks)
            try:
                if ready is not None:
                    ready()
                self._start_thread()
                with self._finished:
                    while self._threads:
                        self._finished.wait()
            finally:
                self._end()
                self._view.destroy()
        finally:
            self._end()
        if self._failure is not None:
            raise self._failure

    def _shake_hands(self) -> None:
        """Have the library answer INIT, which is the first request of every connection."""
        buffer = self._lib.buffer()
        try:
            while not self._terms.done:
                size = self._lib.receive(buffer)
                if size in (-errno.EINTR, -errno.EAGAIN):
                    continue
                if size <= 0:
                    why = os.strerror(-size) if size else "the connection was closed"
                    raise MountError(
                        f"{self._mountpoint!r} was unmounted before it was served: {why}"
                    )
                self._lib.process(buffer)
                if self._lib.exited():
                    raise MountError("libfuse and the kernel could not agree on how to talk")
        finally:
            self._lib.free(buffer)  # the size that requests may have is agreed on only now

    def _end(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        # Also removes the hidden files that it believes in, by way of our callbacks.
        self._lib.destroy()

    def unmount(self, *, lazy: bool = False) -> None:
        mounts.take_away(self._mountpoint, lazy=lazy)

    def abort(self) -> None:
        try:
            self.unmount(lazy=True)
        except (OSError, UnmountError) as exc:
            _log.warning("%s", exc)
        with self._lock:
            if self._over:
                return
            # The kernel aborts a connection when its last descriptor is closed; but a read that
            # is under way holds on to the device.  So put something else in the descriptor's
            # place, tell the library that it is over, and wake the readers.
            self._lib.exit()
            null = Descriptor(os.open(os.devnull, os.O_RDWR))
            os.dup2(null, self._lib.descriptor, inheritable=False)
        threading.Thread(target=self._wake_all, name="abort", daemon=True).start()

    def _end_waits(self) -> None:
        """The connection is gone: nobody waits any more, though a thread here may still do so."""
        with self._lock:
            first, self._cut = not self._cut, True
            if not first or not self._waiting:
                return
        threading.Thread(target=self._wake_all, name="end", daemon=True).start()

    def _wake_all(self) -> None:
        # A signal that comes just before its thread enters a system call is lost: so again.
        with self._finished:
            while self._threads:
                for ident in self._threads:
                    _signal.pthread_kill(ident, _WAKE)
                self._finished.wait(_AGAIN)

    def invalidate(self, path: bytes) -> None:
        """Make the kernel forget what it has cached of *path*: its attributes and its data.

        Not from inside of an operation.  ENOENT if nobody has asked for it lately; EOPNOTSUPP for
        libfuse 2.
        """
        self._lib.invalidate(path)

    def status(self) -> dict[str, object]:
        binding = self._binding
        return {
            "backend": self._name,
            "library": getattr(library_of(binding), "_name", ""),
            "version": f"{binding.fuse_version_major}.{binding.fuse_version_minor}",
            "threads": len(self._threads),
            "waiting locks": self._waiting,
            "cache": {"mode": "timeout", "not coherent": self._not_coherent},
            **self._callbacks.calls.status(),
            **self._terms.status(),
        }

    # -- threads ------------------------------------------------------------------------

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="xloop", daemon=True)
        with self._lock:
            self._idle += 1
            thread.start()
            assert thread.ident is not None  # it has started
            self._threads.add(thread.ident)

    def _work(self) -> None:
        tid = threading.get_native_id()
        with self._lock:
            self._tids.add(tid)
        buffer = self._lib.buffer()
        try:
            host.own_file_system_state()
            self._loop(buffer)
        except BaseException as exc:  # noqa: BLE001  # raised by serve()
            # A thread that dies leaves its clients waiting for ever: end the whole mount instead.
            _log.critical("a serving thread failed", exc_info=exc)
            self._failure = self._failure or exc
            try:
                self.unmount(lazy=True)
            except (OSError, UnmountError) as problem:
                _log.critical("%s", problem)
        finally:
            self._lib.free(buffer)
            with self._finished:
                self._tids.discard(tid)
                self._threads.discard(threading.get_ident())
                self._finished.notify_all()

    def _loop(self, buffer: abi.Buffer) -> None:
        receive, process = self._lib.receive, self._lib.process
        request, tids, lock = self._request, self._tids, self._lock
        unpack, string_at = abi.HEADER.unpack, ctypes.string_at
        while True:
            size = receive(buffer)
            if size <= 0:
                if size in (-errno.EINTR, -errno.EAGAIN) and not self._lib.exited():
                    continue
                with lock:
                    self._idle -= 1
                self._end_waits()
                if size == 0 or self._lib.exited():
                    return  # unmounted
                raise OSError(-size, os.strerror(-size))
            with lock:
                self._idle -= 1
                more = not self._idle and len(self._threads) - self._waiting < self._max_threads
            if more:
                self._start_thread()
            memory = buffer.mem
            _length, opcode, unique, request.node, uid, gid, pid, _ext = unpack(
                string_at(memory, _HEADER)
            )
            request.opcode = opcode
            request.caller = Caller(uid, gid, pid)
            request.body = memory + _HEADER
            request.size = size - _HEADER
            request.refused = errno.ELOOP if pid in tids and opcode not in _FROM_SELF else 0
            request.changed = False
            if opcode in _FORGETS:
                self._callbacks.forgotten(opcode)
            if opcode == abi.GETLK:
                self._callbacks.reply_to_getlk(self._lib.descriptor, unique)
            else:
                process(buffer)
            if request.distrusts:
                request.distrusts = False
                self._terms.trust()
            with lock:
                if self._idle >= _IDLE_THREADS:
                    return
                self._idle += 1

    @contextmanager
    def _wait(self) -> Iterator[None]:
        """This thread waits for another process, and so is none of those that serve."""
        with self._lock:
            if self._cut:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            self._waiting += 1
            more = not self._idle
        if more:
            self._start_thread()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
