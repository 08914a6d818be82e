# SPDX-License-Identifier: MIT
"""Where the benchmark works, and on what machine.

Owns the choice of a directory, whether there is room in it, and the facts that a reader of the
figures needs.  Does not own what is done there.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from xloop import mounts
from xloop.errors import XloopError
from xloop.preflight import check_source

__all__ = ["Place", "choose_place", "load", "machine", "make_directory"]

#: Where Linux has a tmpfs for everybody.
SHARED_MEMORY = "/dev/shm"

_MIB = 1 << 20


class Place(NamedTuple):
    """A directory that measurements are made in."""

    path: str
    fstype: str
    remarks: tuple[str, ...]  #: what a reader of the figures should think of


def choose_place(source: str | None, wanted: int) -> Place:
    """Return the directory *source*; or if that is None a tmpfs, else the temporary directory.

    *wanted*: bytes that there must be room for.  XloopError: no directory, or not usable.
    """
    if source is not None:
        path = check_source(source)
        if not os.access(path, os.W_OK):
            raise XloopError(f"source {source!r} may not be written by this user")
        _check_room(path, wanted)
        return _known(path, ())
    here = SHARED_MEMORY
    if _fstype(here) != "tmpfs" or not os.access(here, os.W_OK | os.X_OK):
        why = f"there is no tmpfs at {here} for this user"
    elif _free(here) < wanted:
        why = f"{here} has {_free(here) // _MIB} MiB left, and {wanted // _MIB} are needed"
    else:
        return _known(here, ())
    path = check_source(tempfile.gettempdir())
    _check_room(path, wanted)
    return _known(path, (f"{why}: measured in {path}",))


def _known(path: str, remarks: tuple[str, ...]) -> Place:
    fstype = _fstype(path)
    if fstype.startswith("ext"):
        remarks += (
            f"{path} is on {fstype}, which goes around the inodes that were deleted last when it makes"
            " a file: creating looks slow on all; metadata is better measured on a tmpfs",
        )
    elif fstype != "tmpfs":
        remarks += (
            f"{path} is on {fstype}: what its disk or its server does is measured along;"
            " metadata is better measured on a tmpfs",
        )
    return Place(path, fstype, remarks)


def _fstype(path: str) -> str:
    entry = mounts.containing(mounts.read_table(), path)
    return "unknown" if entry is None else entry.fstype


def _free(path: str) -> int:
    return shutil.disk_usage(path).free


def _check_room(path: str, wanted: int) -> None:
    if _free(path) < wanted:
        raise XloopError(
            f"{path!r} has {_free(path) // _MIB} MiB left, and the benchmark needs {wanted // _MIB}",
            "give another SOURCE, measure less (--quick, --only), or against less (--against)",
        )


def make_directory(place: Place) -> Path:
    """Make a directory of our own there, that nobody else may enter."""
    try:
        return Path(tempfile.mkdtemp(prefix="xloop-bench-", dir=place.path))
    except OSError as exc:
        raise XloopError(
            f"source {place.path!r}: no directory can be made there: {exc.strerror}"
        ) from exc


def load() -> float | None:
    """Return how many processes wanted a CPU in the last minute; None where nobody counts."""
    if not hasattr(os, "getloadavg"):
        return None
    try:
        return float(os.getloadavg()[0])
    except OSError:
        return None


def machine(cpus: int) -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": cpus,
        "memory_mib": _memory(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "user": "root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "ordinary",
    }


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
