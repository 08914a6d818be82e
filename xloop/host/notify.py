# SPDX-License-Identifier: MIT
"""Telling the service manager how it goes: sd_notify(3), for units with ``Type=notify``.

Owns the protocol, one datagram to the socket that the environment names.  Does not own what is told when:
that is ``xloop mount --foreground``.
"""

from __future__ import annotations

import os
import sys

__all__ = ["notify"]


def notify(*assignments: str) -> bool:
    """Send *assignments* such as ``READY=1``; tell whether somebody was there to be told.

    A manager that does not listen is no reason to fail: the mount works without it.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if sys.platform == "win32" or not name.startswith(("/", "@")):
        return False  # not started by a manager, or it is beyond a virtual machine (vsock:)
    import socket  # here: most mounts are started by nobody who wants to know

    # "@": an abstract name, which for the kernel begins with a NUL.
    address = "\0" + name[1:] if name.startswith("@") else name
    # A newline ends an assignment, and a path may hold one.
    message = "\n".join(text.replace("\n", " ") for text in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode("utf-8", "surrogateescape"), address)
    except OSError:
        return False
    return True
