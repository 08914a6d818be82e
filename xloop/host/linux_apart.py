# SPDX-License-Identifier: MIT
"""Linux: a copy of a mount that is nowhere in the tree, for who may not mount: made in a user namespace.

Owns :func:`clone_mount_apart`, and what the other process does for it (:func:`main`).  Does not own the calls
(:mod:`.linux_trees`, :mod:`.namespaces`).

An ordinary user has the right to mount in a user namespace of his own, which a process with more than one thread
cannot enter.  So another one does, makes the copy, hands over what it has opened, and ends.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress

from xloop.host import linux_trees, namespaces, process
from xloop.host.base import Descriptor

__all__ = ["clone_mount_apart", "main"]

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from xloop.host.linux_apart import main; sys.exit(main(sys.argv[2]))"
)
#: Seconds in which the other process does its work, or never will.
_PATIENCE = 20.0
_DONE = b"done"


def clone_mount_apart(path: str) -> Descriptor:
    """As :func:`~xloop.host.linux_trees.clone_mount`, for anybody who may have a user namespace.

    OSError says why not.  EINVAL where something is mounted inside: a user may not uncover what is below.
    """
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, "this system has no mount namespaces")
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError(errno.EOPNOTSUPP, "there is no Python interpreter to start")
    modules = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    words = [process.interpreter(), "-I", "-S", "-c", _BOOT, modules, path]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = process.start_aside(words, theirs.fileno())
        theirs.close()
        ours.settimeout(_PATIENCE)
        try:
            said, roots, _, _ = socket.recv_fds(ours, 1024, 1)
        except BaseException as exc:
            # It holds the other end, so the number is still its own.
            with suppress(OSError):
                process.kill(pid)
            if isinstance(exc, TimeoutError):
                why = f"the process that was to do it has not done so in {_PATIENCE:g} seconds"
                raise OSError(errno.ETIMEDOUT, why) from exc
            raise
        finally:
            process.wait(pid, _PATIENCE)
    if roots:
        return Descriptor(roots[0])
    number, _, why = said.decode().partition(" ")
    raise OSError(int(number or errno.EIO), why or "the process that was to do it has failed")


def main(path: str) -> int:
    """Be the other process: hand over a copy of the mount at *path*, or say why not, on standard input."""
    if sys.platform != "linux":
        return 1
    with socket.socket(fileno=0) as line:
        try:
            namespaces.enter()
            root = linux_trees.clone_mount(os.fsencode(path))
        except OSError as exc:
            line.sendall(f"{exc.errno or errno.EIO} {exc.strerror or exc}".encode())
            return 1
        socket.send_fds(line, [_DONE], [root])
    return 0
