# SPDX-License-Identifier: MIT
"""SIGUSR1 has a server tell its status; SIGTERM and SIGINT tell who keeps it from ending."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def masks(task: Path) -> dict[str, int]:
    """Return the signal masks of a process or a thread, by the names that proc(5) has for them."""
    text = (task / "status").read_text()
    return {
        name: int(mask, 16) for name, mask in re.findall(r"^(\w+):\t([0-9a-f]{16})$", text, re.M)
    }


_USR1 = 1 << (signal.SIGUSR1 - 1)


def send(pid: int) -> None:
    """Send SIGUSR1, and return when it has been taken."""
    os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: not masks(Path(f"/proc/{pid}"))["ShdPnd"] & _USR1)


def full_pipe() -> tuple[int, int]:
    """Return the ends of a pipe, and who writes to it waits until somebody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


def headings(lines: list[str]) -> list[str]:
    """Return what a status tells about, without the numbers, which change."""
    return [line.partition(":")[0] for line in lines]


# -- the status -----------------------------------------------------------------------------


def test_the_log_gets_what_xloop_status_prints(spot: Spot) -> None:
    log = spot.top / "log"
    done = spot.run("mount", "-o", "noexec", "--log", log, spot.source, spot.mnt)
    assert done.returncode == 0
    assert (spot.mnt / "file").exists()
    pid = spot.server()
    status = spot.run("status", spot.mnt).stdout.splitlines()
    send(pid)
    wait_for(lambda: "control socket" in log.read_text())
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    mounted, first, *block, unmounted = log.read_text().splitlines()
    assert "is mounted at" in mounted
    assert "is unmounted" in unmounted
    assert re.fullmatch(rf".* xloop\[{pid}\] INFO: {spot.source} at {spot.mnt}", first)
    assert headings(block) == headings(status[1:])
    assert "  options: noexec" in block
    assert block[:4] == status[1:5]


def test_in_the_foreground_it_goes_to_stderr(spot: Spot) -> None:
    server = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    status = spot.run("status", spot.mnt).stdout.splitlines()
    send(server.pid)
    block = [server.stderr.readline().rstrip("\n") for _ in status]
    assert block[0] == f"xloop: {spot.source} at {spot.mnt}"
    assert headings(block[1:]) == headings(status[1:])
    server.terminate()
    assert server.wait(60) == 0
    assert server.stderr.read() == ""


def test_without_a_log_it_harms_no_server_in_the_background(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    for _ in range(5):
        send(pid)
        assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.servers() == [pid]
    done = spot.run("umount", spot.mnt)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_detached_mount_tells_it_too(spot: Spot) -> None:
    log = spot.top / "log"
    assert spot.run("mount", "--log", log, spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    user = spot.use(spot.mnt / "file")
    assert spot.run("umount", "--lazy", spot.mnt).returncode == 0
    send(pid)
    wait_for(lambda: "  detached: served until its last user is gone\n" in log.read_text())
    user.communicate("")
    assert spot.alone()


# -- whenever it comes ----------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["mount", "serve"])
def test_before_the_mount_is_there_it_waits(stage: str, spot: Spot, flags: Flags) -> None:
    server = spot.start("mount", "-f", "--backend", f"slow-to-{stage}", spot.source, spot.mnt)
    assert flags.reached(stage)
    os.kill(server.pid, signal.SIGUSR1)
    if stage == "serve":  # it is heard already
        assert server.stderr.readline() == f"xloop: {spot.source} at {spot.mnt}\n"
        assert "type" not in server.stderr.readline()  # nobody can know yet
    flags.set(stage)
    assert spot.answers()
    server.terminate()
    assert server.wait(60) == 0
    assert "layers: Loopback" in server.stderr.read()


@pytest.mark.parametrize("stage", ["mount", "serve"])
def test_it_ends_neither_a_server_that_starts_nor_the_command_that_waits(
    stage: str, spot: Spot, flags: Flags
) -> None:
    command = spot.start("mount", "--backend", f"slow-to-{stage}", spot.source, spot.mnt)
    assert flags.reached(stage)
    wait_for(lambda: len(spot.servers()) == 2)
    for pid in spot.servers():  # as `pkill -USR1 -f 'xloop mount'` does
        os.kill(pid, signal.SIGUSR1)
    flags.set(stage)
    command.communicate(timeout=60)
    assert command.returncode == 0
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", spot.mnt).returncode == 0


def test_it_ends_no_server_of_a_program_from_its_first_moment_on(spot: Spot) -> None:
    sent = 0
    over = threading.Event()

    def storm() -> None:
        nonlocal sent
        while not over.is_set():
            for pid in spot.servers():
                os.kill(pid, signal.SIGUSR1)
                sent += 1

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        mount = xloop.mount(spot.source, spot.mnt)
    finally:
        over.set()
        thread.join()
    assert sent
    assert (spot.mnt / "file").exists()
    mount.unmount()


def test_it_ends_no_server_in_its_last_moment(spot: Spot) -> None:
    server = spot.start(
        "mount", "-f", spot.source, spot.mnt, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert spot.answers()
    server.terminate()
    while server.poll() is None:
        server.send_signal(signal.SIGUSR1)
    assert server.returncode == 0
    assert spot.alone()


def test_it_ends_no_program_whose_mount_has_ended_but_not_its_call(spot: Spot) -> None:
    reader, writer = full_pipe()
    server = spot.program(
        """
        xloop.serve(xloop.Loopback(source), mnt, ready=lambda: print("ready", flush=True))
        print("served", flush=True)
        """,
        stderr=writer,
    )
    os.close(writer)
    assert server.stdout.readline() == "ready\n"
    send(server.pid)
    server.terminate()
    assert spot.unmounted()  # and the call waits for who does not read what it had asked for
    os.kill(server.pid, signal.SIGUSR1)
    with open(reader) as pipe:
        pipe.read()
    assert server.communicate(timeout=60)[0] == "served\n"
    assert server.returncode == 0


def test_a_handler_of_the_programs_own_stays(spot: Spot) -> None:
    server = spot.program(
        """
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"mine\\n"))
        xloop.serve(xloop.Loopback(source), mnt, ready=lambda: print("ready", flush=True))
        """
    )
    assert server.stdout.readline() == "ready\n"
    server.send_signal(signal.SIGUSR1)
    assert server.stdout.readline() == "mine\n"
    server.terminate()
    assert server.communicate(timeout=60) == ("", "")


# -- whoever listens ------------------------------------------------------------------------


def test_no_thread_that_serves_is_interrupted(spot: Spot) -> None:
    log = spot.top / "log"
    assert spot.run("mount", "--log", log, spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    with open(spot.source / "file", "r+") as holder:
        fcntl.lockf(holder, fcntl.LOCK_EX)
        waiter = spot.start_python(
            "-c",
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX); print('locked')",
            spot.mnt / "file",
        )
        wait_for(lambda: re.search(r"waiting locks: 1\n", spot.run("status", spot.mnt).stdout))
        threads = {int(task.name): masks(task) for task in Path(f"/proc/{pid}/task").iterdir()}
        assert not threads.pop(pid)["SigBlk"] & _USR1
        assert threads
        assert all(mask["SigBlk"] & _USR1 for mask in threads.values())
        send(pid)
        wait_for(lambda: "waiting locks: 1\n" in log.read_text())
    assert waiter.communicate(timeout=60) == ("locked\n", "")
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_it_does_not_matter_when_its_reader_is_gone(kind: str, spot: Spot) -> None:
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    server = spot.start("mount", "-f", spot.source, spot.mnt, stderr=writer, start_new_session=True)
    os.close(writer)
    assert spot.answers()
    os.close(reader)
    for _ in range(3):
        send(server.pid)
        assert (spot.mnt / "file").read_text() == "content\n"
        assert spot.run("status", spot.mnt).returncode == 0
    server.terminate()
    assert spot.unmounted()
    assert server.wait(60) >= 0  # Python says itself that it could not write
    assert spot.alone()


def test_a_reader_that_does_not_read_keeps_nobody_waiting(spot: Spot) -> None:
    reader, writer = full_pipe()
    server = spot.start("mount", "-f", spot.source, spot.mnt, stderr=writer)
    os.close(writer)
    assert spot.answers()
    for _ in range(3):
        send(server.pid)
        assert (spot.mnt / "file").read_text() == "content\n"
        assert spot.run("status", spot.mnt).returncode == 0
    server.terminate()
    assert spot.unmounted()
    with open(reader) as pipe:
        assert pipe.read().count("layers: Loopback") == 1  # the others were not waited for
    assert server.wait(60) == 0


# -- what is in use -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_uses_a_mount_that_is_to_end_is_told_with_the_files(
    number: signal.Signals, spot: Spot
) -> None:
    for name in "abcde":
        (spot.source / name).touch()
    server = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    program = "import sys; f = [open(n) for n in sys.argv[1:]]; print('open', flush=True); sys.stdin.read()"
    user = spot.start_python("-c", program, *(spot.mnt / name for name in "abcde"))
    assert user.stdout.readline() == "open\n"
    server.send_signal(number)
    line = server.stderr.readline()
    files = rf"{spot.mnt}/a, {spot.mnt}/b, {spot.mnt}/c, 2 more"
    assert re.search(rf"used by python\S* \(pid {user.pid}\): {files}: detached, and served", line)
    assert spot.mounted() is None
    assert server.poll() is None
    user.communicate("")
    assert server.wait(60) == 0


def test_of_many_users_some_are_named_and_the_others_counted(spot: Spot) -> None:
    log = spot.top / "log"
    assert spot.run("mount", "--log", log, spot.source, spot.mnt).returncode == 0
    with open(spot.mnt / "file") as file:
        users = [subprocess.Popen(["sleep", "1000"], stdin=file) for _ in range(6)]
    spot.started += users
    users.append(subprocess.Popen(["sleep", "1000"], cwd=spot.mnt / "inner"))
    spot.started.append(users[-1])
    os.kill(spot.server(), signal.SIGTERM)
    wait_for(lambda: "until its last user is gone" in log.read_text())
    text = log.read_text()
    assert len(re.findall(rf"sleep \(pid \d+\): (?:{spot.mnt}/file|working directory)", text)) == 5
    assert "; and 2 more: detached" in text
    for user in users:
        user.kill()
        user.wait()
    assert spot.alone()
