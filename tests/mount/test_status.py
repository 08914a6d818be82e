# SPDX-License-Identifier: MIT
"""``xloop status``."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import pytest

from xloop import registry

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount


def status(spot: Spot) -> dict[str, Any]:
    done = spot.run("status", "--json", spot.mnt)
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_a_server_holds_and_has_done_is_told(spot: Spot) -> None:
    names = [spot.source / f"n{number}" for number in range(40)]
    for name in names:
        name.touch()
    options = "allow_other,attr_timeout=7" if os.geteuid() == 0 else "attr_timeout=7"
    assert spot.run("mount", "-o", options, spot.source, spot.mnt).returncode == 0
    before = status(spot)
    assert (before["source"], before["mountpoint"]) == (str(spot.source), str(spot.mnt))
    assert before["options"] == options
    assert before["pid"] == spot.server()
    assert before["mounted"] is True
    assert before["layers"] == ["Loopback"]
    assert before["caches"]["attributes"] == 7
    assert before["process"]["threads"] > 1
    assert before["process"]["descriptors"] < before["process"]["descriptor limit"]
    for name in names:
        os.stat(spot.mnt / name.name)
    with open(spot.mnt / "file"):
        after = status(spot)
    assert after["file_system"]["nodes"] >= before["file_system"]["nodes"] + 40
    assert after["file_system"]["open files and directories"] == 1
    lookups = after["session"]["requests"]["LOOKUP"] - before["session"]["requests"].get(
        "LOOKUP", 0
    )
    assert lookups >= 40
    assert after["served"] == sum(after["session"]["requests"].values())
    # One in 31 of a thread is timed.
    times = after["session"]["latencies"]["LOOKUP"]
    assert times["timed"] >= 1
    assert 0 < times["mean"] <= times["most"]
    assert times["median"] <= times["99%"] <= times["most"]
    assert spot.run("umount", spot.mnt).returncode == 0


def test_what_the_kernel_granted_and_refused_is_told_with_reasons(spot: Spot) -> None:
    assert spot.run("mount", "-o", "nopassthrough", spot.source, spot.mnt).returncode == 0
    done = spot.run("status", spot.mnt)
    assert done.returncode == 0
    assert done.stdout.startswith(
        f"{spot.source} at {spot.mnt}\n  backend: devfuse, type fuse.xloop\n"
    )
    head, _, refused = done.stdout.partition("\nrefused:\n")
    assert "  PASSTHROUGH: switched off by option\n" in refused
    assert "\ngranted:\n" in head
    assert re.search(r"^  ASYNC_READ: several reads of one file at a time$", head, re.MULTILINE)
    assert re.search(r"^requests: \d+\n +number +mean +median +99% +most\n", refused, re.MULTILINE)
    assert "  options: nopassthrough\n" in head
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize("backend", ["libfuse3", "libfuse2"])
def test_other_backends_count_the_calls_of_their_library(backend: str, spot: Spot) -> None:
    state = registry.load(backend).probe()
    if not state.ok:
        pytest.skip(f"{backend}: {state.why}")
    assert spot.run("mount", "--backend", backend, spot.source, spot.mnt).returncode == 0
    for _ in range(100):
        os.listdir(spot.mnt)
    told = status(spot)
    assert told["backend"] == backend
    assert told["session"]["requests"]["readdir"] >= 100
    assert told["session"]["latencies"]["readdir"]["timed"] >= 3
    assert told["served"] >= 300
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_what_cannot_be_asked_is_named(spot: Spot) -> None:
    spot.refused(
        spot.run("status", spot.mnt), "is not a mountpoint: nothing is mounted there", "xloop list"
    )
    spot.refused(spot.run("status", "missing"), "does not exist", "xloop list")
    spot.refused(spot.run("status", "/proc"), "'/proc' is not a mount of xloop: its type is proc")
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    spot.refused(
        spot.run("status", spot.mnt / "inner"), "is not a mountpoint", f"xloop status {spot.mnt}"
    )
    done = spot.run("status", spot.source)
    spot.refused(done, f"it is shown at {str(spot.mnt)!r}: xloop status {spot.mnt}")
    pid = spot.server()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = spot.run("status", spot.mnt)
        spot.refused(done, f"its server, process {pid}, does not answer", "--lazy")
    finally:
        os.kill(pid, signal.SIGKILL)
    done = spot.run("status", spot.mnt)
    spot.refused(done, "is a dead mount", "server ended without unmounting", "xloop umount")
    assert spot.run("umount", spot.mnt).returncode == 0


def test_a_mount_of_another_subtype_is_found_by_its_record(spot: Spot) -> None:
    assert spot.run("mount", "-o", "subtype=view", spot.source, spot.mnt).returncode == 0
    assert status(spot)["fstype"] == "fuse.view"
    assert spot.run("umount", "--subtype", "view", spot.mnt).returncode == 0
