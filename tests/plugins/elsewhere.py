# SPDX-License-Identifier: MIT
"""Who else holds a mount: other mount namespaces, with a copy of it that nobody here can unmount.

Owns that question only.  Whoever makes a mount namespace while a test has something mounted (a container, a
sandbox, another test run) gets a copy of the mount, and until it is gone the kernel keeps the file system, and
its server serves.  That is nothing that a test left behind.
"""

from __future__ import annotations

import os
from pathlib import Path


def holders(top: Path) -> list[int]:
    """Return a process of each other mount namespace in which something is mounted below *top*."""
    inside = f" {os.path.realpath(top)}/"
    seen = {_namespace("self")}
    found = []
    for entry in os.listdir("/proc"):
        try:
            if not entry.isdecimal() or _namespace(entry) in seen:
                continue
            if inside in Path(f"/proc/{entry}/mountinfo").read_text():
                seen.add(_namespace(entry))
                found.append(int(entry))
        except OSError:  # it has ended, or is none of ours to look into
            continue
    return found


def _namespace(process: str) -> str:
    return os.readlink(f"/proc/{process}/ns/mnt")
