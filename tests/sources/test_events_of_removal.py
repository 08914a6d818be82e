# SPDX-License-Identifier: MIT
"""What is removed while somebody looks at it is told in its order, and to the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import groupby
from pathlib import Path

import pytest

from sources.watching import Changing, Watcher, eventually

pytestmark = pytest.mark.mount

#: How far the relay is behind, in changes, when it comes to what matters.
BEHIND = 500


def write_rename_and_remove(top: Path) -> None:
    (top / "file").write_text("more")
    (top / "file").rename(top / "inner" / "moved")
    (top / "inner" / "moved").unlink()


def replace(top: Path) -> None:
    (top / "inner" / "moved").write_text("another")
    (top / "inner" / "moved").rename(top / "file")


def remove_a_directory(top: Path) -> None:
    (top / "dir").rename(top / "inner" / "moved")
    (top / "inner" / "moved").rmdir()


def look(fd: int, path: Path) -> None:
    """Look at what is open until its name is gone, and once more: nobody sees which of the looks matters."""
    with suppress(FileNotFoundError):
        while True:
            os.fstat(fd)
            path.stat()
            if path.is_file() and path.read_text() == "another":
                break
    os.fstat(fd)


@pytest.mark.parametrize("cache", ["coherent", "timeout"])
@pytest.mark.parametrize("change", [write_rename_and_remove, replace, remove_a_directory])
def test_what_is_looked_at(
    base: Path, tmp_path: Path, cache: str, change: Callable[[Path], None]
) -> None:
    name = "dir" if change is remove_a_directory else "file"
    believed = {"attr_timeout": 0.0, "entry_timeout": 0.0} if cache == "timeout" else {}
    with Changing(tmp_path, cache=cache, passthrough=False, **believed) as shown:
        for top in shown.source, shown.twin:
            (top / "dir").mkdir()
        assert eventually((shown.mnt / "dir").exists)
        with (
            Watcher(it=shown.mnt / name, inner=shown.mnt / "inner") as there,
            Watcher(it=shown.twin / name, inner=shown.twin / "inner") as here,
            ExitStack() as stack,
        ):
            fd = os.open(shown.mnt / name, os.O_RDONLY)
            stack.callback(os.close, fd)
            for number in range(BEHIND):
                (shown.source / "inner" / f"{number}").mkdir()
            change(shown.source)
            change(shown.twin)
            look(fd, shown.mnt / name)
            # What was open of it is gone, and the relay has not yet come to it.
            stack.close()
            told = [
                # Several that nobody has read yet are one.
                [kinds for kinds, _ in groupby(watcher.until("it", "IGNORED")) if kinds[0] == "it"]
                for watcher in (there, here)
            ]
            # That it has a name less may be lost to who looks in that very moment; what it did before it went may not.
            there_too, native = ([e for e in events if e[1] != "ATTRIB"] for events in told)
            assert there_too == native


def test_its_names_are_counted_in_the_end(base: Path, tmp_path: Path) -> None:
    with Changing(tmp_path, cache="coherent") as shown:
        for name in "file", "mine":
            (shown.source / name).touch()
            assert eventually((shown.mnt / name).exists)
        with open(shown.mnt / "file") as file, open(shown.mnt / "mine") as mine:
            (shown.mnt / "mine").unlink()
            assert os.fstat(mine.fileno()).st_nlink == 0
            with Watcher(root=shown.mnt) as root:
                (shown.source / "file").unlink()
                root.until("root", "DELETE", "file")
                assert os.fstat(file.fileno()).st_nlink == 0
            assert os.fstat(mine.fileno()).st_nlink == 0
