# SPDX-License-Identifier: MIT
"""File systems of every kind to be shown, each made for the test run and gone with it.

Packages, by the names that Debian's apt-get install wants:
    bindfs btrfs-progs e2fsprogs fuse3 mount util-linux xfsprogs

Root only: others may not mount.  A kind that the kernel or the machine lacks is skipped with the
reason.  Owns no test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import xloop
from sources.watching import Changing
from xloop import registry
from xloop.testing import NativeTree, Pair, Tree

#: Real file systems, in images of their own, with what makes them and how big they must be at least.
DISKS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 64),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 128),
}
KINDS = ["tmpfs", *DISKS, "overlay", "bindfs"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("events", "random events (tests/sources/test_events_random.py)")
    group.addoption("--event-rounds", type=int, default=60, help="of random changes: 60")
    group.addoption("--event-seed", type=int, default=1, help="of them: 1; 0: another each time")


def run(*command: object) -> str:
    """Run a command and return its output; its error output is in the exception."""
    words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{words}: {done.stderr or done.stdout}")
    return done.stdout


class Lab:
    """Makes file systems, and takes all of them away at the end."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._made: list[Path] = []
        self._kinds: dict[str, Path] = {}

    def directory(self, name: str) -> Path:
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.top))
        path.chmod(0o755)
        return path

    def mount(self, *how: object, point: Path | None = None) -> Path:
        """Call mount(8) with the arguments *how* and a mountpoint, and return that."""
        point = point or self.directory("fs")
        try:
            run("mount", *how, point)
        except OSError as error:
            if "unknown filesystem type" in str(error) or "failed to setup loop" in str(error):
                pytest.skip(f"this kernel cannot: {error}")
            raise
        self._made.append(point)
        return point

    def disk(self, kind: str, *options: str, megabytes: int = 0) -> Path:
        """Make an image with a file system, mount it and return where."""
        program, least = DISKS[kind]
        if shutil.which(program[0]) is None:
            pytest.skip(f"{program[0]} is not installed")
        image = self.directory("image") / kind
        with open(image, "wb") as file:
            file.truncate(max(megabytes, least) << 20)
        run(*program, image)
        where = self.mount("-t", kind, "-o", ",".join(["loop", *options]), image)
        where.chmod(0o755)
        return where

    def tmpfs(self, *options: str) -> Path:
        return self.mount("-t", "tmpfs", "-o", ",".join(["mode=755", *options]), "tmpfs")

    def overlay(self, lower: Path, *options: str) -> Path:
        """Stack an overlayfs on *lower*; what changes goes into a tmpfs, a file system of its own."""
        rest = self.tmpfs()
        for name in ("upper", "work"):
            (rest / name).mkdir()
        dirs = f"lowerdir={lower},upperdir={rest}/upper,workdir={rest}/work"
        return self.mount("-t", "overlay", "-o", ",".join([dirs, *options]), "overlay")

    def bindfs(self, source: Path) -> Path:
        """Show *source* through another FUSE file system."""
        if shutil.which("bindfs") is None:
            pytest.skip("bindfs is not installed")
        point = self.directory("bindfs")
        run("bindfs", "-o", "allow_other,default_permissions,dev,suid", source, point)
        self._made.append(point)
        return point

    def bind(self, source: Path, point: Path, *options: str) -> Path:
        self.mount("--bind", source, point=point)
        if options:
            run("mount", "-o", ",".join(["remount", "bind", *options]), point)
        return point

    def kind(self, name: str) -> Path:
        """Return a file system of the kind *name* that the whole run shares."""
        if name not in self._kinds:
            self._kinds[name] = self._new(name)
        return self._kinds[name]

    def _new(self, name: str) -> Path:
        if name == "tmpfs":
            return self.tmpfs("size=64m")
        if name == "overlay":
            return self.overlay(self.directory("lower"))
        if name == "bindfs":
            return self.bindfs(self.tmpfs("size=64m"))
        return self.disk(name)

    def end(self) -> None:
        for point in reversed(self._made):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        self._made.clear()


@pytest.fixture(scope="session")
def shared_lab(base: Path) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root: file systems are made and mounted")
    top = Path(tempfile.mkdtemp(prefix="lab-", dir=base))
    top.chmod(0o755)
    # Mounts here are nobody else's, and do not multiply.
    run("mount", "--bind", top, top)
    run("mount", "--make-private", top)
    lab = Lab(top)
    yield lab
    lab.end()
    run("umount", "-l", top)
    shutil.rmtree(top)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """A laboratory for one test: what it makes is gone afterwards, what is shared stays."""
    mine = Lab(shared_lab.directory("test"))
    mine._kinds = shared_lab._kinds
    mine.kind = shared_lab.kind  # type: ignore[method-assign]
    yield mine
    mine.end()
    shutil.rmtree(mine.top)


Show = Callable[..., Path]


@pytest.fixture
def show(lab: Lab) -> Iterator[Show]:
    """Mount a directory, with fields of MountOptions, and return where."""
    with contextlib.ExitStack() as made:

        def mount(source: Path, **fields: Any) -> Path:
            point = lab.directory("mnt")
            fields = {"allow_other": True, "dev": True, "suid": True} | fields
            made.enter_context(xloop.mount(str(source), str(point), backend="devfuse", **fields))
            return point

        yield mount


Twins = Callable[..., Pair]


@pytest.fixture
def twins(show: Show) -> Iterator[Twins]:
    """Make two directories on a file system, show one of them, and return both as trees."""
    made: list[Tree] = []

    def pair(where: Path, **fields: Any) -> Pair:
        top = Path(tempfile.mkdtemp(prefix="t-", dir=where))
        top.chmod(0o755)
        for name in ("source", "twin"):
            (top / name).mkdir()
            (top / name).chmod(0o755)
        shown = show(top / "source", **fields)
        made.extend([NativeTree(str(shown)), NativeTree(str(top / "twin"))])
        return Pair(*made[-2:])

    yield pair
    for tree in made:
        tree.shut()


@pytest.fixture
def changing(base: Path, pytestconfig: pytest.Config) -> Iterator[Callable[..., Changing]]:
    """Make a source and mount it, with fields of MountOptions."""
    state = registry.load("devfuse").probe()
    if not state.ok:
        if pytestconfig.getoption("--require-mount"):
            pytest.fail(f"--require-mount: devfuse: {state.why} ({state.fix})")
        pytest.skip(f"devfuse: {state.why}")
    with contextlib.ExitStack() as made:

        def mount(**fields: Any) -> Changing:
            top = Path(tempfile.mkdtemp(prefix="events-", dir=base))
            made.callback(shutil.rmtree, top, ignore_errors=True)
            return made.enter_context(Changing(top, **fields))

        yield mount
