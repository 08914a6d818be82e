# SPDX-License-Identifier: MIT
"""The backend "libfuse3": libfuse 3 and no other.  Owns nothing but the name."""

from __future__ import annotations

from . import Libfuse3

__all__ = ["backend"]

backend = Libfuse3
