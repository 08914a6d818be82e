# SPDX-License-Identifier: MIT
"""The way to the mount that the relay takes: where it ends, and what of it is only for a moment."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from xloop.host import Descriptor
from xloop.types import Ino
from xloop_backends.devfuse.reach import Reach

A, B, C = Ino(10), Ino(11), Ino(12)


class Named:
    """What Reach asks of a watch: by which name a number was last told."""

    def __init__(self, names: dict[Ino, tuple[Ino, bytes]]) -> None:
        self.name_of = names.get


def reach(watch: Any) -> Reach:
    nothing: Any = None
    return Reach(nothing, watch, "/nowhere", 0, nothing)


def test_names_that_lead_in_a_circle_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after two directories have changed places, and only one of them was looked up since."""
    there = reach(Named({A: (B, b"a"), B: (A, b"b"), C: (B, b"c")}))
    monkeypatch.setattr(there, "_root", Descriptor(os.open("/", os.O_RDONLY)))
    for ino in A, B, C:
        with pytest.raises(OSError, match="Stale") as caught:
            there._walk(ino)
        assert caught.value.errno == errno.ESTALE
