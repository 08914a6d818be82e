# SPDX-License-Identifier: MIT
"""``xloop doctor`` with real mounts: it finds what is dead or hangs, and what it says to type helps."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0


def examine(spot: Spot, *args: object) -> dict[str, Any]:
    """Return what the doctor says to programs; its status must agree."""
    done = spot.run("doctor", "--json", *args)
    assert done.stderr == ""
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if said["ok"] else 1)
    return said


def found(said: dict[str, Any], name: object) -> dict[str, Any]:
    [finding] = [f for f in said["findings"] if f["name"] == str(name)]
    return dict(finding)


def obey(spot: Spot, command: str) -> None:
    """Type what the doctor said."""
    program, *args = shlex.split(command)
    assert program == "xloop"
    done = spot.run(*args)
    assert done.returncode == 0, done.stderr


def test_a_dead_mount_is_found_and_what_it_says_cleans(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    alive = examine(spot)
    assert not [f for f in alive["findings"] if f["name"] == str(spot.mnt)]
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    dead = examine(spot)
    assert dead["ok"] is False
    finding = found(dead, spot.mnt)
    assert finding["why"].startswith("dead (Transport endpoint is not connected): ")
    assert finding["wrong"]
    [command] = finding["commands"]
    obey(spot, command)
    assert spot.mounted() is None


def test_one_mount_is_told_all_about(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    user = spot.use(spot.mnt / "file")
    said = examine(spot, "mnt")
    assert said["ok"] is True
    assert said["mountpoint"] == str(spot.mnt)
    assert f"fuse.xloop of {str(spot.source)!r}" in found(said, "mounted")["detail"]
    assert found(said, "answers")["detail"] == "yes"
    assert f"(pid {server})" in found(said, "server")["detail"]
    assert f"(pid {user.pid}): {spot.mnt}/file" in found(said, "used by")["detail"]
    user.communicate("")
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    said = examine(spot, spot.mnt)
    assert said["ok"] is False
    assert found(said, "server")["detail"] == "none any more"
    [command] = found(said, "answers")["commands"]
    obey(spot, command)
    assert spot.mounted() is None
    done = spot.run("doctor", spot.mnt)
    assert done.returncode == 1
    assert done.stdout == (
        f"{spot.mnt}\n"
        "mounted  no: it is not a mountpoint: nothing is mounted there\n"
        f"           To mount there: xloop mount SOURCE {spot.mnt}\n"
    )


def test_a_mount_that_hangs_is_named_with_its_server(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    os.kill(server, signal.SIGSTOP)
    try:
        said = examine(spot, spot.mnt)
    finally:
        os.kill(server, signal.SIGCONT)
    assert said["ok"] is False
    assert found(said, "answers")["why"] == "hangs: it did not answer for 5 seconds"
    assert found(said, "server")["commands"] == [f"kill -CONT {server}"]
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_the_kernel_is_asked_without_a_mount_that_anybody_sees(spot: Spot) -> None:
    detail = found(examine(spot), "kernel")["detail"]
    assert f"Linux {os.uname().release}" in detail
    assert ", FUSE 7." in detail or "cannot be asked" in detail
    if ROOT:
        assert ", FUSE 7." in detail
    assert "xloop-doctor" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.skipif(not ROOT, reason="needs root: it looks at the mount of somebody else")
def test_root_is_told_that_the_mount_of_a_user_is_dead(spot: Spot) -> None:
    for path in (spot.top, spot.source, spot.mnt):
        path.chmod(0o755)
        os.chown(path, 65534, 65534)
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    words = [*drop, sys.executable, "-m", "xloop", "mount", str(spot.source), str(spot.mnt)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/")
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount: {done.stderr.splitlines()[-1]}")
    server = spot.server()
    assert found(examine(spot, spot.mnt), "mounted")["detail"].endswith(", by user 65534")
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    finding = found(examine(spot), spot.mnt)
    assert finding["why"].startswith("dead")
    [command] = finding["commands"]
    obey(spot, command.removeprefix("sudo "))
    assert spot.mounted() is None
