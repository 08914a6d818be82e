# SPDX-License-Identifier: MIT
"""The command line and the library in a Windows Python: a server process of its own, found again, told to go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin import eventually

import xloop
from xloop.host import windows_mounts


def run(*words: str | Path, patience: float = 50) -> subprocess.CompletedProcess[str]:
    """Run ``xloop`` with *words*."""
    command = [sys.executable, "-m", "xloop", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience
    )


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = [note.mountpoint for note in windows_mounts.recorded()]
    for mountpoint in left:
        windows_mounts.stop(mountpoint)
    assert not left


def test_the_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"xloop {xloop.__version__}")


def test_a_mount_is_there_when_the_command_returns_and_gone_after_umount(
    source: Path, tmp_path: Path
) -> None:
    point = tmp_path / "point"
    done = run("mount", "-v", source, point)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"{str(source)!r} is mounted at {str(point)!r} by winfsp" in done.stderr
    assert point.is_dir()
    (note,) = windows_mounts.recorded()
    assert (note.mountpoint, note.source) == (str(point), str(source))
    done = run("umount", "-v", point)
    assert (done.returncode, done.stderr.strip()) == (0, f"xloop: {str(point)!r} is unmounted")
    assert not point.exists()


def test_a_mount_in_the_foreground_ends_with_umount(source: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    command = [sys.executable, "-m", "xloop", "mount", "-f", source, point]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        eventually(lambda: list(windows_mounts.recorded()))
        assert point.is_dir()
        assert run("umount", point).returncode == 0
        assert server.wait(30) == 0
    assert not point.exists()


def test_a_drive_letter_in_any_form(source: Path) -> None:
    assert not os.path.exists("Y:\\")
    done = run("mount", source, "y:\\")
    assert done.returncode == 0, done.stderr
    assert os.path.isdir("Y:\\")
    done = run("mount", source, "Y:")
    assert done.returncode == 1
    assert "'Y:' is a mount of xloop already" in done.stderr
    done = run("umount", "y:")
    assert done.returncode == 0, done.stderr
    eventually(lambda: not os.path.exists("Y:\\"))


def test_any_drive_letter(source: Path) -> None:
    done = run("mount", "-v", source, "*")
    assert done.returncode == 0, done.stderr
    (note,) = windows_mounts.recorded()
    assert note.mountpoint[1:] == ":"
    assert f"at {note.mountpoint!r}" in done.stderr
    assert run("umount", note.mountpoint).returncode == 0


@pytest.mark.not_wine("it has no names in the network")
def test_a_name_in_the_network_has_a_drive_too(source: Path) -> None:
    done = run("mount", source, r"\\xloop\share")
    assert done.returncode == 0, done.stderr
    (note,) = windows_mounts.recorded()
    assert note.mountpoint == r"\\xloop\share"
    assert os.path.isdir(note.place + "\\")
    assert run("umount", "//xloop/share/").returncode == 0


@pytest.mark.parametrize(
    ("source_name", "point_name", "why"),
    [
        ("missing", "point", "does not exist"),
        ("source", "source", "exists already"),
        ("source", "no/where", "is no directory"),
        ("source", r"\\?\C:\x", "neither a drive nor a directory"),
        ("source", "C:", "there is a drive C:"),
    ],
)
def test_what_cannot_be_mounted_is_refused_with_the_reason(
    source: Path, tmp_path: Path, source_name: str, point_name: str, why: str
) -> None:
    point = point_name if ":" in point_name else tmp_path / point_name
    done = run("mount", tmp_path / source_name, point)
    assert done.returncode == 1
    assert why in done.stderr


def test_an_option_that_winfsp_lacks_is_refused(source: Path, tmp_path: Path) -> None:
    done = run("mount", "-o", "noexec", source, tmp_path / "point")
    assert done.returncode == 1
    assert "winfsp cannot honour noexec" in done.stderr


def test_unmounting_what_is_none(tmp_path: Path) -> None:
    done = run("umount", tmp_path)
    assert done.returncode == 1
    assert "is not a mountpoint" in done.stderr


def test_the_library_mounts_and_its_block_ends_the_mount(source: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    with xloop.mount(source, point, read_only=True) as mount:
        assert point.is_dir()
        assert mount.pid != os.getpid()
        assert [note.pid for note in windows_mounts.recorded()] == [mount.pid]
    assert not point.exists()
    assert list(windows_mounts.recorded()) == []


def test_the_server_ends_with_the_program_that_asked(source: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    text = (
        "import os, sys, xloop; xloop.mount(sys.argv[1], sys.argv[2]); "
        "print(os.path.isdir(sys.argv[2]), flush=True); os._exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, source, point], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, done.stdout.strip()) == (3, "True"), done.stderr
    eventually(lambda: not point.exists())
    eventually(lambda: not list(windows_mounts.recorded()))


def test_the_record_of_a_server_that_was_killed_counts_for_nothing(
    source: Path, tmp_path: Path
) -> None:
    mount = xloop.mount(source, tmp_path / "point")
    folder = Path(windows_mounts._folder())
    os.kill(mount.pid, 9)
    eventually(lambda: not list(windows_mounts.recorded()))
    assert list(folder.glob("*.json")) == []
    mount.unmount()
    # The stand-in is no driver: what it made stays where WinFsp's driver would remove it.
    os.rmdir(tmp_path / "point")
