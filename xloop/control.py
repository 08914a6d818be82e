# SPDX-License-Identifier: MIT
"""The line between a server process and the program that asked for its mount.

Owns the messages, both ends.  Does not own what either end does about one: that is
:mod:`xloop.serving` here and :mod:`xloop.mounting` there.

The line is also the server's lifeline.  Both ends are closed by the kernel when their process
ends, however it ends, and the other end notices.  One JSON object a line:

* to the server: ``unmount`` (with *lazy*), ``release`` (the mount outlives the line from now on), and,
  from who has mounted in another mount namespace, ``mounted`` (where);
* from it: ``ready`` once, or ``failed``; then ``unmounted``, ``detached`` or ``busy`` for each
  ``unmount``.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from xloop import errors
from xloop.errors import MountError, XloopError
from xloop.host import process

__all__ = ["Line", "Message", "failure"]

#: What is said, under the key "say", and its particulars.
Message = dict[str, Any]


class Line:
    """One end of the line.  A closed other end is None to read, and nothing to write."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """Return two ends of a new line; neither is inherited by programs that are executed."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    def share(self, pid: int) -> bytes:
        """Return what the process *pid* needs to take this end; where it cannot inherit it."""
        return process.give(self._socket, pid)

    def close(self) -> None:
        """End the line, also for a fork of this process that holds the same end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other end is gone already
            pass
        self._socket.close()

    def drop(self) -> None:
        """Give up this process's hold on the end; others that have it keep it."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send what is no message: the first thing that a server reads."""
        try:
            self._socket.sendall(data)
        except OSError:
            pass

    def hand_over(self, descriptor: int) -> None:
        """Give the other end a copy of *descriptor*, which must wait for it: see received()."""
        try:
            process.send_descriptor(self._socket, descriptor)
        except OSError:
            pass

    def received(self) -> int | None:
        """Return the descriptor that the other end hands over before it says anything; None: it ended."""
        return process.receive_descriptor(self._socket)

    def say(self, what: str, **particulars: object) -> None:
        # default: what a backend puts into its status is shown to people, not computed with
        message = json.dumps({"say": what, **particulars}, default=str) + "\n"
        try:
            self._socket.sendall(message.encode("ascii"))
        except OSError:  # nobody listens any more; who reads the line will find out
            pass

    def say_failed(self, exc: BaseException) -> None:
        if isinstance(exc, XloopError):
            self.say("failed", type=type(exc).__name__, why=exc.why, fix=exc.fix)
        else:
            self.say("failed", type="MountError", why=f"{type(exc).__name__}: {exc}", fix="")

    def hear(self) -> Message | None:
        """Return the next message; None at the end of the line.  Waits for it."""
        while b"\n" not in self._buffer:
            if not self._receive():
                return None
        return self._next()

    def heard(self) -> list[Message | None]:
        """Return what has come in, None for the end of the line; to be called when readable."""
        alive = self._receive()
        messages: list[Message | None] = []
        while b"\n" in self._buffer:
            messages.append(self._next())
        if not alive:
            messages.append(None)
        return messages

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except OSError:  # reset, by an end that died with unread messages
            return False
        self._buffer += data
        return bool(data)

    def _next(self) -> Message:
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = json.loads(line)
        return message


def failure(message: Message) -> XloopError:
    """Return the exception that a ``failed`` or ``busy`` message stands for."""
    kind = getattr(errors, str(message.get("type")), MountError)
    made: XloopError = kind(str(message["why"]), str(message["fix"]))
    return made
