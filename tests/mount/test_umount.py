# SPDX-License-Identifier: MIT
"""``xloop umount``."""

from __future__ import annotations

import os
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


# -- unmounting -----------------------------------------------------------------------------


def test_a_busy_mount_stays_and_its_users_are_named(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    user = spot.use(spot.mnt / "file")
    done = spot.run("umount", spot.mnt)
    assert done.returncode == 1
    spot.refused(done, f"{str(spot.mnt)!r} is busy", f"(pid {user.pid}): {spot.mnt}/file", "--lazy")
    assert (spot.mnt / "file").exists()
    user.communicate("")
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_lazy_takes_the_mount_out_of_the_way_and_lets_its_users_finish(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    with open(spot.mnt / "file") as file:
        assert spot.run("umount", "--lazy", spot.mnt).returncode == 0
        assert os.listdir(spot.mnt) == []
        assert file.read() == "content\n"
        assert spot.servers()
    assert spot.alone()


def test_what_is_no_mount_is_named(spot: Spot) -> None:
    cases = {
        "mnt": "is not a mountpoint: nothing is mounted there",
        "missing": "does not exist",
        "source/file": "is not a mountpoint, not even a directory",
        "/proc": "is not a mount of xloop: its type is proc",
    }
    for path, words in cases.items():
        done = spot.run("umount", path)
        assert done.returncode == 1
        spot.refused(done, words)


def test_a_path_inside_a_mount_is_answered_with_its_mountpoint(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    spot.refused(
        spot.run("umount", spot.mnt / "inner"), "it lies inside", f"xloop umount {spot.mnt}"
    )
    assert spot.run("umount", spot.mnt).returncode == 0


def test_several_are_unmounted_and_each_that_is_not_is_named(spot: Spot) -> None:
    other = spot.top / "other"
    other.mkdir()
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert spot.run("mount", spot.source, other).returncode == 0
    done = spot.run("umount", spot.mnt, "missing", other)
    assert done.returncode == 1
    spot.refused(done, "missing' does not exist")
    assert spot.alone()
