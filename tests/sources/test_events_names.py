# SPDX-License-Identifier: MIT
"""Events about what has several names, or a name that somebody looks at in the very moment in which it changes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources.watching import Changing, Event, Watcher, looked_at

ROOT = os.geteuid() == 0
pytestmark = pytest.mark.mount

Show = Callable[..., Changing]

#: How long the kernel believes what it knows decides who wins which race.
BELIEF = pytest.mark.parametrize(
    "fields",
    [{}, {"attr_timeout": 0.0, "entry_timeout": 0.0}, {"cache": "coherent", "events": "auto"}],
    ids=["timeout", "forgetful", "coherent"],
)


@pytest.fixture
def show(changing: Show) -> Show:
    return changing


def told(watcher: Watcher, place: Path) -> list[Event]:
    """Return what has been told up to now."""
    (place / "end").mkdir()
    events = watcher.until("root", "CREATE|ISDIR", "end")
    (place / "end").rmdir()
    return events + watcher.until("root", "DELETE|ISDIR", "end")


def both(shown: Changing, *labels: str) -> tuple[Watcher, Watcher]:
    """Watch the root and what has these names, on the mount and on the twin."""
    return tuple(
        Watcher(root=top, **{label: top / label for label in labels})
        for top in (shown.mnt, shown.twin)
    )  # type: ignore[return-value]  # two are two


@BELIEF
def test_what_has_a_name_left_is_not_gone(fields: dict[str, Any], show: Show) -> None:
    shown = show(**fields)
    with looked_at(shown.mnt / "file"), Watcher(root=shown.mnt, file=shown.mnt / "file") as there:
        for _ in range(25):
            os.link(shown.source / "file", shown.source / "hard")
            told(there, shown.source)
            os.unlink(shown.source / "hard")
            events = told(there, shown.source)
            assert ("root", "DELETE", "hard") in events
            assert not {("file", "DELETE_SELF", ""), ("file", "IGNORED", "")} & {*events}
        assert os.stat(shown.mnt / "file").st_nlink == 1


@BELIEF
def test_the_name_that_was_asked_for_last_is_removed(fields: dict[str, Any], show: Show) -> None:
    shown = show(**fields)
    for top in shown.source, shown.twin:
        os.link(top / "file", top / "other")
    with Watcher(root=shown.mnt) as there:
        told(there, shown.source)
    for name in ("file", "other"):
        os.stat(shown.mnt / name)
    there, here = both(shown, "file")
    with there, here:
        os.stat(shown.mnt / "other")
        for top in shown.source, shown.twin:
            os.unlink(top / "other")
        events = told(there, shown.source)
        assert events == told(here, shown.twin)
        assert events == [("file", "ATTRIB", ""), ("root", "DELETE", "other")]
        # And now it goes for good, by the other name: something else takes that.
        for top in shown.source, shown.twin:
            (top / "new").touch()
        assert told(there, shown.source) == told(here, shown.twin)
        for top in shown.source, shown.twin:
            os.rename(top / "new", top / "file")
        events = told(there, shown.source)
        assert events == told(here, shown.twin)
        assert ("file", "DELETE_SELF", "") in events


@BELIEF
def test_what_was_replaced_hears_it_whoever_looks(fields: dict[str, Any], show: Show) -> None:
    shown = show(**fields)
    with looked_at(shown.mnt / "file"), Watcher(root=shown.mnt) as there:
        for number in range(25):
            there.add(f"file {number}", shown.mnt / "file")
            (shown.source / "new").touch()
            told(there, shown.source)
            os.rename(shown.source / "new", shown.source / "file")
            events = told(there, shown.source)
            assert (f"file {number}", "DELETE_SELF", "") in events
            assert ("root", "MOVED_TO", "file") in events


@BELIEF
def test_a_directory_that_gives_its_name_away(fields: dict[str, Any], show: Show) -> None:
    shown = show(**fields)
    (shown.source / "d").mkdir()
    with looked_at(shown.mnt / "d"), Watcher(root=shown.mnt) as there:
        told(there, shown.source)
        for number in range(25):
            there.add(f"d {number}", shown.mnt / "d")
            os.rename(shown.source / "d", shown.source / f"old {number}")
            (shown.source / "d").mkdir()
            assert told(there, shown.source) == [
                ("root", "MOVED_FROM|ISDIR", "d"),
                ("root", "MOVED_TO|ISDIR", f"old {number}"),
                (f"d {number}", "MOVE_SELF", ""),
                ("root", "CREATE|ISDIR", "d"),
            ]


@pytest.mark.skipif(
    not ROOT, reason="others hear of the directories that are known, and of no more"
)
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_change_by_a_name_that_nobody_knows(where: str, show: Show) -> None:
    shown = show()
    others = {}
    for top in shown.source, shown.twin:
        others[top] = shown.beside / top.name if where == "outside" else top / "unknown"
        others[top].mkdir()
        os.link(top / "file", others[top] / "other")
    there, here = both(shown, "file")
    with there, here:
        told(there, shown.source)
        told(here, shown.twin)
        for change in (
            lambda path: path.open("a").close(),
            lambda path: path.write_text("more"),
            lambda path: path.chmod(0o600),
        ):
            for top in shown.source, shown.twin:
                change(others[top] / "other")
            # Its name here is told, too.
            events = [event for event in told(there, shown.source) if event[0] == "file"]
            assert events == [event for event in told(here, shown.twin) if event[0] == "file"]
            assert events
        assert (shown.mnt / "file").read_text() == "more"


@pytest.mark.parametrize("fields", [{}, {"passthrough": False}], ids=["auto", "served"])
def test_a_program_that_was_just_written_can_be_run(fields: dict[str, Any], show: Show) -> None:
    # It could not while it is open for writing (ETXTBSY), also if that is only to cause an event.
    shown = show(**fields)
    with Watcher(root=shown.mnt) as there:
        told(there, shown.source)
        for number in range(30):
            program = shown.source / f"program {number}"
            shutil.copyfile("/bin/true", program)
            program.chmod(0o755)
            for _ in range(5):
                subprocess.run([shown.mnt / program.name], check=True)
        events = told(there, shown.source)
    for number in range(30):
        kinds = [kind for _, kind, name in events if name == f"program {number}"]
        assert kinds[0] == "CREATE"
        assert "MODIFY" in kinds
        assert "ATTRIB" in kinds


def test_nobody_waits_for_what_cannot_be_closed(show: Show) -> None:
    if not ROOT:
        pytest.skip("an ordinary user has no passthrough")
    shown = show()
    with open(shown.mnt / "file", "rb"), Watcher(root=shown.mnt, file=shown.mnt / "file") as there:
        # Each of them is tried for 20 ms if nothing else is to be told.
        for number in range(200):
            os.close(os.open(shown.source / "file", os.O_WRONLY))
            (shown.source / f"f{number}").touch()
        events = told(there, shown.source)
    names = [name for label, kind, name in events if (label, kind) == ("root", "CREATE")]
    assert names == [f"f{number}" for number in range(200)]
