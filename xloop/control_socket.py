# SPDX-License-Identifier: MIT
"""The socket on which a server can be asked while its mount is there, both ends.

Owns who may ask, how much is listened to, and how long is waited for an answer.  Does not own what can
be asked (:class:`xloop.serving.Service` has the table) nor where the socket is (:mod:`xloop.records`).

One JSON object a line, as on the line between a server and its asker (:mod:`xloop.control`): a request
has the key ``say``, its name, and particulars; there is one answer for each, in order, under ``say``
too: ``failed`` says ``why``, and ``fix``.

The main thread of the server answers, between everything else that it does, so nobody can make it wait:
nothing here blocks, a request has at most 64 KiB, the next one is read when the answer to the last one is
taken, and of too many connections the oldest are closed.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from xloop import records
from xloop.control import Message
from xloop.errors import XloopError
from xloop.host import process, runtime

__all__ = ["Answer", "ControlSocket", "Request", "ask", "ask_all"]

_log = logging.getLogger("xloop")

#: Gives the answer to a request: what is said, and particulars.  To be called once, in the main thread,
#: at any time.
Answer = Callable[..., None]

#: Answers a request.  XloopError is an answer too.
Request = Callable[[Message, Answer], None]

#: Bytes of one request; connections at a time.
_MOST, _CONNECTIONS = 64 * 1024, 32

#: Bytes of one answer that somebody waits for.
_MOST_HEARD = 16 * 1024 * 1024

#: Seconds without new connections, when there was no descriptor left for one.
_PAUSE = 1.0

#: Seconds for a server to answer.
PATIENCE = 5.0


class ControlSocket:
    """The server's end.  To be used by one thread, the one that waits for *selector*.

    The data of what is registered there is a function to be called with the events.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        requests: dict[str, Request],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._requests = requests
        self._connections: list[_Connection] = []
        self._resumes: float | None = None
        selector.register(listener, selectors.EVENT_READ, self._accept)

    @property
    def pause(self) -> float | None:
        """Seconds after which to call :meth:`resume`, whatever comes; None: no need."""
        return None if self._resumes is None else max(0.0, self._resumes - time.monotonic())

    def resume(self) -> None:
        """Accept connections again, if it is time."""
        if self._resumes is not None and time.monotonic() >= self._resumes:
            self._resumes = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Let everybody hear the end.  The selector may be closed already."""
        for connection in self._connections:
            connection.closed = True
            connection.socket.close()
        self._connections.clear()

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except (
            OSError
        ):  # no descriptor, no memory: the connection stays in the queue, and comes again
            self._selector.unregister(self._listener)
            self._resumes = time.monotonic() + _PAUSE
            return
        if not _may_ask(sock):
            sock.close()
            return
        if len(self._connections) >= _CONNECTIONS:
            self._drop(self._connections[0])
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections.append(connection)
        self._selector.register(
            sock, selectors.EVENT_READ, lambda events: self._go_on(connection, events)
        )

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.closed = True
        self._connections.remove(connection)

    def _go_on(self, connection: _Connection, events: int) -> None:
        """Read, have one request answered at most, and write: others wait too."""
        if connection.closed:
            return  # by an event before this one
        try:
            if events & selectors.EVENT_READ and not connection.read():
                raise ConnectionError
            line = connection.next()
            if line is not None:
                self._answer(connection, json.loads(line))
            connection.write()
        except (OSError, ValueError, RecursionError):  # it is gone, or says what is no request
            self._drop(connection)
        else:
            self._wait_for(connection)

    def _wait_for(self, connection: _Connection) -> None:
        key = self._selector.get_key(connection.socket)
        if key.events != connection.events:
            self._selector.modify(connection.socket, connection.events, key.data)

    def _answer(self, connection: _Connection, request: object) -> None:
        if not isinstance(request, dict):
            raise ValueError
        connection.waits = True

        def answer(say: str, **particulars: object) -> None:
            if connection.closed or not connection.waits:
                return
            connection.waits = False
            # default: what a backend puts into its status is shown to people, not computed with
            message = json.dumps({"say": say, **particulars}, default=str) + "\n"
            connection.out += message.encode("ascii")
            self._wait_for(connection)

        def fail(exc: XloopError) -> None:
            answer("failed", type=type(exc).__name__, why=exc.why, fix=exc.fix)

        name = request.get("say")
        carry_out = self._requests.get(name) if isinstance(name, str) else None
        try:
            if carry_out is None:
                raise XloopError(
                    f"this server does not know the request {name!r}",
                    "it may be of another version of xloop: unmount, and mount again",
                )
            carry_out(request, answer)
        except XloopError as exc:
            fail(exc)
        except Exception as exc:  # noqa: BLE001  # whatever was asked, the mount goes on
            _log.error("unexpected error in the request %r", name, exc_info=exc)
            fail(XloopError(f"the request {name!r} failed: {type(exc).__name__}: {exc}"))


def _may_ask(sock: socket.socket) -> bool:
    """Whether who is at the other end may ask: the user who serves, and root."""
    try:
        peer = runtime.peer(sock)
    except OSError:
        return False
    # Not told: the directory lets in nobody else.
    return peer is None or peer.uid in (0, process.user())


class _Connection:
    """Somebody who asks."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.closed = False
        self.waits = False  #: for an answer that is being found
        self.out = b""  #: what is to be written
        self._in = b""

    @property
    def events(self) -> int:
        # Nothing is read while an answer is on its way, or the next request is there already.
        ready = not self.waits and b"\n" in self._in
        return selectors.EVENT_WRITE if self.out or ready else selectors.EVENT_READ

    def read(self) -> bool:
        """Read what is there.  False: the other end is closed."""
        try:
            data = self.socket.recv(_MOST)
        except (BlockingIOError, InterruptedError):
            return True
        self._in += data
        if len(self._in) > 2 * _MOST or (len(self._in) > _MOST and b"\n" not in self._in):
            raise ValueError
        return bool(data)

    def write(self) -> None:
        if not self.out:
            return
        with suppress(BlockingIOError, InterruptedError):
            self.out = self.out[self.socket.send(self.out) :]

    def next(self) -> bytes | None:
        if self.waits or self.out or b"\n" not in self._in:
            return None
        line, _, self._in = self._in.partition(b"\n")
        return line


# -- the other end ----------------------------------------------------------------------


def ask(
    found: records.Found, say: str, patience: float = PATIENCE, **particulars: object
) -> Message | None:
    """Ask the server of *found*; None: it does not answer within *patience* seconds, or has ended."""
    return ask_all([found], say, patience, **particulars)[0]


def ask_all(
    servers: Iterable[records.Found], say: str, patience: float = PATIENCE, **particulars: object
) -> list[Message | None]:
    """Ask all *servers* the same at once; their answers, None for each that gave none in time."""
    request = (json.dumps({"say": say, **particulars}) + "\n").encode("ascii")
    answers: list[Message | None] = []
    deadline = time.monotonic() + patience
    with selectors.DefaultSelector() as selector:
        for index, found in enumerate(servers):
            answers.append(None)
            sock = records.connect(found.socket)
            if sock is None:
                continue
            try:
                sock.send(request)  # fits into the empty buffer of a socket
            except OSError:
                sock.close()
                continue
            selector.register(sock, selectors.EVENT_READ, (index, bytearray()))
        try:
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    index, heard = key.data
                    assert isinstance(key.fileobj, socket.socket)
                    if _hear(key.fileobj, heard):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        answers[index] = _message(heard)
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
    return answers


def _hear(sock: socket.socket, heard: bytearray) -> bool:
    """Add to *heard*; True: that was all."""
    try:
        data = sock.recv(1 << 16)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True
    heard += data
    return not data or data.endswith(b"\n") or len(heard) > _MOST_HEARD


def _message(heard: bytearray) -> Message | None:
    try:
        message = json.loads(heard)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and "say" in message else None
