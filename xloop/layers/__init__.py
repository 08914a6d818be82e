# SPDX-License-Identifier: MIT
"""Layers: file systems made by wrapping another one.

Owns :class:`Layer`, from which every layer derives, and the layers that come with xloop.  Does
not own where data comes from: that is what they wrap.
"""

from __future__ import annotations

from xloop.layers.base import Layer
from xloop.layers.readonly import ReadOnly
from xloop.layers.squash import Squash
from xloop.layers.trace import Trace

__all__ = ["Layer", "ReadOnly", "Squash", "Trace"]
