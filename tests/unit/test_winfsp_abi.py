# SPDX-License-Identifier: MIT
"""The WinFsp adapter's layouts and numbers against literal tables, on any 64-bit system.

The tables were taken from WinFsp's headers (inc/fuse/fuse.h, winfsp_fuse.h), and agree with what its
own library does on Windows.
"""

from __future__ import annotations

import ctypes
import struct

import pytest

from xloop.errors import OptionError
from xloop.options import MountOptions
from xloop.types import Attr, StatFs
from xloop_backends.winfsp import abi, library, options
from xloop_backends.winfsp.callbacks import _below

pytestmark = pytest.mark.skipif(
    struct.calcsize("P") != 8, reason="the tables are those of 64-bit Windows"
)

OPERATIONS = [
    "getattr",
    "getdir",
    "readlink",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "rename",
    "link",
    "chmod",
    "chown",
    "truncate",
    "utime",
    "open",
    "read",
    "write",
    "statfs",
    "flush",
    "release",
    "fsync",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
    "opendir",
    "readdir",
    "releasedir",
    "fsyncdir",
    "init",
    "destroy",
    "access",
    "create",
    "ftruncate",
    "fgetattr",
    "lock",
    "utimens",
    "bmap",
    "flags",
    "ioctl",
    "poll",
    "write_buf",
    "read_buf",
    "flock",
    "fallocate",
    "getpath",
    "reserved01",
    "reserved02",
    "statfs_x",
    "setvolname",
    "exchange",
    "getxtimes",
    "setbkuptime",
    "setchgtime",
    "setcrtime",
    "chflags",
    "setattr_x",
    "fsetattr_x",
]
OFFSETS = {
    "getattr": 0,
    "getdir": 8,
    "readlink": 16,
    "mkdir": 32,
    "unlink": 40,
    "rmdir": 48,
    "symlink": 56,
    "rename": 64,
    "truncate": 96,
    "open": 112,
    "read": 120,
    "write": 128,
    "statfs": 136,
    "flush": 144,
    "release": 152,
    "fsync": 160,
    "opendir": 200,
    "readdir": 208,
    "releasedir": 216,
    "fsyncdir": 224,
    "init": 232,
    "destroy": 240,
    "create": 256,
    "ftruncate": 264,
    "fgetattr": 272,
    "utimens": 288,
    "flags": 304,
    "ioctl": 312,
    "getpath": 360,
    "setcrtime": 432,
    "chflags": 440,
    "fsetattr_x": 456,
}


def offsets(structure: type[ctypes.Structure]) -> dict[str, int]:
    return {field[0]: getattr(structure, field[0]).offset for field in structure._fields_}


def test_the_table_of_operations() -> None:
    found = offsets(abi.Operations)
    assert list(found) == OPERATIONS
    assert {name: found[name] for name in OFFSETS} == OFFSETS
    assert ctypes.sizeof(abi.Operations) == 464


@pytest.mark.parametrize(
    ("structure", "size", "expected"),
    [
        (
            abi.FileInfo,
            32,
            {"flags": 0, "fh_old": 4, "writepage": 8, "bits": 12, "fh": 16, "lock_owner": 24},
        ),
        (
            abi.Connection,
            128,
            {
                "proto_major": 0,
                "proto_minor": 4,
                "async_read": 8,
                "max_write": 12,
                "max_readahead": 16,
                "capable": 20,
                "want": 24,
                "reserved": 28,
            },
        ),
        (
            abi.Context,
            40,
            {"fuse": 0, "uid": 8, "gid": 12, "pid": 16, "private_data": 24, "umask": 32},
        ),
    ],
)
def test_structures(structure: type[ctypes.Structure], size: int, expected: dict[str, int]) -> None:
    assert (ctypes.sizeof(structure), offsets(structure)) == (size, expected)


#: Each field with the offset and the format of its value.
STAT = {
    "dev": (0, "I"),
    "ino": (8, "Q"),
    "mode": (16, "I"),
    "nlink": (20, "H"),
    "uid": (24, "I"),
    "gid": (28, "I"),
    "rdev": (32, "I"),
    "size": (40, "q"),
    "atime": (48, "q"),
    "atime_nsec": (56, "q"),
    "mtime": (64, "q"),
    "mtime_nsec": (72, "q"),
    "ctime": (80, "q"),
    "ctime_nsec": (88, "q"),
    "blksize": (96, "i"),
    "blocks": (104, "q"),
    "btime": (112, "q"),
    "btime_nsec": (120, "q"),
}
ATTR = Attr(
    ino=2**63 + 5,
    size=2**40 + 1,
    blocks=77,
    atime=-1,
    mtime=2,
    ctime=3,
    atime_nsec=4,
    mtime_nsec=5,
    ctime_nsec=6,
    mode=0o100555,
    nlink=70000,
    uid=8,
    gid=9,
    rdev=10,
    blksize=4096,
    dev=2**40 + 11,
    btime=12,
    btime_nsec=13,
    has_btime=True,
    flags=0x9880,
)


@pytest.mark.parametrize("flags", [False, True])
def test_a_stat_field_by_field(flags: bool) -> None:
    data = abi.pack_stat(ATTR, flags=flags)
    assert len(data) == (160 if flags else 128)
    expected = ATTR._asdict() | {
        "mode": 0o100777,
        "nlink": 65535,
        "uid": 0,
        "gid": 0,
        "rdev": 0,
        "dev": 11,
    }
    for name, (offset, kind) in STAT.items():
        (value,) = struct.unpack_from(f"<{kind}", data, offset)
        assert value == expected[name], name
    if flags:
        assert struct.unpack_from("<I", data, 128) == (0x9880,)
        assert data[132:] == bytes(28)


#: On 32 bits, from winfsp_fuse.h: time_t and tv_nsec are int32_t there.
STAT_32 = STAT | {
    "atime": (48, "i"),
    "atime_nsec": (52, "i"),
    "mtime": (56, "i"),
    "mtime_nsec": (60, "i"),
    "ctime": (64, "i"),
    "ctime_nsec": (68, "i"),
    "blksize": (72, "i"),
    "blocks": (80, "q"),
    "btime": (88, "i"),
    "btime_nsec": (92, "i"),
}


@pytest.mark.parametrize(
    ("wide", "places", "sizes"),
    [(True, STAT, (128, 160, 88, 16)), (False, STAT_32, (96, 128, 44, 8))],
)
def test_layouts_of_both_widths(
    wide: bool, places: dict[str, tuple[int, str]], sizes: tuple[int, ...]
) -> None:
    layouts = abi.Layouts.of(wide=wide)
    assert tuple(layout.size for layout in layouts) == sizes
    for layout in (layouts.stat, layouts.stat_ex):
        for index, (offset, _) in enumerate(places.values()):
            data = bytearray(layout.size)
            data[offset] = 1
            assert layout.unpack(data)[index] == 1
    data = bytearray(layouts.stat_ex.size)
    data[layouts.stat.size] = 1
    assert layouts.stat_ex.unpack(data)[-1] == 1


def test_a_birth_time_that_nobody_knows_is_the_change_time() -> None:
    data = abi.pack_stat(ATTR._replace(has_btime=False), flags=True)
    assert struct.unpack_from("<qq", data, 112) == (3, 6)


@pytest.mark.parametrize(
    ("frsize", "unit", "factor"), [(512, 512, 1), (4096, 4096, 1), (65536, 4096, 16)]
)
def test_space_in_sectors_that_winfsp_knows(frsize: int, unit: int, factor: int) -> None:
    data = abi.pack_statvfs(StatFs(1000, 500, 400, 7, 6, 8192, 1000, frsize))
    fields = struct.unpack("<11Q", data)
    blocks, free = 1000 * factor, 400 * factor
    assert fields == (max(8192, unit), unit, blocks, free, free, 7, 6, 6, 0, 0, 255)


def test_times() -> None:
    data = struct.pack("<4q", 10, 5, -1, 999_999_900)
    buffer = ctypes.create_string_buffer(data)
    assert abi.times(ctypes.addressof(buffer), 2) == [10_000_000_005, -100]


#: From WinFsp's table: what it understands of Microsoft's error numbers.
UNDERSTOOD = {
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    12,
    13,
    14,
    16,
    17,
    18,
    19,
    20,
    21,
    22,
    23,
    24,
    27,
    28,
    29,
}
UNDERSTOOD |= {30, 31, 32, 33, 34, 36, 38, 39, 40, 41, 42, 100, 103, 105, 106, 107, 108, 110, 113}
UNDERSTOOD |= {114, 116, 117, 118, 119, 120, 121, 126, 128, 138}


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (2, 2),
        (13, 13),
        (41, 41),  # ENOTEMPTY
        (10062, 114),  # ELOOP
        (10060, 138),  # ETIMEDOUT
        (10045, 40),  # EOPNOTSUPP
        (129, 40),  # ENOTSUP
        (130, 40),
        (10069, 28),  # EDQUOT
        (10070, 2),  # ESTALE
        (132, 27),  # EOVERFLOW
        (139, 16),  # ETXTBSY
        (11, 16),  # EAGAIN
        (10035, 16),  # EWOULDBLOCK
        (10054, 5),  # ECONNRESET
        (10, 5),  # ECHILD
        (99999, 5),
    ],
)
def test_error_numbers(number: int, told: int) -> None:
    assert abi.errno_for_winfsp(number) == told


def test_winfsp_understands_every_number_that_it_is_told() -> None:
    told = {abi.errno_for_winfsp(number) for number in (*range(200), *range(9990, 10120))}
    assert told <= UNDERSTOOD


def test_no_exception_leaves_a_callback() -> None:
    def fails() -> int:
        raise OSError(10062, "")

    assert abi.failing(fails, lambda exc: exc.errno or 0)() == -114  # type: ignore[attr-defined]


def test_the_library_for_each_kind_of_process() -> None:
    assert library.file_name("win-amd64") == "winfsp-x64.dll"
    assert library.file_name("win-arm64") == "winfsp-a64.dll"
    assert library.file_name("win32") == "winfsp-x86.dll"
    assert library.file_name("linux-x86_64") is None


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"C:/source/dir/file", b"/dir/file"),
        (b"c:/SOURCE/dir", b"/dir"),
        (b"C:/source", b"/"),
        (b"C:/sourcex/file", b"C:/sourcex/file"),
        (b"dir/file", b"dir/file"),
        (b"../x", b"../x"),
    ],
)
def test_links_that_lead_below_the_source(target: bytes, shown: bytes) -> None:
    assert _below(b"C:/source", target) == shown


def test_words_are_escaped() -> None:
    made = options.words(MountOptions(fsname="C:\\a,b", attr_timeout=1e9), "\\server\\share")
    assert made[:2] == [b"xloop", b"-o"]
    words = made[2].decode()
    assert r"volname=a\,b" in words
    assert r"VolumePrefix=\\server\\share" in words
    assert "FileInfoTimeout=2147483647" in words


@pytest.mark.parametrize(
    "fields",
    [
        {"passthrough": True},
        {"writeback": True},
        {"allow_root": True},
        {"default_permissions": True},
        {"dev": True},
        {"suid": True},
        {"exec": False},
        {"atime": "noatime"},
        {"nodiratime": True},
        {"symfollow": False},
        {"rootcontext": "u:r:t:s0"},
        {"sync": True},
        {"dirsync": True},
        {"max_read": 4096},
        {"negative_timeout": 1.0},
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="winfsp cannot honour"):
        options.check_options(MountOptions(**fields))  # type: ignore[arg-type]


def test_the_others_are_taken() -> None:
    options.check_options(MountOptions(read_only=True, allow_other=True, max_threads=4))
