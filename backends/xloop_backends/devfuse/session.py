# SPDX-License-Identifier: MIT
"""A mount that this process serves: its connection, its threads, its end.

Owns reading requests and finding their handler.  Does not own what a handler does
(:mod:`.handlers`) nor what was agreed with the kernel (:mod:`.negotiate`).

**Threads.**  Each has a descriptor of its own (FUSE_DEV_IOC_CLONE) where the device may be opened, and
a buffer of its own.  How many there are is :mod:`.crew`'s, and on which CPU they run
:mod:`.placement`'s.  Locks that may wait for another process have threads of their own
(:mod:`.waits`).

**Recursion.**  A source may contain the mountpoint (somebody bind-mounts it there).  A request that
comes from one of our own threads would need another of them, which may need a third.  It is
answered with ELOOP at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from xloop import mounts
from xloop.changes import Watch
from xloop.errors import MountError, UnmountError, errno_of
from xloop.host import Descriptor, host, namespaces
from xloop.latency import EVERY, Latencies
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.types import Caller, Ino

from . import abi, device
from .abi import Init, Opcode
from .crew import Crew, Member
from .handlers import Handler, Handlers
from .negotiate import MAX_WRITE, Terms, negotiate
from .passthrough import WITHOUT_FSETID, Passthrough
from .placement import Placement
from .waits import WAKE, Waits

if TYPE_CHECKING:
    from .coherence import Coherence
    from .relay import Relay

__all__ = ["DevFuseSession"]

_log = logging.getLogger("xloop.devfuse")

_MAX_THREADS = 64
#: Microseconds: about what two wake-ups take on a virtual machine.
_POLL = 60

_NOT_WITH_WRITEBACK = (
    "the option writeback: while it delays writes the kernel believes nobody about sizes and times"
)

_NO_REPLY = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
_KNOWN = frozenset(Opcode)
#: Bytes in one request for which several threads are worth while.
_BULK = 64 * 1024
_MOVES_DATA = {Opcode.READ, Opcode.WRITE, Opcode.COPY_FILE_RANGE, Opcode.FSYNC}
#: What may come from our own threads without harm: the end of something that is open.
_FROM_SELF = _NO_REPLY | {Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.FLUSH, Opcode.DESTROY}
#: What allow_root leaves to everybody: it concerns files that were opened by somebody let in.
_OF_OPEN_FILES = _FROM_SELF | {
    Opcode.READ,
    Opcode.WRITE,
    Opcode.FSYNC,
    Opcode.READDIR,
    Opcode.READDIRPLUS,
    Opcode.FSYNCDIR,
}


class DevFuseSession:
    """See :class:`xloop.backend.Session`."""

    def __init__(
        self,
        operations: Operations,
        mountpoint: str,
        options: MountOptions,
        connection: Descriptor,
        *,
        kernel_checks: bool,
        elsewhere: bool = False,
    ) -> None:
        """*elsewhere*: it is mounted in another mount namespace; *mountpoint* is what people hear."""
        self._ops = operations
        self._mountpoint = mountpoint
        self._options = options
        self._connection = connection
        self._kernel_checks = kernel_checks
        self._privileged = device.privileged()
        self._owner = os.getuid() if options.allow_root else None
        self._poll = (_POLL if options.poll is None else options.poll) * 1000
        cpus = len(os.sched_getaffinity(0))
        self._crew = Crew(
            self._work, options.max_threads or _MAX_THREADS, may_poll=cpus > 1 and self._poll > 0
        )
        #: Requests that were found by polling, and nanoseconds that were spent on it.
        self._polled = [0, 0]
        self._lock = threading.Lock()
        self._tids: set[int] = {threading.get_native_id()}
        self._terms: Terms | None = None
        self._passthrough: Passthrough | None = None
        self._handlers: Handlers | None = None
        self._watch: Watch | None = None
        self._coherence: Coherence | None = None
        self._relay: Relay | None = None
        #: Why the source is not watched, though that was wanted.
        self._unwatched = ""
        #: Why events are not relayed, though that was wanted where it can be had.
        self._unrelayed = ""
        self._waits = Waits(self._reply_to_wait)
        self._failure: BaseException | None = None
        self._table: list[Handler | None] = []
        #: This mount, so that no other one at the same place is ever taken away.
        self._mounted = None if elsewhere else mounts.mount_at(mounts.read_table(), mountpoint)
        self._elsewhere = elsewhere
        self._clones = True
        #: What each thread reads from, by the thread's ident.
        self._descriptors: dict[int, list[Descriptor]] = {}
        #: Requests by opcode, for status() and for tests that count.
        self.requests = [0] * (max(Opcode) + 1)
        self._latencies = Latencies(len(self.requests))

    # -- the life of a session ----------------------------------------------------------

    def serve(self, ready: Callable[[], None] | None = None) -> None:
        try:
            self._shake_hands()
            self._ops.believed = min(self._options.entry_timeout, self._options.attr_timeout)
            self._ops.init(kernel_checks=self._kernel_checks)
            try:
                self._begin_to_watch()
                self._make_handlers()
                if self._relay is not None:
                    self._relay.start()
                if self._watch is not None and self._coherence is None:
                    self._watch.start()
                if ready is not None:
                    ready()
                self._crew.run()
            finally:
                if self._relay is not None:
                    self._relay.close()
                self._waits.close()
                self._ops.destroy()
                if self._coherence is not None:
                    self._coherence.close()
        finally:
            if self._passthrough is not None:
                self._passthrough.close()
            # The last descriptor: if the mount is still there, nobody must wait for an answer.
            null = Descriptor(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            os.dup2(null, self._connection, inheritable=False)
            if self._relay is not None:
                self._relay.join()
            # The table and the handlers hold each other: let the source's descriptors go now.
            self._table = []
            self._handlers = None
        if self._failure is not None:
            raise self._failure

    def _shake_hands(self) -> None:
        """Answer INIT, which is the first request of every connection."""
        buffer = bytearray(MAX_WRITE + abi.HEADER_ROOM)
        while True:
            try:
                size = os.readv(self._connection, [buffer])
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise self._too_late(exc) from exc
            _length, opcode, unique, *_ = abi.IN_HEADER.unpack_from(buffer)
            if opcode != Opcode.INIT:
                raise MountError(f"the kernel began with request {opcode} instead of INIT")
            request = memoryview(buffer)[abi.IN_HEADER.size : size]
            try:
                terms, body = negotiate(
                    request,
                    self._options,
                    kernel_checks=self._kernel_checks,
                    privileged=self._privileged,
                    stack_depth=self._ops.stack_depth,
                )
            except MountError:
                header = abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -errno.EPROTO, unique)
                os.write(self._connection, header)
                raise
            header = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), 0, unique)
            try:
                os.write(self._connection, header + body)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                    raise
                raise self._too_late(exc) from exc
            if terms is not None:
                break
        self._terms = terms
        if terms.has(Init.PASSTHROUGH):
            self._passthrough = Passthrough(self._connection, self._crew.lull)

    def _too_late(self, exc: OSError) -> MountError:
        return MountError(
            f"{self._mountpoint!r} was unmounted before it was served: {exc.strerror}"
        )

    def _make_handlers(self) -> None:
        assert self._terms is not None
        coherence = self._coherence
        common = (
            self._ops,
            self._options,
            self._terms,
            self._passthrough,
            self._waits.start,
            self._connection,
        )
        if self._terms.has(Init.WRITEBACK_CACHE):
            from .writeback import WritebackHandlers  # here: few mounts ask for it

            known = namespaces.knows_all_users() and (self._privileged or not self._elsewhere)
            self._handlers = WritebackHandlers(*common, told_all_times=known)
        elif coherence is None:
            self._handlers = Handlers(*common)
        else:
            from .coherent import CoherentHandlers  # here: few mounts are watched

            stateless = self._lists_without_opening(coherence.watch, self._terms)
            self._handlers = CoherentHandlers(*common, coherence=coherence, stateless=stateless)
        self._table = self._handlers.table()
        self._table[Opcode.INTERRUPT] = self._interrupt
        self._table[Opcode.INIT] = None
        if self._watch is not None:
            self._make_relay(self._watch)

    def _make_relay(self, watch: Watch) -> None:
        """Have changes that are told repeated, where that is wanted: see :mod:`.relay`."""
        if self._options.events == "off":
            return
        from .events import relay_for  # here: few mounts are watched

        assert self._mounted is not None
        try:
            self._relay = relay_for(
                self._ops,
                self._options,
                watch,
                self._table,
                self._passthrough,
                self._connection,
                self._mountpoint,
                self._mounted.device,
                own=self._tids,
                privileged=self._privileged,
                kernel_checks=self._kernel_checks,
            )
        except OSError as exc:
            self._unrelayed = exc.strerror or str(exc)
            if self._options.events == "relay":
                raise MountError(
                    f"events=relay is not to be had: {self._unrelayed}", "leave out events"
                ) from exc
            return
        from .removals import Removals  # here: few mounts relay

        assert self._handlers is not None
        self._handlers.removals = self._relay.play.removals = Removals(watch)

    def _lists_without_opening(self, watch: Watch, terms: Terms) -> bool:
        """Whether opening a directory decides nothing: see :mod:`.coherent`."""
        return (
            (self._kernel_checks or self._is_roots_alone())
            and watch.lasting_positions
            and terms.has(Init.NO_OPENDIR_SUPPORT)
        )

    def _is_roots_alone(self) -> bool:
        options = self._options
        return os.geteuid() == 0 and not (options.allow_other or options.allow_root)

    def _begin_to_watch(self) -> None:
        """Watch the source, where that is wanted.  MountError: it is wanted, and not to be had."""
        coherent = self._options.may_watch
        if self._options.cache == "auto" and not coherent:
            self._unwatched = _NOT_WITH_WRITEBACK
            self._unrelayed = "" if self._options.events == "off" else _NOT_WITH_WRITEBACK
        if not coherent and self._options.events != "relay":
            return
        try:
            watch = self._ops.watch(self._tids)
        except OSError as exc:
            self._unwatched = exc.strerror or str(exc)
            if self._options.events != "off":
                self._unrelayed = self._unwatched
            if self._options.cache == "coherent":
                raise MountError(
                    f"cache=coherent is not to be had: {self._unwatched}",
                    "use cache=auto, which takes the timeouts then, or cache=timeout",
                ) from exc
            if self._options.events == "relay":
                raise MountError(
                    f"events=relay is not to be had: {self._unwatched}", "leave out events"
                ) from exc
            return
        self._watch = watch
        if not coherent:
            return
        from .coherence import Coherence  # here: few mounts are watched

        written = () if self._passthrough is None else self._passthrough.written
        self._coherence = Coherence(
            watch,
            self._connection,
            written,
            self._fail,
            source_checks=not self._kernel_checks and not self._is_roots_alone(),
        )
        self._coherence.start()

    def unmount(self, *, lazy: bool = False) -> None:
        if self._elsewhere:
            # No path of ours leads there, and what is at the same path here is somebody else's.
            if not lazy:
                raise UnmountError(
                    f"{self._mountpoint!r} is used by the processes of its mount namespace",
                    "it goes with the last of them",
                )
            return  # nobody else can enter it anyway
        mounts.take_away(self._mountpoint, lazy=lazy, expected=self._mounted)

    def abort(self) -> None:
        try:
            self.unmount(lazy=True)
        except (OSError, UnmountError) as exc:
            _log.warning("%s", exc)
        # The kernel aborts a connection when its last descriptor is closed; but a read that is
        # under way holds on to the device.  So put something that is at its end in the
        # descriptors' places, and wake the readers: they go on with that (PEP 475), and end.
        null = Descriptor(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        with self._lock:
            for fd in {self._connection, *chain(*self._descriptors.values())}:
                os.dup2(null, fd, inheritable=False)
            threads = list(self._descriptors)
            for ident in threads:
                signal.pthread_kill(ident, WAKE)

    def status(self) -> dict[str, object]:
        terms = self._terms
        state: dict[str, object] = {
            "backend": "devfuse",
            "threads": len(self._crew),
            "waiting locks": len(self._waits),
            "polling": {"requests": self._polled[0], "seconds": self._polled[1] / 1e9},
            "seconds with idle CPUs awake": self._crew.seconds_awake(),
            "requests": {op.name: self.requests[op] for op in Opcode if self.requests[op]},
            "latencies": self._latencies.status(_name_of),
        }
        if self._coherence is not None:
            state["cache"] = self._coherence.status()
        else:
            state["cache"] = {"mode": "timeout", "not coherent": self._unwatched}
        if self._relay is not None:
            state["events"] = self._relay.status()
        elif self._unrelayed:
            state["events"] = {"mode": "off", "not to be had": self._unrelayed}
        if terms is not None:
            state.update(terms.status())
            if self._passthrough is not None:
                state["passthrough files"] = self._passthrough.registered
                state["passthrough refused"] = dict(self._passthrough.refused)
        return state

    # -- threads ------------------------------------------------------------------------

    def _descriptor(self) -> Descriptor:
        if self._clones:
            fd = device.clone(self._connection)
            if fd is not None:
                return fd
            self._clones = False
        return self._connection

    def _work(self, member: Member) -> None:
        tid = threading.get_native_id()
        with self._lock:
            self._tids.add(tid)
        try:
            host.own_file_system_state()
            fd = self._descriptor()
            with self._lock:
                self._descriptors[threading.get_ident()] = [fd]
            self._loop(fd, member)
        except BaseException as exc:  # noqa: BLE001
            # A thread that dies leaves its clients waiting for ever: end the whole mount instead.
            self._fail(exc)
        finally:
            with self._lock:
                self._tids.discard(tid)
                self._descriptors.pop(threading.get_ident(), None)

    def _fail(self, exc: BaseException) -> None:
        _log.critical("a thread failed that the mount depends on", exc_info=exc)
        self._failure = self._failure or exc
        try:
            if self._elsewhere:
                self.abort()
            else:
                self.unmount(lazy=True)
        except (OSError, UnmountError) as problem:
            _log.critical("%s", problem)

    def _loop(self, fd: Descriptor, member: Member) -> None:
        buffer = bytearray(MAX_WRITE + abi.HEADER_ROOM)
        view = memoryview(buffer)
        buffers = [buffer]
        readv = os.readv
        unpack = abi.IN_HEADER.unpack_from
        header = abi.IN_HEADER.size
        table = self._table
        requests = self.requests
        tids = self._tids
        relay = self._relay
        owner = self._owner
        handlers = self._handlers
        assert handlers is not None
        crew = self._crew
        last = Caller(0, 0, 0)
        moves_data = bytes(opcode in _MOVES_DATA for opcode in range(len(table)))
        with_fsetid = bytes(opcode not in WITHOUT_FSETID for opcode in range(len(table)))
        placement = Placement() if Placement.useful() else None
        sleeps = polled = fd
        clock = time.perf_counter_ns
        note = self._latencies.note
        while True:
            try:
                if crew.polls:
                    if polled is sleeps:
                        polled = self._never_sleeping(sleeps)
                    fd = polled
                    size = self._look_for(fd, buffers)
                    if size < 0:
                        fd = sleeps
                        size = readv(fd, buffers)
                else:
                    fd = sleeps
                    size = readv(fd, buffers)
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # ENOENT: the request was withdrawn before we got it
                crew.end()
                if exc.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return  # unmounted
                raise
            if not size:
                crew.end()
                return  # cut off: see abort()
            member.requests += 1
            member.busy = True
            begin = 0 if member.requests % EVERY else clock()
            if crew.asleep:
                crew.rouse()
            _length, opcode, unique, nodeid, uid, gid, pid, extensions = unpack(buffer)
            try:
                handler = table[opcode]
                requests[opcode] += 1
                data = moves_data[opcode]
                if with_fsetid[opcode]:
                    host.restore_fsetid()
            except IndexError:
                handler = None
                data = 0
            if data and _is_bulk(opcode, size, buffer):
                crew.moving_data()
            try:
                if handler is None:
                    if opcode == Opcode.INIT:
                        raise OSError(errno.EIO, "a second INIT")
                    handlers.error(fd, unique, errno.ENOSYS)
                elif pid in tids and opcode not in _FROM_SELF:
                    if relay is None or pid != relay.tid:
                        handlers.error(fd, unique, errno.ELOOP)
                    else:
                        body = view[header:size]
                        relay.play.answer(fd, unique, opcode, Ino(nodeid), relay.caller, body)
                elif owner is not None and uid not in (owner, 0) and opcode not in _OF_OPEN_FILES:
                    handlers.error(fd, unique, errno.EACCES)
                elif extensions:
                    end = size - 8 * extensions
                    caller = _extended(uid, gid, pid, view[end:size])
                    handler(fd, unique, Ino(nodeid), caller, view[header:end])
                else:
                    if last.pid != pid or last.uid != uid or last.gid != gid:
                        last = Caller(uid, gid, pid)
                    handler(fd, unique, nodeid, last, view[header:size])
            except Exception as exc:  # noqa: BLE001  # errno_of() logs what is a bug
                number = errno_of(exc)
                if opcode not in _NO_REPLY:
                    handlers.error(fd, unique, number)
            # The client goes on already: what is only for the next request comes after the reply.
            member.busy = False
            if begin:
                note(opcode, clock() - begin)
            if placement is not None and pid:
                if crew.follows:
                    placement.heard(pid, data)
                elif placement.bound:
                    placement.leave()
            if crew.on_duty > crew.wanted and not crew.rest(member):
                return

    def _never_sleeping(self, fd: Descriptor) -> Descriptor:
        """Return a descriptor like *fd* for this thread, that does not wait; *fd* where there is none."""
        other = self._descriptor()
        if other is self._connection:
            return fd
        os.set_blocking(other, False)
        with self._lock:
            self._descriptors[threading.get_ident()].append(other)
        return other

    def _look_for(self, fd: Descriptor, buffers: list[bytearray]) -> int:
        """Read a request that comes within the time for which to poll; -1: none came."""
        readv = os.readv
        clock = time.perf_counter_ns
        begin = clock()
        end = begin + self._poll
        while True:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                now = clock()
                if now > end:
                    self._polled[1] += now - begin
                    return -1
            else:
                self._polled[0] += 1
                self._polled[1] += clock() - begin
                return size

    def _interrupt(
        self, fd: int, unique: int, nodeid: Ino, caller: Caller, body: memoryview
    ) -> None:
        self._waits.interrupt(abi.INTERRUPT_IN.unpack_from(body)[0])

    def _reply_to_wait(self, fd: int, unique: int, number: int) -> None:
        assert self._handlers is not None
        self._handlers.error(fd, unique, number)  # 0 is success: the reply is the header alone


def _name_of(opcode: int) -> str:
    return Opcode(opcode).name if opcode in _KNOWN else str(opcode)


def _is_bulk(opcode: int, size: int, buffer: bytearray) -> bool:
    """Whether a request that moves data, of *size* bytes in *buffer*, is worth several threads."""
    if opcode == Opcode.READ:
        _fh, _offset, wanted, *_ = abi.READ_IN.unpack_from(buffer, abi.IN_HEADER.size)
        return bool(wanted >= _BULK)
    return opcode != Opcode.WRITE or size >= _BULK


def _extended(uid: int, gid: int, pid: int, extensions: memoryview) -> Caller:
    """Return the caller with what the extensions of its request tell."""
    groups = None
    label = None
    at = 0
    while at + abi.EXT_HEADER.size <= len(extensions):
        size, kind = abi.EXT_HEADER.unpack_from(extensions, at)
        start, end = at + abi.EXT_HEADER.size, at + size
        if size < abi.EXT_HEADER.size:
            break
        if kind == abi.EXT_GROUPS:
            words = extensions[start:end].cast("I")
            groups = tuple(words[1 : 1 + words[0]])
        elif 0 < kind <= abi.MAX_NR_SECCTX:
            # kind labels follow; the kernel sends one (struct fuse_secctx: size, name, value).
            (length,) = abi.SECCTX.unpack_from(extensions, start)
            name, rest = bytes(extensions[start + abi.SECCTX.size : end]).split(b"\0", 1)
            label = (name, rest[:length])
        at = end
    return Caller(uid, gid, pid, groups, label)
