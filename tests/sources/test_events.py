# SPDX-License-Identifier: MIT
"""What is changed on the source is told to whoever watches the mount, as if it had been changed there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources.conftest import DISKS, Lab
from sources.served import Served
from sources.watching import Changing, Event, Watcher

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.mount
#: How a mount may be; what is told must be the same.
MODES: dict[str, dict[str, Any]] = {
    "timeout": {},
    "forgetful": {"attr_timeout": 0.0, "entry_timeout": 0.0},
    "coherent": {"cache": "coherent", "events": "auto"},
    "served": {"passthrough": False},
    # The kernel checks who may do what.
    "checked": {"default_permissions": True},
    "shared": {"allow_other": True, "cache": "coherent"},
    "read-only": {"read_only": True},
}
if not ROOT:
    del MODES["read-only"]  # to which nothing is relayed then: see below

Show = Callable[..., Changing]


@pytest.fixture
def show(changing: Show) -> Show:
    return changing


@pytest.fixture(params=MODES)
def shown(request: pytest.FixtureRequest, show: Show) -> Changing:
    return show(**options(request.param))


def options(mode: str) -> dict[str, Any]:
    if mode == "shared" and not ROOT and not may_let_in_others():
        pytest.skip("a user may let in others only where /etc/fuse.conf says user_allow_other")
    return MODES[mode]


def may_let_in_others() -> bool:
    try:
        return "user_allow_other" in Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False


def watch(place: Path, *labels: str) -> Watcher:
    """Watch the root, the directory and the file, or those of them that are wanted, at *place*."""
    what = {"root": place, "inner": place / "inner", "file": place / "file"}
    return Watcher(**{label: what[label] for label in labels or what})


def settle(shown: Changing) -> None:
    """Wait until all that was changed so far was told."""
    with watch(shown.mnt, "root") as there:
        (shown.source / "settled").mkdir()
        there.until("root", "CREATE|ISDIR", "settled")
        (shown.source / "settled").rmdir()
        there.until("root", "DELETE|ISDIR", "settled")


def changed(shown: Changing, *steps: Callable[[Path], object]) -> list[Event]:
    """Make changes on the source, and return what is told on the mount: the same as of its twin.

    Each step is told before the next is made: several changes of one file that nobody has read of yet
    are one to the kernel.
    """
    settle(shown)
    told = []
    with watch(shown.mnt) as there, watch(shown.twin) as here:
        for step in steps:
            for path in shown.twin, shown.source:
                step(path)
                (path / "end").mkdir()
            native = here.until("root", "CREATE|ISDIR", "end")
            step_told = there.until("root", "CREATE|ISDIR", "end")
            assert step_told == native
            told += native
            for path in shown.twin, shown.source:
                (path / "end").rmdir()
            assert here.until("root", "DELETE|ISDIR", "end") == []
            assert there.until("root", "DELETE|ISDIR", "end") == []
    return told


def write(path: Path, text: str, mode: str = "w") -> None:
    with open(path, mode) as file:
        file.write(text)


# -- each kind of event ---------------------------------------------------------------------


def test_creating(shown: Changing) -> None:
    def change(source: Path) -> None:
        os.close(os.open(source / "new", os.O_CREAT | os.O_RDONLY))
        (source / "inner" / "dir").mkdir()
        (source / "link").symlink_to("nowhere")
        os.mkfifo(source / "fifo")
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(source / "inner" / "s"))

    assert changed(shown, change) == [
        ("root", "CREATE", "new"),
        ("inner", "CREATE|ISDIR", "dir"),
        ("root", "CREATE", "link"),
        ("root", "CREATE", "fifo"),
        ("inner", "CREATE", "s"),
        # The socket is closed: nothing that a directory is told.
    ]
    for name in ("new", "inner/dir", "link", "fifo", "inner/s"):
        assert os.lstat(shown.mnt / name).st_ino == os.lstat(shown.source / name).st_ino
        mode = os.lstat(shown.source / name).st_mode
        assert os.lstat(shown.mnt / name).st_mode == mode
    assert os.readlink(shown.mnt / "link") == "nowhere"


def test_deleting(shown: Changing) -> None:
    shown.write("inner/there", "text")

    def change(source: Path) -> None:
        (source / "inner" / "there").unlink()
        (source / "file").unlink()
        (source / "inner").rmdir()

    told = changed(shown, change)
    assert told == [
        ("inner", "DELETE", "there"),
        ("file", "ATTRIB", ""),
        ("file", "DELETE_SELF", ""),
        ("file", "IGNORED", ""),
        ("root", "DELETE", "file"),
        ("inner", "DELETE_SELF", ""),
        ("inner", "IGNORED", ""),
        ("root", "DELETE|ISDIR", "inner"),
    ]
    assert os.listdir(shown.mnt) == []
    for name in ("file", "inner", "inner/there"):
        assert not os.path.lexists(shown.mnt / name)


def test_writing(shown: Changing) -> None:
    shown.write("inner/other", "text")
    for name in ("file", "inner/other"):
        (shown.mnt / name).read_text()  # is kept

    def change(top: Path) -> None:
        with open(top / "inner" / "other", "r+") as file:
            file.write("TEXT")

    assert changed(
        shown,
        lambda top: write(top / "file", "more\n", "a"),
        change,
        lambda top: os.truncate(top / "file", 3),
    ) == [
        ("root", "MODIFY", "file"),
        ("file", "MODIFY", ""),
        ("root", "CLOSE_WRITE", "file"),
        ("file", "CLOSE_WRITE", ""),
        ("inner", "MODIFY", "other"),
        ("inner", "CLOSE_WRITE", "other"),
        ("root", "MODIFY", "file"),
        ("file", "MODIFY", ""),
    ]
    assert (shown.mnt / "file").read_text() == "con"
    assert (shown.mnt / "inner" / "other").read_text() == "TEXT"


def test_attributes(shown: Changing) -> None:
    both = [("root", "ATTRIB", "file"), ("file", "ATTRIB", "")]
    assert changed(
        shown,
        lambda top: (top / "file").chmod(0o600),
        lambda top: (top / "inner").chmod(0o750),
        lambda top: os.utime(top / "file", ns=(1, 2)),
    ) == [
        *both,
        ("root", "ATTRIB|ISDIR", "inner"),
        ("inner", "ATTRIB|ISDIR", ""),
        *both,
    ]
    assert stat.S_IMODE((shown.mnt / "file").stat().st_mode) == 0o600
    assert (shown.mnt / "file").stat().st_mtime_ns == 2


def test_renaming(shown: Changing) -> None:
    with watch(shown.mnt) as there:
        os.rename(shown.source / "file", shown.source / "inner" / "moved")
        os.rename(shown.source / "inner" / "moved", shown.source / "inner" / "again")
        os.rename(shown.source / "inner", shown.source / "outer")
        (shown.source / "end").mkdir()
        assert there.until("root", "CREATE|ISDIR", "end") == [
            ("root", "MOVED_FROM", "file"),
            ("inner", "MOVED_TO", "moved"),
            ("file", "MOVE_SELF", ""),
            ("inner", "MOVED_FROM", "moved"),
            ("inner", "MOVED_TO", "again"),
            ("file", "MOVE_SELF", ""),
            ("root", "MOVED_FROM|ISDIR", "inner"),
            ("root", "MOVED_TO|ISDIR", "outer"),
            ("inner", "MOVE_SELF", ""),
        ]
        first, second, *others = there.cookies
        assert first == second
        assert len({first, *others}) == 3
        assert others[::2] == others[1::2]
    assert (shown.mnt / "outer" / "again").read_text() == "content\n"
    assert sorted(os.listdir(shown.mnt)) == ["end", "outer"]
    assert not (shown.mnt / "inner").exists()
    # What is watched is watched on.
    assert changed_there(shown, shown.mnt / "outer") == [("dir", "CREATE", "new")]


def changed_there(shown: Changing, place: Path) -> list[Event]:
    source = shown.source / place.relative_to(shown.mnt)
    with Watcher(dir=place) as there:
        os.close(os.open(source / "new", os.O_CREAT | os.O_RDONLY))
        (source / "end").mkdir()
        return there.until("dir", "CREATE|ISDIR", "end")


def test_replacing(shown: Changing) -> None:
    shown.write("inner/new", "new\n")

    def change(source: Path) -> None:
        os.rename(source / "inner" / "new", source / "file")

    assert changed(shown, change) == [
        ("inner", "MOVED_FROM", "new"),
        ("root", "MOVED_TO", "file"),
        ("file", "ATTRIB", ""),
        ("file", "DELETE_SELF", ""),
        ("file", "IGNORED", ""),
    ]
    assert (shown.mnt / "file").read_text() == "new\n"


def test_exchanging(shown: Changing) -> None:
    shown.write("inner/other", "other\n")
    from xloop.host import linux  # renameat2(2)

    def change(source: Path) -> None:
        root = os.open(source, os.O_PATH)
        inner = os.open(source / "inner", os.O_PATH)
        linux.rename(root, b"file", inner, b"other", 2)
        os.close(root)
        os.close(inner)

    assert changed(shown, change) == [
        ("root", "MOVED_FROM", "file"),
        ("inner", "MOVED_TO", "other"),
        ("file", "MOVE_SELF", ""),
        ("inner", "MOVED_FROM", "other"),
        ("root", "MOVED_TO", "file"),
    ]
    assert (shown.mnt / "file").read_text() == "other\n"
    assert (shown.mnt / "inner" / "other").read_text() == "content\n"


def test_moving_in_and_out(shown: Changing) -> None:
    def change(source: Path) -> None:
        out = shown.beside / source.name
        (out / "dir").mkdir(parents=True)
        os.rename(source / "file", out / "file")
        os.rename(out / "file", source / "back")
        os.rename(out / "dir", source / "dir")
        os.rename(source / "inner", out / "inner")

    assert changed(shown, change) == [
        ("root", "MOVED_FROM", "file"),
        ("file", "MOVE_SELF", ""),
        ("root", "MOVED_TO", "back"),
        ("file", "MOVE_SELF", ""),
        ("root", "MOVED_TO|ISDIR", "dir"),
        ("root", "MOVED_FROM|ISDIR", "inner"),
        ("inner", "MOVE_SELF", ""),
    ]
    assert (shown.mnt / "back").read_text() == "content\n"
    assert sorted(os.listdir(shown.mnt)) == ["back", "dir"]


def test_linking(shown: Changing) -> None:
    def change(source: Path) -> None:
        os.link(source / "file", source / "inner" / "hard")
        (source / "file").unlink()

    assert changed(shown, change) == [
        ("file", "ATTRIB", ""),
        ("inner", "CREATE", "hard"),
        ("file", "ATTRIB", ""),
        ("root", "DELETE", "file"),
    ]
    assert (shown.mnt / "inner" / "hard").stat().st_nlink == 1


@pytest.mark.parametrize("kind", ["tmpfs", *DISKS])
def test_on_a_source_of_another_kind(kind: str, lab: Lab) -> None:
    top = Path(tempfile.mkdtemp(prefix="events-", dir=lab.kind(kind)))
    with Changing(top) as shown:
        told = changed(
            shown,
            lambda top: (top / "dir").mkdir(),
            lambda top: write(top / "inner" / "new", "text"),
            lambda top: os.rename(top / "inner" / "new", top / "file"),
            lambda top: (top / "dir").rmdir(),
        )
    assert told == [
        ("root", "CREATE|ISDIR", "dir"),
        ("inner", "CREATE", "new"),
        ("inner", "MODIFY", "new"),
        ("inner", "CLOSE_WRITE", "new"),
        ("inner", "MOVED_FROM", "new"),
        ("root", "MOVED_TO", "file"),
        ("file", "ATTRIB", ""),
        ("file", "DELETE_SELF", ""),
        ("file", "IGNORED", ""),
        ("root", "DELETE|ISDIR", "dir"),
    ]


# -- what must not happen -------------------------------------------------------------------


def stamps(top: Path) -> dict[str, object]:
    found = {}
    for directory, dirs, files in os.walk(top):
        for name in [".", *dirs, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            found[path] = (
                st.st_ino,
                st.st_mode,
                st.st_nlink,
                st.st_size,
                st.st_mtime_ns,
                st.st_ctime_ns,
            )
    return found


def test_nothing_of_the_source_is_touched(shown: Changing) -> None:
    with watch(shown.mnt) as there:
        write(shown.source / "file", "more\n", "a")
        write(shown.source / "inner" / "new", "text")
        (shown.source / "inner" / "new").chmod(0o600)
        os.rename(shown.source / "inner" / "new", shown.source / "new")
        (shown.source / "inner").chmod(0o700)
        write(shown.source / "gone", "")
        (shown.source / "gone").unlink()
        (shown.source / "end").mkdir()
        before = stamps(shown.source)
        told = there.until("root", "CREATE|ISDIR", "end")
    assert ("root", "MOVED_TO", "new") in told
    assert stamps(shown.source) == before
    assert os.listxattr(shown.source / "file") == []


@pytest.mark.parametrize("mode", [m for m in MODES if m != "read-only"])
def test_what_is_changed_through_the_mount_is_told_once(mode: str, show: Show) -> None:
    shown = show(**options(mode))

    def change(top: Path) -> None:
        write(top / "new", "text")
        write(top / "file", "more\n", "a")
        (top / "inner" / "dir").mkdir()
        os.rename(top / "new", top / "inner" / "moved")
        (top / "inner" / "moved").chmod(0o600)
        os.truncate(top / "file", 3)
        with open(top / "inner" / "moved", "r+") as file:
            file.write("more")
            file.flush()
            os.fsync(file.fileno())
            file.write("more")
        (top / "inner" / "moved").unlink()
        (top / "inner" / "dir").rmdir()
        (top / "end").mkdir()

    with watch(shown.mnt) as there, watch(shown.twin) as here:
        change(shown.mnt)
        change(shown.twin)
        told = there.until("root", "CREATE|ISDIR", "end")
        assert told == here.until("root", "CREATE|ISDIR", "end")
        # What was told twice would come before this.
        (shown.source / "really").mkdir()
        assert there.until("root", "CREATE|ISDIR", "really") == []


def test_who_writes_what_is_open_for_writing_on_the_mount(show: Show) -> None:
    """With passthrough, which is root's, that is the kernel's word against the watch's."""
    shown = show()
    # It goes on until it is let go: nobody knows what a process had open that has ended.
    script = "import os, sys; os.write({}, b'x'); print(flush=True); sys.stdin.read()"

    def told(file: int | str) -> list[Event]:
        """Let another process write, and return what is told."""
        opened = file if isinstance(file, int) else f"os.open({file!r}, os.O_WRONLY)"
        fds = (file,) if isinstance(file, int) else ()
        with subprocess.Popen(
            [sys.executable, "-c", script.format(opened)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            (shown.source / "end").mkdir()
            events = there.until("root", "CREATE|ISDIR", "end")
            (shown.source / "end").rmdir()
            there.until("root", "DELETE|ISDIR", "end")
            process.communicate()
        # When the last one closed it is not told with passthrough, and told late without.
        return [event for event in events if event[1] != "CLOSE_WRITE"]

    with watch(shown.mnt, "root") as there, open(shown.mnt / "file", "r+b", 0) as file:
        file.write(b"C")
        (shown.source / "settled").mkdir()
        once = [("root", "MODIFY", "file")]
        assert there.until("root", "CREATE|ISDIR", "settled") == once
        assert told(file.fileno()) == once
        assert told(str(shown.source / "file")) == once
        assert told(str(shown.mnt / "file")) == once


def test_names_that_came_and_went(shown: Changing) -> None:
    names = [f"{number}" for number in range(200)]
    with watch(shown.mnt, "root") as there:
        for name in names:
            write(shown.source / name, "text")
            os.rename(shown.source / name, shown.source / f"{name}+")
            (shown.source / f"{name}+").unlink()
            (shown.source / name).mkdir()
            (shown.source / name).rmdir()
        (shown.source / "end").mkdir()
        told = there.until("root", "CREATE|ISDIR", "end")
    for kind in ("CREATE", "MOVED_FROM", "CREATE|ISDIR", "DELETE|ISDIR"):
        assert [name for _, what, name in told if what == kind] == names
    for kind in ("MOVED_TO", "DELETE"):
        assert [name for _, what, name in told if what == kind] == [f"{name}+" for name in names]
    assert sorted(os.listdir(shown.mnt)) == ["end", "file", "inner"]
    assert not any((shown.mnt / name).exists() for name in names)


def test_a_storm_arrives_complete_and_in_order(show: Show) -> None:
    shown = show()
    (shown.source / "a").mkdir()
    settle(shown)
    names = [f"{number}" for number in range(10_000)]
    told: list[Event] = []
    with Watcher(root=shown.mnt, a=shown.mnt / "a", inner=shown.mnt / "inner") as there:
        # It reads meanwhile: what waits for it is limited (fs.inotify.max_queued_events).
        reader = threading.Thread(
            target=lambda: told.extend(there.until("root", "CREATE|ISDIR", "end"))
        )
        reader.start()
        for name in names:
            os.mknod(shown.source / "a" / name)
        for name in names:
            os.rename(shown.source / "a" / name, shown.source / "inner" / name)
        for name in names:
            (shown.source / "inner" / name).unlink()
        (shown.source / "end").mkdir()
        reader.join()
    assert told == [
        *(("a", "CREATE", name) for name in names),
        *(
            half
            for name in names
            for half in (("a", "MOVED_FROM", name), ("inner", "MOVED_TO", name))
        ),
        *(("inner", "DELETE", name) for name in names),
    ]


def test_the_watcher_reads_the_mount_meanwhile(shown: Changing) -> None:
    """As every development server does: whatever it hears of, it looks at, in many threads."""
    errors: list[BaseException] = []
    ended = threading.Event()

    def look() -> None:
        try:
            while not ended.is_set():
                for directory, _, files in os.walk(shown.mnt):
                    for name in files:
                        try:
                            Path(directory, name).read_bytes()
                        except OSError as error:
                            # ESTALE: another file took the name between being found and being opened, twice.
                            if error.errno not in (errno.ENOENT, errno.ESTALE):
                                raise
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    with watch(shown.mnt, "root", "inner") as there:
        for looker in lookers:
            looker.start()
        for number in range(300):
            write(shown.source / "inner" / "tmp", f"{number}")
            os.rename(shown.source / "inner" / "tmp", shown.source / "inner" / "data")
            (shown.source / "inner" / f"{number % 10}").mkdir()
            (shown.source / "inner" / f"{number % 10}").rmdir()
        (shown.source / "end").mkdir()
        told = there.until("root", "CREATE|ISDIR", "end")
        ended.set()
        for looker in lookers:
            looker.join()
    assert errors == []
    assert told.count(("inner", "MOVED_TO", "data")) == 300
    assert (shown.mnt / "inner" / "data").read_text() == "299"
    assert sorted(os.listdir(shown.mnt / "inner")) == ["data"]


def test_what_is_mounted_inside_is_left_alone(show: Show) -> None:
    # The helper, which mounts for a user, gets in only where he lets in others.
    shown = show(**({} if ROOT else options("shared")))
    with Served(shown.beside, shown.mnt / "inner", events="off"):
        for name in ("new", "old"):
            (shown.mnt / "inner" / name).write_text("mine")
        before = stamps(shown.mnt / "inner")
        with watch(shown.mnt, "root") as there:
            write(shown.source / "inner" / "new", "yours")
            write(shown.source / "inner" / "old", "yours")
            (shown.source / "inner" / "old").unlink()
            os.rename(shown.source / "inner" / "new", shown.source / "new")
            (shown.source / "end").mkdir()
            assert there.until("root", "CREATE|ISDIR", "end") == [("root", "MOVED_TO", "new")]
        assert stamps(shown.mnt / "inner") == before


def test_nobody_is_kept_from_unmounting(show: Show) -> None:
    shown = show()
    with watch(shown.mnt, "root") as there:
        for number in range(3000):
            os.mknod(shown.source / f"{number}")
        there.until("root", "CREATE", "0")
        subprocess.run(["umount", shown.mnt], check=True)
        there.until("root", "IGNORED")
    assert shown.end() == 0


@pytest.mark.skipif(ROOT, reason="root relays to read-only mounts")
def test_why_nothing_is_relayed_is_said(show: Show) -> None:
    shown = show(events="auto", cache="auto", read_only=True)
    events = shown.status()["events"]
    assert events["mode"] == "off"
    assert "read-only mount" in events["not to be had"]
    assert shown.status()["cache"]["mode"] == "coherent"


@pytest.mark.skipif(not ROOT, reason="to a user's read-only mount nothing is relayed")
def test_read_only_is_read_only(show: Show) -> None:
    shown = show(read_only=True)
    with pytest.raises(OSError, match="Read-only file system"):
        write(shown.mnt / "new", "")
    subprocess.run(["mount", "-o", "remount,bind,rw", shown.mnt], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        write(shown.mnt / "new", "")
    with pytest.raises(OSError, match="Read-only file system"):
        write(shown.mnt / "file", "")
    assert sorted(os.listdir(shown.source)) == ["file", "inner"]
