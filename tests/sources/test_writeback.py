# SPDX-License-Identifier: MIT
"""Writes that the kernel delays: what it saves, when the source has them, and what becomes of times and errors.

What holds on every mount is in tests/contract, which runs on a mount like these too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from sources.served import Served

if TYPE_CHECKING:
    from sources.conftest import Lab, Show
    from tests.conftest import Wait

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: a file system is made, or others act")

#: Old, and with nanoseconds.
OLD = 1_000_000_000_123_456_789


class Delayed(NamedTuple):
    """A mount that delays writes, and its source."""

    served: Served
    mnt: Path
    src: Path

    def writes(self) -> int:
        return int(self.served.status()["requests"].get("WRITE", 0))


Delay = Callable[..., Delayed]


@pytest.fixture
def delay(base: Path) -> Iterator[Delay]:
    made: list[Served] = []
    work = Path(tempfile.mkdtemp(prefix="writeback-", dir=base))
    work.chmod(0o755)  # for others too

    def serve(source: Path | None = None, **fields: object) -> Delayed:
        point = work / f"mnt{len(made)}"
        point.mkdir()
        if source is None:
            source = work / f"source{len(made)}"
            source.mkdir(exist_ok=True)
        made.append(Served(source, point, **{"writeback": True, **fields}))
        return Delayed(made[-1], point, source)

    yield serve
    for one in made:
        assert one.end() == 0


def as_nobody(code: str, *args: Path) -> None:
    """Run Python *code* as a user who owns nothing."""
    ids = ("--reuid=65534", "--regid=65534", "--clear-groups")
    subprocess.run(["setpriv", *ids, sys.executable, "-c", code, *args], check=True)


# -- what it saves --------------------------------------------------------------------------


@pytest.mark.parametrize("writeback", [True, False])
def test_a_thousand_small_writes_are_a_few_requests(delay: Delay, writeback: bool) -> None:
    delayed = delay(writeback=writeback, passthrough=False)
    with open(delayed.mnt / "f", "wb", buffering=0) as file:
        for _ in range(1000):
            file.write(b"x" * 100)
    assert (delayed.src / "f").read_bytes() == b"x" * 100_000
    assert delayed.writes() <= 2 if writeback else delayed.writes() >= 1000


def test_what_is_on_the_way_is_said(delay: Delay) -> None:
    status = delay(cache="auto").served.status()
    assert "WRITEBACK_CACHE" in status["granted"]
    assert "writeback" in status["refused"]["PASSTHROUGH"] or not ROOT
    assert "writeback" in status["cache"]["not coherent"]
    assert "writeback" in status["events"]["not to be had"]


def test_a_mount_that_is_read_only_delays_nothing(delay: Delay) -> None:
    status = delay(read_only=True).served.status()
    assert "read-only" in status["refused"]["WRITEBACK_CACHE"]


# -- when the source has it -----------------------------------------------------------------


def _msync(fd: int) -> None:
    with mmap.mmap(fd, 4096) as mapped:
        mapped[:4] = b"DATA"
        mapped.flush()


AFTER: dict[str, Callable[[int], object]] = {
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "msync": _msync,
    "close of a duplicate": lambda fd: os.close(os.dup(fd)),
    "SEEK_DATA": lambda fd: os.lseek(fd, 0, os.SEEK_DATA),
    "chmod": lambda fd: os.fchmod(fd, 0o600),
    "times": lambda fd: os.utime(fd, ns=(OLD, OLD)),
}


@pytest.mark.parametrize("what", AFTER)
def test_it_is_on_the_source_after(delay: Delay, what: str) -> None:
    _, mnt, src = delay()
    fd = os.open(mnt / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"data" * 2000)
    assert (src / "f").read_bytes() == b""  # or this test shows nothing
    AFTER[what](fd)
    expected = b"data" * 2000
    assert (src / "f").read_bytes() in (expected, b"DATA" + expected[4:])
    os.close(fd)


def test_a_write_that_is_to_be_stable_is_on_the_source_at_once(delay: Delay) -> None:
    _, mnt, src = delay()
    for flag in (os.O_SYNC, os.O_DSYNC, os.O_DIRECT):
        fd = os.open(mnt / "f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flag)
        with mmap.mmap(-1, 4096) as page:
            page[:] = b"x" * 4096
            os.write(fd, page)
        assert (src / "f").read_bytes() == b"x" * 4096
        os.close(fd)


def test_holes_and_data_are_found_before_it_is_written_out(delay: Delay) -> None:
    delayed = delay(max_threads=1)  # nobody else is there who could write meanwhile
    twin = delayed.src / "twin"
    found = []
    for path in (delayed.mnt / "f", twin):
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        reader = os.open(path, os.O_RDONLY)  # before: opening has it written out
        os.ftruncate(fd, 4 << 20)
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        found.append([os.lseek(reader, 0, os.SEEK_DATA), os.lseek(reader, 1 << 20, os.SEEK_HOLE)])
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.lseek(reader, 4 << 20, os.SEEK_DATA)
        os.close(reader)
        os.close(fd)
    assert found[0] == found[1]


def test_a_file_that_is_open_when_its_mount_is_taken_away_loses_nothing(
    delay: Delay, eventually: Wait
) -> None:
    delayed = delay()
    fd = os.open(delayed.mnt / "f", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"written")
    gone = os.open(delayed.mnt / "gone", os.O_WRONLY | os.O_CREAT)
    os.write(gone, b"written")
    umount = ["umount"] if ROOT else ["fusermount3", "-u"]
    busy = subprocess.run([*umount, delayed.mnt], check=False, capture_output=True)
    assert busy.returncode != 0
    subprocess.run([*umount, "-l" if ROOT else "-z", delayed.mnt], check=True)
    os.rename(delayed.src / "f", delayed.src / "g")
    os.unlink(delayed.src / "gone")
    os.close(gone)
    os.close(fd)
    assert (delayed.src / "g").read_bytes() == b"written"


# -- times ----------------------------------------------------------------------------------


def _map(fd: int) -> None:
    with mmap.mmap(fd, 4096) as mapped:
        mapped[:4] = b"more"


TOUCHED: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.write(fd, b"more"),
    "write, fsync": lambda fd: (os.write(fd, b"more"), os.fsync(fd)),
    "write, SEEK_DATA": lambda fd: (os.write(fd, b"more"), os.lseek(fd, 0, os.SEEK_DATA)),
    "map": _map,
    "truncate": lambda fd: os.ftruncate(fd, 100),
    "fallocate": lambda fd: os.posix_fallocate(fd, 0, 100_000),
}


@pytest.mark.parametrize("what", TOUCHED)
def test_a_time_that_is_set_after_the_data_stays(delay: Delay, what: str) -> None:
    delayed = delay()
    path = delayed.mnt / "f"
    path.write_bytes(b"x" * 8192)
    fd = os.open(path, os.O_RDWR)
    TOUCHED[what](fd)
    os.utime(fd, ns=(OLD, OLD + 1))
    assert os.stat(path).st_mtime_ns == OLD + 1
    os.close(fd)
    assert os.stat(path).st_mtime_ns == OLD + 1
    assert os.stat(delayed.src / "f").st_mtime_ns == OLD + 1
    assert delayed.served.end() == 0
    assert os.stat(delayed.src / "f").st_mtime_ns == OLD + 1
    again = delay(delayed.src)
    assert os.stat(again.mnt / "f").st_mtime_ns == OLD + 1


@pytest.mark.parametrize("what", TOUCHED)
def test_without_that_both_have_the_same_time_in_the_end(delay: Delay, what: str) -> None:
    delayed = delay()
    path = delayed.mnt / "f"
    path.write_bytes(b"x" * 8192)
    os.utime(path, ns=(OLD, OLD))
    fd = os.open(path, os.O_RDWR)
    TOUCHED[what](fd)
    time.sleep(0.05)  # the source would give another time to what comes now
    os.close(fd)
    shown = os.stat(path).st_mtime_ns
    assert shown > OLD
    assert os.stat(delayed.src / "f").st_mtime_ns == shown


def test_a_new_file_keeps_the_time_of_its_last_write(delay: Delay) -> None:
    """Which may be that of its creation, within a tick: then the kernel has none to send."""
    delayed = delay()
    for number in range(20):
        path = delayed.mnt / f"f{number}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"data")
        time.sleep(0.01)
        os.close(fd)
        shown = os.stat(path).st_mtime_ns
        assert os.stat(delayed.src / f"f{number}").st_mtime_ns == shown


def test_what_the_kernel_writes_out_by_itself_has_the_time_of_the_write(delay: Delay) -> None:
    """It sends the time while pages are under way, which move the source's after that."""
    delayed = delay()
    syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    for number in range(10):
        path = delayed.mnt / f"f{number}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x" * (16 << 20))
        time.sleep(0.01)
        assert syncfs(fd) == 0
        written = os.stat(path).st_mtime_ns
        os.close(fd)
        assert os.stat(path).st_mtime_ns == written
        assert os.stat(delayed.src / path.name).st_mtime_ns == written
        os.unlink(path)


@pytest.mark.parametrize("program", ["cp -a", "rsync -a", "tar"])
def test_copies_keep_the_times_of_their_originals(
    delay: Delay, program: str, tmp_path: Path
) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip(f"{program.split()[0]} is not installed")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(30):
        (tree / f"f{number}").write_bytes(os.urandom(number * 3001))
        os.utime(tree / f"f{number}", ns=(OLD, OLD + number * 1_000_000_007))
    delayed = delay()
    copy = {
        "cp -a": f"cp -a {tree} {delayed.mnt}/tree",
        "rsync -a": f"rsync -a {tree} {delayed.mnt}/",
        "tar": f"tar --format=posix -C {tmp_path} -cf - tree | tar -C {delayed.mnt} -xf -",
    }[program]
    subprocess.run(["sh", "-ec", copy], check=True)

    def seen(top: Path) -> dict[str, tuple[int, bytes]]:
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in top.iterdir()}

    expected = seen(tree)
    assert seen(delayed.src / "tree") == expected
    assert seen(delayed.mnt / "tree") == expected
    assert delayed.served.end() == 0
    assert seen(delayed.src / "tree") == expected
    assert seen(delay(delayed.src).mnt / "tree") == expected


# -- who may --------------------------------------------------------------------------------

NOT_ITS_OWNER = """
import os, sys
path, twin = sys.argv[1:]
fd = os.open(path, os.O_RDWR)
os.write(fd, b"data")
os.fsync(fd)
os.ftruncate(fd, 2)
os.write(fd, b"more")
os.close(fd)
os.truncate(path, 3)
os.utime(path)
os.rename(path, path + "2")
fd = os.open(path + "2", os.O_WRONLY)
os.fsync(fd)
os.close(fd)
for name in (twin, path + "2"):
    for times in ((1, 2), (os.stat(name).st_atime_ns, 2)):
        try:
            os.utime(name, ns=times)
        except PermissionError as exc:
            assert exc.errno == 1, exc
        else:
            raise SystemExit(f"a time of {name} was set")
"""


@needs_root
def test_who_may_write_a_file_needs_not_own_it(delay: Delay) -> None:
    """The kernel sends the time of each write, and only the owner may set a time."""
    delayed = delay(allow_other=True, default_permissions=False)
    delayed.src.chmod(0o777)
    for name in ("f", "twin"):
        (delayed.src / name).write_bytes(b"")
        (delayed.src / name).chmod(0o666)
    as_nobody(NOT_ITS_OWNER, delayed.mnt / "f", delayed.src / "twin")
    assert (delayed.src / "f2").read_bytes() == b"da\0"


WRITE_ONLY = """
import os, sys
path = sys.argv[1]
for flags, data, size in (
    (0, b"0123456789", 10), (os.O_APPEND, b"more", 14), (os.O_TRUNC, b"x", 1), (os.O_APPEND, b"y", 2)
):
    fd = os.open(path, os.O_WRONLY | flags)
    for byte in data:
        assert os.write(fd, bytes([byte])) == 1
    os.fsync(fd)
    assert os.fstat(fd).st_size == size
    os.close(fd)
try:
    os.open(path, os.O_RDONLY)
except PermissionError:
    pass
else:
    raise SystemExit("it was opened for reading")
"""


def test_what_may_be_written_and_not_read_is_written(delay: Delay) -> None:
    fields = {"allow_other": True, "default_permissions": False} if ROOT else {}
    delayed = delay(**fields)
    (delayed.src / "f").write_bytes(b"x" * 5)
    (delayed.src / "f").chmod(0o222)
    if ROOT:
        as_nobody(WRITE_ONLY, delayed.mnt / "f")
    else:
        subprocess.run([sys.executable, "-c", WRITE_ONLY, delayed.mnt / "f"], check=True)
    (delayed.src / "f").chmod(0o666)
    assert (delayed.src / "f").read_bytes() == b"xy"


@needs_root
def test_what_may_only_be_appended_to_is_appended_to(delay: Delay) -> None:
    delayed = delay()
    log = delayed.src / "log"
    log.write_bytes(b"begin ")
    if subprocess.run(["chattr", "+a", log], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no append-only files")
    try:
        with pytest.raises(PermissionError):
            os.open(delayed.mnt / "log", os.O_WRONLY)
        fd = os.open(delayed.mnt / "log", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"more")
        os.close(fd)
    finally:
        subprocess.run(["chattr", "-a", log], check=True)
    assert log.read_bytes() == b"begin more"


# -- no room --------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("at", ["fsync", "close"])
def test_a_full_disk_is_told_at_the_end(lab: Lab, delay: Delay, eventually: Wait, at: str) -> None:
    delayed = delay(lab.tmpfs("size=512k"), entry_timeout=0.1)
    path = delayed.mnt / "f"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    assert os.write(fd, b"x" * (2 << 20)) == 2 << 20
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (os.fsync if at == "fsync" else os.close)(fd)
    with contextlib.suppress(OSError):
        os.close(fd)
    # The kernel took the size for granted; it looks again.
    assert eventually(lambda: os.stat(path).st_size == os.stat(delayed.src / "f").st_size)
    assert path.read_bytes() == (delayed.src / "f").read_bytes()
    os.unlink(path)
    path.write_bytes(b"room again")
    assert (delayed.src / "f").read_bytes() == b"room again"


# -- what others change ---------------------------------------------------------------------


def test_what_others_change_in_a_file_that_nobody_has_open_is_seen(
    delay: Delay, eventually: Wait
) -> None:
    _, mnt, src = delay(entry_timeout=0.05, attr_timeout=0.05)
    (mnt / "f").write_bytes(b"data")
    for data in (b"longer than it was", b"short", b"SHORT"):
        (src / "f").write_bytes(data)
        assert eventually(lambda: (mnt / "f").read_bytes() == data)
        assert os.stat(mnt / "f").st_size == len(data)
        assert eventually(lambda: os.stat(mnt / "f").st_mtime_ns == os.stat(src / "f").st_mtime_ns)
    # Told by a listing too, which would otherwise have the kernel believe for another while.
    (src / "f").write_bytes(b"and again")

    def listed() -> int:
        with os.scandir(mnt) as entries:
            return next(entry.stat().st_size for entry in entries)

    assert eventually(lambda: listed() == 9)


@pytest.mark.parametrize("held", [False, True])
def test_what_others_have_appended_is_not_written_over(delay: Delay, held: bool) -> None:
    """Though the kernel believes that it knows the end: the open tells it better."""
    _, mnt, src = delay(entry_timeout=600.0, attr_timeout=600.0)
    (mnt / "f").write_bytes(b"ours ")
    holder = os.open(mnt / "f", os.O_PATH) if held else -1
    for number in range(3):
        with open(src / "f", "ab") as file:
            file.write(b"theirs%d " % number)
        with open(mnt / "f", "ab") as file:
            file.write(b"ours%d " % number)
    assert (src / "f").read_bytes() == b"ours theirs0 ours0 theirs1 ours1 theirs2 ours2 "
    assert (mnt / "f").read_bytes() == (src / "f").read_bytes()
    if held:
        os.close(holder)


@needs_root
def test_pages_of_a_mapping_and_writes_go_together(lab: Lab, show: Show) -> None:
    where = show(lab.tmpfs(), writeback=True)
    fd = os.open(where / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"a" * 8192)
    with mmap.mmap(fd, 8192) as mapped:
        mapped[100:104] = b"MAPS"
        os.pwrite(fd, b"WRIT", 5000)
        assert mapped[5000:5004] == b"WRIT"
        assert os.pread(fd, 4, 100) == b"MAPS"
    os.close(fd)
    data = (where / "f").read_bytes()
    assert data[100:104] + data[5000:5004] == b"MAPSWRIT"
    assert len(data) == 8192
