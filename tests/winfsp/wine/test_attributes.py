# SPDX-License-Identifier: MIT
"""The WinFsp adapter: flags, times, numbers and space, as a program on Windows sees them and as the source has them."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from pathlib import Path

import pytest
import standin
from standin import BOTH, WRITE, Volume, refused

HIDDEN, READONLY, SYSTEM, ARCHIVE = 0x8000, 0x1000, 0x80, 0x800
SECOND = 1_000_000_000

FLAGS = [(HIDDEN, 2), (SYSTEM, 4), (READONLY, 1), (ARCHIVE, 32)]


@pytest.mark.parametrize(("flag", "attribute"), FLAGS)
def test_flags_are_attributes(volume: Volume, source: Path, flag: int, attribute: int) -> None:
    path = source / "file"
    path.touch()
    with volume.open("\\file", BOTH) as file:
        file.set_flags(flag)
        assert os.stat(path).st_file_attributes & attribute
        assert file.stat().flags & flag
        assert file.stat().mode == stat.S_IFREG | 0o777
    with volume.open("\\") as root:
        shown = root.list()["file"]
        assert shown is not None
        assert shown.flags & flag
    with volume.open("\\file") as file:
        file.set_flags(0)
    left = os.stat(path).st_file_attributes
    if not standin_is_wine_archive(attribute):
        assert not left & attribute


def standin_is_wine_archive(attribute: int) -> bool:
    """Wine says of every file that it is to be archived."""
    return attribute == 32 and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def test_a_file_is_created_with_its_flags(volume: Volume, source: Path) -> None:
    with volume.create("\\file", flags=HIDDEN | ARCHIVE) as file:
        assert file.stat_at_open.flags & HIDDEN
    assert os.stat(source / "file").st_file_attributes & 2


@pytest.mark.not_wine("it has the rights of root")
def test_what_is_read_only_is_not_written(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    with volume.open("\\file") as file:
        file.set_flags(READONLY)
    assert refused(volume.open, "\\file", WRITE) == standin.ACCESS_DENIED


def test_what_is_read_only_is_not_deleted(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    with volume.open("\\file") as file:
        file.set_flags(READONLY)
    with volume.open("\\file") as file:
        assert refused(file.delete) == standin.ACCESS_DENIED
        file.set_flags(0)
        file.delete()
    assert os.listdir(source) == []


def test_times_of_files_and_directories(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    (source / "dir").mkdir()
    for name in ("file", "dir"):
        with volume.open(f"\\{name}") as file:
            file.set_times(1_000_000_000 * SECOND, 1_100_000_000 * SECOND + 123_456_700)
            shown = file.stat()
            assert (shown.atim.ns, shown.mtim.ns) == (
                1_000_000_000 * SECOND,
                1_100_000_000 * SECOND + 123_456_700,
            )
        native = os.stat(source / name)
        assert native.st_mtime_ns == 1_100_000_000 * SECOND + 123_456_700


@pytest.mark.not_wine("os.stat() moves the access time")
def test_access_times_are_on_the_source(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    with volume.open("\\file") as file:
        file.set_times(1_000_000_000 * SECOND, 1_100_000_000 * SECOND)
    assert os.stat(source / "file").st_atime == 1_000_000_000


def test_times_are_set_through_an_open_file_that_was_renamed(volume: Volume, source: Path) -> None:
    with volume.create("\\one") as file:
        file.rename("\\two")
        file.set_times(1_000_000_000 * SECOND, 1_100_000_000 * SECOND)
    assert os.stat(source / "two").st_mtime == 1_100_000_000


def test_the_birth_time_is_shown(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    with volume.open("\\file") as file:
        assert file.stat().birthtim.ns == os.stat(source / "file").st_ctime_ns


@pytest.mark.not_wine("the creation time is not stored")
def test_the_birth_time_is_set(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    with volume.open("\\file", BOTH) as file:
        file.set_times(2_000_000_000 * SECOND, 2_000_000_000 * SECOND, 900_000_000 * SECOND)
        file.write(b"its identity has not changed")
        assert file.stat().birthtim.ns == 900_000_000 * SECOND
    assert os.stat(source / "file").st_ctime == 900_000_000


def test_hard_links_are_one_file(volume: Volume, source: Path) -> None:
    (source / "one").write_bytes(b"data")
    os.link(source / "one", source / "two")
    with volume.open("\\one") as one, volume.open("\\two") as two:
        assert one.stat().ino == two.stat().ino
        assert one.stat().nlink == 2


def test_the_space_is_that_of_the_source(volume: Volume, source: Path) -> None:
    bsize, frsize, blocks, bfree, *_, namemax = volume.space()
    native = shutil.disk_usage(source)
    assert 512 <= frsize <= 4096
    assert blocks * frsize == native.total
    assert abs(bfree * frsize - native.free) < 1 << 30
    assert namemax == 255
    assert bsize >= frsize
