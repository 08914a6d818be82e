# SPDX-License-Identifier: MIT
"""What the tests of the macOS adapter share.  Owns the record of a mount over the stand-in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """What came of a mount."""

    said: dict[str, Any]
    source: Path
    mountpoint: Path
    before: os.stat_result
    log: dict[str, list[str]] = field(default_factory=dict)


Serve = Callable[..., Served]
