# SPDX-License-Identifier: MIT
"""Flags of open(2) that are not on every system.

Owns their values; 0 where there is no such flag, so that no test of a bit ever holds.
"""

from __future__ import annotations

import os
from typing import Any, Final

_os: Any = os

O_ACCMODE: Final[int] = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
O_DIRECTORY: Final[int] = getattr(_os, "O_DIRECTORY", 0)
O_LARGEFILE: Final[int] = 0x8000
O_NOATIME: Final[int] = getattr(_os, "O_NOATIME", 0)
O_NOCTTY: Final[int] = getattr(_os, "O_NOCTTY", 0)
O_NOFOLLOW: Final[int] = getattr(_os, "O_NOFOLLOW", 0)
O_PATH: Final[int] = getattr(_os, "O_PATH", 0)
O_TMPFILE: Final[int] = getattr(_os, "O_TMPFILE", 0)
