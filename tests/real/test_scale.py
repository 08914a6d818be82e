# SPDX-License-Identifier: MIT
"""A big tree through a server that may have 1024 descriptors, and directories that are very long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from real.conftest import Place, Show, force_unmount
from real.support import Arg, clean_environment, need, run, run_together, wait_until

LIMIT = 1024
PER_DIRECTORY = 100
LONG = 100_000
FIND_FORMAT = r"%P %i %y %m %U %G %n %s %T@ %l\n"


@pytest.fixture(scope="module")
def many(base: Path, scale_files: int) -> Iterator[Path]:
    """A tree of *scale_files* files, in memory where there is such a place: 20 levels, wide and deep."""
    shm = Path("/dev/shm")
    where = shm if os.access(shm, os.W_OK) else base
    with tempfile.TemporaryDirectory(prefix="xloop-scale-", dir=where) as top:
        for number in range(max(1, scale_files // PER_DIRECTORY)):
            names = [f"d{number // 400}", f"d{number // 20 % 20}", f"d{number % 20}"]
            if number % 50 == 0:
                names += [f"deep{level}" for level in range(17)]
            directory = os.path.join(top, *names)
            os.makedirs(directory)
            for file in range(PER_DIRECTORY):
                path = os.path.join(directory, f"file{file}")
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o640))
            os.truncate(path, number)
        yield Path(top)


@pytest.fixture
def limited(many: Path, work: Path, subject: str) -> Iterator[Place]:
    """The tree, shown by a server that cannot have more than LIMIT descriptors."""
    if subject == "native":
        yield Place(many, many, None)
        return
    mnt = work / "mnt"
    mnt.mkdir()
    device = os.stat(mnt).st_dev
    command: list[Arg] = [
        sys.executable,
        "-m",
        "xloop",
        "mount",
        "-f",
        "--backend",
        subject,
        many,
        mnt,
    ]
    # Both limits: xloop raises the soft one.
    limited_shell = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh"]
    server = subprocess.Popen([*limited_shell, *command], env=clean_environment())
    try:
        wait_until(lambda: os.stat(mnt).st_dev != device, "it is mounted")
        yield Place(many, mnt, None)
        assert len(os.listdir(f"/proc/{server.pid}/fd")) <= LIMIT
        server.terminate()
        # It waits for ever where another mount namespace holds a copy of the mount.
        assert server.wait(30) == 0
    finally:
        force_unmount(work)
        server.kill()
        server.wait()


@pytest.mark.timeout(900)
def test_a_tree_larger_than_the_descriptor_limit_is_walked(
    limited: Place, scale_files: int
) -> None:
    need("find")
    native = run("find", ".", "-printf", FIND_FORMAT, cwd=limited.source).out
    assert native.count(b"\n") > scale_files
    find = ["find", ".", "-printf", FIND_FORMAT]
    for _ in range(2):
        # At once: nodes are forgotten, and opened again, behind each other's back.
        done = run_together([find, find, ["find", ".", "-ls"]], cwd=limited.mnt)
        for found in done[:2]:
            assert found.err == b""
            assert sorted(found.out.splitlines()) == sorted(native.splitlines())
        assert done[2].out.count(b"\n") == native.count(b"\n")


@pytest.mark.timeout(900)
def test_every_file_of_a_large_tree_is_looked_up_by_name(limited: Place, work: Path) -> None:
    """In no order: each is asked for by itself, and none came from reading a directory."""
    names = run("find", ".", "-print0", cwd=limited.source).out.split(b"\0")[:-1]
    Random(1).shuffle(names)
    (work / "names").write_bytes(b"\0".join(names))
    stat = f"xargs -0 stat -c '%n %i %s %Y %A' -- < '{work}/names'"
    native = run("sh", "-c", stat, cwd=limited.source).out
    for found in run_together([["sh", "-c", stat]] * 2, cwd=limited.mnt):
        assert found.out == native


@pytest.mark.timeout(900)
def test_files_all_over_a_large_tree_are_opened_and_held(limited: Place) -> None:
    """Some are held open while everything else is visited, and still are what they were."""
    held: list[tuple[int, os.stat_result]] = []
    directories: list[int] = []
    try:
        for number, (directory, _, files) in enumerate(os.walk(limited.mnt)):
            if files and number % 3 == 0:
                fd = os.open(os.path.join(directory, files[0]), os.O_RDONLY)
                native = os.path.relpath(directory, limited.mnt)
                held.append((fd, os.stat(limited.source / native / files[0])))
                assert os.fstat(fd).st_ino == held[-1][1].st_ino
            if number % 10 == 0 and len(directories) < 100:
                directories.append(os.open(directory, os.O_PATH))
            if len(held) > 250:
                os.close(held.pop(0)[0])
        assert len(held) > 10
        for fd, native_stat in held:
            now = os.fstat(fd)
            assert (now.st_ino, now.st_size) == (native_stat.st_ino, native_stat.st_size)
            assert os.pread(fd, 1 << 20, 0) == bytes(native_stat.st_size)
        for fd in directories:
            os.stat(".", dir_fd=fd)
    finally:
        for fd, _ in held:
            os.close(fd)
        for fd in directories:
            os.close(fd)


@pytest.mark.timeout(900)
def test_a_directory_of_many_entries_is_listed_completely(show: Show, many: Path) -> None:
    top = many.with_name(many.name + "-long")
    top.mkdir()
    try:
        place = show(top)
        for number in range(LONG):
            os.close(os.open(top / f"entry{number}", os.O_CREAT | os.O_WRONLY, 0o600))
        expected = {f"entry{number}" for number in range(LONG)}
        for _ in range(2):
            names = os.listdir(place.mnt)
            assert len(names) == LONG
            assert set(names) == expected
        with os.scandir(top) as native, os.scandir(place.mnt) as shown:
            inodes = {entry.name: entry.inode() for entry in native}
            assert {entry.name: entry.inode() for entry in shown} == inodes
        assert run("ls", "-f", cwd=place.mnt).out.count(b"\n") == LONG + 2
        run("find", ".", "-name", "entry*7", "-delete", cwd=place.mnt)
        left = {name for name in expected if not name.endswith("7")}
        assert set(os.listdir(place.mnt)) == left
        assert set(os.listdir(top)) == left
    finally:
        for name in os.listdir(top):
            os.unlink(top / name)
        top.rmdir()
