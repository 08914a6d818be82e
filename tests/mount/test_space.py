# SPDX-License-Identifier: MIT
"""A mount does not keep what others delete: its server lets go of files that nobody uses."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import xloop

pytestmark = pytest.mark.mount


def _holds_deleted(pid: int, source: Path) -> list[str]:
    held = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith(f"{source}/") and target.endswith(" (deleted)"):
            held.append(target)
    return held


def test_a_file_that_is_deleted_on_the_source_gives_back_its_space(tmp_path: Path) -> None:
    source, mountpoint = tmp_path / "source", tmp_path / "mnt"
    source.mkdir()
    mountpoint.mkdir()
    (source / "big").write_bytes(bytes(1 << 20))
    with xloop.mount(source, mountpoint) as mount:
        assert len((mountpoint / "big").read_bytes()) == 1 << 20
        (source / "big").unlink()
        assert _holds_deleted(mount.pid, source), "else this test shows nothing"
        deadline = time.monotonic() + 60
        while _holds_deleted(mount.pid, source):
            assert time.monotonic() < deadline, "the server still holds the deleted file"
            time.sleep(0.2)
