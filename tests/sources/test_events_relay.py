# SPDX-License-Identifier: MIT
"""The relay itself: where there is none, and what it says when something keeps it from relaying."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources.served import Served
from sources.watching import PATIENCE, Changing, Watcher, eventually
from xloop.errors import OptionError
from xloop.options import MountOptions

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.mount

Show = Callable[..., Changing]


@pytest.fixture
def show(changing: Show) -> Show:
    return changing


def may_let_in_others() -> bool:
    try:
        return "user_allow_other" in Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"allow_other": True, "default_permissions": False}, "nodefault_permissions"),
        ({"allow_root": True}, "allow_root"),
    ],
)
def test_where_anybody_could_listen_nothing_is_relayed(
    fields: dict[str, Any], word: str, show: Show
) -> None:
    with pytest.raises(OptionError, match=word):
        MountOptions(events="relay", **fields)
    if not ROOT and not may_let_in_others():
        pytest.skip("a user may let in others only where /etc/fuse.conf says user_allow_other")
    shown = show(events="auto", cache="coherent", **fields)
    status = shown.status()
    assert status["cache"]["mode"] == "coherent"
    assert status["events"]["mode"] == "off"
    assert word in status["events"]["not to be had"]


def events(shown: Changing) -> dict[str, Any]:
    found: dict[str, Any] = shown.status()["events"]
    return found


def is_told(shown: Changing, there: Watcher, name: str) -> bool:
    """Make a directory on the source, and whether nothing but that is told."""
    (shown.source / name).mkdir()
    told = there.until("root", "CREATE|ISDIR", name)
    assert told == []
    return True


def test_a_directory_above_the_mountpoint_may_get_another_name(show: Show) -> None:
    shown = show()
    top = shown.mnt.parent
    renamed = top.with_name(f"{top.name}-renamed")
    with Watcher(root=shown.mnt) as there:
        assert is_told(shown, there, "before")
        top.rename(renamed)
        try:
            (renamed / "source" / "meanwhile").mkdir()
            assert there.until("root", "CREATE|ISDIR", "meanwhile") == []
            # What has the old name now is nobody's business here.
            top.mkdir()
            (top / "mnt").mkdir()
            (renamed / "source" / "again").mkdir()
            assert there.until("root", "CREATE|ISDIR", "again") == []
            assert not list((top / "mnt").iterdir())
            (top / "mnt").rmdir()
            top.rmdir()
        finally:
            renamed.rename(top)
        assert is_told(shown, there, "after")
    assert events(shown)["not relayed"] == 0


def test_what_cannot_be_relayed_for_want_of_descriptors_is_counted(show: Show) -> None:
    shown = show()
    soft, hard = resource.prlimit(shown.pid, resource.RLIMIT_NOFILE)
    with Watcher(root=shown.mnt) as there:
        assert is_told(shown, there, "before")
        resource.prlimit(shown.pid, resource.RLIMIT_NOFILE, (3, hard))
        try:
            made = 0

            def is_not_reached() -> bool:
                # The first ones may find the mount still at hand, from before.
                nonlocal made
                (shown.source / f"{made}").mkdir()
                made += 1
                return bool(events(shown)["not reached"])

            assert eventually(is_not_reached)
            assert events(shown)["not reached"] == "Too many open files"
            assert events(shown)["mode"] == "relay"
            assert eventually(lambda: not events(shown)["waiting"])
        finally:
            resource.prlimit(shown.pid, resource.RLIMIT_NOFILE, (soft, hard))
        (shown.source / "after").mkdir()
        # Each is told or counted.  So is what others mount on this machine meanwhile: nobody can say what that was.
        told = there.until("root", "CREATE|ISDIR", "after")
        assert events(shown)["not relayed"] >= made - len(told)
        assert events(shown)["not reached"] == ""


def test_it_goes_on_when_something_is_mounted_and_no_descriptor_is_left(show: Show) -> None:
    shown = show()
    soft, hard = resource.prlimit(shown.pid, resource.RLIMIT_NOFILE)
    with Watcher(root=shown.mnt) as there:
        assert is_told(shown, there, "before")
        resource.prlimit(shown.pid, resource.RLIMIT_NOFILE, (3, hard))
        try:
            with Served(shown.twin, shown.beside, events="off"):
                pass
            # What went unheard, as far as anybody knows; and that cannot be relayed either.
            assert eventually(lambda: events(shown)["not relayed"] > 0)
        finally:
            resource.prlimit(shown.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert is_told(shown, there, "after")
        assert events(shown)["watch"]["lost"] == ""


@pytest.mark.skipif(
    not ROOT, reason="others may not mount over it, and their way to the mount is not covered"
)
def test_while_the_mountpoint_is_covered_it_is_counted(show: Show) -> None:
    shown = show()
    with Watcher(root=shown.mnt) as there:
        assert is_told(shown, there, "before")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shown.mnt], check=True)
        try:
            (shown.source / "unheard").mkdir()
            assert eventually(lambda: events(shown)["not relayed"] == 1)
            assert "covers it" in events(shown)["not reached"]
            assert not list(shown.mnt.iterdir())
        finally:
            subprocess.run(["umount", shown.mnt], check=True)
        assert is_told(shown, there, "after")


def test_nobody_stops_it_by_asking_for_a_name(show: Show) -> None:
    """One that the kernel then believes to be nowhere, and that the relay asks for."""
    shown = show(negative_timeout=3600.0)
    with Watcher(root=shown.mnt) as there:
        for _ in range(2):
            assert not os.path.exists(os.fsencode(shown.mnt) + b"/\xff.xloop: elsewhere\xff")
        assert is_told(shown, there, "new")


#: Serves from another pid namespace than that of the mount: the kernel calls its threads by other numbers than they do.
STRANGER = """
import ctypes, json, os, sys, threading
from xloop.loopback import Loopback
from xloop.options import MountOptions
from xloop_backends.devfuse import DevFuse

source, point = sys.argv[1:]
session = DevFuse().mount(Loopback(source, mountpoint=point), point, MountOptions(events="relay"))
assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID
child = os.fork()
if child:
    os.close(session._connection)  # the child's alone: its end is the mount's
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

def ready():
    def tell():
        for _ in sys.stdin:
            print(json.dumps(session.status()["events"]), flush=True)
    threading.Thread(target=tell, daemon=True).start()
    print("ready", flush=True)

session.serve(ready)
os._exit(0)
"""


@pytest.mark.skipif(not ROOT, reason="needs a pid namespace")
def test_a_server_in_another_pid_namespace_says_so(base: Path) -> None:
    top = Path(tempfile.mkdtemp(prefix="stranger-", dir=base))
    for name in ("source", "mnt"):
        (top / name).mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", STRANGER, top / "source", top / "mnt"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            (top / "source" / "new").mkdir()

            def said() -> dict[str, Any]:
                process.stdin.write("\n")  # type: ignore[union-attr]
                found: dict[str, Any] = json.loads(process.stdout.readline())  # type: ignore[union-attr]
                return found

            assert eventually(lambda: said()["mode"] == "ended")
            assert "pid namespace" in said()["ended"]
            assert (top / "mnt" / "new").is_dir()
        finally:
            subprocess.run(["umount", "-l", top / "mnt"], check=True)
        assert process.wait(PATIENCE) == 0
