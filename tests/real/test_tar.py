# SPDX-License-Identifier: MIT
"""tar out of a mount and into it keeps everything that tar natively keeps, to the last byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from real.conftest import Place, Show
from real.support import ROOT, assert_same_tree, need, read_tree, run

#: Reading moves the access time of what is read, so that no two archives would be equal.
NO_ATIME = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime"
KEEP = ("--acls", "--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner")
#: Later versions write tar's process id into the archive.
KEEP_HOLES = "--sparse-version=0.0"


def archive(top: Path, *, ctime: bool, holes: bool = True) -> bytes:
    """Return the archive of *top*, made so that equal trees give equal archives.

    *holes*: as the file system tells them.  Otherwise what holds nothing but zeros is taken for one.
    """
    options = NO_ATIME if ctime else NO_ATIME + ",delete=ctime"
    detection = "seek" if holes else "raw"
    sparse = (KEEP_HOLES, f"--hole-detection={detection}")
    how = ("--format=posix", "--sort=name", options, *KEEP, *sparse)
    return run("tar", "-C", top, *how, "-cf", "-", ".").out


def extract(data: bytes, top: Path) -> None:
    top.mkdir()
    how = (*KEEP, "--same-permissions", "--delay-directory-restore")
    run("tar", "-C", top, *how, "-xf", "-", input=data)


def assert_same_archive(expected: bytes, found: bytes) -> None:
    """Fail, with the place, unless both are the same to the last byte."""
    if expected != found:
        pairs = zip(expected, found, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
        around = slice(max(0, at - 60), at + 60)
        pytest.fail(f"archives differ at byte {at}: {expected[around]!r} became {found[around]!r}")


@pytest.fixture
def original(work: Path) -> Path:
    """A tree with all that an archive can hold, as far as this user can make it."""
    need("tar", "setfacl", "setfattr", "mkfifo", "truncate")
    top = work / "original"
    top.mkdir()
    for number in range(40):
        directory = top / f"dir{number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"file{number}").write_bytes(os.urandom(number * 997))
    (top / "empty").mkdir()
    plain = top / "plain"
    plain.write_bytes(b"plain")
    os.link(plain, top / "dir1" / "linked")
    (top / "link").symlink_to("plain")
    (top / "dangling").symlink_to("/no/such/" + "x" * 200)
    (top / ("n" * 255)).write_bytes(b"long name")
    with open(os.path.join(os.fsencode(top), b"bytes \xff\n\t\\"), "wb") as file:
        file.write(b"not text")
    os.mkfifo(top / "fifo", 0o640)
    write_sparse(top / "sparse")
    for mode in (0o000, 0o400, 0o777, 0o1777, 0o2755, 0o4711):
        directory = top / f"mode{mode:o}"
        directory.mkdir()
        (directory / "file").write_bytes(b"mode")
        (directory / "file").chmod(mode if ROOT or mode & 0o400 else 0o400)
        directory.chmod(mode if ROOT else mode | 0o500)
    with_extras(top)
    if ROOT:
        with_root(top)
    for number, name in enumerate(sorted(os.listdir(os.fsencode(top)))):
        time = 1_000_000_000_123_456_789 + number * 1_000_000_007
        path = os.path.join(os.fsencode(top), name)
        os.utime(path, ns=(time, time + 1), follow_symlinks=False)
    return top


def write_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        for block in (0, 3, 40, 900):
            file.seek(block * 65536)
            file.write(os.urandom(5000))
        file.truncate(900 * 65536 + 200_000)


def with_extras(top: Path) -> None:
    """Add extended attributes and ACLs."""
    run("setfattr", "-n", "user.text", "-v", "value", top / "plain")
    run("setfattr", "-n", "user.bytes", "-v", "0x00ff0a", top / "plain")
    run("setfattr", "-n", "user.empty", top / "empty")
    run("setfattr", "-n", "user.big", "-v", "b" * 2000, top / "dir2")
    run("setfacl", "-m", "u:12345:rw,g:54321:r,m::rw", top / "plain")
    run("setfacl", "-d", "-m", "u:12345:rwx,o::-", top / "dir3")
    run("setfacl", "-m", "g:12345:rx", top / "dir3")


def with_root(top: Path) -> None:
    """Add what only root can make."""
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "block", 0o600 | stat.S_IFBLK, os.makedev(259, 65537))
    for number, name in enumerate(("dir4", "plain", "link", "fifo", "sparse")):
        os.chown(top / name, 1000 + number, 2000 + number, follow_symlinks=False)
    run("setfattr", "-n", "trusted.overlay", "-v", "t", top / "dir5")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(top / "dir0" / "file7", "security.capability", capability)


@pytest.fixture
def tells_holes(subject: str) -> bool:
    """Whether lseek(2) finds them: libfuse 2 passes none on, and the kernel takes all for data."""
    return subject != "libfuse2"


def test_the_archive_of_the_mount_is_the_archive_of_the_source(
    show: Show, original: Path, tells_holes: bool
) -> None:
    """Change times too."""
    native = archive(original, ctime=True, holes=tells_holes)
    shown = archive(show(original).mnt, ctime=True, holes=tells_holes)
    assert_same_archive(native, shown)


def test_extracting_into_the_mount_is_extracting(
    place: Place, work: Path, original: Path, tells_holes: bool
) -> None:
    data = archive(original, ctime=False)
    extract(data, work / "native")
    extract(data, place.mnt / "here")
    native = read_tree(work / "native", holes=True)
    assert_same_tree(native, read_tree(place.source / "here", holes=True))
    assert native[b"sparse"].holes, "no hole to keep on this file system"
    if tells_holes:
        assert_same_tree(native, read_tree(place.mnt / "here", holes=True))
        assert_same_archive(data, archive(place.mnt / "here", ctime=False))
    else:
        assert_same_tree(read_tree(work / "native"), read_tree(place.mnt / "here"))


def test_cp_a_copies_within_the_mount(place: Place, work: Path, original: Path) -> None:
    need("cp", "rm")
    run("cp", "-a", original, place.mnt / "one")
    run("cp", "-a", "--sparse=auto", place.mnt / "one", place.mnt / "two")
    run("cp", "-a", original, work / "native")
    native = read_tree(work / "native")
    assert_same_tree(native, read_tree(place.mnt / "one"))
    assert_same_tree(native, read_tree(place.mnt / "two"))
    run("chmod", "-R", "u+rwx", place.mnt)
    run("rm", "-r", place.mnt / "one", place.mnt / "two")
    assert os.listdir(place.source) == []
