# SPDX-License-Identifier: MIT
"""What is told on a terminal while a command waits, and nowhere else."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Terminal:
    """A terminal, and what a person sees there."""

    def __init__(self) -> None:
        self._keyboard, self.end = pty.openpty()
        self.resize(60)
        self.written = b""
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def resize(self, columns: int) -> None:
        self.columns = columns
        ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def _read(self) -> None:
        while not self._over:
            if select.select([self._keyboard], [], [], 0.05)[0]:
                self.written += os.read(self._keyboard, 4096)

    def close(self) -> None:
        self._over = True
        self._reader.join()
        os.close(self.end)
        os.close(self._keyboard)

    def lines(self) -> list[str]:
        """Return what stands there: a character written over another takes its place."""
        lines: list[str] = [""]
        column = 0
        for char in self.written.decode():
            assert char in "\r\n" or char.isprintable()
            if char == "\n":
                lines.append("")
            elif char == "\r":
                column = 0
            else:
                assert column < self.columns, "a line that is too long cannot be taken back"
                lines[-1] = lines[-1][:column] + char + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]

    def at_the_end(self) -> list[str]:
        """Return what stands there when all that was written before has been read."""
        self.read_all()
        return self.lines()

    def read_all(self) -> None:
        os.write(self.end, b"<end>")
        wait_for(lambda: self.written.endswith(b"<end>"))
        self.written = self.written.removesuffix(b"<end>")

    def shows(self, words: str) -> bool:
        return words in self.lines()[-1]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_mount_that_takes_long_is_told_of_on_a_terminal_only(
    spot: Spot, flags: Flags, terminal: Terminal
) -> None:
    other = spot.top / "o"
    other.mkdir()
    words = ("mount", "--backend", "slow-to-mount", spot.source.name)
    piped = spot.start(*words, other.name)
    assert flags.reached("mount")
    command = spot.start(*words, spot.mnt.name, stderr=terminal.end)
    wait_for(lambda: terminal.shows(" s: mounting "))
    flags.set("mount")
    assert command.wait(60) == 0
    assert piped.communicate(timeout=60) == ("", "")  # who has waited longer
    assert piped.returncode == 0
    assert terminal.at_the_end() == [""]
    assert spot.run("umount", other, spot.mnt).returncode == 0


def test_what_it_says_is_cut_to_the_width_and_its_seconds_go_on(
    spot: Spot, flags: Flags, terminal: Terminal
) -> None:
    mnt = spot.top / ("\u5bbd\x1b" * 60)
    mnt.mkdir()
    words = ("mount", "--backend", "slow-to-mount", spot.source, mnt)
    command = spot.start(*words, stderr=terminal.end)
    for seconds in (1, 2):
        wait_for(lambda told=f"xloop: {seconds} s: mounting ": terminal.shows(told))
    assert terminal.lines()[-1].endswith("...")
    flags.set("mount")
    assert command.wait(60) == 0
    assert terminal.at_the_end() == [""]
    assert spot.run("umount", mnt).returncode == 0


def test_an_interrupted_command_leaves_nothing_of_it(
    spot: Spot, flags: Flags, terminal: Terminal
) -> None:
    words = ("mount", "--backend", "slow-to-mount", spot.source, spot.mnt)
    command = spot.start(*words, stderr=terminal.end)
    wait_for(lambda: terminal.shows(" s: mounting "))
    command.send_signal(signal.SIGINT)
    flags.set("mount")
    assert command.wait(60) == 1
    assert [line for line in terminal.at_the_end() if line] == ["Aborted!"]
    assert spot.alone()


def test_an_unmount_that_waits_says_for_whom(spot: Spot, terminal: Terminal) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    user = spot.use(spot.mnt / "file")
    terminal.resize(500)
    command = spot.start("umount", "--timeout", "60", spot.mnt, stderr=terminal.end)
    wait_for(lambda: terminal.shows(f" s: {str(spot.mnt)!r} is busy, used by "))
    assert terminal.shows(f"(pid {user.pid}): {spot.mnt}/file")
    user.communicate("")
    assert command.wait(60) == 0
    assert terminal.at_the_end() == [""]


def test_an_error_takes_its_place(spot: Spot, terminal: Terminal) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    user = spot.use(spot.mnt / "file")
    terminal.resize(40)
    command = spot.start("umount", "--timeout", "1.5", spot.mnt, stderr=terminal.end)
    assert command.wait(60) == 1
    terminal.read_all()
    text = terminal.written.decode()
    told, erased, error = text.partition(f"\r{' ' * 39}\r")
    assert told.startswith("\rxloop: 1 s: ")
    assert erased
    assert error.startswith(f"xloop: {str(spot.mnt)!r} is busy, used by ")
    user.communicate("")
    assert spot.run("umount", spot.mnt).returncode == 0


def test_of_all_that_is_unmounted_the_number_is_told(spot: Spot, terminal: Terminal) -> None:
    subtype = f"test{os.getpid()}"  # of this test alone: other tests have mounts
    other = spot.top / "other"
    other.mkdir()
    for place in (spot.mnt, other):
        assert spot.run("mount", "-o", f"subtype={subtype}", spot.source, place).returncode == 0
    users = [spot.use(place / "file") for place in (spot.mnt, other)]
    words = ("umount", "--all", "--timeout", "60", "--subtype", subtype)
    command = spot.start(*words, stderr=terminal.end)
    wait_for(lambda: terminal.shows(" s: 1 of 2: '"))
    for user in users:
        user.communicate("")
    assert command.wait(60) == 0
    assert terminal.at_the_end() == [""]
    assert spot.alone()


def test_of_all_that_is_mounted_the_number_is_told(
    spot: Spot, flags: Flags, terminal: Terminal
) -> None:
    other = spot.top / "other"
    other.mkdir()
    config = spot.top / "config.toml"
    config.write_text(
        f'[mounts.one]\nsource = "{spot.source}"\nmountpoint = "{other}"\n'
        f'[mounts.two]\nsource = "{spot.source}"\nmountpoint = "{spot.mnt}"\nbackend = "slow-to-mount"\n'
    )
    config.chmod(0o600)
    command = spot.start("mount", "--all", "--config", config, stderr=terminal.end)
    wait_for(lambda: terminal.shows(" s: 2 of 2: mounting "))
    flags.set("mount")
    assert command.wait(60) == 0
    assert terminal.at_the_end() == [""]
    assert spot.run("umount", other, spot.mnt).returncode == 0


#: As a shell does: the terminal is its own, and the command a job in the background.
_SHELL = """
import fcntl, os, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(subprocess.call([sys.executable, "-m", "xloop", *sys.argv[1:]], process_group=0))
"""


def test_a_job_in_the_background_leaves_the_terminal_to_others(
    spot: Spot, flags: Flags, terminal: Terminal
) -> None:
    other, seen = spot.top / "other", Terminal()
    other.mkdir()
    words = ("mount", "--backend", "slow-to-mount", spot.source)
    job = spot.start_python(
        "-c",
        _SHELL,
        *words,
        other,
        stdin=terminal.end,
        stdout=subprocess.DEVNULL,
        stderr=terminal.end,
        start_new_session=True,
    )
    assert flags.reached("mount")
    try:
        command = spot.start(*words, spot.mnt, stderr=seen.end)
        wait_for(lambda: seen.shows(" s: mounting "))  # the job has waited longer
        flags.set("mount")
        assert command.wait(60) == 0
        assert job.wait(60) == 0
    finally:
        seen.close()
    assert terminal.at_the_end() == [""]
    assert terminal.written == b""
    assert spot.run("umount", other, spot.mnt).returncode == 0
