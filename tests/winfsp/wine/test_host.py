# SPDX-License-Identifier: MIT
"""The host functions on Windows, against what the system's own functions say."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import xloop
from xloop.host import (
    Descriptor,
    host,
    mounttable,
    windows_abi,
    windows_api,
    windows_mounts,
    windows_refs,
)
from xloop.types import NOW

SECOND = 1_000_000_000


@pytest.fixture
def root(source: Path) -> Descriptor:
    return host.open_root(str(source))


def number(call: Any, *args: Any, **kwargs: Any) -> int | None:
    """Return the errno with which *call* fails."""
    # Not pytest.raises(): what it returns and its traceback hold each other, and so the handles in it.
    try:
        call(*args, **kwargs)
    except OSError as exc:
        return exc.errno
    pytest.fail("did not fail")


def listed(ref: int) -> list[bytes]:
    directory = host.open_dir(ref)
    names = []
    while entries := host.read_dir(directory, bytearray(4096)):
        names += [entry.name for entry in entries]
    return names


# -- references -------------------------------------------------------------------------


def test_a_reference_is_the_object_and_not_its_name(root: Descriptor, source: Path) -> None:
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(b"data")
    directory = host.open_ref(root, b"dir")
    ref = host.open_ref(directory, b"file")
    native = os.stat(source / "dir" / "file")
    found = host.statx(ref)
    assert (found.ino, found.size, found.nlink) == (native.st_ino, 4, 1)
    assert found.mtime_ns == native.st_mtime_ns
    assert found == host.statx(directory, b"FILE")
    assert host.statx(host.reopen_ref(ref)) == found
    assert host.pread(host.reopen(ref, os.O_RDONLY), 10, 0) == b"data"


def test_the_root_must_be_a_directory(source: Path, tmp_path: Path) -> None:
    (source / "file").touch()
    assert number(host.open_root, str(source / "file")) == errno.ENOTDIR
    assert number(host.open_root, str(tmp_path / "missing")) == errno.ENOENT


def test_a_path_of_any_length(source: Path) -> None:
    deep = source
    for _ in range(8):
        deep = deep / ("n" * 60)
    os.makedirs(f"\\\\?\\{deep}")
    assert stat.S_ISDIR(host.statx(host.open_root(str(deep))).mode)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_is_no_name_of_one_entry(root: Descriptor, name: bytes) -> None:
    for call in (host.open_ref, host.unlink, host.rmdir):
        assert number(call, root, name) == errno.EINVAL
    assert number(host.create, root, name, os.O_RDWR, 0o666) == errno.EINVAL
    assert number(host.mkdir, root, name, 0o777) == errno.EINVAL


def test_backslash_and_colon_lead_nowhere(root: Descriptor, source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "dir").mkdir()
    (source / "dir" / "file").touch()
    for name in (
        rb"..\secret",
        rb"dir\file",
        rb"dir\..\dir",
        b"dir:stream",
        b"dir::$INDEX_ALLOCATION",
    ):
        assert number(host.open_ref, root, name) == errno.ENOENT
    host.create(root, rb"..\secret", os.O_RDWR, 0o666)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    host.rename(root, rb"..\secret", root, b"a:b", 0)
    assert sorted(listed(root)) == [b".", b"..", b"a:b", b"dir"]
    host.unlink(root, b"a:b")


def test_what_would_be_reached_without_the_encoding(root: Descriptor, source: Path) -> None:
    # That the names above are refused is the encoding's doing: this is what the system would do.
    (source / "dir").mkdir()
    (source / "dir" / "file").touch()
    stored = "dir\\file".encode("utf-16-le")
    assert windows_api.nt_open(root, stored, windows_abi.FILE_READ_ATTRIBUTES)


def test_names_without_meaning_in_unicode(root: Descriptor, source: Path) -> None:
    assert number(host.open_ref, root, b"\xff\xfe") == errno.EILSEQ
    assert number(host.open_ref, root, b"n" * 256) == errno.ENAMETOOLONG
    name = "\u00e4" * 120
    host.create(root, name.encode(), os.O_RDWR, 0o666)
    assert os.listdir(source) == [name]


def test_nothing_is_below_a_file(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    assert number(host.open_ref, ref, b"x") == errno.ENOTDIR
    assert number(host.rmdir, root, b"file") == errno.ENOTDIR
    (source / "dir").mkdir()
    assert number(host.unlink, root, b"dir") == errno.EISDIR
    assert number(host.reopen, host.open_ref(root, b"dir"), os.O_RDONLY) == errno.EISDIR


@pytest.mark.not_wine("there are no reparse points")
@pytest.mark.parametrize("kind", ["symlink", "junction"])
def test_a_link_is_a_link_and_nothing_is_below_it(
    root: Descriptor, source: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    if kind == "junction":
        import _winapi

        _winapi.CreateJunction(str(tmp_path / "outside"), str(source / "link"))  # type: ignore[attr-defined]
    else:
        os.symlink(tmp_path / "outside", source / "link", target_is_directory=True)
    link = host.open_ref(root, b"link")
    assert stat.S_ISLNK(host.statx(link).mode)
    assert number(host.open_ref, link, b"secret") in (errno.ENOTDIR, errno.ELOOP)
    assert number(host.create, link, b"new", os.O_RDWR, 0o666) is not None
    assert host.readlink(link).decode() == str(tmp_path / "outside").replace("\\", "/")
    host.unlink(root, b"link")
    assert os.listdir(tmp_path / "outside") == ["secret"]


# -- open files -------------------------------------------------------------------------


def test_reading_and_writing_at_offsets(root: Descriptor, source: Path) -> None:
    file = host.create(root, b"file", os.O_RDWR, 0o666)
    assert host.pwrite(file, b"abc", 0) == 3
    assert host.pwrite(file, memoryview(b"xdefx")[1:4], 3) == 3
    assert host.pwrite(file, memoryview(bytearray(b"ghi")), 6) == 3
    assert host.pwrite(file, b"", 6) == 0
    assert host.pread(file, 4, 2) == b"cdef"
    assert host.pread(file, 100, 7) == b"hi"
    assert host.pread(file, 1, 9) == b""
    assert host.pread(file, 0, 0) == b""
    assert (source / "file").read_bytes() == b"abcdefghi"
    host.fsync(file)
    host.fsync(host.reopen(file, os.O_RDONLY))


def test_what_open_asked_for_decides(root: Descriptor, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    ref = host.open_ref(root, b"file")
    assert number(host.pread, ref, 1, 0) == errno.EACCES
    assert number(host.pwrite, host.reopen(ref, os.O_RDONLY), b"x", 0) == errno.EACCES
    assert number(host.pread, host.reopen(ref, os.O_WRONLY), 1, 0) == errno.EACCES


def test_appending_goes_to_the_end_whatever_the_offset(root: Descriptor, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    file = host.reopen(host.open_ref(root, b"file"), os.O_WRONLY | os.O_APPEND)
    host.pwrite(file, b"1", 0)
    (source / "file").write_bytes(b"other")
    host.pwrite(file, b"2", 0)
    assert (source / "file").read_bytes() == b"other2"


def test_truncating(root: Descriptor, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    ref = host.open_ref(root, b"file")
    host.truncate(ref, 2)
    assert (source / "file").read_bytes() == b"da"
    file = host.reopen(ref, os.O_RDWR)
    host.ftruncate(file, 4)
    assert (source / "file").read_bytes() == b"da\0\0"
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
        (source / "file").write_bytes(b"data")
        host.reopen(ref, flags | os.O_TRUNC)
        assert (source / "file").read_bytes() == b""
    assert number(host.reopen, ref, 3) == errno.EINVAL


def test_creating_takes_no_name_that_is_there(root: Descriptor, source: Path) -> None:
    (source / "File").write_bytes(b"data")
    assert number(host.create, root, b"file", os.O_RDWR, 0o666) == errno.EEXIST
    assert number(host.mkdir, root, b"file", 0o777) == errno.EEXIST
    assert (source / "File").read_bytes() == b"data"
    host.create(root, b"readonly", os.O_RDWR, 0o444)
    assert os.stat(source / "readonly").st_file_attributes & stat.FILE_ATTRIBUTE_READONLY


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_there_are_only_regular_files(root: Descriptor, source: Path, kind: int) -> None:
    assert number(host.mknod, root, b"x", kind | 0o666, 0) == errno.EOPNOTSUPP
    host.mknod(root, b"file", stat.S_IFREG | 0o666, 0)
    assert os.listdir(source) == ["file"]


# -- directories ------------------------------------------------------------------------


def test_a_listing_can_be_left_and_taken_up_again(root: Descriptor, source: Path) -> None:
    names = {f"{number:03}".encode() for number in range(200)}
    for name in names:
        (source / name.decode()).touch()
    directory = host.open_dir(root)
    first = host.read_dir(directory, bytearray(4096))
    assert 2 < len(first) < 200
    place = first[10].offset
    seen = [entry.name for entry in first[:11]]
    # What is gone or new meanwhile must not shift what is still to come.
    (source / seen[5].decode()).unlink()
    (source / "000 new").touch()
    host.seek_dir(directory, place)
    rest = []
    while entries := host.read_dir(directory, bytearray(4096)):
        rest += [entry.name for entry in entries]
    assert not set(seen) & set(rest)
    assert set(seen) | set(rest) >= names | {b".", b".."}
    assert len(rest) == len(set(rest))
    host.seek_dir(directory, 0)
    assert host.read_dir(directory, bytearray(4096))[0].name == b"."


def test_an_entry_tells_number_and_type(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    (source / "dir").mkdir()
    entries = {entry.name: entry for entry in host.read_dir(host.open_dir(root), bytearray(4096))}
    for name, kind in (("file", stat.S_IFREG), ("dir", stat.S_IFDIR)):
        entry = entries[name.encode()]
        assert (entry.ino, entry.type) == (os.stat(source / name).st_ino, kind >> 12)
    assert entries[b"."].ino == os.stat(source).st_ino


def test_the_spelling_of_a_name(root: Descriptor, source: Path) -> None:
    (source / "Some Name").touch()
    (source / "a\uf03ab").touch()
    assert host.spelling(root, b"SOME NAME") == b"Some Name"
    assert host.spelling(root, b"A:B") == b"a:b"
    assert number(host.spelling, root, b"missing") == errno.ENOENT
    assert number(host.spelling, root, b"*") == errno.ENOENT, "no pattern"


# -- names ------------------------------------------------------------------------------


def test_renaming(root: Descriptor, source: Path) -> None:
    (source / "one").write_bytes(b"1")
    (source / "two").write_bytes(b"2")
    (source / "dir").mkdir()
    directory = host.open_ref(root, b"dir")
    assert number(host.rename, root, b"one", root, b"two", 1) == errno.EEXIST
    for flags in (2, 4, 8):
        assert number(host.rename, root, b"one", root, b"two", flags) == errno.EINVAL
    opened = host.reopen(host.open_ref(root, b"two"), os.O_RDONLY)
    del opened
    host.rename(root, b"one", root, b"two", 0)
    assert (source / "two").read_bytes() == b"1"
    host.rename(root, b"two", directory, b"three", 1)
    assert os.listdir(source) == ["dir"]
    assert os.listdir(source / "dir") == ["three"]
    assert number(host.rename, root, b"missing", root, b"x", 0) == errno.ENOENT


@pytest.mark.not_wine("a file that is open is not replaced")
def test_what_is_replaced_lives_on_while_it_is_open(root: Descriptor, source: Path) -> None:
    (source / "one").write_bytes(b"1")
    (source / "two").write_bytes(b"2")
    file = host.reopen(host.open_ref(root, b"two"), os.O_RDONLY)
    host.rename(root, b"one", root, b"two", 0)
    assert host.pread(file, 1, 0) == b"2"
    assert (source / "two").read_bytes() == b"1"


def test_deleting(root: Descriptor, source: Path) -> None:
    (source / "dir").mkdir()
    (source / "dir" / "file").write_bytes(b"data")
    directory = host.open_ref(root, b"dir")
    assert number(host.rmdir, root, b"dir") == errno.ENOTEMPTY
    file = host.reopen(host.open_ref(directory, b"file"), os.O_RDWR)
    host.unlink(directory, b"file")
    assert host.pread(file, 10, 0) == b"data"
    del file
    assert os.listdir(source / "dir") == []
    del directory
    host.rmdir(root, b"dir")
    assert os.listdir(source) == []


def test_another_name(root: Descriptor, source: Path) -> None:
    (source / "one").write_bytes(b"data")
    ref = host.open_ref(root, b"one")
    host.link(ref, root, b"two")
    assert host.statx(ref).nlink == 2
    assert os.path.samefile(source / "one", source / "two")
    assert number(host.link, ref, root, b"two") == errno.EEXIST


@pytest.mark.not_wine("there are no reparse points")
def test_a_symbolic_link_knows_whether_it_leads_to_a_directory(
    root: Descriptor, source: Path
) -> None:
    (source / "dir").mkdir()
    host.symlink(root, b"to dir", b"./dir")
    host.symlink(root, b"to nothing", b"missing")
    assert os.path.isdir(source / "to dir")
    assert host.readlink(host.open_ref(root, b"to dir")) == b"./dir"
    assert os.lstat(source / "to dir").st_file_attributes & stat.FILE_ATTRIBUTE_DIRECTORY
    assert not os.lstat(source / "to nothing").st_file_attributes & stat.FILE_ATTRIBUTE_DIRECTORY


def test_a_link_that_is_refused_leaves_nothing_behind(root: Descriptor, source: Path) -> None:
    refused = None
    try:
        host.symlink(root, b"link", b"missing")
    except OSError as exc:
        refused = exc.errno  # and no more of it: its traceback holds the handle
    if refused is None:
        assert os.readlink(source / "link") == "missing"
    else:
        # Without the privilege; or where the file system has no links, as under wine.
        assert refused in (errno.EPERM, errno.EOPNOTSUPP)
        assert os.listdir(source) == []


@pytest.mark.parametrize(
    ("attributes", "tag", "kind"),
    [
        (0x20, 0, stat.S_IFREG),
        (0x10, 0, stat.S_IFDIR),
        (0x10, 0xA000000C, stat.S_IFDIR),  # no reparse point: the number is the size of its EAs
        (0x420, 0xA000000C, stat.S_IFLNK),
        (0x410, 0xA000000C, stat.S_IFLNK),
        (0x410, 0xA0000003, stat.S_IFLNK),  # a junction, or a volume that is mounted there
        (0x420, 0x9000001A, stat.S_IFREG),  # a file in the cloud
        (0x410, 0x9000001A, stat.S_IFDIR),
        (0x420, 0x80000013, stat.S_IFREG),  # deduplicated
    ],
)
def test_what_is_a_link(attributes: int, tag: int, kind: int) -> None:
    assert windows_refs.type_of(attributes, tag) == kind


def test_an_absolute_link_is_not_made(root: Descriptor, source: Path) -> None:
    for target in (b"/etc", b"C:\\Windows", b"\\Windows", b"//server/share"):
        assert number(host.symlink, root, b"link", target) == errno.EOPNOTSUPP
    assert number(host.symlink, root, b"link", b"") == errno.EINVAL
    assert os.listdir(source) == [], "nothing is left behind"


# -- attributes -------------------------------------------------------------------------


def test_times(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    host.utimens(ref, 1_000_000_000 * SECOND, 1_500_000_000 * SECOND + 700)
    found = host.statx(ref)
    assert (found.atime, found.mtime_ns) == (1_000_000_000, 1_500_000_000 * SECOND + 700)
    host.utimens(ref, None, 1_600_000_000 * SECOND)
    found = host.statx(ref)
    assert (found.atime, found.mtime) == (1_000_000_000, 1_600_000_000)
    host.utimens(ref, NOW, None)
    found = host.statx(ref)
    assert found.atime > 1_700_000_000
    assert found.mtime == 1_600_000_000
    host.utimens(ref, None, -1 * SECOND)  # before 1970
    assert host.statx(ref).mtime == -1
    assert number(host.utimens, ref, None, -12_000_000_000 * SECOND) == errno.EINVAL  # before 1601


def test_the_one_permission_bit_that_there_is(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    assert host.statx(ref).mode == stat.S_IFREG | 0o777
    host.chmod(ref, 0o555)
    assert host.statx(ref).mode == stat.S_IFREG | 0o555
    assert number(host.unlink, root, b"file") == errno.EACCES
    host.chmod(ref, 0o200)
    assert host.statx(ref).mode == stat.S_IFREG | 0o777
    assert number(host.chown, ref, 1, -1) == errno.EOPNOTSUPP
    host.chown(ref, -1, -1)


def test_flags_that_windows_lacks_are_refused(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    assert number(host.chflags, ref, stat.UF_IMMUTABLE) == errno.EOPNOTSUPP
    host.chflags(ref, stat.UF_HIDDEN)
    assert os.stat(source / "file").st_file_attributes & stat.FILE_ATTRIBUTE_HIDDEN


def test_whether_somebody_may(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    host.access(ref, os.R_OK | os.W_OK)
    host.access(root, os.R_OK | os.W_OK | os.X_OK)


def test_what_windows_lacks_is_refused(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    file = host.reopen(host.open_ref(root, b"file"), os.O_RDWR)
    for call, *args in (
        (host.getxattr, file, b"user.x"),
        (host.setxattr, file, b"user.x", b"", 0),
        (host.listxattr, file),
        (host.removexattr, file, b"user.x"),
        (host.fallocate, file, 0, 0, 1),
        (host.seek_data_hole, file, 0, host.SEEK_DATA),
        (host.copy_file_range, file, 0, file, 0, 1, 0),
        (host.tmpfile, root, os.O_RDWR, 0o666),
        (host.syncfs, root),
        (host.flock, file, 2),
    ):
        assert number(call, *args) == errno.EOPNOTSUPP, call
    assert number(host.readlink, file) == errno.EINVAL
    assert number(host.ioctl, file, 1, b"", 0) == errno.ENOTTY


def test_a_descriptor_closes_itself(root: Descriptor, source: Path) -> None:
    (source / "file").touch()
    ref = host.open_ref(root, b"file")
    value = int(ref)
    del ref
    assert number(host.statx, value) == errno.EBADF


def test_handles_are_not_inherited(root: Descriptor) -> None:
    import ctypes

    flags = ctypes.c_uint32(7)
    assert ctypes.WinDLL("kernel32").GetHandleInformation(
        ctypes.c_void_p(root), ctypes.byref(flags)
    )
    assert flags.value & 1 == 0


# -- mount points -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "prefix"),
    [
        ("x:", "X:", None),
        ("X:\\", "X:", None),
        ("X:/", "X:", None),
        (r"C:\some\place", r"C:\some\place", None),
        ("C:/some/place/", r"C:\some\place", None),
        (r"\\server\share", r"\\server\share", r"\server\share"),
        ("//server/share/", r"\\server\share", r"\server\share"),
    ],
)
def test_forms_of_mount_points(text: str, shown: str, prefix: str | None) -> None:
    assert windows_mounts.parse(text) == (shown, prefix)
    assert windows_mounts.normal(text) == shown


@pytest.mark.parametrize("text", [r"\\?\C:\x", r"\\.\X:", r"\\server", r"\\server\a\b", "//"])
def test_what_is_no_mount_point(text: str) -> None:
    from xloop import MountError

    with pytest.raises(MountError, match="neither a drive"):
        windows_mounts.parse(text)


def test_any_drive_that_is_free() -> None:
    point = windows_mounts.parse("*")
    assert point.shown[1:] == ":"
    assert not os.path.exists(point.shown + "\\")


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(windows_mounts, "_folder", lambda: str(tmp_path / "records"))
    return tmp_path / "records"


def test_a_record_lives_as_long_as_its_server(records: Path, tmp_path: Path) -> None:
    import threading

    gone = tmp_path / "gone"
    with windows_mounts.Record("X:", "source", "xloop", place=str(gone)) as record:
        (entry,) = mounttable.read()
        assert (entry.mountpoint, entry.fstype, entry.source) == ("X:", "fuse.xloop", "source")
        assert mounttable.visible([entry], "x:\\some\\file") is entry
        assert mounttable.visible([entry], "Y:\\") is None
        told = threading.Event()

        def serve() -> None:
            record.wait()
            told.set()
            record.__exit__(None, None, None)

        thread = threading.Thread(target=serve)
        thread.start()
        windows_mounts.stop("x:")
        assert told.is_set()
        thread.join()
    assert mounttable.read() == []
    assert number(windows_mounts.stop, "X:") == errno.ENOENT
    (records / "broken.json").write_text("{")
    (records / "1-1.json").write_text(
        '{"pid": 1, "event": "Local\\\\xloop-1-1", "mountpoint": "Z:", "source": "", "subtype": "",'
        ' "place": "Z:"}'
    )
    assert mounttable.read() == []
    assert sorted(os.listdir(records)) == ["broken.json"]


#: For systems that have what POSIX has.
ELSEWHERE = ("linux", "darwin", "freebsd", "posix", "bsd")


def test_every_module_can_be_imported_but_those_of_other_systems() -> None:
    failed = set()
    for module in pkgutil.walk_packages(xloop.__path__, "xloop."):
        try:
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        except (ImportError, TypeError, AttributeError):
            failed.add(module.name)
    ours = {name.removeprefix("xloop.host.") for name in failed}
    assert all(name.startswith(ELSEWHERE) for name in ours), failed
    assert "xloop.host.linux" in failed, "and nothing is loaded that pretends to be there"


def test_only_what_windows_has_was_imported() -> None:
    assert not {"fcntl", "resource", "pwd"} & set(sys.modules)
