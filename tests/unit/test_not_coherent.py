# SPDX-License-Identifier: MIT
"""Backends that cannot tell their kernel what changed refuse cache=coherent, with the reason; auto is the timeouts there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from xloop.errors import OptionError
from xloop.options import MountOptions
from xloop_backends.libfuse import mounting as libfuse
from xloop_backends.macfuse import mounting as macfuse
from xloop_backends.winfsp import options as winfsp

Check = Callable[[MountOptions], None]

CHECKS: dict[str, tuple[Check, str]] = {
    "libfuse3": (partial(libfuse.check_options, "libfuse3"), "tells the kernel of a name"),
    "libfuse2": (partial(libfuse.check_options, "libfuse2"), "tells the kernel of a name"),
    "macfuse": (partial(macfuse.check_options, "macfuse"), "heard of on Linux only"),
    "fuse-t": (partial(macfuse.check_options, "fuse-t"), "heard of on Linux only"),
    "winfsp": (winfsp.check_options, "heard of on Linux only"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_coherent_is_refused_with_the_reason(name: str) -> None:
    check, reason = CHECKS[name]
    with pytest.raises(OptionError) as refusal:
        check(MountOptions(cache="coherent"))
    said = str(refusal.value)
    assert said.startswith(f"{name} cannot honour cache=coherent")
    assert reason in said
    assert "leave" in refusal.value.fix


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("mode", ["auto", "timeout", "none"])
def test_the_other_modes_are_taken(name: str, mode: str) -> None:
    CHECKS[name][0](MountOptions(cache=mode))
