# SPDX-License-Identifier: MIT
"""Whatever the file system below: what it can is done, and what it cannot has its own errno."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sources.conftest import KINDS
from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from sources.conftest import Lab, Show, Twins
    from tests.conftest import Wait


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, lab: Lab) -> Path:
    return lab.kind(request.param)


@pytest.fixture(params=["auto", "served"])
def pair(request: pytest.FixtureRequest, where: Path, twins: Twins) -> Pair:
    return twins(where, passthrough=None if request.param == "auto" else False)


DATA = bytes(range(256)) * 1000


def test_a_tree_is_made_and_found_as_natively(pair: Pair) -> None:
    def work(tree: Tree) -> None:
        tree.make(b"f", DATA)
        tree.mkdir(b"d")
        for i in range(40):
            tree.make(b"d/%d" % i, b"x" * i)
        tree.symlink(b"../f", b"d/link")
        tree.link(b"f", b"d/hard")
        tree.mknod(b"p", stat.S_IFIFO | 0o640)
        tree.rename(b"d/3", b"moved")
        tree.rename(b"d", b"e")
        tree.unlink(b"e/4")
        tree.truncate(b"f", 100_000)
        tree.chmod(b"e/5", 0o4751)
        tree.chown(b"e/6", 12, 34)
        tree.append(b"e/7", b"more")

    pair.same(work)
    assert len(pair.same(lambda t: t.snapshot())) == 45


def attempts(tree: Tree) -> dict[str, object]:
    """Return what comes of everything that some file systems have and others have not."""
    tree.make(b"f", DATA)
    tree.mkdir(b"d")
    for name in (b"a", b"b", b"c", b"g"):
        tree.make(name, name)
    found: dict[str, object] = {}

    def attempt(what: str, call: Callable[[], object]) -> None:
        try:
            found[what] = call()
        except OSError as error:
            found[what] = errno.errorcode[error.errno or 0]

    def open_and(flags: int, call: Callable[[int], object]) -> object:
        return tree.with_fd(b"f", flags, call)

    def unnamed() -> object:
        fd = tree.open(b".", os.O_RDWR | os.O_TMPFILE, 0o600)
        tree.write(fd, b"data")
        tree.link_fd(fd, b"unnamed")
        tree.close(fd)
        return tree.content(b"unnamed")

    attempt("O_TMPFILE", unnamed)
    for name in (b"user.x", b"trusted.x", b"security.x", b"system.x"):
        attempt(f"set {name!r}", lambda: tree.setxattr(b"f", name, b"value"))
        attempt(f"get {name!r}", lambda: tree.getxattr(b"f", name))
        attempt(f"set {name!r} of a link", lambda: tree.setxattr(b"f", name, b"v" * 100, 2))
    attempt("big attribute", lambda: tree.setxattr(b"f", b"user.big", b"v" * 60_000))
    attempt("list", lambda: sorted(tree.listxattr(b"f")))
    # Not the modes that FUSE in the kernel does not know: collapse, insert, unshare.
    for mode in (0, 1, 2, 3, 0x10, 0x11):
        attempt(
            f"fallocate {mode:#x}",
            lambda: open_and(os.O_RDWR, lambda fd: tree.fallocate(fd, mode, 8192, 8192)),
        )
        attempt("and then", lambda: (tree.lstat(b"f").st_size, tree.content(b"f")))
    attempt("NOREPLACE", lambda: tree.rename(b"a", b"b", 1))
    attempt("EXCHANGE", lambda: tree.rename(b"a", b"b", 2))
    attempt("WHITEOUT", lambda: tree.rename(b"c", b"whited", 4))
    attempt("unknown flag", lambda: tree.rename(b"a", b"b", 64))
    attempt("names", lambda: sorted((n, tree.facts(n)) for n in tree.listdir() if n != b"f"))
    attempt("device", lambda: tree.mknod(b"dev", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    attempt("read the device", lambda: tree.content(b"dev"))
    attempt("longest name", lambda: tree.make(b"n" * 255))
    attempt("too long a name", lambda: tree.make(b"n" * 256))
    attempt("any bytes", lambda: tree.make(b"\xff\n\x01"))
    attempt("hole", lambda: open_and(os.O_RDWR, lambda fd: tree.lseek(fd, 0, os.SEEK_HOLE)))
    attempt("beyond", lambda: open_and(os.O_RDWR, lambda fd: tree.lseek(fd, 1 << 40, os.SEEK_DATA)))
    attempt("biggest file", lambda: tree.truncate(b"g", 1 << 41))
    attempt("too big a file", lambda: tree.truncate(b"g", (1 << 63) - 1))
    attempt("link to a directory", lambda: tree.link(b"d", b"e"))
    attempt("birth", lambda: tree.btime(b"f") is not None)
    for call in ("lchmod", "chmod"):
        tree.symlink(b"f", call.encode())
        attempt(call, lambda: getattr(tree, call)(call.encode(), 0o600))
    attempt("FS_IOC_GETFLAGS", lambda: open_and(0, lambda fd: tree.ioctl(fd, 0x80086601, bytes(8))))
    attempt(
        "FS_IOC_FSGETXATTR", lambda: open_and(0, lambda fd: tree.ioctl(fd, 0x801C581F, bytes(28)))
    )
    attempt("TCGETS", lambda: open_and(os.O_RDWR, lambda fd: tree.ioctl(fd, 0x5401, bytes(64))))
    attempt("copy", lambda: open_and(os.O_RDWR, lambda fd: copied(tree, fd)))
    for when in (-(10**18), 2**34 * 10**9):
        attempt(f"time {when}", lambda: tree.utime(b"a", when, 0))
        attempt(f"that is then {when}", lambda: tree.lstat(b"a").st_atime_ns)
    return found


def copied(tree: Tree, fd: int) -> bytes:
    out = tree.open(b"copy", os.O_RDWR | os.O_CREAT, 0o600)
    tree.copy_file_range(fd, 0, out, 0, len(DATA))
    data = tree.pread(out, len(DATA), 0)
    tree.close(out)
    return data


def test_what_it_cannot_do_has_the_sources_own_errno(pair: Pair) -> None:
    mine, theirs = attempts(pair.mnt), attempts(pair.ref)
    differs = [
        f"{what}: {mine[what]!r}, natively {theirs[what]!r}"[:300]
        for what in theirs
        if mine[what] != theirs[what]
    ]
    assert not differs, "\n".join(differs)


def test_a_mapping_is_the_files(pair: Pair) -> None:
    def change(tree: Tree) -> tuple[bytes, bytes]:
        tree.make(b"f", DATA)
        fd = tree.open(b"f", os.O_RDWR)
        with mmap.mmap(fd, len(DATA)) as view:
            tree.pwrite(fd, b"written", 5)
            seen = bytes(view[:20])
            view[100:106] = b"mapped"
            view.flush()
        tree.close(fd)
        return seen, tree.content(b"f")

    pair.same(change)


def test_no_two_files_share_a_number(pair: Pair) -> None:
    mnt = pair.mnt
    mnt.mkdir(b"d")
    for i in range(50):
        mnt.make(b"%d" % i)
        mnt.link(b"%d" % i, b"d/%d" % i)
    first = {name: mnt.lstat(name).st_ino for name in mnt.listdir() if name != b"d"}
    assert len(set(first.values())) == 50
    assert {name: mnt.lstat(b"d/" + name).st_ino for name in mnt.listdir(b"d")} == first
    listed = {name.name: name.ino for name in mnt.scandir(b"d")}
    assert {name: listed[name] for name in first} == first


def test_a_long_listing_tells_the_numbers_of_stat(pair: Pair) -> None:
    """Only its first part comes with attributes; for the rest there is nothing but the listing."""
    mnt = pair.mnt
    for i in range(600):
        mnt.mknod(b"a-name-that-is-not-short-%04d" % i, stat.S_IFREG | 0o644)
    listed = {name.name: name.ino for name in mnt.scandir() if name.name not in (b".", b"..")}
    assert len(listed) == 600
    assert listed == {name: mnt.lstat(name).st_ino for name in listed}


def numbers(path: Path) -> list[int]:
    st = os.statvfs(path)
    counts = [st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree]
    return [*counts, st.f_bsize, st.f_frsize, st.f_namemax]


def test_statfs_tells_what_the_source_tells(where: Path, show: Show, eventually: Wait) -> None:
    (where / "filler").write_bytes(bytes(1 << 20))
    os.sync()
    source = where / "df"
    source.mkdir(exist_ok=True)
    point = show(source)
    # Some give back blocks in the background, perhaps between the two questions.
    assert eventually(lambda: numbers(point) == numbers(source))
    (where / "filler").unlink()
    assert eventually(lambda: numbers(point) == numbers(source))


def test_what_is_open_survives_unlink_and_rename(pair: Pair) -> None:
    def work(tree: Tree) -> list[object]:
        tree.make(b"f", b"data")
        tree.make(b"over", b"else")
        fd, other = tree.open(b"f", os.O_RDWR), tree.open(b"over", os.O_RDWR)
        tree.rename(b"f", b"over")
        tree.unlink(b"over")
        tree.pwrite(fd, b"D", 0)
        tree.ftruncate(other, 2)
        tree.fchmod(fd, 0o600)
        return [
            tree.pread(fd, 9, 0),
            tree.pread(other, 9, 0),
            tree.fstat(fd).st_nlink,
            oct(tree.fstat(fd).st_mode),
            tree.fstat(other).st_size,
            # What a FUSE file system below hides there is its own.
            [name for name in tree.listdir() if not name.startswith(b".fuse_hidden")],
        ]

    pair.same(work)
