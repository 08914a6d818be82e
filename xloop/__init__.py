# SPDX-License-Identifier: MIT
"""xloop: a directory shown at another place, by a file system in user space.

Owns the names that programs use, and the version.  Does not own anything else: each name is
imported from its module when it is first used, so that ``import xloop`` costs next to nothing.

    with xloop.mount("/usr", "/tmp/view", read_only=True) as m:
        ...                                   # served from another process

    xloop.serve(MyFileSystem(), "/tmp/view")  # served here, until it is unmounted
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xloop import layers
    from xloop.backend import Availability, Backend, Session
    from xloop.errors import (
        BackendUnavailable,
        MountError,
        OptionError,
        UnmountError,
        XloopError,
        errno_of,
    )
    from xloop.layers import Layer
    from xloop.loopback import Loopback
    from xloop.mounting import Mount, mount
    from xloop.ops import Mutates, Op, Operations, Subject
    from xloop.options import MountOptions, parse_options
    from xloop.serving import serve
    from xloop.types import (
        NOW,
        ROOT_INO,
        Attr,
        Caller,
        DirEntry,
        Entry,
        HandleId,
        Ino,
        LockRange,
        Now,
        Opened,
        SetAttr,
        StatFs,
        TimeOrNow,
    )
    from xloop.unmounting import umount

__version__ = "0.1.0"

__all__ = [
    "NOW",
    "ROOT_INO",
    "Attr",
    "Availability",
    "Backend",
    "BackendUnavailable",
    "Caller",
    "DirEntry",
    "Entry",
    "HandleId",
    "Ino",
    "Layer",
    "LockRange",
    "Loopback",
    "Mount",
    "MountError",
    "MountOptions",
    "Mutates",
    "Now",
    "Op",
    "Opened",
    "Operations",
    "OptionError",
    "Session",
    "SetAttr",
    "StatFs",
    "Subject",
    "TimeOrNow",
    "UnmountError",
    "XloopError",
    "__version__",
    "errno_of",
    "layers",
    "mount",
    "parse_options",
    "serve",
    "umount",
]

_HOMES = {
    "xloop.backend": ("Availability", "Backend", "Session"),
    "xloop.errors": (
        "BackendUnavailable",
        "MountError",
        "OptionError",
        "UnmountError",
        "XloopError",
        "errno_of",
    ),
    "xloop.layers": ("Layer",),
    "xloop.loopback": ("Loopback",),
    # The module is not called xloop.mount: importing it would put the module where the
    # function of that name belongs.  A test holds every module against every export.
    "xloop.mounting": ("Mount", "mount"),
    "xloop.ops": ("Mutates", "Op", "Operations", "Subject"),
    "xloop.options": ("MountOptions", "parse_options"),
    "xloop.serving": ("serve",),
    "xloop.types": (
        "NOW",
        "ROOT_INO",
        "Attr",
        "Caller",
        "DirEntry",
        "Entry",
        "HandleId",
        "Ino",
        "LockRange",
        "Now",
        "Opened",
        "SetAttr",
        "StatFs",
        "TimeOrNow",
    ),
    "xloop.unmounting": ("umount",),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "layers":
        return import_module("xloop.layers")
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(home), name)
            globals()[name] = value  # the next use finds it without coming here
            return value
    raise AttributeError(f"module 'xloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
