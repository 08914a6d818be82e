# SPDX-License-Identifier: MIT
"""Mounts for the tests of rights, besides those that all contract tests share.  Owns no test.

Most tests here take `pair`: the same is done natively, in process, and through every mount that
root has made for all users.  What needs a mount of its own takes `show`.

Programs, by the names that Debian's apt-get install wants: fuse3 util-linux
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import xloop

Show = Callable[..., Path]
ShowAs = Callable[..., Path]

#: Mounts as whoever runs it, says how that went, and unmounts at the end of its input.
_OWNER = """
import json, sys, xloop
source, point, fields = sys.argv[1:]
try:
    with xloop.mount(source, point, backend="devfuse", **json.loads(fields)):
        print("ready", flush=True)
        sys.stdin.read()
except xloop.XloopError as error:
    print(error, flush=True)
"""


@pytest.fixture
def work(base: Path) -> Iterator[Path]:
    """A directory for one test, which everybody may enter."""
    path = Path(tempfile.mkdtemp(prefix="rights-", dir=base))
    path.chmod(0o755)
    yield path
    for point in sorted(_mounts_below(path), reverse=True):
        umount = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*umount, point], check=False, capture_output=True)
    shutil.rmtree(path)


def _mounts_below(top: Path) -> list[str]:
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [p for p in points if p.startswith(f"{top}/")]


@pytest.fixture
def show(work: Path) -> Iterator[Show]:
    """Mount a directory, with fields of MountOptions, and return where."""
    with contextlib.ExitStack() as made:

        def mount(source: Path, **fields: Any) -> Path:
            point = Path(tempfile.mkdtemp(prefix="mnt-", dir=work))
            point.chmod(0o755)
            made.enter_context(xloop.mount(str(source), str(point), backend="devfuse", **fields))
            return point

        yield mount


@pytest.fixture
def show_as(work: Path, pytestconfig: pytest.Config) -> Iterator[ShowAs]:
    """Mount a directory as another user, with fields of MountOptions, and return where.

    With *helper* through fusermount3, else with the one capability that mounting needs.
    """
    with contextlib.ExitStack() as made:

        def mount(source: Path, uid: int, *, helper: bool, **fields: Any) -> Path:
            point = Path(tempfile.mkdtemp(prefix="mnt-", dir=work))
            runtime = Path(tempfile.mkdtemp(prefix="run-", dir=work))
            for path in (point, runtime):
                os.chown(path, uid, uid)
            capability = [] if helper else ["--inh-caps=+sys_admin", "--ambient-caps=+sys_admin"]
            ids = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            server = subprocess.Popen(
                ["setpriv", *ids, *capability, sys.executable, "-c", _OWNER]
                + [str(source), str(point), json.dumps(fields)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd="/",
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "XDG_RUNTIME_DIR": str(runtime),
                },
            )
            made.callback(server.wait, 20)
            made.enter_context(contextlib.closing(server.stdout))  # type: ignore[type-var]
            made.enter_context(contextlib.closing(server.stdin))  # type: ignore[type-var]
            assert server.stdout is not None
            answer = server.stdout.readline().strip()
            if answer != "ready":
                why = f"user {uid} cannot mount here: {answer}"
                if pytestconfig.getoption("--require-mount"):
                    pytest.fail(f"--require-mount: {why}")
                pytest.skip(why)
            return point

        yield mount
