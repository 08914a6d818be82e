# SPDX-License-Identifier: MIT
"""What the host functions of Windows are made of, as far as it can be tried on any system."""

from __future__ import annotations

import ctypes
import errno
import struct

import pytest

from xloop.host import windows_abi as abi
from xloop.host.windows_errors import of_status, of_winerror
from xloop.host.windows_links import parse_link, symlink_data
from xloop.host.windows_names import decode, encode

on_64_bits = pytest.mark.skipif(struct.calcsize("P") != 8, reason="the tables are those of 64 bits")


def stored(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


# -- layouts ----------------------------------------------------------------------------


@on_64_bits
@pytest.mark.parametrize(
    ("structure", "size", "expected"),
    [
        (abi.UNICODE_STRING, 16, {"Length": 0, "MaximumLength": 2, "Buffer": 8}),
        (
            abi.OBJECT_ATTRIBUTES,
            48,
            {
                "Length": 0,
                "RootDirectory": 8,
                "ObjectName": 16,
                "Attributes": 24,
                "SecurityDescriptor": 32,
                "SecurityQualityOfService": 40,
            },
        ),
        (abi.IO_STATUS_BLOCK, 16, {"Status": 0, "Information": 8}),
    ],
)
def test_structures(structure: type[ctypes.Structure], size: int, expected: dict[str, int]) -> None:
    found = {field[0]: getattr(structure, field[0]).offset for field in structure._fields_}
    assert (ctypes.sizeof(structure), found) == (size, expected)


@on_64_bits
def test_a_name_with_its_directory() -> None:
    data = abi.rooted_name(3, 0x1122334455667788, stored("ab"))
    assert data == bytes.fromhex("03000000 00000000 8877665544332211 04000000 61006200")
    assert abi.ROOTED_NAME_AT == 20
    # Windows refuses less than the whole structure, whatever the name.
    assert len(abi.rooted_name(0, 0, stored("a"))) == 24


#: Each packed structure: where its fields are, in order; and its size.
PACKED = {
    "BASIC": ((0, 8, 16, 24, 32), 40),
    "ALL": ((0, 8, 16, 24, 32, 40, 48, 56, 60, 61, 64), 72),
    "ID": ((0, 8, 16), 24),
    "ATTRIBUTE_TAG": ((0, 4), 8),
    "FULL_SIZE": ((0, 8, 16, 24, 28), 32),
    "VOLUME": ((0, 8, 12, 16), 18),
    "ID_FULL_DIR": ((0, 4, 8, 16, 24, 32, 40, 48, 56, 60, 64, 72), 80),
    "REPARSE_HEAD": ((0, 4, 6), 8),
    "REPARSE_NAMES": ((0, 2, 4, 6), 8),
    "REPARSE_FLAGS": ((0,), 4),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_structures(name: str) -> None:
    layout: struct.Struct = getattr(abi, name)
    places, size = PACKED[name]
    assert layout.size == size
    # A field is where a 1 in its first byte makes it 1.
    for index, place in enumerate(places):
        data = bytearray(size)
        data[place] = 1
        expected = [0] * len(places)
        expected[index] = 1
        assert list(layout.unpack(data)) == expected


def test_numbers_that_a_wrong_digit_would_make_dangerous() -> None:
    assert abi.SHARE_ALL == 1 | 2 | 4
    assert abi.FILE_OPEN_REPARSE_POINT == 0x00200000
    assert abi.OBJ_DONT_REPARSE == 0x1000
    assert (abi.FILE_OPEN, abi.FILE_CREATE) == (1, 2)
    assert abi.NAME_SURROGATE & abi.IO_REPARSE_TAG_SYMLINK
    assert abi.NAME_SURROGATE & abi.IO_REPARSE_TAG_MOUNT_POINT
    assert not abi.NAME_SURROGATE & 0x9000001A  # IO_REPARSE_TAG_CLOUD
    assert not abi.NAME_SURROGATE & 0x80000013  # IO_REPARSE_TAG_DEDUP


# -- names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain", "plain"),
        ("\u00e4\u4e2d\U0001f600".encode(), "\u00e4\u4e2d\U0001f600"),
        (rb"..\..\secret", "..\uf05c..\uf05csecret"),
        (b"file:stream", "file\uf03astream"),
        (b'"*<>?|', "\uf022\uf02a\uf03c\uf03e\uf03f\uf07c"),
        (b"\x01\x1f", "\uf001\uf01f"),
        (b"trailing. ", "trailing. "),
        (b"NUL", "NUL"),
        (b"...", "..."),
        (b"\xed\xa0\x80", "\ud800"),  # half a surrogate pair
    ],
)
def test_a_name_goes_there_and_back(name: bytes, text: str) -> None:
    assert encode(name) == stored(text)
    assert decode(stored(text)) == name


def test_what_stands_for_itself_is_shown_as_what_it_stands_for() -> None:
    # A program on Windows may have stored it so, and asks WinFsp for the same characters.
    assert encode("\uf03a".encode()) == stored("\uf03a")
    assert decode(stored("\uf03a")) == b":"
    assert decode(stored("\uf041")) == "\uf041".encode()  # stands for nothing reserved


@pytest.mark.parametrize("character", [chr(code) for code in range(1, 128)])
def test_no_stored_name_means_anything_to_the_system(character: str) -> None:
    name = f"a{character}b"
    if character == "/":
        return
    assert not set(encode(name.encode()).decode("utf-16-le")) & set('\\/:*?"<>|')


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"\0"])
def test_what_is_no_name(name: bytes) -> None:
    with pytest.raises(OSError, match="name") as raised:
        encode(name)
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"n" * 256, errno.ENAMETOOLONG),
        ("\U0001f600".encode() * 128, errno.ENAMETOOLONG),  # two units each
        (b"\xff", errno.EILSEQ),
        (b"\xc0\xae\xc0\xae", errno.EILSEQ),  # ".." written the long way
    ],
)
def test_a_name_that_cannot_be_stored(name: bytes, number: int) -> None:
    with pytest.raises(OSError, match=r"\S") as raised:
        encode(name)
    assert raised.value.errno == number


# -- links ------------------------------------------------------------------------------


def reparse(tag: int, substitute: str, printed: str = "") -> bytes:
    one, two = stored(substitute), stored(printed)
    flags = b"\0" * 4 if tag == abi.IO_REPARSE_TAG_SYMLINK else b""
    body = struct.pack("<HHHH", len(two), len(one), 0, len(two)) + flags + two + one
    return struct.pack("<IHH", tag, len(body), 0) + body


@pytest.mark.parametrize(
    ("substitute", "text"),
    [
        ("dir\\file", b"dir/file"),
        ("..\\x", b"../x"),
        ("\\??\\C:\\dir\\file", b"C:/dir/file"),
        ("\\??\\UNC\\server\\share\\x", b"//server/share/x"),
        ("\\??\\Volume{1234}\\", b"Volume{1234}/"),
    ],
)
@pytest.mark.parametrize("tag", [abi.IO_REPARSE_TAG_SYMLINK, abi.IO_REPARSE_TAG_MOUNT_POINT])
def test_the_text_of_a_link(tag: int, substitute: str, text: bytes) -> None:
    assert parse_link(reparse(tag, substitute, "to print")) == text


def test_what_is_no_link() -> None:
    with pytest.raises(OSError, match=r"\S") as raised:
        parse_link(reparse(0x9000001A, "x"))
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="longer than its data"):
        parse_link(reparse(abi.IO_REPARSE_TAG_SYMLINK, "abc")[:-2])


def test_the_data_of_a_link() -> None:
    data = symlink_data(b"../dir/f")
    assert parse_link(data) == b"../dir/f"
    assert abi.REPARSE_HEAD.unpack_from(data) == (abi.IO_REPARSE_TAG_SYMLINK, len(data) - 8, 0)
    assert struct.unpack_from("<I", data, 16) == (1,)  # relative


@pytest.mark.parametrize(
    ("target", "number"),
    [
        (b"", errno.EINVAL),
        (b"/etc", errno.EOPNOTSUPP),
        (b"\\Windows", errno.EOPNOTSUPP),
        (b"C:\\x", errno.EOPNOTSUPP),
        (b"\xff", errno.EILSEQ),
        (b"n" * 9000, errno.ENAMETOOLONG),
    ],
)
def test_a_link_that_cannot_be_made(target: bytes, number: int) -> None:
    with pytest.raises(OSError, match=r"\S") as raised:
        symlink_data(target)
    assert raised.value.errno == number


# -- errors -----------------------------------------------------------------------------

WINERRORS = {
    2: errno.ENOENT,
    5: errno.EACCES,
    17: errno.EXDEV,
    19: errno.EROFS,
    32: errno.EBUSY,
    33: errno.EBUSY,
    39: errno.ENOSPC,
    50: errno.EOPNOTSUPP,
    112: errno.ENOSPC,
    145: errno.ENOTEMPTY,
    170: errno.EBUSY,
    183: errno.EEXIST,
    206: errno.ENAMETOOLONG,
    267: errno.ENOTDIR,
    303: errno.ENOENT,
    1117: errno.EIO,
    1142: errno.EMLINK,
    1224: errno.EBUSY,
    1295: errno.ENOSPC,
    1314: errno.EPERM,
    1921: errno.ELOOP,
    4390: errno.EINVAL,
    59999: errno.EIO,
}


@pytest.mark.parametrize(("number", "expected"), WINERRORS.items())
def test_errors_of_win32(number: int, expected: int) -> None:
    error = of_winerror(number)
    assert error.errno == expected
    assert error.strerror


def test_errors_are_of_python_s_own_kinds() -> None:
    assert isinstance(of_winerror(2), FileNotFoundError)
    assert isinstance(of_winerror(5), PermissionError)
    assert isinstance(of_status(0xC0000103, lambda _: 0), NotADirectoryError)


STATUSES = {
    0xC0000043: errno.EBUSY,  # SHARING_VIOLATION
    0xC0000056: errno.ENOENT,  # DELETE_PENDING
    0xC00000BA: errno.EISDIR,
    0xC0000101: errno.ENOTEMPTY,
    0xC0000103: errno.ENOTDIR,
    0xC0000121: errno.EACCES,  # CANNOT_DELETE
    0xC000050B: errno.ELOOP,  # REPARSE_POINT_ENCOUNTERED
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items())
def test_errors_of_the_kernel_that_win32_garbles(status: int, expected: int) -> None:
    def access_denied(_status: int) -> int:
        return 5

    assert of_status(status, access_denied).errno == expected
    assert of_status(status - (1 << 32), access_denied).errno == expected


def test_the_others_go_by_way_of_win32() -> None:
    asked = []

    def to_winerror(status: int) -> int:
        asked.append(status)
        return 112 if status == 0xC000007E else 317

    assert of_status(0xC000007E, to_winerror).errno == errno.ENOSPC
    error = of_status(0xC0ABCDEF, to_winerror)
    assert (error.errno, error.strerror) == (errno.EIO, "NTSTATUS 0xc0abcdef")
    assert asked == [0xC000007E, 0xC0ABCDEF]
