# SPDX-License-Identifier: MIT
"""What a start imports is counted, not timed: the number is the same on every machine.

What it costs in time is shown by benchmarks/startup.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from real.support import clean_environment, run, wait_until

#: What a mount needs none of, with all that lies below.  Most of these cost 3 to 50 ms each.
HEAVY = {
    "asyncio",
    "concurrent",
    "difflib",  # wanted for mistakes only: "did you mean"
    "email",
    "html",
    "http",
    "hypothesis",
    "importlib.metadata",  # reads every installed distribution; wanted for foreign backends only
    "importlib.resources",
    "mfusepy",  # of other backends
    "multiprocessing",
    "pdb",
    "pkg_resources",
    "pydoc",
    "pytest",
    "refuse",
    "setuptools",
    "sqlite3",
    "ssl",
    "statistics",
    "tempfile",
    "tomllib",
    "unittest",
    "urllib.request",
    "xloop.testing",
    "xml",
    "zipfile",
}

#: What the library and its server need none of: they have no command line.
COMMAND_LINE = {"click", "xloop.cli"}

#: mfusepy finds its library by ctypes.util, which has a way that needs temporary files.
BY_MFUSEPY = {"tempfile"}

#: More modules than this beyond Python's own are no accident.  With Python 3.11: 25 and 145.
FEW, SOME = 45, 180


def imported(*command: str) -> list[str]:
    """Return the modules that *command*, and all processes that it starts, import.

    What is imported by importlib.import_module() is not told; what that imports in turn is.
    """
    said = run(*command, env=clean_environment(PYTHONPROFILEIMPORTTIME="1")).err
    lines = [line for line in said.decode().splitlines() if line.startswith("import time:")]
    return [line.rpartition("|")[2].strip() for line in lines[1:]]


def assert_light(modules: list[str], heavy: set[str], most: int) -> None:
    own = set(imported(sys.executable, "-c", "pass"))
    found = {name for name in modules if any(f"{name}.".startswith(f"{h}.") for h in heavy)}
    assert not found - own, "imported at every start, and not needed for it"
    count = len(set(modules) - own)
    assert count <= most, f"{count} modules: {sorted(set(modules) - own)}"


def heavy_for(subject: str) -> set[str]:
    return HEAVY - BY_MFUSEPY if subject.startswith("libfuse") else HEAVY


def test_importing_xloop_imports_next_to_nothing() -> None:
    modules = imported(sys.executable, "-c", "import xloop")
    assert "xloop" in modules
    assert_light(modules, HEAVY | COMMAND_LINE | {"ctypes", "logging", "socket", "subprocess"}, FEW)


def test_the_command_imports_nothing_heavy(work: Path, subject: str) -> None:
    if subject == "native":
        pytest.skip("needs a mount")
    source, mnt = work / "source", work / "mnt"
    source.mkdir()
    mnt.mkdir()
    xloop = (sys.executable, "-m", "xloop")
    modules = imported(*xloop, "mount", "--backend", subject, str(source), str(mnt))
    run(*xloop, "umount", mnt)
    assert {"xloop.cli", "xloop.serving", "xloop.loopback"} <= set(modules)
    assert_light(modules, heavy_for(subject), SOME)


def test_the_library_and_its_server_import_nothing_heavy(work: Path, subject: str) -> None:
    if subject == "native":
        pytest.skip("needs a mount")
    source, mnt = work / "source", work / "mnt"
    source.mkdir()
    mnt.mkdir()
    script = "import sys, xloop; xloop.mount(*sys.argv[1:3], backend=sys.argv[3]).unmount()"
    modules = imported(sys.executable, "-c", script, str(source), str(mnt), subject)
    wait_until(lambda: mnt.stat().st_dev == work.stat().st_dev, "it is unmounted")
    assert {"xloop.control", "xloop.serving", "xloop.loopback"} <= set(modules)
    assert_light(modules, heavy_for(subject) | COMMAND_LINE, SOME)
