# SPDX-License-Identifier: MIT
"""``xloop umount``."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
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
        if not path.startswith("/"):
            spot.refused(done, "to see what is mounted: xloop list")


def test_nothing_is_not_the_working_directory(spot: Spot) -> None:
    """As of a variable that is not set."""
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    for command in ("umount", "status", "doctor"):
        done = spot.run(command, "", cwd=spot.mnt)
        assert done.returncode == 1
        spot.refused(done, "'' is no path: it is empty")
    assert spot.run("umount", spot.mnt).returncode == 0


def test_a_source_is_answered_with_where_it_is_shown(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    done = spot.run("umount", spot.source)
    assert done.returncode == 1
    spot.refused(done, f"it is shown at {str(spot.mnt)!r}: xloop umount {spot.mnt}")
    assert spot.run("umount", spot.mnt).returncode == 0


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


# -- when it is really over -----------------------------------------------------------------


def test_the_same_place_can_be_mounted_again_and_again(spot: Spot) -> None:
    for _ in range(20):
        done = spot.run("mount", spot.source, spot.mnt)
        assert (done.returncode, done.stderr) == (0, "")
        assert (spot.mnt / "file").read_text() == "content\n"
        done = spot.run("umount", spot.mnt)
        assert (done.returncode, done.stderr) == (0, "")
        assert spot.servers() == []  # and nobody had to wait for that
        assert spot.mounted() is None


def test_a_server_that_goes_on_is_not_waited_for(spot: Spot) -> None:
    server = spot.program(
        """
        xloop.serve(xloop.Loopback(source), mnt, ready=lambda: print("ready", flush=True))
        print("unmounted", flush=True)
        sys.stdin.read()
        """
    )
    assert server.stdout.readline() == "ready\n"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert server.stdout.readline() == "unmounted\n"
    assert server.poll() is None
    server.communicate("")


def test_who_holds_the_mount_elsewhere_is_told_of(spot: Spot) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a mount namespace")
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    holder = spot.start_python(
        "-c",
        "import os, subprocess, sys; subprocess.run(['unshare', '-m', '--propagation', 'private',"
        " 'sh', '-c', 'echo ready; read x'])",
    )
    assert holder.stdout.readline() == "ready\n"
    done = spot.run("umount", spot.mnt)
    assert done.returncode == 0
    assert (
        f"is unmounted, but still served by process {pid}: it is mounted elsewhere" in done.stderr
    )
    holder.communicate("\n")
    assert spot.alone()


# -- patience and force ---------------------------------------------------------------------


def test_timeout_waits_until_nobody_uses_it(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    user = spot.use(spot.mnt / "file")
    spot.refused(spot.run("umount", "--timeout", "0.2", spot.mnt), "is busy", f"(pid {user.pid})")
    command = spot.start("umount", "--timeout", "60", spot.mnt)
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.5)
    user.communicate("")
    assert command.communicate(timeout=60) == ("", "")
    assert command.returncode == 0
    assert spot.alone()


def test_force_cuts_off_who_uses_it_and_keeps_what_was_written(spot: Spot) -> None:
    assert spot.run("mount", "-o", "nopassthrough", spot.source, spot.mnt).returncode == 0
    fd = os.open(spot.mnt / "file", os.O_RDWR)
    try:
        os.pwrite(fd, b"written", 0)
        size = 1 << 16
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as memory:
            memory[size - 6 :] = b"mapped"
            done = spot.run("umount", "--force", "-v", spot.mnt)
        assert (done.returncode, done.stderr) == (
            0,
            f"xloop: {str(spot.mnt)!r} is unmounted: whoever used it was cut off\n",
        )
        assert spot.servers() == []
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.pwrite(fd, b"more", 0)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    data = (spot.source / "file").read_bytes()
    assert data.startswith(b"written")
    assert data.endswith(b"mapped")
    assert spot.alone()


def test_force_ends_a_server_that_does_not_answer(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    user = spot.use(spot.mnt / "file")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert spot.run("umount", "--force", spot.mnt).returncode == 0
        assert spot.mounted() is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    user.communicate("")
    assert spot.alone()


# -- all of them ----------------------------------------------------------------------------


def test_all_unmounts_the_innermost_first(spot: Spot) -> None:
    subtype = f"test{os.getpid()}"  # of this test alone: other tests have mounts
    (spot.top / "other").mkdir()
    # fusermount3 may not enter a user's mount, so cannot mount inside of it.
    inside = spot.mnt / "inner" if os.geteuid() == 0 else spot.source / "inner"
    places = [spot.mnt, inside, spot.top / "other"]
    for place in places:
        assert spot.run("mount", "-o", f"subtype={subtype}", spot.source, place).returncode == 0
    done = spot.run("umount", "--all", "-v", "--subtype", subtype)
    assert done.returncode == 0
    told = [line.removesuffix(" is unmounted") for line in done.stderr.splitlines()]
    assert sorted(told) == sorted(f"xloop: {str(place)!r}" for place in places)
    if os.geteuid() == 0:
        assert told.index(f"xloop: {str(inside)!r}") < told.index(f"xloop: {str(spot.mnt)!r}")
    assert spot.alone()
    done = spot.run("umount", "--all", "-v", "--subtype", subtype)
    assert (done.returncode, done.stderr) == (0, "xloop: this user has mounted nothing\n")


def test_all_goes_on_after_one_that_is_busy_and_names_it(spot: Spot) -> None:
    subtype = f"test{os.getpid()}"
    other = spot.top / "other"
    other.mkdir()
    for place in (spot.mnt, other):
        assert spot.run("mount", "-o", f"subtype={subtype}", spot.source, place).returncode == 0
    user = spot.use(other / "file")
    done = spot.run("umount", "--all", "--subtype", subtype)
    assert done.returncode == 1
    spot.refused(done, f"{str(other)!r} is busy", "1 of 2 could not be unmounted")
    assert [entry.mountpoint for entry in spot.mounts_below()] == [str(other)]
    user.communicate("")
    assert spot.run("umount", "--all", "--subtype", subtype).returncode == 0


def test_a_busy_one_that_does_not_answer_is_named(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    user = spot.use(spot.mnt / "file")
    os.kill(pid, signal.SIGSTOP)
    try:
        done = spot.run("umount", spot.mnt)
        assert done.returncode == 1
        spot.refused(done, "is busy, and its server does not answer", "--lazy", "--force")
    finally:
        os.kill(pid, signal.SIGCONT)
    user.communicate("")
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give the MOUNTPOINTs to unmount, or --all"),
        (["--all", "mnt"], "--all unmounts all mounts of this user, and takes no other words"),
        (["--lazy", "--force", "mnt"], "--lazy waits for nobody"),
        (["--lazy", "--timeout", "3", "mnt"], "--lazy waits for nobody"),
        (["--timeout", "-1", "mnt"], "-1"),
    ],
)
def test_what_is_not_understood_is_named(args: list[str], words: str, spot: Spot) -> None:
    done = spot.run("umount", *args)
    assert done.returncode == 2
    spot.refused(done, words)
