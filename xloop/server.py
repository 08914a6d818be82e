# SPDX-License-Identifier: MIT
"""The process that serves a mount for somebody else.

Owns what such a process does from its first line to its exit status, whether it was forked by
the command line (:func:`serve_asker`) or started afresh by :func:`xloop.mount` (:func:`main`).
Does not own the mount while it lives: that is :class:`xloop.serving.Service`.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from xloop import logs
from xloop.backend import Backend
from xloop.control import Line
from xloop.errors import MountError, XloopError
from xloop.host import process
from xloop.logs import Log
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.serving import Service

__all__ = ["Factory", "LayerFactory", "Spec", "build", "collect_rarely", "main", "serve_asker"]

_log = logging.getLogger("xloop")

#: Makes a file system, in the process that serves it.
Factory = Callable[[], Operations]

#: Puts a layer around a file system; a layer's class is one.
LayerFactory = Callable[[Operations], Operations]


class Spec(NamedTuple):
    """What a server that was started afresh is told.  Pickled."""

    source: str | Factory
    layers: tuple[LayerFactory, ...]
    mountpoint: str
    options: MountOptions
    backend: str
    asker: int  #: process id of the program that asked
    log: Log | None = None


def build(
    source: str | Factory,
    layers: Sequence[LayerFactory],
    mountpoint: str | None,
    options: MountOptions,
) -> Operations:
    """Return the stack: a loopback of the path *source*, or what it makes, inside of *layers*.

    *mountpoint*: None if this process will never see the mount.
    """
    operations: Operations
    if isinstance(source, str):
        from xloop.loopback import Loopback  # here: a file system of one's own needs none

        try:
            noatime = options.atime == "noatime"
            operations = Loopback(source, mountpoint=mountpoint, noatime=noatime)
        except OSError as exc:
            raise MountError(f"source {source!r} cannot be used: {exc.strerror}") from exc
    else:
        operations = _made(source, source())
    for layer in layers:
        operations = _made(layer, layer(operations))
    return operations


def _made(factory: object, made: object) -> Operations:
    if not isinstance(made, Operations):
        raise MountError(
            f"{factory!r} returned a {type(made).__name__}, which is no xloop.Operations"
        )
    return made


def collect_rarely() -> None:
    """Set the garbage collector to a process that has millions of objects, next to none of them in cycles.

    Each node is one that the collector looks at.  By default it does that after every 700 new ones, and
    at all there are each time a quarter has been added: with a million, requests wait for tenths of a second.
    For a process whose whole work is serving; a program that calls :func:`xloop.serve` decides for itself.
    """
    gc.freeze()  # what is imported stays
    gc.set_threshold(50_000, 20, 100)


def serve_asker(
    line: Line,
    asker: int | None,
    make: Callable[[], Operations],
    mountpoint: str,
    options: MountOptions,
    backend: Backend,
    on_ready: Callable[[], None] = lambda: None,
    log: Log | None = None,
    *,
    elsewhere: bool = False,
) -> int:
    """Serve until the mount is gone; tell the other end of *line* how it goes; return a status.

    The process must be the server's own: its working directory and signals are changed.
    *on_ready* is called before the other end hears that the mount is ready.  SIGHUP has *log*, if it is a
    file, opened again, and otherwise does nothing: no terminal hangs up here.  *elsewhere*: as for Service.
    """
    told = False
    collect_rarely()

    def ready() -> None:
        nonlocal told
        told = True
        on_ready()
        line.say("ready", backend=backend.name, status=service.status())

    try:
        process.unblock()
        reopen = logs.start(log) if log is not None else None
        operations = make()
        os.chdir("/")  # not before: make() may mean relative paths; not after: it pins a mount
        service = Service(
            operations,
            mountpoint,
            options,
            backend,
            line=line,
            asker=asker,
            reopen=reopen or (lambda: None),
            elsewhere=elsewhere,
        )
        service.run(ready)
    except XloopError as exc:
        if told:
            _log.error("xloop: %s", exc)
        else:
            line.say_failed(exc)
        return 1
    except BaseException as exc:  # noqa: BLE001  # there is nobody above who could hear of it
        if not told and isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            line.say_failed(
                MountError(
                    f"{mountpoint!r} cannot be served: {exc.strerror}",
                    "raise the limit of open files, as with: ulimit -n 1024",
                )
            )
            return 1
        _log.exception("the server of %r ends", mountpoint)
        if not told:
            line.say_failed(exc)
        return 1
    finally:
        line.close()
    return 0


def main(stream: BinaryIO) -> int:
    """Serve what the program at the other end of *stream* has written into it.

    *stream* is the line to it, a socket, or (Windows) a pipe that tells of one.
    """
    import pickle  # here: a forked server gets nothing pickled

    # The program that started this one may have closed some of them.
    process.keep_standard_descriptors()
    line = Line(process.taken(stream))
    try:
        spec: Spec = pickle.load(stream)
        from xloop.registry import choose  # here: a spec that cannot be read needs none

        sys.argv = ["xloop-server", spec.mountpoint]
        backend = choose(spec.backend)
        backend.check_options(spec.options)
    except XloopError as exc:
        line.say_failed(exc)
        line.close()
        return 1
    except Exception as exc:  # noqa: BLE001  # modules of others are imported to read it
        _log.exception("the server of a mount cannot start")
        line.say_failed(exc)
        line.close()
        return 1
    return serve_asker(
        line,
        spec.asker,
        lambda: build(spec.source, spec.layers, spec.mountpoint, spec.options),
        spec.mountpoint,
        spec.options,
        backend,
        log=spec.log,
    )
