# SPDX-License-Identifier: MIT
"""The relay itself: where there is none, and what it says when something keeps it from relaying."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources.watching import Changing
from xloop.errors import OptionError
from xloop.options import MountOptions

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.mount

Show = Callable[..., Changing]


@pytest.fixture
def show(changing: Show) -> Show:
    return changing


def may_let_in_others() -> bool:
    try:
        return "user_allow_other" in Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"allow_other": True, "default_permissions": False}, "nodefault_permissions"),
        ({"allow_root": True}, "allow_root"),
    ],
)
def test_where_anybody_could_listen_nothing_is_relayed(
    fields: dict[str, Any], word: str, show: Show
) -> None:
    with pytest.raises(OptionError, match=word):
        MountOptions(events="relay", **fields)
    if not ROOT and not may_let_in_others():
        pytest.skip("a user may let in others only where /etc/fuse.conf says user_allow_other")
    shown = show(events="auto", cache="coherent", **fields)
    status = shown.status()
    assert status["cache"]["mode"] == "coherent"
    assert status["events"]["mode"] == "off"
    assert word in status["events"]["not to be had"]
