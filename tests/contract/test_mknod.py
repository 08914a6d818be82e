# SPDX-License-Identifier: MIT


"""Making regular and special files: mknod."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from xloop.testing import NativeTree, Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, 0])
def test_mknod_makes_the_type_with_the_mode(pair: Pair, kind: int, umask: int) -> None:
    pair.same(lambda t: setattr(t, "umask", umask))
    pair.same(lambda t: t.mknod(b"x", kind | 0o776))
    assert pair.same(lambda t: t.facts(b"x"))[:2] == (kind or stat.S_IFREG, 0o776 & ~umask)


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1644, 0o7777])
def test_mknod_keeps_the_special_bits(pair: Pair, mode: int) -> None:
    pair.same(lambda t: t.mknod(b"x", stat.S_IFREG | mode))
    assert pair.same(lambda t: t.facts(b"x")).mode == mode & ~0o022


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize(("major", "minor"), [(1, 3), (8, 1), (255, 255), (4095, 1048575)])
def test_mknod_makes_a_device_with_its_number(
    pair: Pair, need: Need, kind: int, major: int, minor: int
) -> None:
    need.root("only root makes devices")
    number = os.makedev(major, minor)
    pair.same(lambda t: t.mknod(b"dev", kind | 0o600, number))
    made = pair.same(lambda t: t.facts(b"dev"))
    assert (made.type, made.rdev) == (kind, number)


def test_mknod_of_a_device_is_eperm_for_others(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(
        errno.EPERM, lambda t: other[t].mknod(b"dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    )
    pair.same(lambda t: other[t].mknod(b"fifo", stat.S_IFIFO | 0o600))
    assert pair.same(lambda t: t.facts(b"fifo")).uid == 1001


def test_mknod_of_what_it_does_not_make(pair: Pair) -> None:
    pair.fails(errno.EPERM, lambda t: t.mknod(b"x", stat.S_IFDIR | 0o755))
    pair.fails(errno.EINVAL, lambda t: t.mknod(b"x", stat.S_IFLNK | 0o755))
    assert pair.same(lambda t: t.listdir()) == []


def test_mknod_on_a_taken_name_is_eexist(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"nothing", b"l"))
    for name in (b"f", b"l", b"."):
        pair.fails(errno.EEXIST, lambda t: t.mknod(name, stat.S_IFIFO | 0o644))
    pair.fails(errno.ENOENT, lambda t: t.mknod(b"no/x", stat.S_IFIFO | 0o644))
    pair.fails(errno.ENOENT, lambda t: t.mknod(b"x/", stat.S_IFIFO | 0o644))
    pair.fails(errno.ENAMETOOLONG, lambda t: t.mknod(b"n" * 256, stat.S_IFIFO | 0o644))


def test_a_fifo_connects_its_two_ends(mnt: Tree, need: Need) -> None:
    need.kernel("it is the kernel that connects them")
    mnt.mknod(b"fifo", stat.S_IFIFO | 0o644)
    got: list[bytes] = []

    def read() -> None:
        fd = mnt.open(b"fifo", os.O_RDONLY)
        got.append(mnt.read(fd, 100))
        mnt.close(fd)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    fd = mnt.open(b"fifo", os.O_WRONLY)
    mnt.write(fd, b"through")
    mnt.close(fd)
    reader.join(20)
    assert got == [b"through"]


def test_a_socket_connects_its_two_ends(mnt: Tree, need: Need) -> None:
    need.kernel("it is the kernel that connects them")
    import socket

    assert isinstance(mnt, NativeTree)
    address = f"/proc/self/fd/{mnt.top}/socket"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen(1)
        client.connect(address)
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"through")
            assert accepted.recv(100) == b"through"
    assert mnt.facts(b"socket").type == stat.S_IFSOCK


def test_open_of_a_socket_is_enxio(pair: Pair) -> None:
    pair.same(lambda t: t.mknod(b"s", stat.S_IFSOCK | 0o644))
    pair.fails(errno.ENXIO, lambda t: t.open(b"s", os.O_RDONLY))


def test_a_mount_does_not_honour_devices_unless_told(
    mnt: Tree, need: Need, is_native: bool
) -> None:
    need.root("only root makes devices")
    need.kernel("nodev is the kernel's")
    if is_native:
        pytest.skip("the native directory honours devices, or not, as its own mount says")
    mnt.mknod(b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        mnt.open(b"null", os.O_RDONLY)
