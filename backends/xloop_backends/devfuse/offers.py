# SPDX-License-Identifier: MIT
"""What this machine's kernel offers over /dev/fuse, without a mount that anybody sees.

Owns asking it, for ``xloop doctor``.  Does not own what a mount makes of the offer (:mod:`.negotiate`).

A kernel tells its version of the protocol and its features in the first request of a mount, and nowhere
else.  So a process of its own makes one in a mount namespace of its own, in a user namespace where it
is not root's, reads that request and ends; its namespaces, and the mount, end with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from . import abi, device
from .abi import Init

__all__ = ["Offers", "ask", "main"]

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18  # sys/mount.h
#: The kernel refuses to tell anything to a smaller buffer (linux/fuse.h, FUSE_MIN_READ_BUFFER).
_BUFFER = 8192
#: Seconds; the kernel answers at once.
_PATIENCE = 10

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from xloop_backends.devfuse.offers import main; main()"
)


class Offers(NamedTuple):
    """What the kernel said."""

    protocol: tuple[int, int] | None  #: version of FUSE; None: it could not be asked
    passthrough: bool = False  #: to who has CAP_SYS_ADMIN
    why: str = ""  #: why it could not be asked
    #: Why this user may not make a user namespace; "" where that works, None where nobody tried.
    namespaces: str | None = None


def ask() -> Offers:
    """Ask the kernel."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps([p for p in sys.path if p])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        )
        said = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        return Offers(None, why=f"{type(exc).__name__}: {exc}")
    if said["protocol"] is not None:
        said["protocol"] = tuple(said["protocol"])
    return Offers(**said)


def main() -> None:
    """Ask in this process, which is changed for ever by it, and print the answer."""
    print(json.dumps(_ask_here()._asdict()))  # noqa: T201  # the other end is ask()


def _ask_here() -> Offers:
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = None
    if not device.privileged():
        try:
            _own_user_namespace(libc)
        except OSError as exc:
            why = exc.strerror or str(exc)
            return Offers(None, why=f"no user namespace: {why}", namespaces=why)
        namespaces = ""
    try:
        first = _first_request(libc)
    except OSError as exc:
        return Offers(None, why=exc.strerror or str(exc), namespaces=namespaces)
    at = abi.IN_HEADER.size
    major, minor, _readahead, flags = abi.INIT_IN.unpack_from(first, at)
    if flags & Init.INIT_EXT and len(first) >= at + abi.INIT_IN_EXT.size:
        flags |= abi.INIT_IN_EXT.unpack_from(first, at)[4] << 32
    return Offers((major, minor), bool(flags & Init.PASSTHROUGH), namespaces=namespaces)


def _own_user_namespace(libc: Any) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call(libc.unshare, _CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _first_request(libc: Any) -> bytes:
    """Mount in a namespace of this process's own, and return the first request."""
    _call(libc.unshare, _CLONE_NEWNS)
    _call(libc.mount, b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    fd = os.open(device.DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        words = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        point = os.path.dirname(device.DEVICE).encode()
        _call(libc.mount, b"xloop-doctor", point, b"fuse.xloop", ctypes.c_ulong(0), words)
        return os.read(fd, _BUFFER)
    finally:
        os.close(fd)


def _call(function: Any, *arguments: object) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
