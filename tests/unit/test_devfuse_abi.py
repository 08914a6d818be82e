# SPDX-License-Identifier: MIT
"""The protocol's layouts against literal numbers out of include/uapi/linux/fuse.h.

A struct of the wrong size is not found by its neighbours: the kernel answers EINVAL to a reply,
or reads the next field.
"""

from __future__ import annotations

import pytest

from xloop_backends.devfuse import abi

HEADER = 16  # struct fuse_out_header

#: Our name -> sizeof() of the kernel's struct, replies with their header.
SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": HEADER,
    "ENTRY_OUT": 128,
    "ENTRY_REPLY": HEADER + 128,
    "CREATE_REPLY": HEADER + 128 + 16,
    "ATTR_REPLY": HEADER + 16 + 88,
    "OPEN_REPLY": HEADER + 16,
    "WRITE_REPLY": HEADER + 8,
    "LSEEK_REPLY": HEADER + 8,
    "IOCTL_REPLY": HEADER + 16,
    "LK_REPLY": HEADER + 24,
    "STATFS_REPLY": HEADER + 80,
    "STATX_REPLY": HEADER + 32 + 256,
    "DIRENT": 24,
    "DIRENTPLUS": 152,
    "DIRENTPLUS_UNTOLD": 152,
    "NOTIFY_INVAL_INODE": HEADER + 24,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "GETATTR_IN": 16,
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "RENAME_IN": 8,
    "RENAME2_IN": 16,
    "LINK_IN": 8,
    "OPEN_IN": 8,
    "CREATE_IN": 16,
    "RELEASE_IN": 24,
    "FLUSH_IN": 24,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "FSYNC_IN": 16,
    "SETXATTR_IN": 16,
    "SETXATTR_IN_COMPAT": 8,
    "GETXATTR_IN": 8,
    "LK_IN": 48,
    "ACCESS_IN": 8,
    "INIT_REPLY": HEADER + 64,
    "INTERRUPT_IN": 8,
    "IOCTL_IN": 32,
    "POLL_IN": 24,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "COPY_FILE_RANGE_IN": 56,
    "STATX_IN": 24,
    "EXT_HEADER": 8,
    "SECCTX": 8,
    "BACKING_MAP": 16,
}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_struct_has_the_size_of_the_kernels(name: str) -> None:
    assert getattr(abi, name).size == SIZES[name]


def test_setattr_fields_lie_where_the_kernel_puts_them() -> None:
    # offsetof() of each field, filled with its own offset.
    offsets = {
        0: 4,
        8: 8,
        16: 8,
        24: 8,
        32: 8,
        40: 8,
        48: 8,
        56: 4,
        60: 4,
        64: 4,
        68: 4,
        76: 4,
        80: 4,
    }
    message = bytearray(88)
    for offset, width in offsets.items():
        message[offset : offset + width] = (offset + 1).to_bytes(width, "little")
    assert abi.SETATTR_IN.unpack(message) == tuple(offset + 1 for offset in offsets)


def test_device_ioctls_have_the_kernels_numbers() -> None:
    def number(direction: int, size: int, nr: int) -> int:
        return direction << 30 | size << 16 | 229 << 8 | nr

    assert number(2, 4, 0) == abi.DEV_IOC_CLONE
    assert number(1, 16, 1) == abi.DEV_IOC_BACKING_OPEN
    assert number(1, 4, 2) == abi.DEV_IOC_BACKING_CLOSE


def test_every_opcode_has_a_handler_or_a_reason() -> None:
    from xloop_backends.devfuse.handlers import Handlers

    unhandled = {op.name for op in abi.Opcode if not hasattr(Handlers, op.name.lower())}
    assert unhandled == {
        "INIT",  # answered once, before the handlers exist (session)
        "INTERRUPT",  # belongs to the session: it knows what is waiting
        "BMAP",  # block devices only (fuseblk)
        "NOTIFY_REPLY",  # we never ask the kernel for the contents of its cache
        "SETUPMAPPING",  # DAX: virtiofs only
        "REMOVEMAPPING",
    }
