# SPDX-License-Identifier: MIT
"""Where the kernel moves the data by itself, and where not and why: as the server's status says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sources.conftest import DISKS
from sources.served import Served

if TYPE_CHECKING:
    from sources.conftest import Lab

DATA = b"0123456789" * 100_000


@pytest.fixture(autouse=True)
def _kernel_has_it(lab: Lab) -> None:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 9):
        pytest.skip("this kernel has no passthrough: it came with Linux 6.9")


def moved_by(served: Served) -> str:
    """Read, write and map a file through the mount, and return who moved its data."""
    file = served.point / "file"
    before = served.reads()
    with open(file, "w+b") as opened:
        opened.write(DATA)
        opened.flush()
        opened.seek(0)
        assert opened.read() == DATA
        status = served.status()
        assert status["passthrough files"] == (0 if served.reads() > before else 1)
    assert file.read_bytes() == DATA
    return "server" if served.reads() > before else "kernel"


@pytest.mark.parametrize("kind", ["tmpfs", *DISKS, "overlay"])
def test_the_kernel_moves_the_data_of(lab: Lab, kind: str) -> None:
    source = lab.kind(kind) / "passthrough"
    source.mkdir(exist_ok=True)
    with Served(source, lab.directory("mnt"), allow_other=True) as served:
        assert moved_by(served) == "kernel"
        status = served.status()
        assert "PASSTHROUGH" in status["granted"]
        assert status["passthrough refused"] == {}


def test_a_file_system_in_user_space_is_passed_through_or_says_why_not(lab: Lab) -> None:
    with Served(lab.kind("bindfs"), lab.directory("mnt"), allow_other=True) as served:
        by = moved_by(served)
        refused = served.status()["passthrough refused"]
        assert bool(refused) == (by == "server")


def test_mounts_on_mounts_are_passed_through_until_the_kernel_says_stop(lab: Lab) -> None:
    """FILESYSTEM_MAX_STACK_DEPTH is 2: what lies deeper is read by the server, and correct."""
    source = lab.directory("source")
    served: list[Served] = []
    try:
        found = []
        for _ in range(4):
            served.append(Served(source, lab.directory("mnt"), allow_other=True))
            found.append(moved_by(served[-1]))
            source = served[-1].point
    finally:
        for one in reversed(served):
            one.end()
    assert found[0] == "kernel"
    assert found[-1] == "server"
    assert found == sorted(found)


def test_a_stack_that_is_too_deep_says_so(lab: Lab) -> None:
    deep = lab.overlay(lab.overlay(lab.directory("lower")))
    with Served(deep, lab.directory("mnt"), allow_other=True) as served:
        assert moved_by(served) == "server"
        status = served.status()
        reasons = [*status["passthrough refused"].values()]
        assert any("stacked" in reason for reason in reasons), status


def test_switched_off_it_says_so(lab: Lab) -> None:
    where = lab.directory("source")
    with Served(where, lab.directory("mnt"), passthrough=False) as served:
        (served.point / "f").write_bytes(DATA)
        status = served.status()
        assert status["refused"]["PASSTHROUGH"] == "switched off by option"
        assert served.reads() > 0


def test_each_file_system_of_a_source_is_asked_by_itself(lab: Lab) -> None:
    """One that cannot be passed through does not spoil it for the others."""
    source = lab.directory("source")
    deep = lab.overlay(lab.overlay(lab.directory("lower")))
    (source / "deep").mkdir()
    lab.bind(deep, source / "deep")
    with Served(source, lab.directory("mnt"), allow_other=True) as served:
        (served.point / "deep" / "f").write_bytes(DATA)
        assert served.reads() > 0
        assert len(served.status()["passthrough refused"]) == 1
        assert moved_by(served) == "kernel"


def test_set_id_files_are_written_by_the_server(lab: Lab) -> None:
    """Whether the bits go depends on who writes, and that the kernel would not ask."""
    source = lab.directory("source")
    file = source / "f"
    file.write_bytes(DATA)
    file.chmod(0o4755)
    with Served(source, lab.directory("mnt"), allow_other=True, suid=True) as served:
        with open(served.point / "f", "r+b") as opened:
            opened.write(b"x")
        assert served.reads() > 0
        before = served.reads()
        assert Path(served.point / "f").read_bytes() == b"x" + DATA[1:]
        assert served.reads() == before
