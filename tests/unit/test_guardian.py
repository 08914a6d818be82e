# SPDX-License-Identifier: MIT
"""Where no guardian can be had, and that a mount asks for one only where it is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from xloop import MountError, MountOptions, OptionError, guardian, parse_options
from xloop.host import mounttable, process

pytestmark = pytest.mark.skipif(not process.CAN_FORK, reason="mounts end with their server here")


def refused(why: str) -> Any:
    return pytest.raises(MountError, match=f"^auto_unmount is not to be had: {why}")


def test_without_a_mount_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> list[Any]:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(mounttable, "read", gone)
    with refused(r"the mount table cannot be read \(No such file or directory\)\nmount /proc, or"):
        guardian.Guardian("/mnt", "xloop")


def test_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with refused("there is no Python interpreter to start\nleave out auto_unmount"):
        guardian.Guardian("/mnt", "xloop")


@pytest.mark.skipif(sys.platform != "linux", reason="looks through /proc")
def test_with_a_program_that_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(guardian, "_SHELL", str(tmp_path))
    with refused(f"{str(tmp_path)!r} cannot be started: Permission denied"):
        guardian.Guardian("/mnt", "xloop")
    assert os.listdir("/proc/self/fd") == before


def test_it_is_asked_for_by_the_word_that_libfuse_has() -> None:
    assert not MountOptions().auto_unmount
    assert parse_options(["auto_unmount"]).auto_unmount


def test_libfuse_refuses_it_where_nobody_has_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from xloop_backends.libfuse import mounting

    mounting.check_options("libfuse", MountOptions(auto_unmount=True))
    monkeypatch.setattr(mounting, "system", lambda: "freebsd")
    with pytest.raises(OptionError) as refusal:
        mounting.check_options("libfuse", MountOptions(auto_unmount=True))
    assert str(refusal.value) == (
        "libfuse cannot honour auto_unmount: on freebsd nobody has tried it yet\n"
        "leave out auto_unmount"
    )


def test_macos_refuses_it() -> None:
    from xloop_backends.macfuse import mounting

    with pytest.raises(OptionError) as refusal:
        mounting.check_options("macfuse", MountOptions(auto_unmount=True))
    assert str(refusal.value) == (
        "macfuse cannot honour auto_unmount\nnobody has tried it on a Mac yet: leave it out"
    )


def test_on_windows_there_is_nothing_to_refuse() -> None:
    from xloop_backends.winfsp import options

    options.check_options(MountOptions(auto_unmount=True))
