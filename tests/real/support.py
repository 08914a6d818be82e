# SPDX-License-Identifier: MIT
"""What the real-program tests share: running programs, and comparing two trees attribute by attribute.

Owns no test and no mount.  Programs run in a clean environment, so that the settings of whoever runs
the tests (a global gitconfig, a pip.conf) decide nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

#: Not a measure of anything: after this long a program hangs, and the test says which.
HANG = 3000.0

ROOT = os.geteuid() == 0

Arg = str | bytes | Path


class Finished(NamedTuple):
    """What a program left behind."""

    out: bytes
    err: bytes
    status: int


def need(*programs: str) -> None:
    """Skip the calling test unless all *programs* are installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program!r}: see the list in tests/real/conftest.py")


def need_root(why: str) -> None:
    """Skip the calling test unless it is run by root."""
    if not ROOT:
        pytest.skip(f"needs root: {why}")


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment in which no personal setting is left."""
    # The session is how tests/conftest.py finds processes that are left behind.
    kept = ("PATH", "TMPDIR", "PYTHONPATH", "XDG_RUNTIME_DIR", "XLOOP_TEST_SESSION", "CC")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return env | {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC"} | more


def run(
    *command: Arg,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    status: Iterable[int] = (0,),
) -> Finished:
    """Run *command* to its end; fail, showing what it said, unless it ends with one of *status*."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() if env is None else env,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        timeout=HANG,
    )
    if done.returncode not in set(status):
        shown = " ".join(os.fsdecode(part) for part in command)
        said = (done.stdout[-4000:] + done.stderr[-4000:]).decode(errors="replace")
        pytest.fail(f"{shown}\nended with {done.returncode}:\n{said}")
    return Finished(done.stdout, done.stderr, done.returncode)


def run_together(commands: Sequence[Sequence[Arg]], **kwargs: object) -> list[Finished]:
    """Run all *commands* at the same time and return what they left; fail as run() does."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(commands)) as pool:
        futures = [pool.submit(run, *command, **kwargs) for command in commands]  # type: ignore[arg-type]
        return [future.result() for future in futures]


def python_script(text: str) -> list[Arg]:
    """Return the command that runs *text* in another Python, which cannot hang this one."""
    return [sys.executable, "-c", text]


def wait_until(true: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until *true* returns True; fail with *what* if it never does."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"still not so after {seconds:.0f} s: {what}")
        time.sleep(0.02)


# -- trees --------------------------------------------------------------------------------


class Facts(NamedTuple):
    """All that a program can learn of one name without its access time."""

    mode: str
    uid: int
    gid: int
    nlink: int
    size: int | None  #: None for a directory: a file system's own business
    mtime_ns: int
    rdev: int
    data: str  #: hash of the contents, or the text of a symbolic link
    holes: int | None  #: bytes in holes, where asked for
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: str  #: the first name, in order, of the same inode


Tree = dict[bytes, Facts]


def walk(top: Path) -> Iterator[bytes]:
    """Yield the path of each name below *top*, relative to it, in order, and '.' for itself."""
    yield b"."
    base = os.fsencode(top)
    for directory, dirs, files in os.walk(base, onerror=_raise):
        dirs.sort()
        for name in sorted(dirs + files):
            yield os.path.relpath(os.path.join(directory, name), base)


def _raise(error: OSError) -> None:
    raise error


def read_tree(top: Path, *, holes: bool = False) -> Tree:
    """Return the facts of everything below *top*."""
    first: dict[tuple[int, int], str] = {}
    tree: Tree = {}
    for name in sorted(walk(top)):
        path = os.path.join(os.fsencode(top), name)
        st = os.lstat(path)
        same_as = first.setdefault((st.st_dev, st.st_ino), os.fsdecode(name))
        tree[name] = Facts(
            mode=f"{st.st_mode:o}",
            uid=st.st_uid,
            gid=st.st_gid,
            nlink=0 if stat.S_ISDIR(st.st_mode) else st.st_nlink,
            size=None if stat.S_ISDIR(st.st_mode) else st.st_size,
            mtime_ns=st.st_mtime_ns,
            rdev=st.st_rdev,
            data=_data(path, st),
            holes=_holes(path, st) if holes else None,
            xattrs=_xattrs(path),
            same_as=same_as,
        )
    return tree


def _data(path: bytes, st: os.stat_result) -> str:
    if stat.S_ISLNK(st.st_mode):
        return os.fsdecode(os.readlink(path))
    if not stat.S_ISREG(st.st_mode):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holes(path: bytes, st: os.stat_result) -> int:
    if not stat.S_ISREG(st.st_mode):
        return 0
    total = at = 0
    with open(path, "rb", buffering=0) as file:
        while at < st.st_size:
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            try:
                at = os.lseek(file.fileno(), hole, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                at = st.st_size
            total += at - hole
    return total


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def differences(expected: Tree, found: Tree) -> list[str]:
    """Say in what *found* differs from *expected*, a line each."""
    lines = [f"missing: {os.fsdecode(name)!r}" for name in expected.keys() - found.keys()]
    lines += [f"unexpected: {os.fsdecode(name)!r}" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        for field, want, got in zip(Facts._fields, expected[name], found[name], strict=True):
            if want != got:
                lines.append(f"{os.fsdecode(name)!r}: {field} is {got!r}, not {want!r}")
    return sorted(lines)


def assert_same_tree(expected: Tree, found: Tree) -> None:
    """Fail with the first differences between two trees."""
    lines = differences(expected, found)
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:40])
