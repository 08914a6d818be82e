# SPDX-License-Identifier: MIT
"""``xloop list``, and the records that it reads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0


def rows(spot: Spot, **more: Any) -> list[dict[str, Any]]:
    """Return what the list says of the mounts of this test."""
    done = spot.run("list", "--json", **more)
    assert (done.returncode, done.stderr) == (0, "")
    return [row for row in json.loads(done.stdout) if row["mountpoint"].startswith(str(spot.top))]


def place() -> Path:
    """Return the directory of the records."""
    return Path(os.environ["XDG_RUNTIME_DIR"]) / "xloop"


def files() -> set[str]:
    return {path.name for path in place().iterdir()} if place().exists() else set()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_mount_is_listed_for_as_long_as_it_is_there(spot: Spot) -> None:
    before = files()
    assert rows(spot) == []
    assert spot.run("mount", "-o", "ro,entry_timeout=2", spot.source, spot.mnt).returncode == 0
    (row,) = rows(spot)
    pid = spot.server()
    assert row["since"] > 1.7e9
    os.stat(spot.mnt / "file")
    (later,) = rows(spot)
    assert later["served"] > row["served"] > 0
    assert {**row, "since": 0, "served": 0} == {
        "source": str(spot.source),
        "mountpoint": str(spot.mnt),
        "backend": "devfuse",
        "options": "ro,entry_timeout=2",
        "since": 0,
        "served": 0,
        "pid": pid,
        "owner": os.geteuid(),
        "state": "served",
    }
    assert spot.run("umount", spot.mnt).returncode == 0
    assert rows(spot) == []
    assert files() == before


def test_the_table_is_for_people(spot: Spot) -> None:
    strange = spot.top / "a\x1b[31m\nb"
    strange.mkdir()
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert spot.run("mount", spot.source, strange).returncode == 0
    done = spot.run("list")
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        *(
            "SOURCE",
            "MOUNTPOINT",
            "STATE",
            "BACKEND",
            "OPTIONS",
            "SINCE",
            "REQUESTS",
            "PID",
            "OWNER",
        )
    ]
    row = next(line for line in lines if re.search(rf"{spot.mnt} ", line))
    assert re.search(r" served +devfuse +- +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\d+ +\d+ +\S+$", row)
    assert "\x1b" not in done.stdout
    assert ascii(str(strange)) in done.stdout
    assert spot.run("umount", spot.mnt, strange).returncode == 0


def test_records_are_their_owners_alone(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert stat.S_IMODE(place().stat().st_mode) == 0o700
    device = spot.mounted().device
    assert stat.S_IMODE((place() / f"{device[0]}-{device[1]}.json").stat().st_mode) == 0o600
    assert spot.run("umount", spot.mnt).returncode == 0


def test_a_dead_mount_is_listed_as_dead_and_its_record_goes(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    before = files()
    os.kill(spot.server(), signal.SIGKILL)
    assert not spot.servers() or spot.run("list")  # whichever comes first
    assert [(row["state"], row["pid"]) for row in rows(spot)] == [("dead", None)]
    assert files() == {name for name in before if not name.startswith(_name(spot))}
    assert spot.run("umount", spot.mnt).returncode == 0
    assert rows(spot) == []


def _name(spot: Spot) -> str:
    major, minor = spot.mounted().device
    return f"{major}-{minor}."


def test_a_mount_that_hangs_is_listed_and_hangs_nobody(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    with stopped(pid):
        (row,) = rows(spot)
        assert (row["state"], row["pid"], row["served"]) == ("does not answer", pid, None)
        # Without its record it is looked at, by a process that can be left behind.
        for end in ("json", "sock"):
            (place() / f"{_name(spot)}{end}").unlink()
        (row,) = rows(spot)
        assert (row["state"], row["pid"]) == ("does not answer", None)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_a_detached_mount_is_listed_until_its_last_user_is_gone(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    with open(spot.mnt / "file"):
        assert spot.run("umount", "--lazy", spot.mnt).returncode == 0
        assert [row["state"] for row in rows(spot)] == ["detached"]
    assert spot.alone()
    assert rows(spot) == []


def test_what_programs_mount_and_serve_is_listed(spot: Spot) -> None:
    inside = spot.source / "inner"
    with xloop.mount(str(spot.source), str(spot.mnt), subtype="view") as mount:
        server = spot.program(
            "xloop.serve(xloop.Loopback(source), args[0], ready=lambda: print(1, flush=True))",
            inside,
        )
        assert server.stdout.readline() == "1\n"
        found = {row["mountpoint"]: (row["pid"], row["state"]) for row in rows(spot)}
        assert found == {
            str(spot.mnt): (mount.pid, "served"),
            str(inside): (server.pid, "served"),
        }
        assert spot.run("umount", inside).returncode == 0
        assert server.wait(60) == 0


def test_a_server_that_cannot_be_asked_mounts_and_says_so(spot: Spot) -> None:
    deep = spot.top / ("x" * 100)  # no socket has so long a name
    deep.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(deep)}
    done = spot.run("mount", "-v", spot.source, spot.mnt, env=environment)
    assert done.returncode == 0
    assert "control socket: none: " in done.stderr
    assert "the path is too long" in done.stderr
    assert (spot.mnt / "file").read_text() == "content\n"
    status = spot.run("status", spot.mnt, env=environment)
    spot.refused(status, "has left no record by which it could be asked", "'control socket'")
    (row,) = rows(spot, env=environment)
    assert (row["state"], row["owner"], row["pid"]) == ("mounted", os.geteuid(), None)
    assert spot.run("umount", spot.mnt, env=environment).returncode == 0
    assert spot.alone()


def test_a_directory_that_lets_others_in_is_not_used(spot: Spot) -> None:
    loose = spot.top / "run"
    (loose / "xloop").mkdir(parents=True)
    loose.chmod(0o700)
    (loose / "xloop").chmod(0o755)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(loose)}
    done = spot.run("mount", "-v", spot.source, spot.mnt, env=environment)
    assert done.returncode == 0
    if ROOT:
        assert re.search(r"control socket: /run/xloop/\d+-\d+\.sock", done.stderr)
    else:
        assert f"control socket: none: {str(loose / 'xloop')!r}: its mode is 0755" in done.stderr
    assert os.listdir(loose / "xloop") == []
    assert spot.run("umount", spot.mnt, env=environment).returncode == 0
    assert spot.alone()


@pytest.mark.skipif(not ROOT, reason="needs root: it acts as another user")
def test_root_sees_the_mounts_of_others_and_they_their_own(spot: Spot) -> None:
    drop = ("setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups")
    again = (
        "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import xloop, click'])"
    )
    if subprocess.run([*drop, sys.executable, "-c", again], capture_output=True).returncode:
        pytest.skip("this Python is not accessible to another user")
    spot.top.chmod(0o755)
    theirs, run = spot.top / "theirs", spot.top / "run"
    for path in (theirs, run):
        path.mkdir()
        os.chown(path, 65533, 65533)
    run.chmod(0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(run)}

    def they(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*drop, sys.executable, "-m", "xloop", *map(str, words)],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    others = json.loads(they("list", "--json").stdout)
    (row,) = [row for row in others if row["mountpoint"] == str(spot.mnt)]
    assert (row["pid"], row["owner"], row["state"]) == (None, 0, "mounted")
    spot.refused(
        they("status", spot.mnt), "is a mount of user 0: only that user may ask its server"
    )
    done = they("mount", spot.source, theirs)
    if done.returncode:
        assert "fuse" in done.stderr
        assert spot.run("umount", spot.mnt).returncode == 0
        pytest.skip(f"user 65533 cannot mount here: {done.stderr}")
    found = {row["mountpoint"]: row for row in rows(spot)}
    assert found[str(theirs)]["owner"] == 65533
    assert found[str(theirs)]["served"] > 0
    assert "process" in spot.run("status", theirs).stdout
    assert they("umount", theirs).returncode == 0
    assert spot.run("umount", spot.mnt).returncode == 0
