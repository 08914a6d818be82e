# SPDX-License-Identifier: MIT
"""What the macOS host asks of macOS alone: the calls that no Linux can stand in for, as they are made."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import xloop.host
from xloop.host import darwin, darwin_libc
from xloop.types import Caller


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The host, and the library that it calls.  Afterwards this process has its own host again."""
    for module, name in ((xloop.host, "host"), (darwin, "fcntl")):
        monkeypatch.setattr(module, name, getattr(module, name))
    for name in ("O_SEARCH", "O_NOFOLLOW_ANY"):
        monkeypatch.setattr(darwin_libc, name, getattr(darwin_libc, name))
    import darwin_on_linux

    return darwin_on_linux.make()


@pytest.fixture
def host(played: tuple[Any, Any]) -> Any:
    return played[0]


@pytest.fixture
def calls(played: tuple[Any, Any]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = played[1].calls
    return found


def test_a_birth_time_is_set_by_setattrlist(host: Any, calls: Any, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ref = host.open_ref(host.open_root(str(tmp_path)), b"f")
    host.setcrtime(ref, 5_000_000_007)
    ((name, fd, wanted, value, options),) = calls
    assert (name, fd, options) == ("fsetattrlist", ref, 0)
    assert darwin_libc.ATTRLIST.unpack(wanted) == (5, 0, 0x200, 0, 0, 0, 0)
    assert darwin_libc.TIMESPEC.unpack(value) == (5, 7)


def test_what_cannot_be_opened_is_named_and_not_followed(
    host: Any, calls: Any, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    ref = host.open_ref(host.open_root(str(tmp_path)), b"fifo")
    assert ref.by_name
    host.setcrtime(ref, 0)
    host.chflags(ref, 0x8000)
    (crtime, flags) = calls
    assert (crtime[0], crtime[1], crtime[4]) == ("setattrlistat", b"fifo", 1)
    assert darwin_libc.ATTRLIST.unpack(flags[2])[2] == 0x40000
    assert flags[3] == (0x8000).to_bytes(4, "little")


def test_flags_are_set_by_fchflags(host: Any, calls: Any, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    ref = host.open_ref(host.open_root(str(tmp_path)), b"f")
    host.chflags(ref, 0x8002)
    assert calls == [("fchflags", ref, 0x8002)]


def test_a_name_that_means_something_else_by_now_is_stale(host: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ref = host.open_ref(host.open_root(str(tmp_path)), b"fifo")
    # Both at the same time, so that the number cannot be the same.
    os.mkfifo(tmp_path / "other")
    os.replace(tmp_path / "other", tmp_path / "fifo")
    for use in (host.statx, lambda ref: host.chmod(ref, 0o600), lambda ref: host.chflags(ref, 1)):
        with pytest.raises(OSError, match="Stale"):
            use(ref)


def test_a_file_that_others_moved_is_found_by_its_path(host: Any, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/f").write_bytes(b"data")
    root = host.open_root(str(tmp_path))
    ref = host.open_ref(host.open_ref(root, b"a"), b"f")
    os.rename(tmp_path / "a/f", tmp_path / "b/g")
    (tmp_path / "a/f").write_bytes(b"another")
    opened = host.reopen(ref, os.O_RDONLY)
    assert host.pread(opened, 10, 0) == b"data"


def test_a_link_that_took_the_name_is_not_followed(host: Any, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").write_bytes(b"data")
    ref = host.open_ref(host.open_root(str(tmp_path / "in")), b"f")
    (tmp_path / "in/f").unlink()
    (tmp_path / "in/f").symlink_to("../outside")
    for use in (
        lambda: host.reopen(ref, os.O_RDONLY),
        lambda: host.truncate(ref, 0),
        lambda: host.access(ref, os.R_OK),
    ):
        with pytest.raises(OSError, match="Stale"):
            use()
    assert (tmp_path / "outside").read_bytes() == b"secret"


def test_o_trunc_empties_nothing_before_it_is_known_to_be_the_right_file(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"data")
    ref = host.open_ref(host.open_root(str(tmp_path)), b"f")
    (tmp_path / "g").write_bytes(b"precious")
    real = type(host)._place

    def swapped(self: Any, ref: Any) -> Any:
        place = real(self, ref)
        os.replace(tmp_path / "g", tmp_path / "f")
        return place

    monkeypatch.setattr(type(host), "_place", swapped)
    with pytest.raises(OSError, match="Stale"):
        host.reopen(ref, os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "f").read_bytes() == b"precious"


def test_a_hole_of_less_than_a_block_is_written_over(host: Any, tmp_path: Path) -> None:
    path = tmp_path / "f"
    block = os.statvfs(tmp_path).f_frsize
    content = b"x" * (4 * block)
    for offset, length in ((10, 20), (block - 5, 10), (100, 3 * block), (3 * block, 9 * block)):
        path.write_bytes(content)
        fd = os.open(path, os.O_RDWR)
        host.fallocate(fd, 3, offset, length)
        os.close(fd)
        end = min(offset + length, len(content))
        assert path.read_bytes() == content[:offset] + bytes(end - offset) + content[end:]


class Identity:
    """pthread_setugid_np(2)."""

    def __init__(self) -> None:
        self.now: tuple[int, int] | None = None
        self.history: list[tuple[int, int]] = []
        self.fails = False

    def __call__(self, uid: int, gid: int) -> int:
        self.history.append((uid, gid))
        if self.fails:
            ctypes.set_errno(errno.EPERM)
            return -1
        return 0


def test_root_acts_as_others_by_pthread_setugid_np(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity()
    monkeypatch.setattr(host._c, "pthread_setugid_np", identity)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    assert host.may_act_as_others()
    with host.acting_as(Caller(501, 20, 1), checked=False):
        assert identity.history == [(501, 20)]
    assert identity.history == [(501, 20), (2**32 - 101, 2**32 - 101)]
    with host.acting_as(Caller(0, 0, 1), checked=False):
        assert len(identity.history) == 2  # that is who we are
    identity.fails = True
    with pytest.raises(PermissionError), host.acting_as(Caller(501, 20, 1), checked=True):
        pytest.fail("went on as root")


def test_without_root_or_the_function_nobody_is_anybody_else(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert host._c.pthread_setugid_np is None
    assert not host.may_act_as_others()
    with pytest.raises(PermissionError, match="pthread_setugid_np"):
        host.acting_as(Caller(501, 20, 1), checked=False)


def test_a_missing_function_is_an_error_at_import() -> None:
    with pytest.raises(ImportError, match="fgetxattr"):
        darwin_libc.DarwinLibc({})


def test_rename_flags_that_macos_lacks_are_refused(host: Any, tmp_path: Path) -> None:
    root = host.open_root(str(tmp_path))
    (tmp_path / "a").touch()
    for flags in (3, 4, 8):
        with pytest.raises(OSError, match="rename flag"):
            host.rename(root, b"a", root, b"b", flags)
