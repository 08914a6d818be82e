# SPDX-License-Identifier: MIT
"""The mount tables of macOS and FreeBSD, from bytes as their kernels lay them out."""

from __future__ import annotations

import ctypes
import errno
from typing import Any

import pytest

from xloop.host import bsd_mounts, darwin_libc, mounttable
from xloop.host.darwin_libc import Mounted


def darwin_statfs(fsid: tuple[int, int], fstype: str, point: str, source: str) -> bytes:
    buffer = bytearray(2168)
    buffer[48:52] = fsid[0].to_bytes(4, "little", signed=True)
    buffer[52:56] = fsid[1].to_bytes(4, "little", signed=True)
    for offset, text in ((72, fstype), (88, point), (1112, source)):
        buffer[offset : offset + len(text)] = text.encode()
    return bytes(buffer)


def freebsd_statfs(fsid: tuple[int, int], fstype: str, point: str, source: str) -> bytes:
    buffer = bytearray(2344)
    buffer[192:196] = fsid[0].to_bytes(4, "little", signed=True)
    buffer[196:200] = fsid[1].to_bytes(4, "little", signed=True)
    for offset, text in ((280, fstype), (296, source), (1320, point)):
        buffer[offset : offset + len(text)] = text.encode()
    return bytes(buffer)


TABLE = [
    ((0x1000004, 31), "apfs", "/", "/dev/disk3s1s1"),
    ((-889192448, 30), "devfs", "/dev", "devfs"),
    ((0x1000005, 31), "apfs", "/System/Volumes/Data", "/dev/disk3s5"),
    ((0x2D000001, 32), "macfuse_xloop", "/Users/me/view", "/Users/me/src"),
    ((0x2D000002, 32), "nfs", "/Users/me/view", "fuse-t:/xloop-src"),
]


def test_what_getfsstat_fills_is_read_field_by_field() -> None:
    expected = [Mounted(fsid, kind, point, source) for fsid, kind, point, source in TABLE]
    assert darwin_libc.parse_mounts(b"".join(darwin_statfs(*row) for row in TABLE)) == expected
    assert bsd_mounts.parse_freebsd(b"".join(freebsd_statfs(*row) for row in TABLE)) == expected


@pytest.mark.parametrize(
    ("fstype", "source", "expected"),
    [
        ("macfuse", "x", "fuse"),
        ("macfuse_xloop", "x", "fuse.xloop"),
        ("osxfuse_sshfs", "x", "fuse.sshfs"),
        ("fusefs", "x", "fuse"),
        ("fusefs.xloop", "x", "fuse.xloop"),
        ("nfs", "fuse-t:/xloop-src", "fuse.xloop"),
        ("nfs", "fuse-t:/backup", "fuse.fuse-t"),
        ("nfs", "server:/export", "nfs"),
        ("apfs", "/dev/disk1", "apfs"),
    ],
)
def test_the_type_is_what_linux_would_say(fstype: str, source: str, expected: str) -> None:
    assert bsd_mounts.fuse_type(fstype, source) == expected


def test_the_last_mount_on_a_place_is_the_one_that_is_seen() -> None:
    entries = mounttable.from_bsd([Mounted(*row[:1], *row[1:]) for row in TABLE])
    seen = mounttable.visible(entries, "/Users/me/view")
    assert seen is not None
    assert (seen.fstype, seen.source) == ("fuse.xloop", "fuse-t:/xloop-src")
    assert seen.is_fuse
    outside = mounttable.visible(entries, "/Users/me/viewer")
    assert outside is not None
    assert outside.mountpoint == "/"


def test_ids_do_not_depend_on_what_else_is_mounted() -> None:
    mounts = [Mounted(*row) for row in TABLE]
    assert mounttable.from_bsd(mounts)[3] == mounttable.from_bsd([mounts[0], mounts[3]])[1]
    assert len({entry.id for entry in mounttable.from_bsd(mounts)}) == len(mounts)


class GetFsStat:
    """getfsstat(2) over a table that grows while it is read."""

    def __init__(self, tables: list[list[bytes]]) -> None:
        self.tables = tables
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, buffer: Any, size: int, flags: int) -> int:
        assert flags == 2  # MNT_NOWAIT: else it hangs on a file system that does
        table = self.tables.pop(0)
        if buffer is None:
            return len(table)
        fits = table[: size // len(table[0])]
        ctypes.memmove(buffer, b"".join(fits), len(b"".join(fits)))
        return len(fits)


def test_a_table_that_grew_is_read_again() -> None:
    rows = [freebsd_statfs(*row) for row in TABLE]
    call = GetFsStat([rows[:1], rows * 2, rows[:1], rows])
    call.tables[2:] = [rows * 2]
    assert len(bsd_mounts.freebsd_mounts({"getfsstat": call})) == 10


class Unmount:
    def __init__(self, number: int) -> None:
        self.number = number
        self.seen: tuple[bytes, int] | None = None

    def __call__(self, path: bytes, flags: int) -> int:
        self.seen = path, flags
        ctypes.set_errno(self.number)
        return -1 if self.number else 0


def test_unmount_forces_only_when_told() -> None:
    call: Any = Unmount(0)
    bsd_mounts.unmount("/a", force=False, library={"unmount": call})
    assert call.seen == (b"/a", 0)
    bsd_mounts.unmount("/a", force=True, library={"unmount": call})
    assert call.seen == (b"/a", 0x80000)
    with pytest.raises(OSError, match="busy"):
        bsd_mounts.unmount("/a", force=False, library={"unmount": Unmount(errno.EBUSY)})


@pytest.mark.parametrize(
    ("platform", "plain", "by_force"),
    [
        ("linux", "fusermount3 -u '/a b'", "fusermount3 -u -z '/a b'"),
        ("darwin", "/usr/sbin/diskutil unmount '/a b'", "/usr/sbin/diskutil unmount force '/a b'"),
        ("freebsd14", "umount '/a b'", "umount -f '/a b'"),
    ],
)
def test_people_are_told_their_system_s_command(
    monkeypatch: pytest.MonkeyPatch, platform: str, plain: str, by_force: str
) -> None:
    from xloop import mounts

    monkeypatch.setattr("sys.platform", platform)
    assert mounts.by_system("/a b") == plain
    assert mounts.by_system("/a b", lazy=True) == by_force


@pytest.mark.parametrize("platform", ["darwin", "freebsd14"])
def test_who_may_not_unmount_asks_the_system_s_helper(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    import subprocess

    from xloop import mounts
    from xloop.errors import UnmountError

    def denied(path: str, *, force: bool) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> Any:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(bsd_mounts, "unmount", denied)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    entry = mounttable.from_bsd([Mounted((1, 2), "macfuse_xloop", "/view", "/src")])[0]
    monkeypatch.setattr(mounts, "read_table", lambda: [entry])
    if platform == "darwin":
        mounts.take_away("/view")
        assert asked == [["/usr/sbin/diskutil", "unmount", "/view"]]
    else:
        with pytest.raises(UnmountError, match="may not be unmounted"):
            mounts.take_away("/view")
        assert not asked
