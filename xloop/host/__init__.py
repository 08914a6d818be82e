# SPDX-License-Identifier: MIT
"""The operating system, asked for once.

Owns the choice of the platform module.  Does not own what the functions mean
(:mod:`xloop.host.base`) or how one system does them (``linux.py`` and its siblings).
"""

from __future__ import annotations

import sys

from xloop.host.base import Descriptor, Host

__all__ = ["Descriptor", "Host", "host"]

host: Host

if sys.platform == "linux":
    from xloop.host import linux

    host = linux
elif sys.platform == "win32":
    from xloop.host import windows

    host = windows
elif sys.platform == "darwin":
    from xloop.host.darwin import DarwinHost

    host = DarwinHost()
elif sys.platform.startswith("freebsd"):
    from xloop.host.freebsd import FreeBSDHost

    host = FreeBSDHost()
else:
    raise ImportError(
        f"xloop cannot serve directories on {sys.platform}: "
        "only on Linux, macOS, Windows and FreeBSD"
    )
