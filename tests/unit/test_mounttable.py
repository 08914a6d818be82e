# SPDX-License-Identifier: MIT
"""Reading the kernel's mount table, from text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xloop import mounts
from xloop.host.mounttable import MountEntry, parse, visible

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:40 / /mnt rw,nosuid,nodev - fuse.xloop /srv/a\040b\012c\134d rw,user_id=0,group_id=7
41 40 0:41 / /mnt rw master:3 propagate_from:2 - fuse.sshfs host:/x rw
42 41 0:42 / /mnt/in\040side rw - fuse /dev/fuse rw
43 27 0:43 / /a/b rw - tmpfs none rw
44 27 0:44 / /a rw - fuseblk /dev/sdb1 rw
"""


def named(path: str) -> int | None:
    entry = visible(parse(TABLE), path)
    return entry.id if entry is not None else None


def test_a_line_is_read() -> None:
    entry = parse(TABLE)[2]
    expected = MountEntry(40, 27, (0, 40), "/mnt", "fuse.xloop", "/srv/a b\nc\\d", owner=0, group=7)
    assert entry == expected
    assert entry.is_fuse
    assert MountEntry.of(json.loads(json.dumps(entry))) == entry
    assert MountEntry.of(json.loads(json.dumps(parse(TABLE)[0]))) == parse(TABLE)[0]


def test_a_mount_is_the_same_though_a_directory_above_it_was_renamed() -> None:
    entry = parse(TABLE)[2]
    assert entry.is_same_as(entry._replace(mountpoint="/elsewhere"))
    assert not entry.is_same_as(entry._replace(id=41))
    assert not entry.is_same_as(entry._replace(device=(0, 41)))


@pytest.mark.parametrize(
    ("options", "owner"),
    [
        ("rw,user_id=1000,group_id=0", 1000),
        ("user_id=7", 7),
        ("rw", None),
        ("rw,other_user_id=3", None),
        ("rw,user_id=x", None),
    ],
)
def test_a_user_space_file_system_tells_whose_it_is(options: str, owner: int | None) -> None:
    (entry,) = parse(f"9 1 0:9 / /a rw - fuse.xloop x {options}\n".encode())
    assert entry.owner == owner


def test_optional_fields_may_be_there_or_not() -> None:
    entries = parse(TABLE)
    assert [entry.fstype for entry in entries] == [
        *("proc", "ext4", "fuse.xloop", "fuse.sshfs", "fuse", "tmpfs", "fuseblk")
    ]
    assert [entry.is_fuse for entry in entries] == [False, False, True, True, True, False, True]


def test_bytes_that_are_no_text_survive() -> None:
    (entry,) = parse(b"9 1 0:9 / /\xff\xfe\x85x rw - fuse.xloop \xff rw\n")
    assert entry.mountpoint == "/\udcff\udcfe\udc85x"
    assert entry.source == "\udcff"


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        ("/", 27),
        ("/etc/passwd", 27),
        ("/mnt", 41),  # the one on top
        ("/mnt/x/y", 41),
        ("/mnt/in side", 42),
        ("/mntx", 27),
        ("/a", 44),
        ("/a/b", 44),  # 43 is hidden: /a was mounted over afterwards
        ("/a/b/c", 44),
    ],
)
def test_a_path_lies_in_the_mount_that_a_walk_ends_in(path: str, id_: int) -> None:
    assert named(path) == id_


def test_a_table_without_a_root_is_understood() -> None:
    """In a chroot the mount that it lies in is not shown."""
    table = parse(b"40 27 0:40 / /mnt rw - fuse.xloop x rw\n41 40 0:41 / /mnt rw - tmpfs x rw\n")
    assert visible(table, "/etc") is None
    assert visible(table, "/mnt/x") == table[1]


def test_the_root_of_a_namespace_may_be_its_own_parent() -> None:
    table = parse(b"1 1 0:1 / / rw - rootfs x rw\n2 1 0:2 / / rw - ext4 x rw\n")
    assert visible(table, "/x") == table[1]


def entry_at(path: Path, fstype: str = "tmpfs") -> list[MountEntry]:
    return [
        MountEntry(1, 0, (0, 1), "/", "ext4", "x"),
        MountEntry(2, 1, (0, 2), str(path), fstype, "x"),
    ]


def test_locate_resolves_links_but_does_not_touch_a_mountpoint(tmp_path: Path) -> None:
    top = tmp_path.resolve()
    (top / "real").mkdir()
    (top / "link").symlink_to("real/../real")
    (top / "absolute").symlink_to(top / "link")
    (top / "loop").symlink_to("loop")
    # As far as the table says, the link itself is a mountpoint: nobody may look at it.
    table = entry_at(top / "link")
    assert mounts.locate(f"{top}/absolute", table) == f"{top}/link"
    assert mounts.locate(f"/{top}/./absolute//x", table) == f"{top}/real/x"
    assert mounts.locate(f"{top}/real/../missing/x", table) == f"{top}/missing/x"
    assert mounts.locate(f"{top}/loop/x", table).startswith(str(top))
    assert mounts.locate("/..", table) == "/"


def test_locate_does_not_go_into_a_mount_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path.resolve()
    (top / "real").mkdir()
    (top / "link").symlink_to("real")
    table = entry_at(top, "fuse.xloop")
    asked: list[str] = []

    def health(path: str) -> mounts.Health:
        asked.append(path)
        return mounts.Health.ANSWERS if len(asked) == 1 else mounts.Health.HANGS

    monkeypatch.setattr(mounts, "health", health)
    assert mounts.locate(f"{top}/link/x/y", table) == f"{top}/real/x/y"
    assert mounts.locate(f"{top}/link/x/y", table) == f"{top}/link/x/y"
    assert asked == [str(top)] * 2  # once for each walk
