# SPDX-License-Identifier: MIT
"""Structures of macOS and FreeBSD against literal offsets, on any system.

The numbers are those of the headers (xnu's bsd/sys, FreeBSD's sys/sys) on 64-bit machines.
"""

from __future__ import annotations

import struct

import pytest

from xloop.host import bsd_mounts
from xloop.host import darwin_libc as c

#: name: (size, [(offset, format) of each value that is packed])
LAYOUTS = {
    "STAT": (
        144,
        [
            *((0, "i"), (4, "H"), (6, "H"), (8, "Q"), (16, "I"), (20, "I"), (24, "i")),
            *((32, "q"), (40, "q"), (48, "q"), (56, "q")),  # atime, mtime
            *((64, "q"), (72, "q"), (80, "q"), (88, "q")),  # ctime, birthtime
            *((96, "q"), (104, "q"), (112, "i"), (116, "I"), (120, "I")),
        ],
    ),
    "STATFS": (
        2168,
        [
            *((0, "I"), (4, "i"), (8, "Q"), (16, "Q"), (24, "Q"), (32, "Q"), (40, "Q")),
            *((48, "i"), (52, "i"), (56, "I"), (60, "I"), (64, "I"), (68, "I")),
            *((72, "16s"), (88, "1024s"), (1112, "1024s"), (2136, "I")),
        ],
    ),
    "TIMESPEC": (16, [(0, "q"), (8, "q")]),
    "FSTORE": (32, [(0, "I"), (4, "i"), (8, "q"), (16, "q"), (24, "q")]),
    "FPUNCHHOLE": (24, [(0, "I"), (4, "I"), (8, "q"), (16, "q")]),
    "FLOCK": (24, [(0, "q"), (8, "q"), (16, "i"), (20, "h"), (22, "h")]),
    "ATTRLIST": (24, [(0, "H"), (2, "H"), (4, "I"), (8, "I"), (12, "I"), (16, "I"), (20, "I")]),
    "FREEBSD_STATFS": (
        2344,
        [
            *((0, "I"), (4, "I"), (8, "Q"), (16, "Q"), (24, "Q"), (32, "Q"), (40, "Q")),
            *((48, "q"), (56, "Q"), (64, "q"), (72, "Q"), (80, "Q"), (88, "Q"), (96, "Q")),
            *((104, "I"), (108, "I"), (184, "I"), (188, "I"), (192, "i"), (196, "i")),
            *((280, "16s"), (296, "1024s"), (1320, "1024s")),
        ],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_value_lies_where_the_system_has_it(name: str) -> None:
    size, places = LAYOUTS[name]
    layout = getattr(c, name, None) or getattr(bsd_mounts, name)
    values = [
        f"v{index}".encode() if form.endswith("s") else index
        for index, (_, form) in enumerate(places, 1)
    ]
    packed = layout.pack(*values)
    assert len(packed) == layout.size == size
    for value, (offset, form) in zip(values, places, strict=True):
        (found,) = struct.unpack_from("=" + form, packed, offset)
        assert (found.rstrip(b"\0") if isinstance(found, bytes) else found) == value


def test_the_record_of_a_stat_has_the_values_in_their_order() -> None:
    assert len(c.Stat._fields) == len(LAYOUTS["STAT"][1])


@pytest.mark.parametrize(
    ("number", "value"),
    [
        # sys/fcntl.h
        *((c.O_EVTONLY, 0x8000), (c.O_SYMLINK, 0x200000), (c.O_NOFOLLOW_ANY, 0x20000000)),
        *((c.F_PREALLOCATE, 42), (c.F_GETPATH, 50), (c.F_FULLFSYNC, 51), (c.F_PUNCHHOLE, 99)),
        *((c.F_OFD_SETLK, 90), (c.F_OFD_SETLKW, 91), (c.F_OFD_GETLK, 92)),
        *((c.F_ALLOCATEALL, 4), (c.F_PEOFPOSMODE, 3), (c.AT_SYMLINK_NOFOLLOW, 0x20)),
        # sys/stat.h, sys/xattr.h, sys/stdio.h, sys/attr.h, sys/mount.h, sys/kauth.h
        *((c.UTIME_NOW, -1), (c.UTIME_OMIT, -2), (c.XATTR_CREATE, 2), (c.XATTR_REPLACE, 4)),
        *((c.RENAME_SWAP, 2), (c.RENAME_EXCL, 4), (c.FSOPT_NOFOLLOW, 1)),
        *((c.ATTR_CMN_CRTIME, 0x200), (c.ATTR_CMN_FLAGS, 0x40000), (c.MNT_FORCE, 0x80000)),
        *((c.MNT_NOWAIT, 2), (c.KAUTH_NONE, 2**32 - 101)),
    ],
)
def test_numbers_are_those_of_the_headers(number: int, value: int) -> None:
    assert number == value
