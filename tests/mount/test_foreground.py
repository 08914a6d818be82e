# SPDX-License-Identifier: MIT
"""Commands that are interrupted, servers that fail, and ``xloop mount --foreground``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


# -- a server that does not make it ---------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "word"),
    [
        ("not-mounting", "no hands"),
        ("raising", "out of luck"),
        ("dying", "ended with status 3"),
        ("killed", "SIGKILL"),
    ],
)
def test_a_server_that_fails_leaves_nothing(
    backend: str, word: str, spot: Spot, flags: Flags
) -> None:
    done = spot.run("mount", "--backend", backend, spot.source, spot.mnt)
    assert done.returncode == 1
    assert word in done.stderr.splitlines()[-1]
    assert spot.alone()


@pytest.mark.parametrize("stage", ["mount", "serve"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_ends_before_the_mount_is_there_leaves_nothing(
    stage: str, number: signal.Signals, spot: Spot, flags: Flags
) -> None:
    command = spot.start("mount", "--backend", f"slow-to-{stage}", spot.source, spot.mnt)
    assert flags.reached(stage)
    command.send_signal(number)
    if number == signal.SIGKILL:
        command.wait(60)
    flags.set(stage)
    assert command.wait(60) != 0
    assert spot.alone()


# -- the foreground -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts(number: signal.Signals, spot: Spot) -> None:
    server = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    server.send_signal(number)
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")
    assert spot.alone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_mounting_leaves_nothing(
    number: signal.Signals, spot: Spot, flags: Flags
) -> None:
    server = spot.start("mount", "-f", "--backend", "slow-to-mount", spot.source, spot.mnt)
    assert flags.reached("mount")
    server.send_signal(number)
    flags.set("mount")
    server.communicate(timeout=60)
    assert server.returncode == 0
    assert spot.alone()


@pytest.mark.parametrize("stage", ["serve", "agree"])
def test_a_signal_before_the_kernel_has_its_first_answer_is_a_clean_end(
    stage: str, spot: Spot, flags: Flags
) -> None:
    server = spot.start("mount", "-f", "--backend", f"slow-to-{stage}", spot.source, spot.mnt)
    assert flags.reached(stage)
    server.send_signal(signal.SIGTERM)
    assert spot.unmounted()
    flags.set(stage)
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")
    assert spot.alone()


def test_what_nohup_ignores_stays_ignored(spot: Spot) -> None:
    ignore = "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-m", "xloop", "mount", "-f", spot.source, spot.mnt]
    server = spot.start_python("-c", ignore, *words)
    assert spot.answers()
    server.send_signal(signal.SIGHUP)
    assert (spot.mnt / "file").exists()
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


def test_a_foreground_server_ends_when_it_is_unmounted_from_outside(spot: Spot) -> None:
    server = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    assert spot.run("umount", spot.mnt).returncode == 0
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")


def test_a_busy_mount_is_detached_and_served_until_its_last_user_is_gone(spot: Spot) -> None:
    server = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    user = spot.use(spot.mnt / "inner" / ".." / "file")
    server.send_signal(signal.SIGTERM)
    line = server.stderr.readline()
    assert "is busy" in line
    assert f"(pid {user.pid})" in line
    assert "until its last user is gone" in line
    assert spot.mounted() is None
    assert server.poll() is None
    user.communicate("")
    assert server.wait(60) == 0
    assert spot.alone()


def test_a_second_signal_cuts_a_busy_mount_off(spot: Spot) -> None:
    server = spot.start("mount", "-f", "-o", "nopassthrough", spot.source, spot.mnt)
    assert spot.answers()
    program = (
        "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); print('open', flush=True)\n"
        "sys.stdin.read()\n"
        "try:\n os.pwrite(f, b'x', 0)\nexcept OSError as e:\n print(e.strerror)\n"
    )
    user = spot.start_python("-c", program, spot.mnt / "file")
    assert user.stdout.readline() == "open\n"
    server.send_signal(signal.SIGINT)
    assert "until its last user is gone" in server.stderr.readline()
    while server.poll() is None:  # an echo of the first signal does not count as a second
        server.send_signal(signal.SIGINT)
        signal.sigtimedwait([], 0.1)
    assert "cut off" in server.stderr.read()
    out, _ = user.communicate("")
    assert out in ("Transport endpoint is not connected\n", "Software caused connection abort\n")
    assert spot.alone()


def test_signals_to_a_process_and_its_group_are_one(spot: Spot) -> None:
    """timeout(1) sends both."""
    server = spot.start("mount", "-f", spot.source, spot.mnt, start_new_session=True)
    assert spot.answers()
    user = spot.use(spot.mnt / "file")
    server.send_signal(signal.SIGTERM)
    os.killpg(server.pid, signal.SIGTERM)
    assert "until its last user is gone" in server.stderr.readline()
    user.communicate("")
    assert server.wait(60) == 0
    assert "cut off" not in server.stderr.read()


def test_a_signal_to_the_server_in_the_background_unmounts(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    os.kill(spot.server(), signal.SIGTERM)
    assert spot.alone()
