# SPDX-License-Identifier: MIT
"""A source that does not answer: one request that waits must not keep the others waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import xloop
from sources.served import Served

if TYPE_CHECKING:
    from sources.conftest import Lab, Show
    from tests.conftest import Wait, Watchdog

#: As many as may wait on one mount at a time, and more than a server starts with.
MANY = 12


@pytest.fixture
def below(lab: Lab, watchdog: Watchdog) -> Iterator[Served]:
    """A file system that never answers for names that begin with "stuck", until it is let go."""
    source = lab.directory("source")
    for i in range(MANY):
        (source / f"stuck{i}").write_bytes(b"at last")
        (source / f"slow{i}").write_bytes(b"slow data")
    (source / "d").mkdir()
    (source / "f").write_bytes(b"data")
    with watchdog, Served(source, lab.directory("below"), stuck=True, passthrough=False) as served:
        yield served


class Readers:
    """Processes that read a file each: a thread of ours could not be ended when it waits."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, path: Path) -> None:
        command = [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", str(path)]
        self.all.append(subprocess.Popen(command, stdout=subprocess.PIPE))

    def waiting(self) -> int:
        """Return how many sleep in a request of the kernel's FUSE."""
        count = 0
        for reader in self.all:
            stack = Path(f"/proc/{reader.pid}/wchan").read_text()
            count += "fuse" in stack or "request_wait" in stack or "folio" in stack
        return count

    def kill(self) -> None:
        for reader in self.all:
            reader.kill()
        for reader in self.all:
            reader.communicate()


@pytest.fixture
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.kill()


@pytest.mark.parametrize("kind", ["stuck", "slow"])
def test_many_that_wait_do_not_stop_the_others(
    below: Served, show: Show, readers: Readers, eventually: Wait, kind: str
) -> None:
    point = show(below.point, passthrough=False, attr_timeout=0, entry_timeout=0)
    for i in range(MANY):
        readers.start(point / f"{kind}{i}")
    assert eventually(lambda: readers.waiting() == MANY)
    # Everything else goes on, on the same mount.
    assert (point / "f").read_bytes() == b"data"
    (point / "d" / "new").write_bytes(b"new")
    os.rename(point / "d" / "new", point / "d" / "newer")
    assert os.listdir(point / "d") == ["newer"]
    assert os.statvfs(point).f_namemax == 255
    assert readers.waiting() == MANY
    # And they get what they wait for when it comes.
    below.let_go()
    wanted = b"at last\n" if kind == "stuck" else b"slow data\n"
    assert {reader.communicate(timeout=30)[0] for reader in readers.all} == {wanted}


def test_who_waits_is_freed_by_force(
    below: Served, lab: Lab, readers: Readers, eventually: Wait
) -> None:
    """The kernel lets nobody go whose request the server has, not even when killed; umount -f does."""
    point = lab.directory("mnt")
    mount = xloop.mount(str(below.point), str(point), backend="devfuse", passthrough=False)
    try:
        readers.start(point / "stuck0")
        assert eventually(lambda: readers.waiting() == 1)
        readers.all[0].kill()
        assert (point / "f").read_bytes() == b"data"
        assert os.listdir(point / "d") == []
        subprocess.run(["umount", "-f", "-l", point], check=True)
        assert readers.all[0].wait(30) == -signal.SIGKILL
        assert not os.path.ismount(point)
    finally:
        below.let_go()
        mount.unmount()
    assert eventually(lambda: not Path(f"/proc/{mount.pid}").exists())


def test_a_mount_with_a_request_that_waits_can_be_unmounted(
    below: Served, lab: Lab, readers: Readers, eventually: Wait
) -> None:
    point = lab.directory("mnt")
    mount = xloop.mount(str(below.point), str(point), backend="devfuse", passthrough=False)
    try:
        readers.start(point / "stuck0")
        assert eventually(lambda: readers.waiting() == 1)
        with pytest.raises(xloop.UnmountError):
            mount.unmount()  # somebody uses it
        mount.unmount(lazy=True)
        assert not os.path.ismount(point)
        assert os.listdir(point) == []
    finally:
        below.let_go()
        readers.all[0].communicate(timeout=30)
        mount.unmount()
    assert eventually(lambda: not Path(f"/proc/{mount.pid}").exists())


def test_a_source_whose_server_is_stopped(
    lab: Lab, readers: Readers, eventually: Wait, watchdog: Watchdog
) -> None:
    """Nothing answers then; but it can be taken away, and goes on when the server does."""
    source = lab.directory("source")
    (source / "f").write_bytes(b"data")
    with watchdog, Served(source, lab.directory("below"), passthrough=False) as below:
        point = lab.directory("mnt")
        mount = xloop.mount(
            str(below.point), str(point), backend="devfuse", attr_timeout=0, entry_timeout=0
        )
        try:
            os.kill(below.pid, signal.SIGSTOP)
            readers.start(point / "f")
            assert eventually(lambda: readers.waiting() == 1)
            done = subprocess.run(["umount", "-l", point], check=False, timeout=20)
            assert done.returncode == 0
            assert not os.path.ismount(point)
        finally:
            os.kill(below.pid, signal.SIGCONT)
            out, _ = readers.all[0].communicate(timeout=30)
            mount.unmount()
        assert out == b"data\n"
        assert eventually(lambda: not Path(f"/proc/{mount.pid}").exists())
