# SPDX-License-Identifier: MIT
"""Serves a source through the macOS adapter, in a process that takes itself for one on macOS.

    FUSE_LIBRARY_PATH=standin.so drive.py BACKEND SOURCE MOUNTPOINT OPTIONS

OPTIONS are as for -o.  Prints JSON: whether the mount was announced, its status, who called, and what the
source's C library was asked for.  Owns the disguise: mfusepy is told that this is Darwin, the loopback
runs on :mod:`darwin_on_linux`, and the table of mounts shows what no kernel has mounted.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any


def main(backend: str, source: str, mountpoint: str, words: str) -> None:
    platform.system = lambda: "Darwin"
    import darwin_on_linux

    import xloop.host

    xloop.host.host, library = darwin_on_linux.make()

    from xloop import mounts
    from xloop.errors import XloopError
    from xloop.host.mounttable import MountEntry
    from xloop.loopback import Loopback
    from xloop.options import parse_options
    from xloop.types import Caller

    callers: set[tuple[int, int, int]] = set()

    class Watched(Loopback):
        def lookup(self, caller: Caller, *args: Any) -> Any:
            callers.add(caller[:3])
            return super().lookup(caller, *args)

    point = os.path.realpath(mountpoint)
    tables = [[], [MountEntry(1, 1, (1, 1), point, "fuse.xloop", source)]]
    mounts.read_table = lambda: tables.pop(0) if len(tables) > 1 else tables[0]  # type: ignore[assignment]

    from xloop_backends.macfuse import FuseT, MacFuse, session

    if "DRIVE_UNSEEN" in os.environ:  # the system never shows the mount
        tables[1:] = [[]]
        session._PATIENCE = 0.2

    made = {"macfuse": MacFuse, "fuse-t": FuseT}[backend]()
    announced = []

    def ready() -> None:
        announced.append(True)
        if "STANDIN_UNTIL" in os.environ:
            open(os.environ["STANDIN_UNTIL"], "w").close()

    try:
        options = parse_options([words])
        made.check_options(options)
        mounted = made.mount(Watched(source), mountpoint, options)
        mounted.serve(ready)
    except XloopError as exc:
        print(json.dumps({"error": type(exc).__name__, "why": exc.why, "fix": exc.fix}))
        return
    calls = [[part.hex() if isinstance(part, bytes) else part for part in c] for c in library.calls]
    result = {"announced": announced, "status": mounted.status(), "calls": calls}
    print(json.dumps(result | {"callers": sorted(callers)}))


main(*sys.argv[1:5])
