# SPDX-License-Identifier: MIT
"""Read-only mounts against the kernel's own: the same results and errors for whatever is tried.

Two are compared: ``-o ro``, which the kernel enforces, and the layer, which has to do it all by
itself under a mount that the kernel takes for writable.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import xloop

pytestmark = pytest.mark.mount

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
TCGETS = 0x5401


def opening(name: str, flags: int) -> Callable[[Path], None]:
    return lambda top: os.close(os.open(top / name, flags, 0o644))


def ioctl(command: int) -> Callable[[Path], None]:
    def attempt(top: Path) -> None:
        fd = os.open(top / "file", os.O_RDONLY)
        try:
            fcntl.ioctl(fd, command, bytearray(64))
        finally:
            os.close(fd)

    return attempt


ATTEMPTS: dict[str, Callable[[Path], object]] = {
    "read": lambda top: (top / "file").read_bytes(),
    "list": lambda top: sorted(os.listdir(top)),
    "readlink": lambda top: os.readlink(top / "link"),
    "open for writing": opening("file", os.O_WRONLY),
    "open for both": opening("file", os.O_RDWR),
    "open for appending": opening("file", os.O_WRONLY | os.O_APPEND),
    "open and truncate": opening("file", os.O_RDONLY | os.O_TRUNC),
    "open a directory for writing": opening("dir", os.O_WRONLY),
    "create": opening("new", os.O_CREAT | os.O_WRONLY),
    "create for reading": opening("new", os.O_CREAT | os.O_RDONLY),
    "create what is there, for reading": opening("file", os.O_CREAT | os.O_RDONLY),
    "create what is there, for writing": opening("file", os.O_CREAT | os.O_WRONLY),
    "create what must not be there": opening("file", os.O_CREAT | os.O_EXCL | os.O_RDONLY),
    "create a file without a name": opening("dir", os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda top: (top / "new").mkdir(),
    "mkdir what is there": lambda top: (top / "dir").mkdir(),
    "mkdir -p": lambda top: (top / "dir").mkdir(parents=True, exist_ok=True),
    "mkfifo": lambda top: os.mkfifo(top / "new"),
    "mkfifo what is there": lambda top: os.mkfifo(top / "fifo"),
    "symlink": lambda top: (top / "new").symlink_to("file"),
    "symlink what is there": lambda top: (top / "link").symlink_to("file"),
    "link": lambda top: (top / "new").hardlink_to(top / "file"),
    "link what is there": lambda top: (top / "fifo").hardlink_to(top / "file"),
    "unlink": lambda top: (top / "file").unlink(),
    "rmdir": lambda top: (top / "dir").rmdir(),
    "rename": lambda top: (top / "file").rename(top / "new"),
    "rename over what is there": lambda top: (top / "file").rename(top / "fifo"),
    "chmod": lambda top: (top / "file").chmod(0o600),
    "chown": lambda top: os.chown(top / "file", os.getuid(), os.getgid()),
    "utime": lambda top: os.utime(top / "file"),
    "truncate": lambda top: os.truncate(top / "file", 1),
    "setxattr": lambda top: os.setxattr(top / "file", "user.x", b"y"),
    "removexattr": lambda top: os.removexattr(top / "file", "user.kept"),
    "getxattr": lambda top: os.getxattr(top / "file", "user.kept"),
    "access a file to write": lambda top: access(top / "file", os.W_OK),
    "access a directory to write": lambda top: access(top / "dir", os.W_OK),
    "access a FIFO to write": lambda top: access(top / "fifo", os.W_OK),
    "access a file to read": lambda top: access(top / "file", os.R_OK),
    "open a FIFO for both": opening("fifo", os.O_RDWR | os.O_NONBLOCK),
    "get flags": ioctl(FS_IOC_GETFLAGS),
    "set flags": ioctl(FS_IOC_SETFLAGS),
    "isatty": ioctl(TCGETS),
}


def access(path: Path, mask: int) -> bool:
    return os.access(path, mask)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("readonly") / "source"
    source.mkdir()
    (source / "file").write_bytes(b"data")
    os.setxattr(source / "file", "user.kept", b"kept")
    (source / "dir").mkdir()
    (source / "link").symlink_to("file")
    os.mkfifo(source / "fifo")
    return source


@pytest.fixture(scope="module", params=["option", "layer"])
def view(request: pytest.FixtureRequest, source: Path) -> Iterator[Path]:
    view = source.parent / request.param
    view.mkdir()
    layers = [xloop.layers.ReadOnly] if request.param == "layer" else []
    with xloop.mount(source, view, layers=layers, read_only=request.param == "option"):
        yield view


@pytest.fixture(scope="module")
def native(source: Path) -> Iterator[Path]:
    """The source through a read-only bind mount."""
    if os.geteuid() != 0:
        pytest.skip("needs root: only root may make a bind mount to compare with")
    native = source.parent / "native"
    native.mkdir()
    subprocess.run(["mount", "--bind", source, native], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", native], check=True)
        yield native
    finally:
        subprocess.run(["umount", native], check=True)


def outcome(attempt: Callable[[Path], object], top: Path) -> object:
    """Return what *attempt* returns, or the name of its error."""
    try:
        return attempt(top)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def fingerprint(source: Path) -> object:
    found = {}
    for path in sorted(source.iterdir()):
        st = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(st.st_mode) else b""
        found[path.name] = (st.st_mode, st.st_nlink, st.st_ctime_ns, content)
    return found


@pytest.mark.parametrize("what", ATTEMPTS)
def test_readonly_does_as_the_kernel_does(
    what: str, source: Path, view: Path, native: Path
) -> None:
    before = fingerprint(source)
    assert outcome(ATTEMPTS[what], view) == outcome(ATTEMPTS[what], native)
    assert fingerprint(source) == before


@pytest.mark.parametrize("what", ATTEMPTS)
def test_readonly_changes_nothing(what: str, source: Path, view: Path) -> None:
    before = fingerprint(source)
    outcome(ATTEMPTS[what], view)
    assert fingerprint(source) == before
