# SPDX-License-Identifier: MIT
"""Tests that run on every system: a real mount, through whatever backend is there, and the host functions.

    pytest --confcutdir=tests/portable tests/portable

The option keeps ``tests/conftest.py`` out, which reads /proc.  $XLOOP_TEST_BACKEND names the backend, else
it is the best that there is; with $XLOOP_REQUIRE_MOUNT set, none is a failure and no skip.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xloop
from xloop import registry

WINDOWS = sys.platform == "win32"


def wanted() -> str:
    """Return the name of the backend to test; skips, or fails, where there is none."""
    name = os.environ.get("XLOOP_TEST_BACKEND", registry.AUTO)
    try:
        return registry.choose(name).name
    except xloop.BackendUnavailable as exc:
        if os.environ.get("XLOOP_REQUIRE_MOUNT"):
            pytest.fail(f"a mount is required: {exc}")
        pytest.skip(f"nothing can be mounted here: {exc.why}")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that is shown."""
    return tmp_path_factory.mktemp("portable") / "source"


@pytest.fixture(scope="module")
def view(source: Path) -> Iterator[Path]:
    """Where it is shown."""
    backend = wanted()
    source.mkdir()
    point = source.parent / "view"
    if not WINDOWS:  # there a mount makes its place
        point.mkdir()
    with xloop.mount(str(source), str(point), backend=backend):
        yield point
    if WINDOWS:
        assert not point.exists()
    else:
        assert os.listdir(point) == []
        point.rmdir()


@pytest.fixture
def pair(view: Path, source: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """One directory for this test: as the mount shows it, and as it lies in the source."""
    name = request.node.name[:40].replace("[", "-").replace("]", "")
    (source / name).mkdir()
    return view / name, source / name
