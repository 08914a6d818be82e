# SPDX-License-Identifier: MIT
"""The host functions of this system, whichever it is, under a loopback that nothing has mounted.

For systems whose mounts cannot be tried where the tests run.  What is compared is what Python's own
functions say of the source.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xloop
from xloop.host import host
from xloop.types import NOW, ROOT_INO, Caller, Entry, Ino, SetAttr

WINDOWS = sys.platform == "win32"
POSIX = pytest.mark.skipif(WINDOWS, reason="Windows has no such thing, or no way to make one")
ME = (
    Caller(0, 0, 0)
    if WINDOWS
    else Caller(os.geteuid(), os.getegid(), os.getpid(), tuple(os.getgroups()))
)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[xloop.Loopback]:
    operations = xloop.Loopback(str(tmp_path))
    operations.init()
    yield operations
    operations.destroy()


def find(loop: xloop.Loopback, *names: str) -> Entry:
    ino, entry = ROOT_INO, None
    for name in names:
        entry = loop.lookup(ME, ino, name.encode())
        ino = entry.ino
    assert entry is not None
    return entry


def failing(number: int, call: object, *args: object) -> None:
    assert callable(call)
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is looked at
        call(*args)
    assert caught.value.errno == number


def test_attributes_are_the_source_s(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "d").mkdir()
    for name in ("f", "d"):
        attr, st = find(loop, name).attr, os.lstat(tmp_path / name)
        assert stat.S_IFMT(attr.mode) == stat.S_IFMT(st.st_mode)
        assert (attr.ino, attr.mtime_ns) == (st.st_ino, st.st_mtime_ns)
    assert find(loop, "f").attr.size == 4
    failing(errno.ENOENT, loop.lookup, ME, ROOT_INO, b"none")
    failing(errno.EINVAL, loop.lookup, ME, ROOT_INO, b"..")


def test_a_file_is_made_written_and_read(loop: xloop.Loopback, tmp_path: Path) -> None:
    entry, opened = loop.create(ME, ROOT_INO, b"f", os.O_RDWR | os.O_CREAT, 0o644, 0)
    where = ME, entry.ino, opened.handle
    assert loop.write(*where, 0, b"hello world") == 11
    assert bytes(loop.read(*where, 6, 100)) == b"world"
    loop.fsync(*where, False)
    loop.fsync(*where, True)
    loop.flush(*where, 0)
    assert loop.setattr(ME, entry.ino, SetAttr(size=5), opened.handle).size == 5
    loop.release(entry.ino, opened.handle)
    assert (tmp_path / "f").read_bytes() == b"hello"
    again = loop.open(ME, entry.ino, os.O_RDONLY)
    assert bytes(loop.read(ME, entry.ino, again.handle, 0, 100)) == b"hello"
    loop.release(entry.ino, again.handle)


def test_names_are_made_moved_and_removed(loop: xloop.Loopback, tmp_path: Path) -> None:
    directory = loop.mkdir(ME, ROOT_INO, b"d", 0o755, 0)
    loop.mknod(ME, directory.ino, b"f", stat.S_IFREG | 0o644, 0, 0)
    (tmp_path / "d/f").write_bytes(b"one")
    loop.rename(ME, directory.ino, b"f", ROOT_INO, b"g", 0)
    assert (tmp_path / "g").read_bytes() == b"one"
    (tmp_path / "h").write_bytes(b"two")
    failing(errno.EEXIST, loop.rename, ME, ROOT_INO, b"h", ROOT_INO, b"g", 1)
    loop.rename(ME, ROOT_INO, b"h", ROOT_INO, b"g", 0)
    assert (tmp_path / "g").read_bytes() == b"two"
    loop.unlink(ME, ROOT_INO, b"g")
    loop.rmdir(ME, ROOT_INO, b"d")
    assert os.listdir(tmp_path) == []


def test_a_directory_is_listed(loop: xloop.Loopback, tmp_path: Path) -> None:
    names = {f"name-{number}" for number in range(300)}
    for name in names:
        (tmp_path / name).touch()
    opened = loop.opendir(ME, ROOT_INO, 0)
    found, offset = [], 0
    while True:
        some = [
            entry
            for entry, _ in zip(
                loop.readdir(ME, ROOT_INO, opened.handle, offset), range(7), strict=False
            )
        ]
        if not some:
            break
        found += [entry.name.decode() for entry in some]
        offset = some[-1].offset
    loop.releasedir(ROOT_INO, opened.handle)
    assert sorted(found) == sorted({*names, ".", ".."})


def test_times_are_set_and_left_alone(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ino = find(loop, "f").ino
    before = os.stat(tmp_path / "f")
    loop.setattr(ME, ino, SetAttr(mtime=1_100_000_000_000_000_200), None)
    after = os.stat(tmp_path / "f")
    assert after.st_mtime_ns // 1000 == 1_100_000_000_000_000_200 // 1000
    assert after.st_atime_ns == before.st_atime_ns
    loop.setattr(ME, ino, SetAttr(mtime=NOW), None)
    assert os.stat(tmp_path / "f").st_mtime_ns >= before.st_mtime_ns


@POSIX
def test_modes_links_and_special_files(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    file = find(loop, "f")
    loop.setattr(ME, file.ino, SetAttr(mode=0o640), None)
    assert os.stat(tmp_path / "f").st_mode & 0o7777 == 0o640
    link = loop.symlink(ME, ROOT_INO, b"s", b"f")
    assert loop.readlink(ME, link.ino) == b"f"
    failing(errno.ELOOP, loop.open, ME, link.ino, os.O_RDONLY)
    assert loop.link(ME, file.ino, ROOT_INO, b"h").ino == file.ino
    assert os.stat(tmp_path / "h").st_nlink == 2
    fifo = loop.mknod(ME, ROOT_INO, b"p", stat.S_IFIFO | 0o600, 0, 0)
    loop.setattr(ME, fifo.ino, SetAttr(mode=0o644), None)
    assert os.stat(tmp_path / "p").st_mode & 0o7777 == 0o644
    failing(errno.ENXIO, loop.open, ME, fifo.ino, os.O_RDONLY)


@POSIX
def test_what_its_owner_may_not_read_can_be_managed(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    os.chmod(tmp_path / "f", 0)
    file = find(loop, "f")
    assert file.attr.mode & 0o7777 == 0
    loop.rename(ME, ROOT_INO, b"f", ROOT_INO, b"g", 0)
    assert loop.setattr(ME, file.ino, SetAttr(mode=0o600), None).mode & 0o7777 == 0o600
    loop.unlink(ME, ROOT_INO, b"g")
    assert os.listdir(tmp_path) == []


@POSIX
def test_an_open_file_survives_its_name(loop: xloop.Loopback, tmp_path: Path) -> None:
    entry, opened = loop.create(ME, ROOT_INO, b"f", os.O_RDWR | os.O_CREAT, 0o644, 0)
    loop.write(ME, entry.ino, opened.handle, 0, b"data")
    loop.unlink(ME, ROOT_INO, b"f")
    assert os.listdir(tmp_path) == []
    assert bytes(loop.read(ME, entry.ino, opened.handle, 0, 10)) == b"data"
    assert loop.getattr(ME, entry.ino, opened.handle).nlink == 0
    loop.release(entry.ino, opened.handle)


@POSIX
def test_a_link_that_takes_the_place_of_a_directory_leads_nowhere(
    loop: xloop.Loopback, tmp_path: Path
) -> None:
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "d").mkdir()
    directory = find(loop, "d")
    os.rmdir(tmp_path / "d")
    os.symlink(outside, tmp_path / "d")
    for name in (b"secret", b"new"):
        with pytest.raises(OSError):  # noqa: PT011  # which one is the system's
            loop.lookup(ME, directory.ino, name)
    with pytest.raises(OSError):  # noqa: PT011  # which one is the system's
        loop.mkdir(ME, directory.ino, b"new", 0o755, 0)
    assert os.listdir(outside) == ["secret"]


def test_the_file_system_is_described(loop: xloop.Loopback, tmp_path: Path) -> None:
    import shutil

    found = loop.statfs(ME, Ino(ROOT_INO))
    total = shutil.disk_usage(tmp_path).total
    assert abs(found.blocks * found.frsize - total) <= 1 << 22
    assert found.bavail <= found.blocks


def test_extended_attributes_or_none(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ino = find(loop, "f").ino
    try:
        loop.setxattr(ME, ino, b"user.xloop", b"value", 0)
    except OSError as exc:
        unsupported = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
        if exc.errno not in unsupported:
            raise
        pytest.skip("the source has no extended attributes")
    assert loop.getxattr(ME, ino, b"user.xloop") == b"value"
    assert b"user.xloop" in loop.listxattr(ME, ino)
    failing(errno.EEXIST, loop.setxattr, ME, ino, b"user.xloop", b"other", 1)
    loop.removexattr(ME, ino, b"user.xloop")
    assert b"user.xloop" not in loop.listxattr(ME, ino)


def test_birth_times_and_flags_are_set_or_refused(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ino = find(loop, "f").ino
    for changes in (SetAttr(crtime=900_000_000_000_000_000), SetAttr(flags=0x8000)):
        try:
            attr = loop.setattr(ME, ino, changes, None)
        except OSError as exc:
            assert exc.errno in (errno.EOPNOTSUPP, errno.ENOTSUP)  # noqa: PT017
            continue
        if changes.flags is not None:
            assert attr.flags & 0x8000  # UF_HIDDEN
        else:
            assert attr.btime == 900_000_000


def test_case_is_the_source_s(loop: xloop.Loopback, tmp_path: Path) -> None:
    (tmp_path / "Name").touch()
    root = host.open_root(str(tmp_path))
    assert host.is_case_sensitive(root) == (not (tmp_path / "nAME").exists())
    if not host.is_case_sensitive(root):
        assert host.spelling(root, b"nAME") == b"Name"
