# SPDX-License-Identifier: MIT
"""The WinFsp adapter, asked in WinFsp's order by a stand-in for its library: what comes back, what is on the source.

Owns what a program on Windows would see of a mount, as far as WinFsp's driver is not needed for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standin
from standin import BOTH, READ, WRITE, Refused, Volume, mounted, refused

from xloop.host import windows_mounts
from xloop.loopback import Loopback
from xloop.types import Attr, Caller, Entry, Ino, Opened

HIDDEN, READONLY, SYSTEM, ARCHIVE = 0x8000, 0x1000, 0x80, 0x800
STAT_EX, READ_ONLY, READDIR_PLUS, CASE_INSENSITIVE = 1 << 23, 1 << 22, 1 << 21, 1 << 29
SECOND = 1_000_000_000


def put(volume: Volume, path: str, data: bytes = b"") -> None:
    with volume.create(path) as file:
        assert not data or file.write(data) == len(data)


# -- start-up ---------------------------------------------------------------------------


def test_what_is_agreed_on(volume: Volume) -> None:
    dll = volume.dll
    assert dll.standin_want() == READDIR_PLUS | STAT_EX | CASE_INSENSITIVE
    assert dll.standin_symlinks(), 'readlink("/") must not be ENOSYS, nor missing'
    assert not dll.standin_slashdot(), "WinFsp is to follow links itself"
    assert not dll.standin_attributes()


def test_the_words_that_winfsp_is_given(source: Path, tmp_path: Path) -> None:
    fields = {"fsname": r"C:\some, where", "attr_timeout": 2.5, "max_threads": 3}
    with mounted(source, tmp_path / "point", **fields) as volume:
        words = volume.dll.standin_options().decode()
        assert volume.mountpoint == str(tmp_path / "point")
    assert words.split(",", 2)[:2] == ["uid=-1", "gid=-1"]
    assert "FileInfoTimeout=2500" in words
    assert "ThreadCount=3" in words
    assert "rellinks" in words
    assert "umask=077" in words, "nobody else may act as the one who mounted"
    assert r"volname=some\, where" in words


def test_allow_other_lets_others_in(source: Path, tmp_path: Path) -> None:
    with mounted(source, tmp_path / "point", allow_other=True) as volume:
        assert b"umask" not in volume.dll.standin_options()


def test_the_mount_point_comes_and_goes_with_the_mount(source: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    with mounted(source, point):
        assert point.is_dir()
    assert not point.exists()


def test_a_drive(source: Path) -> None:
    with mounted(source, "w:\\") as volume:
        assert volume.mountpoint == "W:", "WinFsp knows no drive by another form"
        assert os.path.isdir("W:\\")
    assert not os.path.exists("W:\\")


def test_a_name_in_the_network_is_a_prefix_and_a_drive(source: Path) -> None:
    with mounted(source, "//server/some share") as volume:
        assert b",VolumePrefix=\\\\server\\\\some share" in volume.dll.standin_options()
        (note,) = windows_mounts.recorded()
        assert (note.mountpoint, note.place) == ("\\\\server\\some share", volume.mountpoint)
        assert os.path.isdir(note.place + "\\")
    assert list(windows_mounts.recorded()) == []


def test_what_is_left_open_does_not_hold_the_source(source: Path, tmp_path: Path) -> None:
    (source / "dir").mkdir()
    with mounted(source, tmp_path / "point") as volume:
        put(volume, "\\dir\\file", b"x")
        with volume.open("\\dir") as directory:
            directory.list()
        # Windows renames no directory in which anything is open.
        os.rename(source / "dir", source / "renamed")
    os.rename(source, tmp_path / "moved")


def test_a_mount_that_fails_says_so(source: Path, tmp_path: Path) -> None:
    from xloop import MountError

    failing = mounted(source, tmp_path / "no" / "where")
    with pytest.raises(MountError, match="WinFsp failed"), failing:
        pass


# -- files ------------------------------------------------------------------------------


def test_what_is_written_is_on_the_source(volume: Volume, source: Path) -> None:
    with volume.create("\\file") as file:
        assert file.write(b"hello\r\n\x1aworld") == 13
        assert file.read(100) == b"hello\r\n\x1aworld"
        assert file.read(5, 8) == b"world"
        assert file.read(5, 13) == b""
        assert file.stat().size == 13
        file.flush()
    assert (source / "file").read_bytes() == b"hello\r\n\x1aworld"


def test_overwriting_appending_and_resizing(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"before")
    with volume.open("\\file", BOTH) as file:
        assert file.overwrite().size == 0
        file.write(b"one")
        file.append(b"two")
        assert file.read(10) == b"onetwo"
        file.set_size(4)
        assert file.read(10) == b"onet"
        file.set_size(1 << 20)
        assert file.stat().size == 1 << 20
    assert (source / "file").read_bytes() == b"onet" + bytes((1 << 20) - 4)


def test_each_open_has_the_rights_that_it_asked_for(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    with volume.open("\\file", READ) as file:
        assert refused(file.write, b"x") == standin.ACCESS_DENIED
    with volume.open("\\file", WRITE) as file:
        assert refused(file.read, 1) == standin.ACCESS_DENIED
    assert (source / "file").read_bytes() == b"data"


def test_creating_what_is_there(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    (source / "dir").mkdir()
    assert refused(volume.create, "\\file") == standin.COLLISION
    assert refused(volume.create, "\\DIR", directory=True) == standin.COLLISION
    assert (source / "file").read_bytes() == b"data"


def test_a_file_is_renamed_while_it_is_open(volume: Volume, source: Path) -> None:
    (source / "dir").mkdir()
    with volume.create("\\one") as file:
        file.write(b"data")
        file.rename("\\dir\\two")
        assert file.read(10) == b"data"
        file.write(b"more", 4)
    assert os.listdir(source / "dir") == ["two"]
    assert (source / "dir" / "two").read_bytes() == b"datamore"


def test_a_rename_replaces_only_when_it_is_to(volume: Volume, source: Path) -> None:
    (source / "two").write_bytes(b"there")
    with volume.create("\\one") as file:
        file.write(b"data")
        assert refused(file.rename, "\\two") == standin.COLLISION
        file.rename("\\two", replace=True)
    assert os.listdir(source) == ["two"]
    assert (source / "two").read_bytes() == b"data"


@pytest.mark.not_wine("os.replace() does not change the case either")
def test_a_rename_that_only_changes_the_case(volume: Volume, source: Path) -> None:
    put(volume, "\\name", b"data")
    with volume.open("\\NAME") as file:
        file.rename("\\Name")
    assert os.listdir(source) == ["Name"]


def test_a_file_is_deleted_while_it_is_open(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    with volume.open("\\file") as file:
        file.delete()
        assert file.read(10) == b"data"
    assert os.listdir(source) == []


@pytest.mark.not_wine("the name of a deleted file stays while the file is open")
def test_the_name_of_a_deleted_file_is_free_at_once(volume: Volume, source: Path) -> None:
    with volume.create("\\file") as file:
        file.delete()
        assert os.listdir(source) == []
        put(volume, "\\file", b"new")
    assert (source / "file").read_bytes() == b"new"


def _open_shared(path: Path, share: int) -> int:
    """Open *path* natively for reading, sharing with others as *share* says."""
    create = ctypes.WinDLL("kernel32").CreateFileW
    create.restype = ctypes.c_void_p
    handle = create(str(path), ctypes.c_uint32(1 << 31), share, None, 3, 0, None)
    assert handle not in (None, ctypes.c_void_p(-1).value)
    return int(handle)


def _close(handle: int) -> None:
    ctypes.WinDLL("kernel32").CloseHandle(ctypes.c_void_p(handle))


def test_others_who_share_do_not_stop_us_nor_we_them(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    other = _open_shared(source / "file", 7)
    try:
        with volume.open("\\file", BOTH) as file:
            file.write(b"DATA")
            file.rename("\\renamed")
    finally:
        _close(other)
    with volume.open("\\renamed", BOTH):
        os.replace(source / "renamed", source / "again")  # somebody else, natively
        os.unlink(source / "again")


def test_who_shares_with_nobody_is_busy(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    other = _open_shared(source / "file", 0)
    try:
        assert refused(volume.open, "\\file") == standin.DEVICE_BUSY
    finally:
        _close(other)


def test_what_may_not_be_read_can_be_opened_and_deleted(source: Path, tmp_path: Path) -> None:
    class Unreadable(Loopback):
        def open(
            self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False
        ) -> Opened:
            raise PermissionError(errno.EACCES, "denied")

    (source / "file").write_bytes(b"data")
    with mounted(Unreadable(source), tmp_path / "point") as volume:
        assert refused(volume.open, "\\file", WRITE) == standin.ACCESS_DENIED
        with volume.open("\\file") as file:
            assert file.stat().size == 4
            assert refused(file.read, 1) == standin.ACCESS_DENIED
            file.delete()
    assert os.listdir(source) == []


# -- directories ------------------------------------------------------------------------


def test_a_listing_is_complete_and_has_attributes(volume: Volume, source: Path) -> None:
    for number in range(700):
        (source / f"file {number:04}").write_bytes(bytes(number % 5))
    (source / "dir").mkdir()
    with volume.open("\\") as root:
        found = root.list()
    assert sorted(found) == sorted([".", "..", *os.listdir(source)])
    native = os.stat(source / "file 0003")
    shown = found["file 0003"]
    assert shown is not None
    assert (shown.size, shown.ino) == (3, native.st_ino)
    assert shown.mtim.ns == native.st_mtime_ns
    assert shown.mode == stat.S_IFREG | 0o777
    directory = found["dir"]
    assert directory is not None
    assert directory.mode == stat.S_IFDIR | 0o777


def test_only_an_empty_directory_can_be_deleted(volume: Volume, source: Path) -> None:
    with volume.create("\\dir", directory=True):
        pass
    put(volume, "\\dir\\file")
    with volume.open("\\dir") as directory:
        assert refused(directory.delete) == standin.NOT_EMPTY
    (source / "dir" / "file").unlink()
    with volume.open("\\dir") as directory:
        directory.delete()
    assert os.listdir(source) == []


def test_a_directory_is_renamed(volume: Volume, source: Path) -> None:
    (source / "one").mkdir()
    (source / "one" / "file").touch()
    with volume.open("\\one") as directory:
        directory.rename("\\two")
    assert os.listdir(source / "two") == ["file"]


# -- names ------------------------------------------------------------------------------


def test_names_are_found_in_any_case_and_spelled_as_they_are(volume: Volume, source: Path) -> None:
    (source / "Some Dir").mkdir()
    (source / "Some Dir" / "File.TXT").write_bytes(b"x")
    with volume.open("\\SOME DIR\\FILE.txt") as file:
        assert file.spelled == b"/Some Dir/File.TXT"
        assert file.read(1) == b"x"
    with volume.create("\\some dir\\New") as file:
        assert file.spelled == b"/Some Dir/New"
    with volume.open("\\") as root:
        assert root.spelled == b"/"


@pytest.mark.parametrize("character", '"*:<>?|\\\x01\x1f')
def test_reserved_characters_are_ordinary_ones_of_a_name(
    volume: Volume, source: Path, character: str
) -> None:
    stored = f"a{chr(0xF000 | ord(character))}b"
    put(volume, f"\\{stored}", b"x")
    assert os.listdir(source) == [stored]
    with volume.open("\\") as root:
        assert f"a{character}b" in root.list()
    with volume.open(f"\\{stored}") as file:
        assert file.read(1) == b"x"
        file.delete()


def test_no_name_leads_out_of_the_source(volume: Volume, source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "ok").mkdir()
    for path in (
        "\\ok\uf05c..\uf05c..\uf05csecret",
        "\\ok\\\uf05c..\uf05c..\uf05csecret",
        "\\..\uf05csecret",
        "\\ok\\..\\..\\secret",
        "\\..\\secret",
        "\\.",
        "\\ok\\..",
    ):
        with pytest.raises(Refused):
            volume.open(path).close()
    # What can be created under such a name is a file with a strange name, and inside.
    put(volume, "\\ok\uf05c..\uf05c..\uf05csecret", b"mine")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert sorted(os.listdir(source)) == ["ok", "ok\uf05c..\uf05c..\uf05csecret"]


def test_no_name_leads_to_another_stream(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"data")
    put(volume, "\\file\uf03astream", b"x")
    assert sorted(os.listdir(source)) == ["file", "file\uf03astream"]
    assert refused(volume.open, "\\file\uf03a\uf03a$DATA") == standin.NOT_FOUND


@pytest.mark.parametrize(
    "name", ["NUL", "con.txt", "trailing.", "trailing ", "\u00e4\u4e2d\U0001f600"]
)
def test_names_that_programs_of_windows_avoid(volume: Volume, source: Path, name: str) -> None:
    put(volume, f"\\{name}", b"x")
    with volume.open("\\") as root:
        assert name in root.list()
    with volume.open(f"\\{name}") as file:
        assert file.read(1) == b"x"
        file.delete()
    with volume.open("\\") as root:
        assert name not in root.list()


def test_a_long_name_and_one_that_is_too_long(volume: Volume, source: Path) -> None:
    put(volume, "\\" + "n" * 255)
    assert os.listdir(source) == ["n" * 255]
    assert refused(volume.create, "\\" + "n" * 256) == standin.NAME_TOO_LONG


def test_a_file_is_no_directory(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    assert refused(volume.open, "\\file\\below") == standin.NOT_A_DIRECTORY
    assert refused(volume.open, "\\missing\\below") == standin.NOT_FOUND


# -- links ------------------------------------------------------------------------------


class Linking(Loopback):
    """A loopback on which files whose name ends in "link" are links to what they contain."""

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        entry = super().lookup(caller, parent, name)
        return entry._replace(attr=self._seen(entry.attr)) if name.endswith(b"link") else entry

    def _seen(self, attr: Attr) -> Attr:
        return attr._replace(mode=stat.S_IFLNK | 0o777)

    def readlink(self, caller: Caller, ino: Ino) -> bytes:
        handle = self.open(caller, ino, os.O_RDONLY).handle
        try:
            return bytes(self.read(caller, ino, handle, 0, 1024))
        finally:
            self.release(ino, handle)


def test_links_are_shown_as_they_are_and_from_the_root_of_the_mount(
    source: Path, tmp_path: Path
) -> None:
    inside = (str(source) + "\\dir\\file").replace("\\", "/")
    (source / "relative link").write_bytes(b"dir/file")
    (source / "absolute link").write_bytes(inside.upper().encode())
    (source / "root link").write_bytes(str(source).replace("\\", "/").encode())
    (source / "outer link").write_bytes((str(source) + "x/file").replace("\\", "/").encode())
    # Whatever the volume is called, and through the layer that makes it read-only.
    fields = {"read_only": True, "fsname": "a name"}
    with mounted(Linking(source), tmp_path / "point", **fields) as volume:
        assert volume.readlink("\\relative link") == "dir/file"
        assert volume.readlink("\\absolute link") == "/DIR/FILE"
        assert volume.readlink("\\root link") == "/"
        assert volume.readlink("\\outer link").endswith("sourcex/file")
        with volume.open("\\relative link") as link:
            assert volume.dll.standin_handle(link.handle) & 0xFFFFFFFF == 0xFFFFFFFF


def test_what_is_no_link(volume: Volume, source: Path) -> None:
    (source / "file").touch()
    assert refused(volume.readlink, "\\file") == standin.INVALID_PARAMETER
    assert refused(volume.readlink, "\\") == standin.INVALID_PARAMETER


@pytest.mark.not_wine("there are no reparse points")
def test_a_link_is_made_as_windows_makes_one(volume: Volume, source: Path) -> None:
    (source / "dir").mkdir()
    with volume.create("\\link") as placeholder:
        placeholder.symlink("dir")
    assert os.readlink(source / "link") == "dir"
    assert volume.readlink("\\link") == "dir"
    assert sorted(os.listdir(source)) == ["dir", "link"]


# -- read-only --------------------------------------------------------------------------


def test_a_read_only_mount_says_so_and_refuses_all_changes(source: Path, tmp_path: Path) -> None:
    (source / "file").write_bytes(b"data")
    with mounted(source, tmp_path / "point", read_only=True) as volume:
        assert volume.dll.standin_want() & READ_ONLY
        assert refused(volume.create, "\\new") == standin.WRITE_PROTECTED
        assert refused(volume.create, "\\new", directory=True) == standin.WRITE_PROTECTED
        assert refused(volume.open, "\\file", WRITE) == standin.WRITE_PROTECTED
        with volume.open("\\file") as file:
            assert file.read(10) == b"data"
            assert refused(file.rename, "\\new") == standin.WRITE_PROTECTED
            assert refused(file.delete) == standin.WRITE_PROTECTED
            assert refused(file.set_flags, HIDDEN) == standin.WRITE_PROTECTED
            assert refused(file.set_times, SECOND, SECOND) == standin.WRITE_PROTECTED
    assert os.listdir(source) == ["file"]


# -- errors and threads -----------------------------------------------------------------

#: Python's errors, and what programs on Windows are to be told.
STATUS = {
    errno.ENOENT: 0xC0000034,
    errno.EACCES: 0xC0000022,
    errno.EPERM: 0xC0000022,
    errno.EEXIST: 0xC0000035,
    errno.ENOTDIR: 0xC0000103,
    errno.EISDIR: 0xC00000BA,
    errno.ENOTEMPTY: 0xC0000101,
    errno.ENOSPC: 0xC000007F,
    errno.EDQUOT: 0xC000007F,
    errno.EFBIG: 0xC000007F,
    errno.EROFS: 0xC00000A2,
    errno.EBUSY: 0x80000011,
    errno.EIO: 0xC0000185,
    errno.EINVAL: 0xC000000D,
    errno.ELOOP: 0xC0000280,
    errno.ENAMETOOLONG: 0xC0000106,
    errno.EMLINK: 0xC0000265,
    errno.EXDEV: 0xC00000D4,
    errno.EMFILE: 0xC000011F,
    errno.ENOSYS: 0xC0000010,
    errno.EOPNOTSUPP: 0xC0000010,
    errno.ETIMEDOUT: 0xC0000120,
    errno.ESTALE: 0xC0000034,
    errno.EAGAIN: 0x80000011,
    errno.EWOULDBLOCK: 0x80000011,
    errno.ECHILD: 0xC0000185,
    10054: 0xC0000185,
}


class Failing(Loopback):
    """Fails to make a directory, with the error that the test put here."""

    failure: BaseException = OSError(errno.EIO, "")

    def mkdir(self, *args: Any) -> Entry:
        raise self.failure


@pytest.fixture
def failing(source: Path, tmp_path: Path) -> Iterator[tuple[Failing, Volume]]:
    operations = Failing(source)
    with mounted(operations, tmp_path / "point") as volume:
        yield operations, volume


def test_each_error_is_told_as_windows_knows_it(failing: tuple[Failing, Volume]) -> None:
    operations, volume = failing
    got = {}
    for number in STATUS:
        operations.failure = OSError(number, "")
        got[number] = refused(volume.create, "\\dir", directory=True)
    assert got == STATUS


def test_a_bug_is_an_error_of_the_device(
    failing: tuple[Failing, Volume], caplog: pytest.LogCaptureFixture
) -> None:
    operations, volume = failing
    operations.failure = ZeroDivisionError()
    assert refused(volume.create, "\\dir", directory=True) == 0xC0000185
    assert "unexpected ZeroDivisionError" in caplog.text


def test_many_threads_at_once(volume: Volume, source: Path) -> None:
    (source / "file").write_bytes(b"abcdefg")
    assert volume.dll.standin_threads("\\file", 8, 40) == 0
