# SPDX-License-Identifier: MIT
"""The backend "libfuse2": libfuse 2 and no other.  Owns nothing but the name."""

from __future__ import annotations

from . import Libfuse2

__all__ = ["backend"]

backend = Libfuse2
