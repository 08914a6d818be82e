# SPDX-License-Identifier: MIT
"""A tree whose calls another process makes: :class:`RemoteTree`, and the program it starts.

Owns the process and the pipe to it.  Record locks belong to processes: their tests need one.
Run as ``python -m xloop.testing.remote PATH`` it makes the calls that come in on standard input.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from xloop.testing.actor import SIGUSR1, calls, sleeps
from xloop.testing.tree import Pending, Tree

__all__ = ["RemoteTree"]

_LENGTH = struct.Struct("!I")


def _send(fd: int, value: object) -> None:
    data = pickle.dumps(value)
    data = _LENGTH.pack(len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def _receive(fd: int) -> Any:
    # No buffer: whether there is an answer is asked of the pipe itself.
    return pickle.loads(_read(fd, *_LENGTH.unpack(_read(fd, _LENGTH.size))))


def _read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class RemoteCall(Pending):
    """A call that the process of *tree* is making."""

    def __init__(self, tree: RemoteTree, method: str, args: Any, kwargs: Any) -> None:
        self._tree = tree
        _send(tree.stdin, (method, args, kwargs))
        # It says so when it begins: before that it sleeps only because it waits for us.
        assert _receive(tree.stdout) == "begun"

    def blocked(self) -> bool:
        return not self.done() and sleeps(self._tree.pid)

    def done(self) -> bool:
        return bool(select.select([self._tree.stdout], [], [], 0)[0])

    def interrupt(self) -> None:
        os.kill(self._tree.pid, SIGUSR1)

    def result(self, timeout: float = 30.0) -> Any:
        if not select.select([self._tree.stdout], [], [], timeout)[0]:
            raise TimeoutError("the call has not returned")
        good, value = _receive(self._tree.stdout)
        if good:
            return value
        raise value


class RemoteTree(Tree):
    """The directory *path*, through the kernel, from a process of its own."""

    def __init__(self, path: bytes) -> None:
        # It finds this package where we found it, however we were started.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "xloop.testing.remote", os.fsdecode(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin = self._process.stdin.fileno()
        self.stdout = self._process.stdout.fileno()
        self.pid = self._process.pid

    def shut(self) -> None:
        self.kill()

    def kill(self) -> None:
        with self._process:
            self._process.kill()

    def process(self) -> Tree:
        raise NotImplementedError("ask the tree that this one came from")

    def start(self, method: str, *args: Any) -> Pending:
        return RemoteCall(self, method, args, {})


def _forward(method: str) -> Callable[..., Any]:
    def call(self: RemoteTree, *args: Any, **kwargs: Any) -> Any:
        return RemoteCall(self, method, args, kwargs).result()

    call.__name__ = method
    return call


for _name in calls():
    setattr(RemoteTree, _name, _forward(_name))


def main() -> None:
    """Make calls until standard input ends."""
    from xloop.testing.native import NativeTree

    def interrupted(*_: object) -> None:
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    tree = NativeTree(sys.argv[1])
    requests, answers = sys.stdin.fileno(), sys.stdout.fileno()
    with contextlib.suppress(EOFError):
        while True:
            method, args, kwargs = _receive(requests)
            try:
                signal.signal(SIGUSR1, interrupted)
                _send(answers, "begun")
                answer = True, getattr(tree, method)(*args, **kwargs)
                signal.signal(SIGUSR1, signal.SIG_IGN)
            except Exception as error:  # noqa: BLE001  (carried to the process that asked)
                answer = False, error
            _send(answers, answer)


if __name__ == "__main__":
    main()
