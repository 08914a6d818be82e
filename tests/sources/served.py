# SPDX-License-Identifier: MIT
"""A server process that tells its status at any time, and one whose requests get stuck on demand.

Owns both sides: the script that serves, and :class:`Served`, which starts it.  Not a test.

A mount made by :func:`xloop.mount` tells its status once, when it is ready, and then nothing has
been opened yet.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

__all__ = ["Served"]


class Served:
    """*source* shown at *point*, with fields of MountOptions, by a process of its own.

    *stuck*: every request for a name that begins with "stuck" waits until :meth:`let_go`, and others in the middle: see
    Stuck, below.  *watched*: what the source is watched by at best: "file system"; "directories", for which CAP_SYS_ADMIN is taken
    from the server once it has mounted; "inotify", for which the system is made to refuse fanotify.  *untold*: for how many seconds
    attributes are believed whose changes nobody may tell, where a test cannot wait for as long as it is.
    *tellers*: how many threads may tell the kernel what it must drop.
    """

    def __init__(
        self,
        source: Path,
        point: Path,
        *,
        stuck: bool = False,
        watched: str = "file system",
        untold: int | None = None,
        tellers: int | None = None,
        **fields: Any,
    ) -> None:
        self.point = point
        what = json.dumps([str(source), str(point), stuck, watched, untold, tellers, fields])
        self._process = subprocess.Popen(
            [sys.executable, __file__, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.pid = self._process.pid
        answer = self._hear()
        assert answer == "ready", answer

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _ask(self, word: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        return self._hear()

    def status(self) -> dict[str, Any]:
        """Return what DevFuseSession.status() says now."""
        found: dict[str, Any] = self._ask("status")
        return found

    def reads(self) -> int:
        """Return how often the kernel has asked for data or brought some."""
        requests = self.status()["requests"]
        return int(requests.get("READ", 0)) + int(requests.get("WRITE", 0))

    def let_go(self) -> None:
        self._ask("let go")

    def stuck_on(self) -> list[str]:
        """Return the names in the middle of whose requests the server waits, or has waited."""
        found: list[str] = self._ask("stuck")
        return found

    def lose_the_watch(self) -> None:
        """Have what the server reads changes from fail the next time."""
        self._ask("lose")

    def end(self) -> int:
        """Unmount, and return the exit status of the server."""
        if self._process.poll() is None and os.path.ismount(self.point):
            umount = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*umount, self.point], check=False)
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            # A test that failed has left something open: what is detached is served until that is closed.
            self._process.kill()
            self._process.communicate()
        return self._process.wait(30)

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.let_go()
        except (OSError, ValueError):
            pass  # it has ended
        self.end()


def lose_admin() -> None:
    """Give up CAP_SYS_ADMIN, for all threads that are made from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        sets[0] &= ~(1 << 21)
        if libc.capset(header, sets) == 0:
            return
    raise OSError(ctypes.get_errno(), "CAP_SYS_ADMIN is still there")


def refuse(**_threads: bool) -> NoReturn:
    """Be the fanotify of a system that has none for this user."""
    raise OSError(errno.EPERM, "not to be had here")


def main() -> None:
    """Be the server: argv tells what, the input what to answer."""
    from xloop.changes import Watch
    from xloop.host import Descriptor, linux_watch
    from xloop.loopback import Loopback
    from xloop.nodes import Node
    from xloop.options import MountOptions
    from xloop.types import Attr, Caller, Entry, HandleId, Ino
    from xloop_backends.devfuse import DevFuse, coherent, tellers

    source, point, stuck, watched, untold, most, fields = json.loads(sys.argv[1])
    free = threading.Event()
    waiting: list[str] = []

    def wait(name: bytes) -> None:
        waiting.append(os.fsdecode(name))
        free.wait()

    class Stuck(Loopback):
        """Waits in lookup for names that begin with "stuck", and in read for data that begins with "slow".

        And where time would have to stand still for a race: for "removed..." between looking at a directory and removing
        it, for "told..." between the decision that attributes hold and the reply that says so.
        """

        def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
            if name.startswith(b"stuck"):
                free.wait()
            return super().lookup(caller, parent, name)

        def read(
            self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int
        ) -> bytes | memoryview:
            data = super().read(caller, ino, handle, offset, size)
            if bytes(data[:4]) == b"slow":
                free.wait()
            return data

        def _victim(self, ref: Descriptor, name: bytes) -> tuple[Node, bool] | None:
            found = super()._victim(ref, name)
            if name.startswith(b"removed"):
                wait(name)
            return found

        def watch(self, own: Container[int]) -> Watch:
            watch = super().watch(own)
            decide = watch.attributes_hold

            def decide_and_wait(token: int, ino: Ino, attr: Attr) -> bool:
                holds = decide(token, ino, attr)
                name = self.nodes[ino].name
                if name.startswith(b"told"):
                    wait(name)
                return holds

            watch.attributes_hold = decide_and_wait  # type: ignore[method-assign]
            return watch

    os.chdir("/")
    os.umask(0)
    if untold is not None:
        coherent._UNTOLD = untold
    if most is not None:
        tellers._MOST = most
    operations = (Stuck if stuck else Loopback)(source, mountpoint=point)
    session = DevFuse().mount(operations, point, MountOptions(**fields))
    if watched == "directories":
        lose_admin()
    elif watched == "inotify":
        linux_watch.fanotify = refuse

    def say(what: object) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    def listen() -> None:
        for line in sys.stdin:
            if line.startswith("let"):
                free.set()
            elif line.startswith("lose"):
                # A directory in its place: reading that is an error.
                fd = os.open("/", os.O_RDONLY)
                os.dup2(fd, operations._watch._source, inheritable=False)  # type: ignore[union-attr]
                os.close(fd)
            say(waiting if line.startswith("stuck") else session.status())

    def ready() -> None:
        threading.Thread(target=listen, daemon=True).start()
        say("ready")

    session.serve(ready)


if __name__ == "__main__":
    main()
