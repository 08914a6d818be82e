# SPDX-License-Identifier: MIT
"""The server process of ``xloop mount``.

Owns its birth: by fork, which costs a millisecond where a second interpreter costs as much as the
whole command may take.  Does not own what it does then (:mod:`xloop.server`) nor what the
command waits for (:mod:`xloop.starting`).
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NoReturn

from xloop import mounts
from xloop.backend import Backend
from xloop.control import Line
from xloop.host import process
from xloop.logs import Log
from xloop.options import MountOptions
from xloop.server import LayerFactory, Spec, build, serve_asker
from xloop.starting import settle

__all__ = ["serve_in_background"]


def serve_in_background(
    source: str,
    mountpoint: str,
    options: MountOptions,
    backend: Backend,
    layers: tuple[LayerFactory, ...] = (),
    log: Log | None = None,
    waiting: AbstractContextManager[object] | None = None,
) -> dict[str, object]:
    """Mount, served by a process that outlives this one; return its session's status.

    *waiting*, if given, is entered while the server is waited for, and may start threads.
    Raises MountError, and then nothing is left: no mount, no process.
    """
    waiting = waiting or nullcontext()
    if not process.CAN_GO_ON_AS_FORK:
        with waiting:
            return _spawn(Spec(source, layers, mountpoint, options, backend.name, os.getpid(), log))
    before = mounts.read_table()
    line, other = Line.pair()
    asker = os.getpid()
    # The server listens to it as soon as it can.  Who picks processes by their command lines means this one too.
    process.hold(process.STATUS)
    pid = process.fork()  # no thread is there yet: a fork copies only the one it is made in
    if pid == 0:
        line.drop()
        _serve(other, Spec(source, layers, mountpoint, options, backend.name, asker, log), backend)
    other.drop()
    with waiting:
        _, said = settle(line, _Forked(pid), mountpoint, before)
    line.say("release")
    line.drop()
    status: dict[str, object] = said["status"]
    return status


def _spawn(spec: Spec) -> dict[str, object]:
    """As serve_in_background, where a server must be executed."""
    from xloop.mounting import start

    _, said, _, line = start(spec)
    line.say("release")
    line.drop()
    status: dict[str, object] = said["status"]
    return status


def _serve(line: Line, spec: Spec, backend: Backend) -> NoReturn:
    status = 1
    try:
        # A lock file, a pipe, a terminal of whoever called us would stay open for as long as the
        # mount lives.  The three standard ones stay until it is ready: they may show an error.
        process.close_others(line.fileno())
        status = serve_asker(
            line,
            spec.asker,
            lambda: build(spec.source, spec.layers, spec.mountpoint, spec.options),
            spec.mountpoint,
            spec.options,
            backend,
            on_ready=_part,
            log=spec.log,
        )
    finally:
        # Not sys.exit(): what the command would do on its way out is for the parent to do.
        os._exit(status)


def _part() -> None:
    """Leave what the command was started from, now that the mount is there."""
    # Not before: a mountpoint of systemd's automounts lets in only systemd's own process group until
    # something is mounted, and has everybody else wait for that.
    process.leave_terminal()
    process.silence()


class _Forked:
    """The server as a child: :class:`xloop.starting.ServerProcess`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None

    def wait(self, patience: float | None = None) -> int | None:
        if self._status is None:
            self._status = process.wait(self._pid, patience)
        return self._status

    def signal(self, number: int) -> None:
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)
