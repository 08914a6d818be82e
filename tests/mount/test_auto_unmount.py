# SPDX-License-Identifier: MIT
"""``-o auto_unmount``: the mount goes with its server, however that ends, and no other mount does."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from xloop import registry

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount

on_top_works = pytest.mark.skipif(
    os.geteuid() != 0,
    reason="fusermount3 may not enter a user's mount, so cannot mount on top of it",
)
AUTO = ("-o", "auto_unmount")


def is_plain(spot: Spot) -> bool:
    """Tell whether the mountpoint is the empty directory again, that can be worked with."""
    (spot.mnt / "new").touch()
    (spot.mnt / "new").unlink()
    return os.listdir(spot.mnt) == []


def state(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split("\t")[1] for line in lines if line.startswith(f"{field}:"))


@pytest.mark.parametrize("backend", ["devfuse", "libfuse3", "libfuse2"])
def test_the_mount_goes_with_a_server_that_is_killed(
    backend: str, spot: Spot, pytestconfig: pytest.Config
) -> None:
    available = registry.load(backend).probe()
    if not available.ok:
        if pytestconfig.getoption("--require-mount"):
            pytest.fail(f"--require-mount: {backend}: {available.why}")
        pytest.skip(f"{backend}: {available.why}")
    done = spot.run("mount", *AUTO, "--backend", backend, spot.source, spot.mnt)
    assert done.returncode == 0, done.stderr
    fd = os.open(spot.mnt / "file", os.O_RDONLY)
    assert os.read(fd, 1) == b"c"
    os.kill(spot.server(), signal.SIGKILL)
    assert spot.alone()
    with contextlib.suppress(OSError):  # some are told at the close that nobody is there any more
        os.close(fd)
    assert is_plain(spot)
    assert (spot.source / "file").read_text() == "content\n"


def test_the_mount_goes_with_the_process_group_of_its_server(spot: Spot) -> None:
    server = spot.start("mount", "-f", *AUTO, spot.source, spot.mnt, start_new_session=True)
    assert spot.answers()
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()
    assert spot.alone()
    assert is_plain(spot)


def test_the_mount_goes_with_a_server_that_is_killed_before_it_could_tell(
    spot: Spot, flags: Flags
) -> None:
    server = spot.start(
        *("mount", "-f", *AUTO, "--backend", "killed-when-mounted", spot.source, spot.mnt)
    )
    server.communicate(timeout=60)
    assert server.returncode == -signal.SIGKILL
    assert spot.alone()
    assert is_plain(spot)


def test_the_mount_goes_with_the_server_of_a_program_that_lives_on(spot: Spot) -> None:
    program = spot.program(
        """
        mount = xloop.mount(source, mnt, auto_unmount=True)
        print(mount.pid, flush=True)
        sys.stdin.readline()
        mount.unmount()
        """
    )
    os.kill(int(program.stdout.readline()), signal.SIGKILL)
    assert spot.unmounted()
    assert program.communicate("\n", timeout=60) == ("", "")
    assert program.returncode == 0


# Without a shell the guardian is an interpreter from the beginning.
@pytest.mark.parametrize("shell", ["/bin/sh", "/nonexistent"])
def test_the_mount_goes_with_a_program_that_serves_it_itself(
    shell: str, spot: Spot, eventually: Any
) -> None:
    program = spot.program(
        """
        from xloop import guardian
        guardian._SHELL = args[0]
        lock = os.open(source + "/lock", os.O_CREAT | os.O_RDWR)
        os.set_inheritable(lock, True)
        options = xloop.MountOptions(auto_unmount=True)
        ready = lambda: print("ready", flush=True)
        xloop.serve(xloop.Loopback(source), mnt, options=options, ready=ready)
        """,
        shell,
    )
    assert program.stdout.readline() == "ready\n"
    pid = spot.guardian()

    def links() -> set[str]:
        found = set()
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        return {link for link in found if not link.startswith("pipe:")}

    # In place of a shell that is not there it is an interpreter, which opens files as long as it starts.
    assert eventually(lambda: links() == {"/dev/null"}), links()
    program.kill()
    program.communicate()
    assert spot.alone()
    assert is_plain(spot)


def test_the_guardian_holds_nothing_and_hears_no_signal(spot: Spot) -> None:
    with open(spot.top / "lock", "w") as lock:
        done = spot.run("mount", *AUTO, spot.source, spot.mnt, pass_fds=(lock.fileno(),))
    assert done.returncode == 0, done.stderr
    pid = spot.guardian()
    links = [os.readlink(f"/proc/{pid}/fd/{n}") for n in sorted(os.listdir(f"/proc/{pid}/fd"))]
    assert links[0].startswith("pipe:")
    assert links[1:] == ["/dev/null", "/dev/null"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid != os.getsid(spot.server())
    held = int(state(pid, "SigBlk"), 16)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGUSR1):
        assert held >> (number - 1) & 1, number
    os.kill(spot.server(), signal.SIGKILL)
    assert spot.alone()


@pytest.mark.parametrize("end", ["umount", "signal"])
def test_the_guardian_ends_with_the_mount(end: str, spot: Spot) -> None:
    mounted = spot.run("mount", "-v", *AUTO, spot.source, spot.mnt)
    assert mounted.returncode == 0, mounted.stderr
    pid = spot.guardian()
    assert f"guardian: {pid}\n" in mounted.stderr
    # That it has become an interpreter would show in its command.
    assert os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).startswith("/bin/sh")
    if end == "umount":
        assert spot.run("umount", spot.mnt).returncode == 0
    else:
        os.kill(spot.server(), signal.SIGTERM)
    assert spot.alone()


def test_a_mount_that_does_not_come_about_leaves_no_guardian(spot: Spot, flags: Flags) -> None:
    done = spot.run("mount", *AUTO, "--backend", "not-mounting", spot.source, spot.mnt)
    assert done.returncode == 1
    assert spot.alone()


def test_a_mount_that_took_the_place_is_left_alone(spot: Spot) -> None:
    assert spot.run("mount", *AUTO, spot.source, spot.mnt).returncode == 0
    guardian = spot.guardian()
    os.kill(guardian, signal.SIGSTOP)
    os.kill(spot.server(), signal.SIGKILL)
    assert spot.run("umount", spot.mnt).returncode == 0
    # The numbers of the mount are free, and the next one gets the same, unless others mount as well.
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    entry = spot.mounted()
    os.kill(guardian, signal.SIGCONT)
    assert spot.server()  # and nobody else, guardians aside
    assert spot.ended(guardian)
    assert spot.mounted() == entry
    assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


@on_top_works
def test_a_mount_on_top_is_waited_for(spot: Spot) -> None:
    assert spot.run("mount", *AUTO, spot.source, spot.mnt).returncode == 0
    server, guardian = spot.server(), spot.guardian()
    lower = spot.mounted()
    assert spot.run("mount", "--on-top", spot.source / "inner", spot.mnt).returncode == 0
    upper = spot.mounted()
    os.kill(server, signal.SIGKILL)
    assert spot.sleeping(guardian)
    assert spot.mounted() == upper
    assert lower in spot.mounts_below()
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    assert is_plain(spot)


def test_a_mountpoint_below_a_directory_that_was_renamed_is_found(spot: Spot) -> None:
    (spot.top / "old" / "mnt").mkdir(parents=True)
    assert spot.run("mount", *AUTO, spot.source, spot.top / "old" / "mnt").returncode == 0
    server = spot.server()
    (spot.top / "old").rename(spot.top / "new")
    os.kill(server, signal.SIGKILL)
    assert spot.alone()
    assert stat.S_ISDIR(os.stat(spot.top / "new" / "mnt").st_mode)
    assert os.listdir(spot.top / "new" / "mnt") == []
