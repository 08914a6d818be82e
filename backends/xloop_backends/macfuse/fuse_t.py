# SPDX-License-Identifier: MIT
"""The backend "fuse-t": FUSE-T and no other library.  Owns nothing but the name."""

from __future__ import annotations

from . import FuseT

__all__ = ["backend"]

backend = FuseT
