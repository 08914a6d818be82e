# SPDX-License-Identifier: MIT
"""The adapter's own layouts against literal offsets, and the numbers of macFUSE's headers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xloop.host.darwin_libc import STATFS
from xloop.types import NOW, Attr, StatFs
from xloop_backends.macfuse import abi, mounting
from xloop_backends.macfuse.negotiate import Capability

#: Offsets in struct fuse_operations on macOS.
TABLE = (
    *("getattr", "readlink", "getdir", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename"),
    *("link", "chmod", "chown", "truncate", "utime", "open", "read", "write", "statfs", "flush"),
    *("release", "fsync", "setxattr", "getxattr", "listxattr", "removexattr", "opendir"),
    *("readdir", "releasedir", "fsyncdir", "init", "destroy", "access", "create", "ftruncate"),
    *("fgetattr", "lock", "utimens", "bmap", "flag_nullpath_ok", "ioctl", "poll", "write_buf"),
    *("read_buf", "flock", "fallocate", "reserved00", "reserved01", "renamex", "statfs_x"),
    *("setvolname", "exchange", "getxtimes", "setbkuptime", "setchgtime", "setcrtime"),
    *("chflags", "setattr_x", "fsetattr_x"),
)

_SHOW = """
import platform
platform.system = lambda: "Darwin"
import ctypes, mfusepy
from xloop_backends.macfuse import abi
table = abi.table_type(mfusepy)
for name, *_ in table._fields_:
    if name not in ("flag_nopath", "flag_utime_omit_ok", "flag_reserved"):
        print(name, getattr(table, name).offset)
print("size", ctypes.sizeof(table))
"""


def test_the_table_is_macos_s(standin: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", _SHOW],
        env={
            **os.environ,
            "FUSE_LIBRARY_PATH": str(standin),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = [f"{name} {8 * index}" for index, name in enumerate(TABLE)]
    assert shown.splitlines() == [*expected, "size 464"]


def test_setattr_x_is_112_bytes() -> None:
    assert abi.SETATTR_X.size == 112
    values = range(1, 17)
    packed = abi.SETATTR_X.pack(*values)
    offsets = (0, 4, 8, 12, 16, *range(24, 104, 8), 104)
    for value, offset in zip(values, offsets, strict=True):
        assert packed[offset] == value


def test_a_count_of_blocks_beyond_32_bits_is_told_in_larger_ones() -> None:
    found = StatFs(2**34, 2**33, 2**33 - 4, 2**40, 5, 4096, 255, 4096)
    bsize, frsize, blocks, bfree, bavail, files, ffree, *_ = abi.STATVFS.unpack(
        abi.packed_statvfs(found)
    )
    assert (bsize, frsize) == (4096, 4096 * 8)
    assert (blocks * 8, bfree * 8, files, ffree) == (2**34, 2**33, 2**32 - 1, 5)
    assert bavail * 8 <= 2**33 - 4
    wide = STATFS.unpack(abi.packed_statfs(found))
    assert wide[:7] == (4096, 4096, 2**34, 2**33, 2**33 - 4, 2**40, 5)


def test_numbers_that_linux_has_and_macos_has_not_fit() -> None:
    attr = Attr.make(0o100644, nlink=70000, rdev=0xFFFFFFFF)
    packed = abi.packed_stat(attr)
    assert int.from_bytes(packed[6:8], sys.byteorder) == 0xFFFF
    assert int.from_bytes(packed[24:28], sys.byteorder, signed=True) == -1


def test_now_and_omit_are_not_times() -> None:
    import ctypes

    times = ctypes.create_string_buffer(
        b"".join(word.to_bytes(8, sys.byteorder, signed=True) for word in (0, -1, 0, -2, 3, 4))
    )
    address = ctypes.addressof(times)
    read = [abi.read_time(address, index) for index in range(3)]
    assert read == [NOW, None, 3_000_000_004]


@pytest.mark.parametrize(
    ("capability", "bit"),
    [
        (Capability.RENAME_SWAP, 25),
        (Capability.RENAME_EXCL, 26),
        (Capability.ALLOCATE, 27),
        (Capability.EXCHANGE_DATA, 28),
        (Capability.CASE_INSENSITIVE, 29),
        (Capability.VOL_RENAME, 30),
        (Capability.XTIMES, 31),
    ],
)
def test_capabilities_are_those_of_the_headers(capability: Capability, bit: int) -> None:
    assert capability == 1 << bit


@pytest.mark.parametrize(
    ("fsname", "macfuse", "fuse_t"),
    [
        ("/Users/me/src", "src", "xloop-src"),
        ("/Users/me/a,b:c/", "a-b-c", "xloop-a-b-c"),
        ("/", "xloop", "xloop"),
        (None, "xloop", "xloop"),
    ],
)
def test_the_volume_is_called_after_the_source(
    fsname: str | None, macfuse: str, fuse_t: str
) -> None:
    from xloop.options import MountOptions

    options = MountOptions(fsname=fsname)
    assert mounting.volume_name("macfuse", options) == macfuse
    assert mounting.volume_name("fuse-t", options) == fuse_t
