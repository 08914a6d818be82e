# SPDX-License-Identifier: MIT
"""Events on a mount tell nobody what the source would not tell him: names in directories that he may not read."""

from __future__ import annotations

import json
import os
import pwd
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rights.conftest import ShowAs

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: not everything is the user's"
)
#: A user with a name: fusermount3 mounts for no other.
NOBODY = pwd.getpwnam("nobody").pw_uid
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
#: Watches the directories that it is given, says of each whether it may, and then every name that it hears.
_LISTENER = """
import ctypes, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_CLOEXEC)
print(json.dumps([libc.inotify_add_watch(fd, os.fsencode(path), 0x3C0) > 0 for path in sys.argv[1:]]), flush=True)
while True:
    data, at = os.read(fd, 1 << 16), 0
    while at < len(data):
        size = struct.unpack_from("=iIII", data, at)[3]
        print(json.dumps(os.fsdecode(data[at + 16 : at + 16 + size].rstrip(bytes(1)))), flush=True)
        at += 16 + size
"""
#: Mounts, says how that went, and unmounts.
_MOUNT = """
import sys, xloop
source, point, checks = sys.argv[1:]
try:
    with xloop.mount(source, point, backend="devfuse", events="relay", default_permissions=checks == "True"):
        print("mounted")
except xloop.XloopError as error:
    print(error)
"""


@pytest.fixture
def source(work: Path) -> Path:
    """The user's, but for two directories in it, of which he may not read one."""
    path = work / "source"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    (path / "secret").mkdir(mode=0o700)
    (path / "open").mkdir(mode=0o755)
    return path


def heard(path: Path, change: Callable[[], object], last: str) -> tuple[list[bool], list[str]]:
    """Return where the user may watch, and the names that he hears when *change* is made, up to *last*."""
    places = [path / "secret", path / "open"]
    command = [*AS_NOBODY, sys.executable, "-I", "-c", _LISTENER, *map(str, places)]
    names: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stdout is not None
            may: list[bool] = json.loads(process.stdout.readline())
            change()
            while last not in names:
                # Not a measure of anything: what takes as long hangs.
                assert names or select.select([process.stdout], [], [], 30)[0]
                names.append(json.loads(process.stdout.readline()))
        finally:
            process.kill()
    return may, names


def test_a_user_hears_nothing_of_what_he_may_not_read(source: Path, show_as: ShowAs) -> None:
    """The kernel lets him watch there, for it does not check; but his server is not told by the source."""
    point = show_as(source, NOBODY, helper=True, events="relay")

    def change() -> None:
        (source / "secret" / "unheard").mkdir()
        (source / "secret" / "unheard").rename(source / "open" / "moved")
        (source / "open" / "moved").rename(source / "secret" / "away")
        (source / "secret" / "away").rmdir()
        (source / "open" / "heard").mkdir()

    heard_of = ["moved", "moved", "heard"]
    assert heard(point, change, "heard") == ([True, True], heard_of)
    (source / "open" / "heard").rmdir()
    assert heard(source, change, "heard") == ([False, True], heard_of)


@pytest.mark.parametrize("kernel_checks", [False, True])
def test_a_capability_of_the_server_is_not_his(
    source: Path, work: Path, pytestconfig: pytest.Config, *, kernel_checks: bool
) -> None:
    """With it the server is told of everything: so who may hear of what has to be checked."""
    point = work / "mnt"
    point.mkdir()
    os.chown(point, NOBODY, NOBODY)
    (work / "run").mkdir(mode=0o700)
    os.chown(work / "run", NOBODY, NOBODY)
    capability = ["--inh-caps=+sys_admin", "--ambient-caps=+sys_admin"]
    done = subprocess.run(
        [*AS_NOBODY, *capability, sys.executable, "-c", _MOUNT, source, point, str(kernel_checks)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(work / "run"),
        },
    )
    if "cannot be started" in done.stdout and not pytestconfig.getoption("--require-mount"):
        pytest.skip(f"user {NOBODY} cannot mount here: {done.stdout.strip()}")
    assert ("mounted" if kernel_checks else "what its user may not read") in done.stdout
