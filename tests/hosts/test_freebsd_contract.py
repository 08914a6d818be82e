# SPDX-License-Identifier: MIT
"""The loopback on the FreeBSD host keeps the contract, as far as Linux can play FreeBSD's C library."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import xloop.host
from xloop.host import freebsd
from xloop.types import LockRange

from .support import Run

#: What FreeBSD cannot do, or this disguise does not tell: the contract tests that show it.
DIFFERENT = {
    "test_every_mode_does_what_it_does_natively": "fallocate: space and holes, nothing else",
    "test_a_range_beyond_what_a_file_may_have_is_efbig": "asks with KEEP_SIZE",
    "test_it_moves_mtime_and_ctime": "asks with KEEP_SIZE",
    "test_close_of_any_descriptor_drops_the_record_locks_of_its_process": "no record locks",
    "test_close_of_any_descriptor_drops_the_locks_on_the_source_too": "no record locks",
    "test_noreplace_moves_to_a_new_name": "rename has no flags",
    "test_exchange_swaps_whatever_is_there": "rename has no flags",
    "test_exchange_keeps_open_files_apart": "rename has no flags",
    "test_whiteout_leaves_a_whiteout_or_is_refused": "refused before the source is asked",
    "test_rename_under_load_loses_no_file": "rename has no flags",
    "test_birth_time_is_the_one_of_the_source": "Python tells none on Linux, where this runs",
    "test_birth_time_is_known_where_the_source_knows_it": "Python tells none on Linux",
    "test_a_tmpfile_has_no_name": "no O_TMPFILE",
    "test_a_tmpfile_gets_a_name_by_link": "no O_TMPFILE",
    "test_a_tmpfile_with_o_excl_never_gets_a_name": "no O_TMPFILE",
    "test_a_tmpfile_has_the_mode_less_the_umask": "no O_TMPFILE",
    "test_a_name_that_cannot_be_is_refused_as_natively": "'user.' is no name: EOPNOTSUPP, not EINVAL",
    "test_links_and_special_files_have_no_user_attributes": "EPERM where Linux says ENODATA",
    "test_a_file_without_the_attributes_of_the_kernel_says_so_each_time": "no class security.*",
}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_contract_is_kept_but_for_what_is_listed(contract: Run) -> None:
    # Record locks are refused, each after a time of waiting: see below.
    passed, broken = contract("freebsd_on_linux", "test_setlk.py")
    assert broken == set(DIFFERENT)
    assert passed > 580


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The host, and the library that it calls.  Afterwards this process has its own host again."""
    monkeypatch.setattr(xloop.host, "host", xloop.host.host)
    for name in ("os", "_O_PATH", "_O_RESOLVE_BENEATH", "_O_EMPTY_PATH"):
        monkeypatch.setattr(freebsd, name, getattr(freebsd, name))
    import freebsd_on_linux

    return freebsd_on_linux.make()


def test_record_locks_are_refused(played: tuple[Any, Any]) -> None:
    host, _ = played
    lock = LockRange(host.F_WRLCK, 0, 9)
    for call in (lambda: host.getlk(0, lock), lambda: host.setlk(0, lock, False)):
        with pytest.raises(OSError, match="record locks") as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_flags_are_set_by_descriptor(played: tuple[Any, Any], tmp_path: Path) -> None:
    host, library = played
    (tmp_path / "f").touch()
    ref = host.open_ref(host.open_root(str(tmp_path)), b"f")
    host.chflags(ref, 0x8000)
    assert library.calls == [("chflagsat", ref, 0x8000)]


def test_flags_of_open_are_freebsd_s() -> None:
    assert (freebsd._O_PATH, freebsd._O_RESOLVE_BENEATH) == (0x400000, 0x800000)
    assert freebsd._O_EMPTY_PATH == 0x2000000
    assert (freebsd._AT_EACCESS, freebsd._AT_NOFOLLOW, freebsd._AT_EMPTY) == (0x100, 0x200, 0x4000)


def test_names_of_attributes_come_with_their_lengths() -> None:
    assert freebsd.split_names(b"\x01a\x03bcd\x00") == [b"a", b"bcd", b""]


def test_libfuse_is_not_asked_for_record_locks_that_cannot_be_had(
    played: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from xloop.options import MountOptions
    from xloop_backends.libfuse import negotiate

    def terms() -> negotiate.Terms:
        binding = SimpleNamespace(fuse_version_major=2)
        return negotiate.Terms(binding, MountOptions(), 0, kernel_checks=False)

    assert negotiate.Capability.POSIX_LOCKS in terms().asked
    monkeypatch.setattr(negotiate, "host", played[0])
    assert negotiate.Capability.POSIX_LOCKS in terms().refused
    assert negotiate.Capability.POSIX_LOCKS not in terms().asked
    assert negotiate.Capability.FLOCK_LOCKS in terms().asked
