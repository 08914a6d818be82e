# SPDX-License-Identifier: MIT
"""For the tests of host modules: this directory is on the path of what they start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import Run

HERE = Path(__file__).parent
sys.path.append(str(HERE))
#: Whoever is root becomes nobody: these hosts cannot act as others.
NOBODY = 65534


@pytest.fixture
def contract() -> Iterator[Run]:
    """Run the in-process contract tests on the host that a plugin of this directory makes.

    Returns how many passed, and the names of those that did not.
    """

    # Not tmp_path: pytest closes the directory that it makes these in to all others, again and again.
    made = Path(tempfile.mkdtemp(prefix="xloop-hosts-"))

    def run(plugin: str, *without: str) -> tuple[int, set[str]]:
        report = made / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin]
        command += ["--contract-subject", "inprocess", f"--junitxml={report}"]
        command += [f"--ignore={HERE.parent / 'contract' / name}" for name in without]
        paths = [str(HERE), *filter(None, sys.path)]
        who = {}
        if os.geteuid() == 0:
            os.chown(report.parent, NOBODY, NOBODY)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = subprocess.run(
            [*command, str(HERE.parent / "contract")],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "TMPDIR": str(report.parent),
                "HYPOTHESIS_STORAGE_DIRECTORY": str(report.parent / "hypothesis"),
            },
            capture_output=True,
            text=True,
            timeout=400,
            cwd=HERE.parents[1],
            **who,
        )
        assert report.exists(), done.stdout[-3000:] + done.stderr
        passed, broken = 0, set()
        for case in ET.parse(report).getroot().iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                broken.add(case.get("name", "").partition("[")[0])
            elif case.find("skipped") is None:
                passed += 1
        return passed, broken

    yield run
    shutil.rmtree(made)
