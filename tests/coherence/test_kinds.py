# SPDX-License-Identifier: MIT
"""cache=coherent on sources of every kind that can be watched, by all means.  Root only: file systems are made."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from coherence import storm
from coherence.conftest import Place, eventually
from coherence.test_coherence import CHANGES
from sources.conftest import DISKS, Lab, run

pytestmark = pytest.mark.mount

Places = Callable[..., Place]

#: What they are watched by at best, and by what they are.
WATCHES = [
    *((kind, "file system", "fanotify") for kind in ("tmpfs", *DISKS)),
    ("btrfs-subvolume", "file system", "fanotify by directory"),
    ("overlay", "file system", "inotify"),
    *((kind, "directories", "fanotify by directory") for kind in ("tmpfs", *DISKS)),
    ("overlay", "directories", "inotify"),
    *((kind, "inotify", "inotify") for kind in ("tmpfs", *DISKS, "overlay")),
]


def made(lab: Lab, kind: str) -> Path:
    """Return an empty directory on a file system of *kind*."""
    if kind == "btrfs-subvolume":
        whole = lab.disk("btrfs")
        run("btrfs", "subvolume", "create", whole / "sub")
        image = next(path for path in lab.top.glob("image-*/btrfs"))
        return lab.mount("-t", "btrfs", "-o", "loop,subvol=sub", image)
    where = lab.disk(kind) if kind in DISKS else lab.kind(kind)
    return Path(tempfile.mkdtemp(dir=where))


def differences(source: Path, point: Path) -> list[str]:
    # Overlayfs has files of several devices, a subvolume is one of its own.
    return storm.differences(source, point, numbers=False)


def prepare(top: Path) -> None:
    (top / "dir" / "below").mkdir(parents=True)
    (top / "dir" / "below" / "deep").write_text("deep")
    (top / "empty").mkdir()
    (top / "file").write_text("content")
    (top / "link").symlink_to("file")


@pytest.mark.parametrize(
    ("kind", "watched", "means"),
    WATCHES,
    ids=[f"{kind}-{watched}-{means}".replace(" ", "-") for kind, watched, means in WATCHES],
)
def test_what_others_change_shows(
    lab: Lab, place: Places, kind: str, watched: str, means: str
) -> None:
    source = made(lab, kind)
    p = place(
        source=source, watched=watched, passthrough=None if watched == "file system" else False
    )
    told = p.status()["cache"]
    assert told["means"] == means
    if means != "fanotify":
        assert told["refused"].startswith("fanotify: ")
    for name, change in CHANGES.items():
        top = source / name
        prepare(top)
        shown = p.point / name
        assert eventually(lambda: not differences(top, shown)), differences(top, shown)
        storm.believe(shown)
        change(top)
        assert eventually(lambda: not differences(top, shown)), (name, differences(top, shown))
    file = source / "mapped"
    file.write_bytes(b"a" * 8192)
    with (
        open(p.point / "mapped", "rb") as here,
        mmap.mmap(here.fileno(), 8192, prot=mmap.PROT_READ) as pages,
    ):
        assert pages[0] == pages[8191] == ord("a")
        with open(file, "r+b") as there:
            there.write(b"b")
            there.flush()
            assert eventually(lambda: pages[0] == ord("b"))
            with mmap.mmap(there.fileno(), 8192) as written:
                written[8191] = ord("c")
        assert eventually(lambda: pages[8191] == ord("c"))
    told = p.status()["cache"]
    assert (told["overflows"], told["lost"]) == (0, "")


def test_a_subvolume_below_the_source_is_watched_too(lab: Lab, place: Places) -> None:
    """One mark covers all of a file system, and its events tell the subvolumes apart."""
    whole = lab.disk("btrfs")
    run("btrfs", "subvolume", "create", whole / "sub")
    (whole / "plain").mkdir()
    for top in (whole / "sub", whole / "plain"):
        prepare(top)
    p = place(source=whole)
    assert not differences(whole, p.point)
    told = p.status()["cache"]
    assert (told["means"], told["devices"], told["refused"]) == ("fanotify", 2, [])
    (whole / "sub" / "file").write_text("changed")
    (whole / "sub" / "new").touch()
    (whole / "plain" / "file").chmod(0o600)
    (whole / "plain" / "empty").rmdir()
    assert eventually(lambda: not differences(whole, p.point)), differences(whole, p.point)


def test_what_lies_on_another_file_system_is_watched_or_asked_for(lab: Lab, place: Places) -> None:
    """A second file system below the source gets a mark of its own; where it cannot, the timeouts hold."""
    source = Path(tempfile.mkdtemp(dir=lab.kind("tmpfs")))
    for name in ("disk", "overlay"):
        (source / name).mkdir(parents=True)
    lab.mount("--bind", lab.disk("ext4"), point=source / "disk")
    lab.mount("--bind", lab.kind("overlay"), point=source / "overlay")
    for name in ("disk", "overlay"):
        prepare(source / name / "top")
    p = place(source=source, attr_timeout=0.0, entry_timeout=0.0, negative_timeout=0.0)
    assert not differences(source, p.point)
    told = p.status()["cache"]
    # (An overlayfs has several devices.)
    assert (told["means"], told["devices"], bool(told["refused"])) == ("fanotify", 2, True)

    def look(name: str) -> Callable[[], object]:
        return lambda: [os.lstat(p.point / name / "top" / "file") for _ in range(3)]

    look("disk")()
    assert p.counted(look("disk")) == {}
    assert p.counted(look("overlay")), "an overlayfs cannot be marked, and so nothing is believed"
    for name in ("disk", "overlay"):
        (source / name / "top" / "file").write_text("changed")
        (source / name / "top" / "new").touch()
    assert eventually(lambda: not differences(source, p.point)), differences(source, p.point)
