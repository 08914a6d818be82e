# SPDX-License-Identifier: MIT
"""``xloop completion``, in the shells themselves: keys go in, and the words that come out are compared."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xloop import options

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

BIN = os.path.dirname(sys.executable)

#: How a shell is started without anybody's settings, and what it is told before anything else.
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], ""),
    "zsh": (["-f", "-i"], "autoload -U compinit; compinit -u -d ./zcompdump\n"),
    "fish": (["--no-config", "--private"], ""),
}


def installed(shell: str) -> str:
    found = shutil.which(shell)
    if found is None or not os.path.exists(f"{BIN}/xloop"):
        pytest.skip(f"{shell} is not installed" if found is None else "xloop is not installed")
    return found


class Shell:
    """An interactive shell at a terminal."""

    def __init__(self, name: str, spot: Spot, environment: dict[str, str]) -> None:
        program = installed(name)
        flags, self._head = SHELLS[name]
        self.name = name
        self._read = b""
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(spot.top)
            # A line that does not fit is drawn anew, piece by piece.
            termios.tcsetwinsize(0, (50, 1000))
            os.execve(program, [program, *flags], environment)

    def write(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def set_up(self) -> None:
        script = f'eval "$(xloop completion {self.name})"'
        self.write(f"{self._head}PS1= PS2= RPS1=; {script}; echo READ''Y\n")
        self._until(b"READY\r\n")

    def completed(self, keys: str) -> list[str]:
        """Return the words of a command line after *keys* were pressed."""
        # It becomes the arguments of printf: what the shell itself takes it for, quotes and all.
        self.write(f"{keys}\x01printf '<%s>\\n' \x05 'E''ND'\n")
        said = self._until(b"<END>")
        return [word.split(">")[0] for word in said.replace("\r\n", "\n").split("\n<")[1:]][:-1]

    def _until(self, mark: bytes) -> str:
        deadline = time.monotonic() + 60
        while mark not in self._read:
            assert time.monotonic() < deadline, self._read
            try:
                self._read += os.read(self._terminal, 4096)
            except OSError:
                pytest.fail(f"the shell has ended: {self._read!r}")
        before, _, self._read = self._read.partition(mark)
        return (before + mark).decode()

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


@pytest.fixture
def environment(spot: Spot) -> dict[str, str]:
    """Of a person who has two mounts with names."""
    config = spot.top / "config" / "xloop" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        '[mounts.music]\nsource = "/srv/music"\nmountpoint = "/mnt"\n'
        '[mounts.movies]\nsource = "/srv/movies"\nmountpoint = "/mnt/m"\n'
    )
    config.chmod(0o600)
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(spot.top),
        "TERM": "dumb",
        "XDG_CONFIG_HOME": str(spot.top / "config"),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture(params=["bash", "zsh"])
def shell(
    request: pytest.FixtureRequest, spot: Spot, environment: dict[str, str]
) -> Iterator[Shell]:
    made = Shell(request.param, spot, environment)
    try:
        made.set_up()
        yield made
    finally:
        made.end()


def test_commands_and_options_are_completed(shell: Shell) -> None:
    assert shell.completed("xloop umo\t") == ["xloop", "umount"]
    assert shell.completed("xloop mount --foreg\t") == ["xloop", "mount", "--foreground"]
    assert shell.completed("xloop run src --back\t") == ["xloop", "run", "src", "--backend"]
    assert shell.completed("xloop mount --log journ\t") == ["xloop", "mount", "--log", "journald"]
    assert shell.completed("xloop mount --backend devf\t") == ["xloop", "mount", "--backend", "devfuse"]  # fmt: skip


def test_the_words_of_an_option_are_completed(shell: Shell) -> None:
    assert shell.completed("xloop mount -o noex\t")[3:] == ["noexec"]
    assert shell.completed("xloop mount -o ro,noex\t")[3:] == ["ro,noexec"]
    assert shell.completed("xloop mount -o ro,passthrough=au\t /x")[3:] == ["ro,passthrough=auto", "/x"]  # fmt: skip


def test_names_and_directories_are_completed(shell: Shell) -> None:
    assert shell.completed("xloop mount mus\t") == ["xloop", "mount", "music"]
    # Whether a slash stays is the shell's to say.
    assert shell.completed("xloop mount sour\t")[-1].rstrip("/") == "source"
    assert shell.completed("xloop mount source mn\t")[-1].rstrip("/") == "mnt"


def test_mountpoints_are_completed_from_the_mount_table(shell: Shell, spot: Spot) -> None:
    blank = spot.top / "a b:c'd"
    for point in (spot.mnt, blank):
        point.mkdir(exist_ok=True)
        assert spot.run("mount", spot.source, point).returncode == 0
    top = str(spot.top)
    assert shell.completed(f"xloop umount {top}/m\t") == ["xloop", "umount", f"{top}/mnt"]
    assert shell.completed("xloop umount m\t") == ["xloop", "umount", "mnt"]
    assert shell.completed("xloop umount ./m\t") == ["xloop", "umount", "./mnt"]
    assert shell.completed("xloop umount source/../m\t") == ["xloop", "umount", "source/../mnt"]
    assert shell.completed("xloop umount ~/m\t") == ["xloop", "umount", f"{top}/mnt"]
    assert shell.completed(f"xloop umount {top}/a\t") == ["xloop", "umount", str(blank)]
    assert shell.completed(f'xloop umount "{top}/a b\t') == ["xloop", "umount", str(blank)]
    assert shell.completed(f"xloop umount {top}/a\\ b:\t") == ["xloop", "umount", str(blank)]
    assert shell.completed("xloop umount sour\t") == ["xloop", "umount", "sour"]  # nothing is there
    assert spot.run("umount", spot.mnt, blank).returncode == 0


def test_bash_shows_all_that_is_possible(spot: Spot, environment: dict[str, str]) -> None:
    shell = Shell("bash", spot, environment)
    try:
        shell.set_up()
        assert shell.completed("xloop mount m\x1b*")[2:] == ["music", "movies", "mnt"]
        words = {word for option in options.TABLE for word in option.words}
        keys = {f"{option.key}=" for option in options.TABLE if option.key}
        assert set(shell.completed("xloop mount -o \x1b*")[3:]) == words | keys
        assert shell.completed("xloop mount -o passthrough=\x1b*")[3:] == ["passthrough=auto", "on", "off"]  # fmt: skip
        # No blank behind what wants a value; and the word in front is not proposed again.
        assert shell.completed("xloop mount -o fsn\tx")[3:] == ["fsname=x"]
        assert shell.completed("xloop mount -o dirsync,dirs\t")[3:] == ["dirsync,dirs"]
        assert shell.completed("xloop mount --all m\t")[3:] == ["m"]
        (spot.top / "config" / "xloop" / "config.toml").write_text("nonsense")
        assert shell.completed("xloop mount mu\t")[2:] == ["mu"]
    finally:
        shell.end()


def test_fish_shows_all_that_is_possible(spot: Spot, environment: dict[str, str]) -> None:
    def shown(line: str) -> list[str]:
        program = [installed("fish"), "--no-config", "-c"]
        script = f"xloop completion fish | source; complete -C '{line}'"
        done = subprocess.run([*program, script], env=environment, cwd=spot.top, capture_output=True, text=True, timeout=60)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert shown("xloop umo") == ["umount"]
    assert shown("xloop mount -o ro,noex") == ["ro,noexec"]
    assert shown("xloop mount -o passthrough=a") == ["passthrough=auto"]
    assert set(shown("xloop mount m")) == {"music", "movies", "mnt/"}
    assert shown(f"xloop umount {spot.top}/m") == [str(spot.mnt)]
    assert shown("xloop umount m") == ["mnt"]
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_that_shell(shell: str, spot: Spot, tmp_path: Path) -> None:
    done = spot.run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / "script"
    script.write_text(done.stdout)
    assert subprocess.run([installed(shell), "-n", script]).returncode == 0


def test_another_shell_is_refused(spot: Spot) -> None:
    done = spot.run("completion", "tcsh")
    assert done.returncode == 2
    spot.refused(done, "'tcsh' is not one of 'bash', 'zsh', 'fish'")
