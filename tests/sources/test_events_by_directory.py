# SPDX-License-Identifier: MIT
"""Events on a mount whose source is watched one directory at a time, as it is for everybody but root.

That they are the same as anywhere is said by test_events.py, run as an ordinary user.  Here is what is particular:
what is watched and what is not, root where it has to make do with it, and a user namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources.conftest import Lab, run
from sources.watching import Changing, Watcher

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.mount
#: Run as root of a user namespace of their own, with a directory for Changing.
HERE = Path(__file__).parent

Show = Callable[..., Changing]


@pytest.fixture
def show(changing: Show) -> Show:
    return changing


def watched(shown: Changing) -> dict[str, Any]:
    found: dict[str, Any] = shown.status()["events"]["watch"]
    return found


@pytest.mark.skipif(ROOT, reason="root watches the whole file system")
def test_a_directory_that_may_not_be_read_is_counted(show: Show) -> None:
    shown = show()
    assert watched(shown)["means"] == "fanotify by directory"
    before = watched(shown)["not to be watched"]
    with Watcher(root=shown.mnt) as there:
        (shown.source / "dark").mkdir(mode=0o300)
        there.until("root", "CREATE|ISDIR", "dark")
        try:
            there.add("dark", shown.mnt / "dark")  # without default_permissions the kernel lets him
            assert watched(shown)["not to be watched"] > before
            (shown.source / "dark" / "unheard").mkdir()
            (shown.source / "end").mkdir()
            assert there.until("root", "CREATE|ISDIR", "end") == []
        finally:
            (shown.source / "dark").chmod(0o700)


def test_nothing_in_a_new_directory_is_missed_or_told_twice(show: Show) -> None:
    """Who watches recursively watches what is new, and then looks what came before: it has everything, once."""
    shown = show()
    names = {f"f{number}" for number in range(20)}
    script = (
        "import os\n"
        "for number in range(60):\n"
        "    os.mkdir(f'd{number}')\n"
        "    for name in range(20): os.mknod(f'd{number}/f{name}')\n"
        "os.mkdir('end')\n"
    )
    listed: dict[str, set[str]] = {}
    told = []
    maker = [sys.executable, "-c", script]
    with Watcher(root=shown.mnt) as there, subprocess.Popen(maker, cwd=shown.source) as process:
        for number in range(60):
            told += there.until("root", "CREATE|ISDIR", f"d{number}")
            there.add(f"d{number}", shown.mnt / f"d{number}")
            listed[f"d{number}"] = set(os.listdir(shown.mnt / f"d{number}"))
        told += there.until("root", "CREATE|ISDIR", "end")
        assert process.wait() == 0
    for directory, before in listed.items():
        after = [name for label, kind, name in told if (label, kind) == (directory, "CREATE")]
        assert len(after) == len(set(after)), (directory, after)
        assert before | set(after) == names, directory


def test_root_makes_do_with_it_on_a_subvolume(lab: Lab) -> None:
    """What cannot be marked as a whole: a subvolume of btrfs that is mounted by itself."""
    disk = lab.disk("btrfs")
    run("btrfs", "subvolume", "create", disk / "volume")
    (device,) = run("findmnt", "-n", "-o", "SOURCE", disk).split()
    alone = lab.mount("-o", "subvol=volume", device.partition("[")[0])
    with Changing(alone, passthrough=False) as shown:
        means = watched(shown)
        assert means["means"] == "fanotify by directory", means
        (shown.mnt / "inner").stat()
        with Watcher(root=shown.mnt, inner=shown.mnt / "inner", file=shown.mnt / "file") as there:
            (shown.mnt / "mine").mkdir()  # told by the kernel, once
            (shown.source / "inner" / "new").write_text("text")
            os.link(shown.source / "file", shown.source / "inner" / "hard")
            os.rename(shown.source / "inner" / "new", shown.source / "file")
            (shown.source / "end").mkdir()
            assert there.until("root", "CREATE|ISDIR", "end") == [
                ("root", "CREATE|ISDIR", "mine"),
                ("inner", "CREATE", "new"),
                ("inner", "MODIFY", "new"),
                ("inner", "CLOSE_WRITE", "new"),
                ("file", "ATTRIB", ""),
                ("inner", "CREATE", "hard"),
                ("inner", "MOVED_FROM", "new"),
                ("root", "MOVED_TO", "file"),
            ]


IN_NAMESPACE = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from sources.watching import Changing, Watcher

top, marks = Path(sys.argv[2]), int(sys.argv[3])
Path("/proc/sys/user/max_fanotify_marks").write_text(str(marks))
with Changing(top) as shown:
    with Watcher(root=shown.mnt) as there:
        for number in range(40):
            (shown.source / f"d{number}").mkdir()
        there.until("root", "CREATE|ISDIR", "d39")
        for number in range(40):
            os.stat(shown.mnt / f"d{number}")
        there.add("first", shown.mnt / "d0")
        there.add("last", shown.mnt / "d39")
        (shown.source / "d0" / "new").mkdir()
        (shown.source / "d39" / "new").mkdir()
        (shown.source / "end").mkdir()
        told = there.until("root", "CREATE|ISDIR", "end")
        (shown.mnt / "d39" / "mine").mkdir()
        (shown.source / "really").mkdir()
        print(told + there.until("root", "CREATE|ISDIR", "really"))
    watch = shown.status()["events"]["watch"]
    print(watch["means"], watch["dropped"] > 0, watch["watches"] <= marks)
"""


@pytest.mark.parametrize("marks", [1000, 20], ids=["enough", "too few"])
def test_in_a_user_namespace(base: Path, marks: int) -> None:
    """Its root may mount, and is an ordinary user to fanotify.  What has no watch any more is said."""
    if shutil.which("unshare") is None:
        pytest.skip("needs the program unshare")
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*enter, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system gives nobody a user namespace")
    top = Path(tempfile.mkdtemp(prefix="events-", dir=base))
    words = [sys.executable, "-c", IN_NAMESPACE, HERE.parent, top, str(marks)]
    done = subprocess.run([*enter, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, said = done.stdout.splitlines()
    last = [("last", "CREATE|ISDIR", "new"), ("last", "CREATE|ISDIR", "mine")]
    if marks == 20:
        assert told == repr(last)
        assert said == "fanotify by directory True True"
        assert "are not watched any more" in done.stderr
    else:
        assert told == repr([("first", "CREATE|ISDIR", "new"), *last])
        assert said == "fanotify by directory False True"
    shutil.rmtree(top)
