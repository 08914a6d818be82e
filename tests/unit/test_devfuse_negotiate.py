# SPDX-License-Identifier: MIT
"""The INIT exchange with kernels that are older, newer, or less generous than this one."""

from __future__ import annotations

import pytest

from xloop.errors import MountError, OptionError
from xloop.options import MountOptions
from xloop_backends.devfuse import DevFuse, abi, device
from xloop_backends.devfuse.abi import Init
from xloop_backends.devfuse.negotiate import Terms, negotiate
from xloop_backends.devfuse.session import _extended

EVERYTHING = (1 << 42) - 1


def _init(minor: int = 45, flags: int = EVERYTHING, major: int = 7) -> memoryview:
    return memoryview(
        abi.INIT_IN_EXT.pack(major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32) + bytes(44)
    )


def _agree(
    request: memoryview,
    *,
    kernel_checks: bool = True,
    privileged: bool = True,
    stack_depth: int = 0,
    **options: object,
) -> tuple[Terms, tuple[int, ...]]:
    terms, body = negotiate(
        request,
        MountOptions(**options),  # type: ignore[arg-type]
        kernel_checks=kernel_checks,
        privileged=privileged,
        stack_depth=stack_depth,
    )
    assert terms is not None
    return terms, abi.INIT_REPLY.unpack(bytes(16) + body)[3:]


def test_nothing_is_taken_that_was_not_offered() -> None:
    offered = Init.ASYNC_READ | Init.BIG_WRITES | Init.INIT_EXT
    terms, fields = _agree(_init(flags=offered))
    assert terms.granted == offered
    assert fields[3] | fields[10] << 32 == offered
    assert "does not have it" in terms.refused[Init.POSIX_LOCKS]


def test_a_newer_major_version_is_answered_with_ours() -> None:
    terms, body = negotiate(
        _init(major=8), MountOptions(), kernel_checks=False, privileged=True, stack_depth=0
    )
    assert terms is None
    assert abi.INIT_REPLY.unpack(bytes(16) + body)[3:5] == (abi.MAJOR, abi.MINOR)


@pytest.mark.parametrize(("major", "minor"), [(6, 99), (7, 27)])
def test_a_kernel_that_is_too_old_is_refused_in_words(major: int, minor: int) -> None:
    with pytest.raises(MountError, match=rf"FUSE {major}\.{minor}"):
        _agree(_init(major=major, minor=minor))


def test_the_upper_flags_are_not_read_from_a_kernel_that_has_none() -> None:
    flags = EVERYTHING & ~Init.INIT_EXT
    terms, _ = _agree(_init(flags=flags))
    assert terms.granted < Init(1 << 32)


def test_acls_and_idmapped_mounts_only_where_the_kernel_checks() -> None:
    with_checks, _ = _agree(_init(), kernel_checks=True)
    assert with_checks.has(Init.POSIX_ACL)
    assert with_checks.has(Init.ALLOW_IDMAP)
    # The kernel refuses a mount that asks for idmapping without default_permissions.
    without, _ = _agree(_init(), kernel_checks=False)
    assert not without.has(Init.POSIX_ACL)
    assert not without.has(Init.ALLOW_IDMAP)


def test_allow_root_needs_to_know_who_asks() -> None:
    terms, _ = _agree(_init(), allow_root=True)
    assert not terms.has(Init.ALLOW_IDMAP)


@pytest.mark.parametrize(("stack_depth", "answer"), [(0, 1), (1, 2)])
def test_passthrough_is_as_deep_as_the_source(stack_depth: int, answer: int) -> None:
    terms, fields = _agree(_init(), stack_depth=stack_depth)
    assert terms.has(Init.PASSTHROUGH)
    assert fields[11] == answer


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"privileged": False}, "CAP_SYS_ADMIN"),
        ({"stack_depth": 2}, "stacked"),
        ({"passthrough": False}, "option"),
    ],
)
def test_passthrough_is_left_out_with_a_reason(given: dict[str, object], why: str) -> None:
    terms, _ = _agree(_init(), **given)  # type: ignore[arg-type]
    assert not terms.has(Init.PASSTHROUGH)
    assert why in terms.refused[Init.PASSTHROUGH]


def test_passthrough_that_was_demanded_fails_the_mount() -> None:
    with pytest.raises(MountError, match="passthrough is not to be had"):
        _agree(_init(flags=EVERYTHING & ~Init.PASSTHROUGH), passthrough=True)


def test_writes_are_delayed_only_if_that_is_asked_for() -> None:
    terms, _ = _agree(_init())
    assert not terms.has(Init.WRITEBACK_CACHE)
    assert "option writeback" in terms.refused[Init.WRITEBACK_CACHE]
    terms, _ = _agree(_init(), writeback=True)
    assert terms.has(Init.WRITEBACK_CACHE)
    # With both the kernel would grant both, and let no file be opened.
    assert not terms.has(Init.PASSTHROUGH)
    assert "option writeback" in terms.refused[Init.PASSTHROUGH]


def test_where_nothing_can_be_written_nothing_is_delayed() -> None:
    terms, _ = _agree(_init(), writeback=True, read_only=True)
    assert not terms.has(Init.WRITEBACK_CACHE)
    assert "read-only" in terms.refused[Init.WRITEBACK_CACHE]
    assert terms.has(Init.PASSTHROUGH)


def test_delayed_writes_that_are_not_to_be_had_fail_the_mount() -> None:
    with pytest.raises(MountError, match="writeback is not to be had: this kernel"):
        _agree(_init(flags=EVERYTHING & ~Init.WRITEBACK_CACHE), writeback=True)


def test_a_request_tells_the_group_that_a_caller_shares_with_the_directory() -> None:
    extension = abi.EXT_HEADER.pack(16, abi.EXT_GROUPS) + (1).to_bytes(4, "little")
    extension += (4711).to_bytes(4, "little")
    assert _extended(1, 2, 3, memoryview(extension)) == (1, 2, 3, (4711,), None)


def test_a_request_tells_the_label_of_a_new_file() -> None:
    value = b"system_u:object_r:tmp_t:s0\0"
    context = abi.SECCTX.pack(len(value)) + b"security.selinux\0" + value
    context += bytes(-len(context) % 8)
    extension = abi.EXT_HEADER.pack(abi.EXT_HEADER.size + len(context), 1) + context
    group = abi.EXT_HEADER.pack(16, abi.EXT_GROUPS) + (1).to_bytes(4, "little") + bytes(4)
    caller = _extended(1, 2, 3, memoryview(extension + group))
    assert caller.label == (b"security.selinux", value)
    assert caller.groups == (0,)


def test_directories_have_handles_where_events_are_relayed() -> None:
    for options in ({"events": "relay"}, {"events": "auto", "cache": "coherent"}):
        assert not _agree(_init(), **options)[0].has(Init.NO_EXPORT_SUPPORT)
    for options in ({}, {"events": "off", "cache": "coherent"}, {"cache": "timeout"}):
        assert _agree(_init(), **options)[0].has(Init.NO_EXPORT_SUPPORT)


def test_events_on_a_read_only_mount_are_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "privileged", lambda: False)
    DevFuse().check_options(MountOptions(events="relay"))
    DevFuse().check_options(MountOptions(events="auto", cache="coherent", read_only=True))
    with pytest.raises(OptionError, match="read-only mount") as refused:
        DevFuse().check_options(MountOptions(events="relay", read_only=True))
    assert "leave out ro" in refused.value.fix
