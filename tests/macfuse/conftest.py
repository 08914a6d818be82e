# SPDX-License-Identifier: MIT
"""The stand-in library, compiled for this run, and what one mount over it does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .support import Serve, Served

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the stand-in library with")
    library = tmp_path_factory.mktemp("standin") / "libfuse-standin.so"
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-pthread"]
    source = HERE / "standin" / "macfuse.c"
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    return library


@pytest.fixture
def serve(standin: Path, tmp_path: Path) -> Serve:
    """Mount a source with one file, b"content" in "old", and let the stand-in play through all of it."""

    def run(backend: str, words: str = "rw", **environment: str) -> Served:
        source, point = tmp_path / "source", tmp_path / "point"
        source.mkdir()
        point.mkdir()
        (source / "old").write_bytes(b"content")
        (source / "old").chmod(0o644)
        before = os.stat(source / "old")
        log = tmp_path / "log"
        paths = [str(HERE.parent / "hosts"), *filter(None, sys.path)]
        done = subprocess.run(
            [sys.executable, HERE / "drive.py", backend, source, point, words],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "FUSE_LIBRARY_PATH": str(standin),
                "STANDIN_LOG": str(log),
                "STANDIN_UNTIL": str(tmp_path / "until"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, "a callback complained"
        served = Served(json.loads(done.stdout), source, point, before)
        if log.exists():
            for line in log.read_text().splitlines():
                name, _, rest = line.partition(" ")
                served.log.setdefault(name, []).append(rest)
        return served

    return run
