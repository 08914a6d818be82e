# SPDX-License-Identifier: MIT
"""Where the system's own logs listen, and sockets to them.

Owns the places, and whether somebody is there.  Does not own what is said: :mod:`xloop.logs`.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

__all__ = ["JOURNAL", "SYSLOG", "check_heard", "datagrams"]

#: Where syslog listens; "" where there is none.
SYSLOG: str
if sys.platform == "win32":
    SYSLOG = ""
elif sys.platform == "darwin":
    SYSLOG = "/var/run/syslog"
elif sys.platform == "linux":
    SYSLOG = "/dev/log"
else:
    SYSLOG = "/var/run/log"

#: Where journald listens; "" where there is none.
JOURNAL = "/run/systemd/journal/socket" if sys.platform == "linux" else ""


def datagrams() -> socket.socket:
    """Return a socket that sends to any path."""
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def check_heard(path: str) -> None:
    """Raise OSError unless somebody listens at *path*."""
    if sys.platform == "win32":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        try:
            with socket.socket(socket.AF_UNIX, kind) as asking:
                asking.connect(path)
            return
        except OSError as exc:
            if exc.errno != errno.EPROTOTYPE:  # the other kind: some syslogs speak in streams
                raise
