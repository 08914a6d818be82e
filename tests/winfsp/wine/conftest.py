# SPDX-License-Identifier: MIT
"""Fixtures of the tests that run in a Windows Python: on Windows, or under wine (ci/windows-under-wine.sh)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    import ctypes

    from standin import Volume, mounted

    WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
else:
    # These would not even import: the Linux run has tests/unit for what needs no Windows.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The directory that is shown."""
    path = tmp_path / "source"
    path.mkdir()
    return path


if sys.platform == "win32":

    @pytest.fixture
    def volume(source: Path, tmp_path: Path) -> Iterator[Volume]:
        """The source, mounted at a directory."""
        with mounted(source, tmp_path / "point") as volume:
            yield volume

    @pytest.fixture(autouse=True)
    def _not_under_wine(request: pytest.FixtureRequest) -> None:
        marker = request.node.get_closest_marker("not_wine")
        if marker is not None and WINE:
            pytest.skip(f"wine 8 is no Windows here: {marker.args[0]}")
