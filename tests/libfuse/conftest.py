# SPDX-License-Identifier: MIT
"""A place to mount at, and which libfuse does it.  Owns no test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libfuse.support import ROOT
from xloop import mounts, registry


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A source and a mountpoint; at the end nothing is mounted there."""
    source, mountpoint = tmp_path / "source", tmp_path / "mnt"
    source.mkdir()
    mountpoint.mkdir()
    yield str(source), str(mountpoint)
    left = mounts.mount_at(mounts.read_table(), str(mountpoint))
    if left is not None:
        umount = ["umount", "-f", "-l"] if ROOT else ["fusermount3", "-u", "-z"]
        subprocess.run([*umount, mountpoint], check=False)
    assert left is None, "the test left it mounted"


@pytest.fixture
def backend(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> str:
    name = str(request.param)
    state = registry.load(name).probe()
    if not state.ok:
        if pytestconfig.getoption("--require-mount", default=False):
            pytest.fail(f"--require-mount: {name}: {state.why} ({state.fix})")
        pytest.skip(f"{name}: {state.why}")
    return name
