# SPDX-License-Identifier: MIT
"""The adapter's layouts against the headers of the macFUSE or FUSE-T that is installed here.  macOS only.

    pytest --confcutdir=tests/macos tests/macos

A C program that includes them tells sizes and offsets, and mfusepy loads the library; the kernel extension
need not be loaded for either.  $XLOOP_REQUIRE_FUSE makes a missing library a failure and no skip.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="the headers are macOS's")

_INCLUDES = (Path("/usr/local/include/fuse"), Path("/Library/Frameworks/fuse_t.framework/Headers"))
_OPERATIONS = (
    *("getattr", "readlink", "mknod", "rename", "open", "read", "statfs", "setxattr", "getxattr"),
    *("readdir", "init", "create", "fgetattr", "utimens", "ioctl", "fallocate", "renamex"),
    *("statfs_x", "setvolname", "exchange", "getxtimes", "setbkuptime", "setchgtime"),
    *("setcrtime", "chflags", "setattr_x", "fsetattr_x"),
)
_PROGRAM = """
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 29
#include <fuse.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
int main(void)
{
#define O(name) printf("operations.%s %zu\\n", #name, offsetof(struct fuse_operations, name));
    OPERATIONS
#define S(name, type) printf("size.%s %zu\\n", #name, sizeof(type));
    S(operations, struct fuse_operations) S(file_info, struct fuse_file_info)
    S(conn_info, struct fuse_conn_info) S(setattr_x, struct setattr_x)
    S(stat, struct stat) S(statfs, struct statfs) S(statvfs, struct statvfs)
#define F(type, name) printf("%s.%s %zu\\n", #type, #name, offsetof(struct type, name));
    F(stat, st_ino) F(stat, st_birthtimespec) F(stat, st_size) F(stat, st_flags)
    F(setattr_x, size) F(setattr_x, crtime) F(setattr_x, flags)
    F(fuse_conn_info, capable) F(fuse_conn_info, want) F(fuse_file_info, fh)
    F(statfs, f_fstypename) F(statfs, f_mntonname) F(statfs, f_mntfromname)
    printf("cap.xtimes %u\\n", (unsigned)FUSE_CAP_XTIMES);
    printf("cap.rename_swap %u\\n", (unsigned)FUSE_CAP_RENAME_SWAP);
    return 0;
}
"""
#: What there is besides the table.
_EXPECTED = {
    "size.operations": 464,
    "size.file_info": 40,
    "size.conn_info": 128,
    "size.setattr_x": 112,
    "size.stat": 144,
    "size.statfs": 2168,
    "size.statvfs": 64,
    "stat.st_ino": 8,
    "stat.st_birthtimespec": 80,
    "stat.st_size": 96,
    "stat.st_flags": 116,
    "setattr_x.size": 16,
    "setattr_x.crtime": 56,
    "setattr_x.flags": 104,
    "fuse_conn_info.capable": 24,
    "fuse_conn_info.want": 28,
    "fuse_file_info.fh": 24,
    "statfs.f_fstypename": 72,
    "statfs.f_mntonname": 88,
    "statfs.f_mntfromname": 1112,
    "cap.xtimes": 1 << 31,
    "cap.rename_swap": 1 << 25,
}


def _missing(why: str) -> None:
    if os.environ.get("XLOOP_REQUIRE_FUSE"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler makes of them."""
    include = next((path for path in _INCLUDES if (path / "fuse.h").exists()), None)
    if include is None:
        _missing("neither macFUSE's headers nor FUSE-T's are installed")
    build = tmp_path_factory.mktemp("headers")
    source = build / "layout.c"
    operations = " ".join(f"O({name})" for name in _OPERATIONS)
    source.write_text(_PROGRAM.replace("OPERATIONS", operations))
    subprocess.run(["cc", f"-I{include}", "-o", build / "layout", source], check=True)
    told = subprocess.run([build / "layout"], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in map(str.split, told.splitlines())}


@pytest.fixture(scope="module")
def binding() -> Any:
    from xloop_backends.macfuse import library

    for name in ("macfuse", "fuse-t"):
        if library.probe(name).ok:
            return library.load(name)
    _missing("neither macFUSE nor FUSE-T is installed")
    return None


def test_structures_are_as_the_headers_have_them(headers: dict[str, int]) -> None:
    assert {name: headers[name] for name in _EXPECTED} == _EXPECTED


def test_the_table_is_as_the_headers_have_it(headers: dict[str, int], binding: Any) -> None:
    from xloop_backends.macfuse import abi

    table = abi.table_type(binding)
    assert ctypes.sizeof(table) == headers["size.operations"]
    for name in _OPERATIONS:
        assert getattr(table, name).offset == headers[f"operations.{name}"], name


def test_the_library_has_the_functions_that_are_called(binding: Any) -> None:
    from xloop_backends.macfuse.library import Library

    Library(binding)


def test_this_mac_s_table_of_mounts_is_read() -> None:
    from xloop.host import mounttable

    entries = mounttable.read()
    root = mounttable.visible(entries, "/")
    assert root is not None
    assert root.mountpoint == "/"
    assert mounttable.device_of(os.stat("/").st_dev) == root.device
