# SPDX-License-Identifier: MIT
"""Mounting from a program that goes on: :func:`mount` and :class:`Mount`.

Owns the server process that it starts, from the checks before to the last descriptor after.
Does not own what that process does (:mod:`xloop.server`), nor mounts of anybody else
(:func:`xloop.mounts.umount`).

From another process, always: a program that touches its own mount while it holds the
interpreter's lock (a page fault in an mmap is enough) would wait for itself.

The server lives as long as this program wants it: it holds the other end of a line, and
unmounts when this end is closed, whether by :meth:`Mount.unmount` or because the program ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from xloop import mounts
from xloop.control import Line, Message, failure
from xloop.errors import MountError, UnmountError
from xloop.host import process
from xloop.host.mounttable import MountEntry
from xloop.ops import Operations
from xloop.options import MountOptions, with_fields
from xloop.preflight import check_mountpoint, check_source, make_room
from xloop.registry import AUTO, choose
from xloop.server import Factory, LayerFactory, Spec
from xloop.starting import FAREWELL, remove, settle

__all__ = ["Mount", "Spawned", "mount", "start"]

_log = logging.getLogger("xloop")

#: The server's first words.  The modules that it imports must be found where this program finds
#: them, so the path comes before anything of ours; -P keeps the working directory out of it.
_BOOT = (
    "import sys, pickle; f = open(int(sys.argv[1]), 'rb', closefd=False); "
    "sys.path[:] = pickle.load(f); from xloop.server import main; sys.exit(main(f))"
)


def mount(
    source: str | os.PathLike[str] | Factory,
    mountpoint: str | os.PathLike[str],
    *,
    options: MountOptions | None = None,
    backend: str = AUTO,
    layers: Sequence[LayerFactory] = (),
    on_top: bool = False,
    replace: bool = False,
    **fields: object,
) -> Mount:
    """Show *source* at the directory *mountpoint*, and return when the mount answers.

    *source* is the path of a directory, or a callable that returns an
    :class:`~xloop.ops.Operations`: a class, a function or a functools.partial, from a module that
    the server process can import.  *layers* are put around it, the first one innermost, each by
    a callable such as :class:`xloop.layers.ReadOnly`.  *fields* are those of
    :class:`~xloop.options.MountOptions`, and win over *options*.  *on_top*: the mountpoint may be the
    mountpoint of a user-space file system already.  *replace*: a mount of xloop that is there is taken
    away first, if it is dead or nobody uses it; it is gone also if the new one then fails.

    Raises MountError, and then nothing is left mounted.  As a context manager::

        with xloop.mount("/usr", "/tmp/view", read_only=True) as m:
            print(os.listdir(m.mountpoint))
    """
    options = with_fields(options or MountOptions(), fields)
    if isinstance(source, Operations):
        raise MountError(
            "mount() serves from another process, which cannot be given a file system that is here",
            "give what makes it: a class, or functools.partial(MyFileSystem, ...); or use xloop.serve()",
        )
    if not callable(source):
        source = check_source(os.fspath(source))
        if options.fsname is None:
            options = dataclasses.replace(options, fsname=source)
    path = check_mountpoint(
        os.fspath(mountpoint), on_top=on_top, replace=options.subtype if replace else None
    )
    chosen = choose(backend)
    chosen.check_options(options)
    if replace:
        make_room(path, options.subtype, source if isinstance(source, str) else None)
    spec = Spec(source, tuple(layers), path, options, chosen.name, os.getpid())
    entry, said, server, line = start(spec)
    return Mount(spec, entry, str(said["backend"]), server, line)


class Mount:
    """A mount that this program made.  Leaving its ``with`` block, or unmount(), ends it."""

    def __init__(
        self, spec: Spec, entry: MountEntry, backend: str, server: Spawned, line: Line
    ) -> None:
        """Not for callers: :func:`mount` makes them."""
        self.mountpoint = spec.mountpoint
        #: The path that is shown; None for a file system of one's own.
        self.source = spec.source if isinstance(spec.source, str) else None
        self.backend = backend
        self.pid = server.pid  #: of the process that serves
        self._maker = os.getpid()
        self._entry = entry
        self._server = server
        self._line: Line | None = line
        self._asked = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "unmounted" if self._line is None else f"served by {self.pid}"
        return f"<xloop.Mount {self.mountpoint!r} {state}>"

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount, and return when the server process is gone.

        *lazy*: take the mount out of the tree, and return; its server goes when its last user does.
        Raises UnmountError if it is busy, saying by whom; then it is mounted still, and this
        may be called again.  Does nothing where the mount is gone already.
        """
        if os.getpid() != self._maker:
            raise UnmountError(
                f"{self.mountpoint!r} was mounted by process {self._maker}, and this is a fork of it",
                "unmount in the process that mounted",
            )
        with self._lock:
            if self._line is None:
                return
            answer = self._ask_to_unmount(self._line, lazy)
            if answer is not None and answer["say"] == "busy":
                raise failure(answer)
            self._part(detached=lazy and answer is not None)

    def _ask_to_unmount(self, line: Line, lazy: bool) -> Message | None:
        self._asked += 1
        line.say("unmount", lazy=lazy, number=self._asked)
        while True:
            answer = line.hear()
            # One with another number is for a call that an exception (Ctrl-C) ended early.
            if answer is None or answer["number"] == self._asked:
                return answer

    def _part(self, *, detached: bool) -> None:
        """Let the server go, now that its mount is gone, out of the tree, or dead with it."""
        assert self._line is not None
        self._line.close()
        self._line = None
        if detached:
            self._server.leave()
        elif self._server.wait(FAREWELL) is not None:
            remove(self.mountpoint, self._entry)  # a server that was killed leaves its mount behind
        else:
            _log.warning(
                "xloop: %r is unmounted here but still served by process %d:"
                " another mount namespace seems to hold it",
                self.mountpoint,
                self.pid,
            )
            self._server.leave()

    def __enter__(self) -> Mount:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmount; if the mount is busy, detach it and raise the UnmountError that says so.

        An exception that is already on its way is not replaced by that one.
        """
        if os.getpid() != self._maker:
            return  # a fork that leaves the block: the mount is not its own to end
        try:
            self.unmount()
        except UnmountError as busy:
            self.unmount(lazy=True)
            if exc is not None:
                _log.warning("xloop: %s: detached", busy.why)
                return
            raise UnmountError(
                f"{busy.why}: it was detached, and is served until its last user is gone", busy.fix
            ) from busy


def _pickled(spec: Spec) -> bytes:
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(spec)
    except MountError:
        raise
    except Exception as exc:  # PicklingError, TypeError, AttributeError, and what __reduce__ raises
        raise MountError(
            "mount() serves from another process, and what was given cannot be sent there: "
            f"{type(exc).__name__}: {exc}",
            "give a class or function of a module, or functools.partial of one; or use xloop.serve()",
        ) from exc
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Refuses what pickles well but cannot be found by another process."""

    def reducer_override(self, obj: Any) -> Any:
        if getattr(obj, "__module__", None) == "__main__" and hasattr(obj, "__qualname__"):
            raise MountError(
                f"mount() serves from another process, which cannot import {obj.__qualname__!r} from "
                "__main__",
                "put it in a module, or use xloop.serve()",
            )
        return NotImplemented


def start(spec: Spec) -> tuple[MountEntry, Message, Spawned, Line]:
    """Execute a server, and return the mount, what was said of it, the process and the line to it.

    MountError: then nothing is left, no mount and no process.
    """
    pickled = _pickled(spec)
    if not sys.executable or getattr(sys, "frozen", False):
        raise MountError(
            "mount() serves from another process, and there is no Python interpreter to start",
            "use xloop.serve() in a process of your own",
        )
    before = mounts.read_table()
    line, other = Line.pair()
    try:
        server = Spawned(spec.mountpoint, other, pickled)
    except OSError as exc:
        line.close()
        raise MountError(f"the server process cannot be started: {exc}") from exc
    finally:
        other.drop()
    if process.CAN_FORK:
        line.send(_module_path() + pickled)
    entry, said = settle(line, server, spec.mountpoint, before)
    return entry, said, server, line


def _module_path() -> bytes:
    """Return what the server reads first: where modules are found."""
    return pickle.dumps([entry or os.getcwd() for entry in sys.path])


class Spawned:
    """A server process that was executed: :class:`xloop.starting.ServerProcess`."""

    def __init__(self, mountpoint: str, line: Line, pickled: bytes) -> None:
        """Start it with *line* as its end of the line.  Where it cannot inherit that, it is told of
        it, and all the rest, by a pipe; else *pickled* is for the caller to send.
        """
        if process.CAN_FORK:
            with process.blocked(process.STATUS):  # the server listens to it as soon as it can
                self._process = subprocess.Popen(
                    [process.interpreter(), "-P", "-c", _BOOT, str(line.fileno()), mountpoint],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[line.fileno()],
                    # Ctrl-C at the terminal is for this program, which unmounts in its own time.
                    start_new_session=True,
                )
        else:
            self._process = subprocess.Popen(
                [process.interpreter(), "-P", "-c", _BOOT, "0", mountpoint],
                stdin=subprocess.PIPE,
                creationflags=process.DETACHED,
            )
            shared = line.share(self._process.pid)
            assert self._process.stdin is not None  # it is a pipe
            with (
                contextlib.suppress(OSError),
                self._process.stdin as pipe,
            ):  # it ended: settle() says so
                size = len(shared).to_bytes(4, "little")
                pipe.write(_module_path() + size + shared + pickled)
        self.pid = self._process.pid

    def wait(self, patience: float | None = None) -> int | None:
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        process.terminate(self._process, number)

    def leave(self) -> None:
        """Wait for the end elsewhere: no zombie shall stay, and nobody needs to know."""
        threading.Thread(target=self._process.wait, name="xloop-reap", daemon=True).start()
