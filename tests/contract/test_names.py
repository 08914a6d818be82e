# SPDX-License-Identifier: MIT


"""Names and paths: any bytes, every length, any depth."""

from __future__ import annotations

import errno
import os

import pytest

from xloop.testing import Pair, Tree

ODD = [
    bytes(b for b in range(1, 128) if b != 0x2F),
    bytes(range(128, 256)),
    b"\xff\xfe\xfd",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    "\u00e9\u6f22\U0001f600".encode(),
    b" ",
    b"...",
    b".fuse_hidden0000000100000001",
    b"-rf",
    b"new\nline",
    b"tab\t",
    b"back\\slash",
    b"a:b",
    b"nul",
    b"~",
    b"*?[]",
]


@pytest.mark.parametrize("name", ODD, ids=lambda name: name[:8].hex())
def test_a_name_may_be_any_bytes(pair: Pair, src: Tree, name: bytes) -> None:
    pair.same(lambda t: t.make(name, name))
    assert pair.same(lambda t: t.content(name)) == name
    assert pair.same(lambda t: t.listdir()) == [name]
    assert src.listdir() == [name]
    pair.same(lambda t: t.rename(name, b"x"))
    pair.same(lambda t: t.link(b"x", name))
    pair.same(lambda t: t.symlink(name, name + b"l"))
    assert pair.same(lambda t: t.readlink(name + b"l")) == name
    pair.same(lambda t: t.unlink(name))
    pair.same(lambda t: t.mkdir(name))
    pair.same(lambda t: t.make(name + b"/" + name))
    pair.same(lambda t: t.snapshot())


def test_255_bytes_is_the_longest_name(pair: Pair) -> None:
    longest = b"\xc3\xa9" * 127 + b"x"
    pair.same(lambda t: t.make(longest, b"data"))
    assert pair.same(lambda t: t.content(longest)) == b"data"
    assert pair.same(lambda t: t.listdir()) == [longest]


@pytest.mark.parametrize("length", [256, 1023, 1024, 1025, 3000])
def test_a_longer_name_is_enametoolong(pair: Pair, length: int) -> None:
    name = b"n" * length
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    calls = {
        "lstat": lambda t: t.lstat(name),
        "open": lambda t: t.open(name, os.O_RDONLY),
        "create": lambda t: t.open(name, os.O_RDWR | os.O_CREAT),
        "mkdir": lambda t: t.mkdir(name),
        "rmdir": lambda t: t.rmdir(name),
        "unlink": lambda t: t.unlink(name),
        "symlink": lambda t: t.symlink(b"x", name),
        "readlink": lambda t: t.readlink(name),
        "link": lambda t: t.link(b"f", name),
        "rename to": lambda t: t.rename(b"f", name),
        "rename from": lambda t: t.rename(name, b"g"),
        "mknod": lambda t: t.mknod(name, 0o010644),
        "chmod": lambda t: t.chmod(name, 0o600),
        "truncate": lambda t: t.truncate(name, 0),
        "below": lambda t: t.lstat(name + b"/x"),
        "listxattr": lambda t: t.listxattr(name),
        "statvfs": lambda t: t.statvfs(name),
        "access": lambda t: t.access(name, os.F_OK),
    }
    for call in calls.values():
        pair.fails(errno.ENAMETOOLONG, call)
    assert pair.same(lambda t: t.listdir()) == [b"d", b"f"]


def test_a_path_of_4095_bytes_is_the_longest(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/ffff", b"data"))
    pair.same(lambda t: t.make(b"d/fffff", b"data"))
    longest = b"./" * 2044 + b"d/" + b"fffff"
    assert len(longest) == 4095
    assert pair.same(lambda t: t.content(longest)) == b"data"
    pair.fails(errno.ENAMETOOLONG, lambda t: t.content(longest + b"f"))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.lstat(b"x" * 4096))


def test_paths_beyond_path_max_are_reached_step_by_step(pair: Pair) -> None:
    # A server that glues paths together fails here, its own prefix counted.
    here = pair.each(lambda t: t)
    step = b"n" * 200
    depth = 25
    for _ in range(depth):
        pair.same(lambda t: here[t].mkdir(step))
        here = _down(pair, here, step)
    pair.same(lambda t: here[t].make(b"f", b"deep"))
    pair.same(lambda t: here[t].symlink(b"f", b"l"))
    pair.same(lambda t: here[t].rename(b"f", b"g"))
    pair.same(lambda t: here[t].link(b"g", b"f"))
    pair.same(lambda t: here[t].chmod(b"g", 0o600))
    pair.same(lambda t: here[t].utime(b"g", 1_000, 2_000))
    pair.same(lambda t: here[t].truncate(b"g", 3))
    pair.either(lambda t: here[t].setxattr(b"g", b"user.a", b"v"))
    assert pair.same(lambda t: here[t].content(b"l")) == b"dee"
    pair.same(lambda t: here[t].snapshot())
    for name in (b"f", b"g", b"l"):
        pair.same(lambda t: here[t].unlink(name))


def _down(pair: Pair, here: object, step: bytes) -> object:
    return pair.each(lambda t: here[t].at(step))  # type: ignore[index]


def test_a_deep_path_is_walked_at_once(pair: Pair) -> None:
    # Not deeper: where files are known by paths (libfuse) each directory on the way is asked for by its
    # own path, and the work grows with the square of the depth, or faster when caches run out meanwhile.
    path = b"/".join(b"%d" % i for i in range(60))
    for i in range(60):
        pair.same(lambda t: t.mkdir(b"/".join(b"%d" % j for j in range(i + 1))))
    pair.same(lambda t: t.make(path + b"/f", b"data"))
    assert pair.same(lambda t: t.content(path + b"/f")) == b"data"
    assert pair.same(lambda t: t.listdir(path + b"/.." * 30)) == [b"30"]


@pytest.mark.parametrize(
    "path", [b"d//f", b"./d/f", b"d/./f", b"d/../d/f", b"d/e/../f", b"d///./f"]
)
def test_the_same_file_by_many_paths(pair: Pair, path: bytes) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mkdir(b"d/e"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    assert pair.same(lambda t: t.content(path)) == b"data"
    pair.same(lambda t: t.unlink(path))
    assert pair.same(lambda t: t.listdir(b"d")) == [b"e"]


def test_an_empty_path_is_enoent(pair: Pair) -> None:
    for call in ("lstat", "unlink", "rmdir", "mkdir", "content", "readlink", "listdir"):
        pair.fails(errno.ENOENT, lambda t: getattr(t, call)(b""))
