# SPDX-License-Identifier: MIT
"""mount(2) of Linux: the flags that options become, and changing those of a mount that is there.

Owns the numbers, and the call with MS_REMOUNT.  Does not own making a mount: that is a backend's.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

from xloop.host.mounttable import MountEntry
from xloop.options import MountOptions

__all__ = ["CALLS_HELPERS", "flags_of", "options_of", "remount", "restrict", "words_of"]

#: Whether mount(8) is util-linux's, which looks for /sbin/mount.TYPE.
CALLS_HELPERS: Final = sys.platform == "linux"

_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096

#: Flags by their words, as mount(8) and the kernel's tables spell them.  sys/mount.h
_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}


def words_of(options: MountOptions) -> list[str]:
    """Return the words of *options* that are flags of mount(2)."""
    choices = (
        (options.read_only, "ro"),
        (not options.suid, "nosuid"),
        (not options.dev, "nodev"),
        (not options.exec, "noexec"),
        (options.sync, "sync"),
        (options.dirsync, "dirsync"),
        (not options.symfollow, "nosymfollow"),
        (options.nodiratime, "nodiratime"),
    )
    words = [word for wanted, word in choices if wanted]
    return words if options.atime is None else [*words, options.atime]


def flags_of(options: MountOptions) -> int:
    """Return the flags of mount(2) that *options* ask for."""
    return sum(_FLAGS[word] for word in words_of(options))


def remount(path: str, options: MountOptions) -> None:
    """Give the topmost mount at *path* the flags that *options* ask for, and take all others from it.

    Where no option says when access times move, that stays as it is.  EBUSY: it shall become read-only, and
    files are open for writing.
    """
    _remount(path, flags_of(options))


def restrict(path: str, options: MountOptions) -> None:
    """Do the same to this mount alone, and not to the file system, of which there may be other mounts."""
    _remount(path, _MS_BIND | flags_of(options))


def _remount(path: str, flags: int) -> None:
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "remounting is not supported here")
    import ctypes  # here: what only reads the flags need not pay for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(_MS_REMOUNT | flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def options_of(entry: MountEntry) -> set[str]:
    """Return the options of a mount as /proc/self/mountinfo shows them, its own and its file system's.

    Empty where it is not there any more.
    """
    with open("/proc/self/mountinfo", "rb", buffering=0) as file:
        for line in file.read().split(b"\n"):
            before, _, after = line.partition(b" - ")
            fields, kind = before.split(b" "), after.split(b" ")
            if fields[0] == b"%d" % entry.id and len(kind) > 2:
                return {
                    word.decode("ascii", "replace")
                    for word in (fields[5] + b"," + kind[2]).split(b",")
                }
    return set()
