# SPDX-License-Identifier: MIT
"""Mounts of xloop under a systemd of the test's own: units, automounts, readiness; and sd_notify(3) alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import SystemdMachine, unified  # tests/plugins: conftest.py has put that into the path

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
EXAMPLES = Path(__file__).parents[2] / "docs" / "systemd"


def eventually(holds: Callable[[], Any]) -> bool:
    """Wait until *holds*; False when that never happens."""
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# -- readiness ------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_a_manager_is_told_when_the_mount_is_ready_and_when_it_ends(
    abstract: bool, spot: Spot
) -> None:
    path = str(spot.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path if abstract else path)
        manager.settimeout(30)
        name = "@" + path if abstract else path
        environment = {**os.environ, "NOTIFY_SOCKET": name}
        command = spot.start("mount", "-f", spot.source, spot.mnt, env=environment)
        ready, status = manager.recv(4096).decode().split("\n")
        assert ready == "READY=1"
        assert status == f"STATUS={spot.source} is mounted at {spot.mnt} by devfuse"
        assert (spot.mnt / "file").read_text() == "content\n"
        assert spot.run("umount", spot.mnt).returncode == 0
        assert manager.recv(4096) == b"STOPPING=1"
        assert command.wait(30) == 0


def test_a_signal_is_told_before_the_end_and_only_once(spot: Spot) -> None:
    path = str(spot.top / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": path}
        command = spot.start("mount", "-f", spot.source, spot.mnt, env=environment)
        assert manager.recv(4096).startswith(b"READY=1\n")
        user = spot.use(spot.mnt / "file")
        command.terminate()
        assert manager.recv(4096) == b"STOPPING=1"
        assert command.poll() is None  # detached, and served until its last user is gone
        user.communicate()
        assert command.wait(30) == 0
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "vsock:2:1234"])
def test_a_manager_that_does_not_listen_stops_no_mount(name: str, spot: Spot) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": name}
    command = spot.start("mount", "-f", spot.source, spot.mnt, env=environment)
    assert spot.answers()
    command.terminate()
    assert command.wait(30) == 0
    assert spot.alone()


# -- the examples ---------------------------------------------------------------------------


def example(name: str, spot: Spot) -> str:
    """Return an example of the documentation with the paths of this test."""
    text = (EXAMPLES / name).read_text()
    for theirs, ours in (
        ("/opt/xloop/bin/xloop", f"{sys.executable} -m xloop"),
        ("/srv/data", spot.source),
        ("/srv/view", spot.mnt),
    ):
        text = text.replace(theirs, str(ours))
    return text


def unit_name(path: Path, suffix: str) -> str:
    """Return the name of the unit for the mount at *path*."""
    words = ["systemd-escape", "--path", f"--suffix={suffix}", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_examples_are_units_that_systemd_understands(spot: Spot, tmp_path: Path) -> None:
    names = []
    for path in sorted(EXAMPLES.iterdir()):
        name = path.name
        if path.suffix in (".mount", ".automount"):
            name = unit_name(spot.mnt, path.suffix[1:])
        (tmp_path / name).write_text(example(path.name, spot))
        names.append(str(tmp_path / name))
    assert len(names) == 4
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60)
    said = [line for line in result.stderr.splitlines() if str(tmp_path) in line]
    assert (result.returncode, said) == (0, []), result.stderr


# -- a systemd that runs --------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[SystemdMachine]:
    if not ROOT:
        pytest.skip("needs root: it starts a systemd")
    if not os.path.exists("/lib/systemd/systemd"):
        pytest.skip("there is no systemd")
    groups = unified()
    if groups is None:
        pytest.skip("no control groups can be made here: there is no cgroup2 to be written to")
    with SystemdMachine(groups / f"xloop-test-{os.getpid()}").running() as machine:
        state = ["systemctl", "is-system-running"]
        assert eventually(lambda: machine.run(*state).stdout == "running\n")
        yield machine


@pytest.fixture
def machine(running: SystemdMachine, spot: Spot) -> Iterator[SystemdMachine]:
    with running.works_below(spot.top):
        yield running
        running.run("systemctl", "reset-failed")


def load(machine: SystemdMachine, spot: Spot, **units: str) -> None:
    """Have systemd load units, from the names of examples."""
    for name, unit in units.items():
        text = example(name.replace("__", "."), spot)
        machine.write(f"/etc/systemd/system/{unit}", text)
    machine.run("systemctl", "daemon-reload", check=True)


def test_a_mount_unit(machine: SystemdMachine, spot: Spot) -> None:
    unit = unit_name(spot.mnt, "mount")
    load(machine, spot, **{"srv-view__mount": unit})
    started = machine.run("systemctl", "start", unit)
    assert started.returncode == 0, started.stderr
    (entry,) = machine.mounted()
    assert (entry.mountpoint, entry.source) == (str(spot.mnt), str(spot.source))
    assert machine.show(unit, "ActiveState") == "active"
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    assert machine.run("systemctl", "stop", unit).returncode == 0
    assert machine.mounted() == []
    assert machine.show(unit, "Result") == "success"
    assert spot.alone()


def test_a_mount_unit_that_fails_says_so(machine: SystemdMachine, spot: Spot) -> None:
    unit = unit_name(spot.mnt, "mount")
    load(machine, spot, **{"srv-view__mount": unit})
    shutil.rmtree(spot.source)
    assert machine.run("systemctl", "start", unit).returncode != 0
    assert machine.show(unit, "Result") == "exit-code"
    assert machine.show(unit, "ExecMount").count("status=32") == 1
    assert machine.mounted() == []


def test_a_line_of_fstab_is_mounted_when_it_is_used_and_unmounted_when_it_is_not(
    machine: SystemdMachine, spot: Spot
) -> None:
    if "\tautofs\n" not in Path("/proc/filesystems").read_text() or not os.path.exists(
        "/dev/autofs"
    ):
        pytest.skip("the kernel has no autofs, which automounts of systemd are made of")
    words = "noauto,nofail,_netdev,allow_other,x-systemd.automount,x-systemd.idle-timeout=1s"
    machine.write("/etc/fstab", f"{spot.source} {spot.mnt} xloop {words} 0 0\n")
    machine.run("systemctl", "daemon-reload", check=True)
    unit = unit_name(spot.mnt, "automount")
    started = machine.run("systemctl", "start", unit)
    assert started.returncode == 0, started.stderr
    assert [entry.fstype for entry in machine.mounted()] == ["autofs"]
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    assert [entry.fstype for entry in machine.mounted()] == ["autofs", "fuse.xloop"]
    # Nobody uses it any more: systemd unmounts it, and mounts it again when it is wanted.
    assert eventually(lambda: len(machine.mounted()) == 1)
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    assert machine.run("systemctl", "stop", unit).returncode == 0
    assert machine.mounted() == []
    assert spot.alone()


def test_a_service_is_started_when_its_mount_answers(machine: SystemdMachine, spot: Spot) -> None:
    load(machine, spot, **{"xloop-view__service": "xloop-view.service"})
    started = machine.run("systemctl", "start", "xloop-view")
    assert started.returncode == 0, started.stderr
    assert [entry.mountpoint for entry in machine.mounted()] == [str(spot.mnt)]
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    said = machine.show("xloop-view", "StatusText")
    assert said == f"{spot.source} is mounted at {spot.mnt} by devfuse"
    assert machine.run("systemctl", "stop", "xloop-view").returncode == 0
    assert machine.show("xloop-view", "Result") == "success"
    assert machine.mounted() == []
    # Unmounted by somebody else, it has ended well too.
    assert machine.run("systemctl", "start", "xloop-view").returncode == 0
    assert machine.run("umount", spot.mnt).returncode == 0
    assert eventually(lambda: machine.show("xloop-view", "ActiveState") == "inactive")
    assert machine.show("xloop-view", "Result") == "success"
    with contextlib.suppress(OSError):
        shutil.rmtree(spot.source)
    # And where there is nothing to be shown, the start fails, and says why.
    failed = machine.run("systemctl", "start", "xloop-view")
    assert failed.returncode != 0
    assert machine.show("xloop-view", "ExecMainStatus") == "1"
    assert spot.alone()
