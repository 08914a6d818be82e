# SPDX-License-Identifier: MIT
"""Serving a mount in this process until it is gone: :func:`serve`.

Owns the life of one mount from inside the process that serves it: who is told when it is
there, what a signal does, what happens when the mount is busy, and that nothing is left behind.
Does not own the requests (the backend's session), nor the process itself, which may be a
program that called :func:`serve`, or a server of :mod:`xloop.server`.

The main thread serves no request.  It waits for what ends a mount: a signal, a word on the
line to the program that asked for it, the death of that program, or the kernel's word that it
is unmounted.  All other threads run with the signals that are for us blocked, so that one of those
never interrupts a system call on the source.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from xloop import mounts, records, status
from xloop.backend import Backend, Session
from xloop.control import Line, Message
from xloop.control_socket import Answer, ControlSocket, Request
from xloop.errors import MountError, UnmountError, XloopError
from xloop.host import process
from xloop.host.mounttable import OUTLIVES_SERVER, MountEntry
from xloop.ops import Operations
from xloop.options import MountOptions, parse_options, spelled
from xloop.preflight import check_mountpoint, make_room
from xloop.registry import AUTO, choose

if TYPE_CHECKING:
    from xloop.guardian import Guardian

__all__ = ["Service", "serve"]

_log = logging.getLogger("xloop")

#: A second signal within this many seconds is taken for an echo of the first: timeout(1) and
#: a closing terminal send theirs to the process and to its group.
_ECHO = 0.5

#: Seconds between attempts to unmount what cannot even be detached.
_RETRY = 1.0


def serve(
    operations: Operations,
    mountpoint: str | os.PathLike[str],
    *,
    options: MountOptions | None = None,
    backend: str = AUTO,
    ready: Callable[[], object] | None = None,
    on_top: bool = False,
    replace: bool = False,
) -> None:
    """Mount *operations* at *mountpoint* and serve them in this process until they are unmounted.

    Blocks; *ready* is called once the mount answers.  SIGINT, SIGTERM and SIGHUP unmount: at
    once if nobody uses the mount, else it is detached and served until its last user is gone,
    or until a second signal cuts it off.  SIGUSR1 has the status logged, unless the program has a
    handler for it.

    Only in the main thread, where Python delivers signals.  This process must not use the mount
    itself, in no thread: it would wait for its own answer.  For that there is
    :func:`xloop.mount`, which serves from another process.

    *on_top*: the mountpoint may be the mountpoint of a user-space file system already.  *replace*:
    a mount of xloop that is there is taken away first, as by :func:`xloop.mount`.
    """
    if threading.current_thread() is not threading.main_thread():
        raise MountError(
            "xloop.serve() was called outside of the main thread, where it would never hear a signal",
            "call it in the main thread, or use xloop.mount(), which any thread may call",
        )
    options = options or MountOptions()
    path = check_mountpoint(
        os.fspath(mountpoint), on_top=on_top, replace=options.subtype if replace else None
    )
    chosen = choose(backend)
    chosen.check_options(options)
    if replace:
        make_room(path, options.subtype)
    Service(operations, path, options, chosen).run(ready)


class Service:
    """One mount, served by this process.  :meth:`run` is its whole life."""

    def __init__(
        self,
        operations: Operations,
        mountpoint: str,
        options: MountOptions,
        backend: Backend,
        *,
        line: Line | None = None,
        asker: int | None = None,
        ending: Callable[[], object] | None = None,
        reopen: Callable[[], None] | None = None,
        elsewhere: bool = False,
    ) -> None:
        """*line*: to the program that asked for the mount, whose process id is *asker*.

        Without a line, the mount depends on nobody.  *ending* is called once, as soon as it is clear that the mount
        will end: by the first signal, or because it has.  *reopen*: what SIGHUP does instead of unmounting.
        *elsewhere*: it is in another mount namespace, and what is at *mountpoint* in this one is somebody else's.
        """
        if options.fsname is None:
            shown = getattr(operations, "source", None)
            name = shown if isinstance(shown, str) and shown else type(operations).__name__
            options = dataclasses.replace(options, fsname=name)
        self._operations = operations
        self._mountpoint = mountpoint
        self._options = options.timed()
        self._backend = backend
        self._line = line
        self._reopen = reopen
        self._elsewhere = elsewhere
        self._asker_end = process.watch(asker) if asker is not None else None
        #: The asker may have died before it was watched; then somebody else is our parent.
        self._orphaned = asker is not None and os.getppid() != asker
        self._events: deque[Callable[[], None]] = deque()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._session: Session | None = None
        self._entry: MountEntry | None = None
        self._guardian: Guardian | None = None
        self._serving: threading.Thread | None = None
        self._helpers: list[threading.Thread] = []
        self._asking: frozenset[signal.Signals] = frozenset()  #: signals that ask for the status
        self._telling: threading.Thread | None = None
        self._error: BaseException | None = None
        self._ended = False  #: the session has ended, well or with self._error
        self._detached = False  #: out of the tree, but somebody still uses it
        self._stuck = False  #: it should end, but cannot even be detached: another mount covers it
        self._first_signal: float | None = None
        self._ending = ending
        #: What can be asked through the control socket.
        self._requests: dict[str, Request] = {
            "status": self._on_status,
            "unmount": self._on_unmount,
            "abort": self._on_abort,
            "remount": self._on_remount,
        }
        self._selector: selectors.BaseSelector | None = None
        self._record: records.Record | None = None
        self._kept: records.Kept | None = None
        self._control: ControlSocket | None = None
        self._why_not_asked = "the mount is not ready yet"

    # -- the main thread --------------------------------------------------------------------

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Mount, serve, and return when the mount is gone; MountError if it never was there."""
        # Until the end, for by itself the signal ends a process.  A program may have its own use for it.
        before: dict[int, Any] = {
            number: signal.signal(number, _note)
            for number in process.STATUS
            if not callable(signal.getsignal(number))
        }
        self._asking = process.STATUS & before.keys()
        umask = os.umask(0)  # else the bits that a caller's umask has left would be masked again
        try:
            self._run(ready)
        finally:
            os.umask(umask)
            self._close()
            _restore(before)

    def status(self) -> dict[str, object]:
        """Return what the session tells about itself; to be called while it is there."""
        if self._session is None:
            return {}
        asked = self._kept.path if self._kept is not None else f"none: {self._why_not_asked}"
        guarded = {"guardian": self._guardian.pid} if self._guardian is not None else {}
        return {**self._session.status(), "control socket": asked, **guarded}

    def _run(self, ready: Callable[[], object] | None) -> None:
        handlers: dict[int, Any] = {}
        with process.blocked():
            # A signal between the mount and the handlers would end this process and leave a
            # dead mount: it waits, and is the first that the handlers see.
            try:
                if self._options.auto_unmount and OUTLIVES_SERVER:
                    from xloop.guardian import Guardian  # here: few mounts have one

                    self._guardian = Guardian(self._mountpoint, self._options.subtype)
                self._session = self._backend.mount(
                    self._operations, self._mountpoint, self._options
                )
                if not self._elsewhere:
                    self._entry = mounts.mount_at(mounts.read_table(), self._mountpoint)
                if self._guardian is not None and self._entry is not None:
                    self._guardian.mounted(self._entry)
                self._serving = threading.Thread(
                    target=self._serve, args=(ready,), name="xloop-serve", daemon=True
                )
                self._serving.start()
                handlers[_WAKEUP] = signal.set_wakeup_fd(
                    self._wake_send.fileno(), warn_on_full_buffer=False
                )
                for number in process.TERMINATING:
                    # What was ignored stays so: a shell starts background jobs like that, and nohup.
                    # Only SIGTERM always means us.
                    if (
                        number == signal.SIGTERM
                        or self._line is not None
                        or signal.getsignal(number) is not signal.SIG_IGN
                    ):
                        handlers[number] = signal.signal(number, _note)
            except BaseException:
                _restore(handlers)
                self._abandon()
                raise
        try:
            with process.unblocked(self._asking):
                self._wait(handlers)
        except BaseException:
            self._abandon()
            raise
        finally:
            with process.blocked():
                _restore(handlers)
        # What a signal has ended before the kernel said its first word did not fail.
        if self._error and not (self._first_signal and isinstance(self._error, MountError)):
            self._abandon()
            raise self._error
        _log.info("%r is unmounted", self._mountpoint)

    def _wait(self, handlers: dict[int, Any]) -> None:
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._wake_receive, selectors.EVENT_READ, "wake")
            if self._line is not None:
                selector.register(self._line, selectors.EVENT_READ, "line")
                if self._asker_end is not None:
                    selector.register(self._asker_end, selectors.EVENT_READ, "asker")
                if self._orphaned:
                    self._on_orphaned(selector)
            while not self._ended:
                ready = selector.select(self._patience())
                if self._stuck and not ready:
                    self._unmount_or_detach()
                if self._control is not None:
                    self._control.resume()
                for key, events in ready:
                    if callable(key.data):
                        key.data(events)
                    elif key.data == "wake":
                        self._on_wake(handlers)
                    elif self._line is None:
                        pass  # let go of meanwhile, by the event before this one
                    elif key.data == "line":
                        self._on_line(selector)
                    else:
                        self._on_orphaned(selector)
                while self._events:
                    self._events.popleft()()

    def _on_wake(self, handlers: dict[int, Any]) -> None:
        with suppress(BlockingIOError):
            # set_wakeup_fd() writes the number of each signal, _post() a zero.
            heard = set(self._wake_receive.recv(4096))
            numbers = handlers.keys() & heard
            if self._reopen is not None and process.HANGUP in numbers:
                numbers.discard(process.HANGUP)
                self._reopen()
            if heard & self._asking:
                self._log_status()
            if numbers:
                self._on_signal()

    def _on_signal(self) -> None:
        now = time.monotonic()
        if self._first_signal is None:
            self._first_signal = now
            self._say_ending()
            if not self._detached:
                self._unmount_or_detach()
        elif now - self._first_signal >= _ECHO:
            _log.warning(
                "xloop: %r is cut off: whoever still uses it gets errors", self._mountpoint
            )
            self._cut_off()

    def _on_line(self, selector: selectors.BaseSelector) -> None:
        assert self._line is not None
        for message in self._line.heard():
            if message is None:
                self._on_orphaned(selector)
                return
            if message["say"] == "mounted":
                device = tuple(message.pop("device"))
                self._listen(MountEntry(0, 0, device, message["mountpoint"], message["fstype"], ""))
            if message["say"] == "release":
                self._let_go(selector)
                process.silence()  # as _on_orphaned: the command ends now, and its readers with it
                return
            if message["say"] == "unmount":
                answer = partial(self._answer, int(message["number"]))
                self._unmount(lazy=bool(message["lazy"]), then=answer)

    def _on_orphaned(self, selector: selectors.BaseSelector) -> None:
        """End the mount, for the program that asked for it has ended."""
        self._let_go(selector)
        process.silence()  # whoever reads what the program wrote shall not wait for us
        if not self._detached:
            self._unmount_or_detach()

    def _let_go(self, selector: selectors.BaseSelector) -> None:
        """Depend on the asker no longer."""
        if self._asker_end is not None:
            selector.unregister(self._asker_end)
            os.close(self._asker_end)
            self._asker_end = None
        if self._line is not None:
            selector.unregister(self._line)
            self._line.close()
            self._line = None

    def _patience(self) -> float | None:
        """Return how many seconds to wait when nothing comes; None: for ever."""
        pause = self._control.pause if self._control is not None else None
        if not self._stuck:
            return pause
        return _RETRY if pause is None else min(_RETRY, pause)

    def _log_status(self) -> None:
        """Write to the log what ``xloop status`` prints."""
        # In a thread: who reads the log may take its time, and other signals must be heard meanwhile.
        if self._telling is None or not self._telling.is_alive():
            self._telling = self._start(partial(status.log, self._told), "xloop-status")

    # -- the control socket -------------------------------------------------------------

    def _listen(self, entry: MountEntry | None) -> None:
        """Keep a record of the mount, and let it be asked.  Where that cannot be, it is served all the same."""
        if entry is None:
            self._why_not_asked = "the mount is not in the table of mounts"
            return
        assert self._selector is not None
        self._record = self._noted(entry, time.time())
        try:
            self._kept = records.keep(self._record)
        except OSError as exc:
            self._why_not_asked = exc.strerror or str(exc)
            _log.info("xloop: %r cannot be asked: %s", self._mountpoint, self._why_not_asked)
            return
        self._control = ControlSocket(self._kept.listener, self._selector, self._requests)

    def _noted(self, entry: MountEntry, since: float) -> records.Record:
        return records.Record(
            device=entry.device,
            mountpoint=entry.mountpoint,
            source=str(self._options.fsname),
            fstype=entry.fstype,
            backend=self._backend.name,
            options=spelled(dataclasses.replace(self._options, fsname=None)),
            since=since,
            pid=os.getpid(),
            owner=process.user(),
            ends=self._line is not None,
        )

    def _on_status(self, request: Message, answer: Answer) -> None:
        answer("status", **self._told())

    def _told(self) -> dict[str, Any]:
        not_ready = MountEntry(0, 0, (0, 0), self._mountpoint, "", "")
        record = self._record or self._noted(not_ready, 0.0)
        return status.told(
            record, self.status(), self._operations, self._options, elsewhere=self._elsewhere
        )

    def _on_unmount(self, request: Message, answer: Answer) -> None:
        """``unmount``, *lazy* or not: ``unmounted``, ``detached``, or ``failed``."""

        def tried(error: UnmountError | None, lazy: bool) -> None:
            if error is not None:
                answer("failed", type="UnmountError", why=error.why, fix=error.fix)
            else:
                answer("detached" if lazy else "unmounted")

        self._unmount(lazy=bool(request.get("lazy")), then=tried)

    def _on_abort(self, request: Message, answer: Answer) -> None:
        """``abort``: the connection is cut off; whoever uses the mount gets errors."""
        self._cut_off()
        answer("aborted")

    def _on_remount(self, request: Message, answer: Answer) -> None:
        """``remount``: the kernel has been told other *options*, and does what they say: ``noted``.

        Nothing is to be done for them here.  But whoever asks about the mount shall hear of them.
        """
        assert self._record is not None
        assert self._kept is not None
        text = str(request.get("options"))
        self._options = dataclasses.replace(parse_options([text]), fsname=self._options.fsname)
        record = self._record._replace(options=text)
        try:
            self._kept.note(record)
        except OSError as exc:
            raise XloopError(f"the record cannot be written: {exc.strerror}") from exc
        self._record = record
        answer("noted")

    # -- unmounting ---------------------------------------------------------------------

    def _unmount_or_detach(self) -> None:
        """End the mount as gently as can be: now, or when its last user is gone."""

        def tried(error: UnmountError | None, lazy: bool) -> None:
            if error is None:
                self._stuck = False
            else:
                self._unmount(lazy=True, then=partial(detached, error))

        def detached(reason: UnmountError, error: UnmountError | None, lazy: bool) -> None:
            if error is None:
                self._stuck = False
                _log.warning(
                    "xloop: %s: detached, and served until its last user is gone"
                    " (another signal cuts it off)",
                    reason.why,
                )
                return
            if not self._stuck:
                _log.warning("xloop: %s: tried again and again (another signal cuts it off)", error)
            self._stuck = True

        self._unmount(lazy=False, then=tried)

    def _unmount(self, *, lazy: bool, then: Callable[[UnmountError | None, bool], None]) -> None:
        """Unmount in a thread of its own, and call *then* in the main thread with the outcome.

        A thread, because unmounting may wait for requests, and the main thread must stay able to
        hear the signal by which somebody loses patience.
        """
        session = self._session
        assert session is not None

        def attempt() -> None:
            error: UnmountError | None = None
            try:
                if self._is_ours():
                    session.unmount(lazy=lazy)
            except UnmountError as exc:
                error = exc
            except Exception as exc:  # noqa: BLE001  # said to who asked, logged below
                _log.error("unexpected error in an unmount", exc_info=exc)
                error = UnmountError(f"{self._mountpoint!r}: {type(exc).__name__}: {exc}")
            self._post(lambda: outcome(error))

        def outcome(error: UnmountError | None) -> None:
            self._detached = self._detached or (lazy and error is None)
            then(error, lazy)

        self._start(attempt, "xloop-unmount")

    def _is_ours(self) -> bool:
        """Tell whether unmounting by path would hit this mount; False: it is out of the tree.

        A path is all that can be unmounted, and somebody may have mounted on top meanwhile.
        """
        if self._entry is None:
            return True
        table = mounts.read_table()
        if self._entry in table and mounts.mount_at(table, self._mountpoint) != self._entry:
            raise UnmountError(
                f"{self._mountpoint!r} cannot be unmounted: another mount covers it",
                "unmount that one first",
            )
        return self._entry in table

    def _answer(self, number: int, error: UnmountError | None, lazy: bool) -> None:
        if self._line is None:
            return
        if error is not None:
            self._line.say("busy", number=number, type="UnmountError", why=error.why, fix=error.fix)
        else:
            self._line.say("detached" if lazy else "unmounted", number=number)

    def _cut_off(self) -> None:
        """End the mount whatever it takes."""
        session = self._session
        assert session is not None

        def cut() -> None:
            try:
                session.abort()
            finally:
                with suppress(XloopError):
                    if self._is_ours():
                        session.unmount(lazy=True)

        self._start(cut, "xloop-abort")

    def _abandon(self) -> None:
        """Leave nothing mounted after an error.  What is gone already may say so, unheard."""
        if self._session is None:
            return
        with suppress(XloopError, OSError):
            if self._is_ours():
                self._session.unmount(lazy=True)
        with suppress(XloopError, OSError):
            self._session.abort()

    def _close(self) -> None:
        # They are on their way out; but after an error one may wait for who knows what.
        for thread in [*self._helpers, *([self._serving] if self._serving is not None else [])]:
            thread.join(5)
        self._session = None  # what the session holds open is not to wait for a caller's exception
        if self._guardian is not None:
            self._guardian.end(gone=self._entry not in mounts.read_table())
            self._guardian = None
        if self._kept is not None:
            self._kept.close()
        if self._control is not None:
            self._control.close()  # by which whoever waits for the end of all this hears of it
        for sock in (self._wake_receive, self._wake_send):
            sock.close()
        if self._asker_end is not None:
            os.close(self._asker_end)
            self._asker_end = None

    # -- other threads ------------------------------------------------------------------

    def _serve(self, ready: Callable[[], object] | None) -> None:
        assert self._session is not None
        try:
            self._session.serve(lambda: self._post(lambda: self._announce(ready)))
        except BaseException as exc:  # noqa: BLE001  # handed to the main thread, which raises it
            self._error = exc
        self._post(self._end)

    def _announce(self, ready: Callable[[], object] | None) -> None:
        if not self._elsewhere:
            # Some backends mount only when they serve: then it was not in the table before.
            self._listen(self._entry or mounts.mount_at(mounts.read_table(), self._mountpoint))
        _log.info(
            "%r is mounted at %r by %s", self._options.fsname, self._mountpoint, self._backend.name
        )
        if ready is not None:
            ready()

    def _end(self) -> None:
        self._ended = True
        self._say_ending()

    def _say_ending(self) -> None:
        ending, self._ending = self._ending, None
        if ending is not None:
            ending()

    def _start(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        with process.blocked():
            thread.start()
        self._helpers = [helper for helper in self._helpers if helper.is_alive()] + [thread]
        return thread

    def _post(self, event: Callable[[], None]) -> None:
        """Have the main thread call *event*.  From any thread."""
        self._events.append(event)
        with suppress(BlockingIOError, OSError):  # a full buffer wakes it just as well
            self._wake_send.send(b"\0")


#: The key, among signal numbers, under which the former wakeup descriptor is kept.
_WAKEUP = -1


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing: that there is a handler makes Python write *number* to the wakeup descriptor."""


def _restore(handlers: dict[int, Any]) -> None:
    """Give the signals back to whoever had them before."""
    for number, handler in handlers.items():
        if number == _WAKEUP:
            signal.set_wakeup_fd(handler)
        else:
            # None: a handler that was not set by Python, and cannot be set by it either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
