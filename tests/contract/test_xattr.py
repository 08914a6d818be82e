# SPDX-License-Identifier: MIT
"""Extended attributes: getxattr, setxattr, listxattr, removexattr."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree
from xloop.testing.tree import XATTR_CREATE, XATTR_REPLACE

if TYPE_CHECKING:
    from tests.conftest import Need


@pytest.fixture(autouse=True)
def _source_has_xattrs(need: Need) -> None:
    def attempt(t: Tree) -> None:
        t.make(b"probe")
        t.setxattr(b"probe", b"user.probe", b"")

    need.source("user extended attributes", attempt)


@pytest.mark.parametrize("value", [b"", b"v", b"\0\xff\0", b"x" * 1000, b"x" * 3000])
def test_a_value_is_kept_as_it_is(pair: Pair, value: bytes) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"f", b"d", b"."):
        pair.same(lambda t: t.setxattr(name, b"user.a", value))
        assert pair.same(lambda t: t.getxattr(name, b"user.a")) == value


def test_names_are_listed(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    assert pair.same(lambda t: t.listxattr(b"f")) == []
    for name in (b"user.b", b"user.a", b"user.\xff\xfe", b"user." + b"n" * 200):
        pair.same(lambda t: t.setxattr(b"f", name, b"v"))
    assert len(pair.same(lambda t: sorted(t.listxattr(b"f")))) == 4


def test_what_is_not_set_is_enodata(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", b"user.a"))
    pair.fails(errno.ENODATA, lambda t: t.removexattr(b"f", b"user.a"))
    pair.same(lambda t: t.setxattr(b"f", b"user.a", b"v"))
    pair.same(lambda t: t.removexattr(b"f", b"user.a"))
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", b"user.a"))
    assert pair.same(lambda t: t.listxattr(b"f")) == []


def test_create_and_replace_do_what_they_say(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENODATA, lambda t: t.setxattr(b"f", b"user.a", b"1", XATTR_REPLACE))
    pair.same(lambda t: t.setxattr(b"f", b"user.a", b"2", XATTR_CREATE))
    pair.fails(errno.EEXIST, lambda t: t.setxattr(b"f", b"user.a", b"3", XATTR_CREATE))
    pair.same(lambda t: t.setxattr(b"f", b"user.a", b"4", XATTR_REPLACE))
    pair.same(lambda t: t.setxattr(b"f", b"user.a", b"5"))
    pair.fails(errno.EINVAL, lambda t: t.setxattr(b"f", b"user.a", b"6", 8))
    assert pair.same(lambda t: t.getxattr(b"f", b"user.a")) == b"5"


def test_sizes_are_asked_for_and_must_suffice(mnt: Tree, ref: Tree, need: Need) -> None:
    need.kernel("the two steps of asking are the system call's")
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for t in (mnt, ref):
        t.make(b"f")
        t.setxattr(b"f", b"user.a", b"value")
        fd = t.open(b"f", os.O_RDONLY)
        buffer = ctypes.create_string_buffer(10)
        assert libc.fgetxattr(fd, b"user.a", None, 0) == 5
        assert libc.fgetxattr(fd, b"user.a", buffer, 5) == 5
        assert libc.fgetxattr(fd, b"user.a", buffer, 4) == -1
        assert ctypes.get_errno() == errno.ERANGE
        assert libc.flistxattr(fd, None, 0) == 7
        assert libc.flistxattr(fd, buffer, 7) == 7
        assert buffer.raw[:7] == b"user.a\0"
        assert libc.flistxattr(fd, buffer, 6) == -1
        assert ctypes.get_errno() == errno.ERANGE


@pytest.mark.parametrize(
    "name",
    [
        b"a",
        b"nosuch.a",
        b"user",
        b"user.",
        b"system.a",
        b"user." + b"n" * 250,
        b"user." + b"n" * 251,
        b"",
    ],
)
def test_a_name_that_cannot_be_is_refused_as_natively(pair: Pair, name: bytes) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.either(lambda t: t.setxattr(b"f", name, b"v"))
    pair.either(lambda t: t.getxattr(b"f", name))
    pair.either(lambda t: t.removexattr(b"f", name))


def test_a_value_that_is_too_big_is_refused_as_natively(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.E2BIG, lambda t: t.setxattr(b"f", b"user.a", b"x" * 65537))
    pair.either(lambda t: t.setxattr(b"f", b"user.a", b"x" * 65536))
    pair.either(lambda t: t.getxattr(b"f", b"user.a"))


def test_links_and_special_files_have_no_user_attributes(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.mknod(b"fifo", 0o010644))
    pair.fails(errno.EPERM, lambda t: t.setxattr(b"l", b"user.a", b"v", follow=False))
    pair.fails(errno.EPERM, lambda t: t.setxattr(b"fifo", b"user.a", b"v"))
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"l", b"user.a", follow=False))
    assert pair.same(lambda t: t.listxattr(b"l", follow=False)) == []
    # Through the link it is the file's.
    pair.same(lambda t: t.setxattr(b"l", b"user.a", b"v"))
    assert pair.same(lambda t: t.getxattr(b"f", b"user.a")) == b"v"


def test_attributes_belong_to_the_file_not_to_the_name(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"a"))
    pair.same(lambda t: t.link(b"a", b"b"))
    pair.same(lambda t: t.setxattr(b"a", b"user.a", b"v"))
    pair.same(lambda t: t.rename(b"a", b"c"))
    for name in (b"b", b"c"):
        assert pair.same(lambda t: t.getxattr(name, b"user.a")) == b"v"


def test_attributes_through_a_descriptor(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    pair.same(lambda t: t.fsetxattr(fd[t], b"user.a", b"v"))
    assert pair.same(lambda t: t.fgetxattr(fd[t], b"user.a")) == b"v"
    assert pair.same(lambda t: t.flistxattr(fd[t])) == [b"user.a"]
    pair.same(lambda t: t.fremovexattr(fd[t], b"user.a"))
    pair.fails(errno.ENODATA, lambda t: t.fgetxattr(fd[t], b"user.a"))


def test_setxattr_moves_ctime_only(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: t.setxattr(b"f", b"user.a", b"v"))) == [
        "ctime"
    ]
    assert pair.same(lambda t: t.moved(b"f", lambda: t.getxattr(b"f", b"user.a"))) == []
    assert pair.same(lambda t: t.moved(b"f", lambda: t.removexattr(b"f", b"user.a"))) == ["ctime"]


def test_a_file_without_the_attributes_of_the_kernel_says_so_each_time(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    for _ in range(3):
        pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", b"security.capability"))


def _need_trusted(need: Need) -> None:
    def attempt(t: Tree) -> None:
        t.make(b"trusted")
        t.setxattr(b"trusted", b"trusted.probe", b"")

    need.source("trusted extended attributes", attempt)


def test_trusted_attributes_are_not_for_root_of_another_user_namespace(
    pair: Pair, need: Need
) -> None:
    """Who makes a user namespace has all capabilities, but only in there."""
    need.root("only root sets trusted attributes")
    need.kernel("it knows who calls")
    _need_trusted(need)
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.setxattr(b"f", b"trusted.a", b""))
    pair.same(lambda t: t.setxattr(b"f", b"user.b", b""))

    def names(t: Tree) -> list[bytes]:
        path = os.path.join(getattr(t, "path"), b"f")  # noqa: B009
        become = ["unshare", "--user", "--map-root-user"]
        command = [*become, "getfattr", "--absolute-names", "--match=-", path]
        lines = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
        return [line for line in lines if line and not line.startswith(b"#")]

    assert pair.same(names) == [b"user.b"]


def test_trusted_attributes_are_roots(pair: Pair, need: Need) -> None:
    need.root("others see none of them")
    _need_trusted(need)
    pair.same(lambda t: t.make(b"f", mode=0o666))
    pair.same(lambda t: t.chmod(b"f", 0o666))
    pair.same(lambda t: t.setxattr(b"f", b"trusted.a", b"v"))
    assert pair.same(lambda t: t.getxattr(b"f", b"trusted.a")) == b"v"
    assert pair.same(lambda t: t.listxattr(b"f")) == [b"trusted.a"]
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.ENODATA, lambda t: other[t].getxattr(b"f", b"trusted.a"))
    pair.fails(errno.EPERM, lambda t: other[t].setxattr(b"f", b"trusted.a", b"w"))
    assert pair.same(lambda t: other[t].listxattr(b"f")) == []


def test_user_attributes_ask_the_mode_bits(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.setxattr(b"f", b"user.a", b"v"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    for mode in (0o600, 0o604, 0o602, 0o606):
        pair.same(lambda t: t.chmod(b"f", mode))
        pair.either(lambda t: other[t].getxattr(b"f", b"user.a"))
        pair.either(lambda t: other[t].setxattr(b"f", b"user.a", b"w"))
        pair.either(lambda t: other[t].removexattr(b"f", b"user.b"))


def test_user_attributes_of_a_sticky_directory_are_its_owners(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o1777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EPERM, lambda t: other[t].setxattr(b"d", b"user.a", b"v"))
