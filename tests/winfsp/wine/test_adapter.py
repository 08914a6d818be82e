# SPDX-License-Identifier: MIT
"""The WinFsp adapter, asked in WinFsp's order by a stand-in for its library: what comes back, what is on the source."""

from __future__ import annotations

from pathlib import Path

from standin import Volume

HIDDEN, READONLY, SYSTEM, ARCHIVE = 0x8000, 0x1000, 0x80, 0x800


def test_smoke(volume: Volume, source: Path) -> None:
    with volume.create("\\file") as file:
        assert file.write(b"hello") == 5
        assert file.read(10) == b"hello"
    assert (source / "file").read_bytes() == b"hello"
    with volume.open("\\") as root:
        print(root.list())
