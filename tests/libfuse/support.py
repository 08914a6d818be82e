# SPDX-License-Identifier: MIT
"""What the tests of the backends over libfuse share.  Owns no test and no fixture."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import xloop

__all__ = ["BOTH", "ROOT", "each", "mounted", "run"]

BOTH = ["libfuse3", "libfuse2"]
ROOT = os.geteuid() == 0

each = pytest.mark.parametrize("backend", BOTH, indirect=True)


@contextlib.contextmanager
def mounted(places: tuple[str, str], backend: str, **options: Any) -> Iterator[tuple[str, str]]:
    with xloop.mount(*places, backend=backend, **options):
        yield places


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in which this interpreter's modules are found."""
    start = f"import sys; sys.path[:] = {sys.path!r}\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
