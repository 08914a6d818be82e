# SPDX-License-Identifier: MIT
"""Backends that cannot tell their kernel what changed refuse cache=coherent and events=relay, with the reason."""

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
    "macfuse": (partial(macfuse.check_options, "macfuse"), "tells this kernel of a name"),
    "fuse-t": (partial(macfuse.check_options, "fuse-t"), "tells this kernel of a name"),
    "winfsp": (winfsp.check_options, "keeps attributes and listings of what is open only"),
}
#: Nor does any of them relay events.
RELAYING = {
    "libfuse3": "libfuse keeps names of its own",
    "libfuse2": "libfuse keeps names of its own",
    "macfuse": "heard of on Linux only",
    "fuse-t": "heard of on Linux only",
    "winfsp": "names in upper case",
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
def test_relaying_is_refused_with_the_reason(name: str) -> None:
    check, _ = CHECKS[name]
    with pytest.raises(OptionError) as refusal:
        check(MountOptions(events="relay"))
    said = str(refusal.value)
    assert said.startswith(f"{name} cannot honour events=relay")
    assert RELAYING[name] in said
    check(MountOptions(events="auto"))


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("mode", ["auto", "timeout", "none"])
def test_the_other_modes_are_taken(name: str, mode: str) -> None:
    CHECKS[name][0](MountOptions(cache=mode))
