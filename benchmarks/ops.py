# SPDX-License-Identifier: MIT
"""What single operations cost natively, through xloop, and through bindfs where it is installed.

Owns the measurement and its table.  Asserts nothing.

    python benchmarks/ops.py [--rounds N] [--source DIR] [--only ROW] [--json] [-o OPTION[,...]]
                             [--peer 'NAME=PROGRAM {source} {mountpoint}']

Every round does every row on every subject, one subject right after the other and in an order that
turns, so that whatever else the machine does hits all alike; medians are shown.  The source is on
tmpfs, so that no disk is measured.  Rows are microseconds an operation (less is better) or MB/s
(more is better); a ratio is always "how many times worse than native".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from statistics import median

FILES = 500
BIG = 64 << 20
CHUNK = 1 << 20
PAGE = 4096
RANDOM_IOS = 2000

#: Does something below a directory and returns (seconds, how many operations or bytes).
Row = Callable[[str], tuple[float, float]]

_clock = time.perf_counter


def _each(top: str, use: Callable[[str], object]) -> tuple[float, float]:
    """Time *use* of the path of each of FILES files."""
    paths = [f"{top}/file{number}" for number in range(FILES)]
    start = _clock()
    for path in paths:
        use(path)
    return _clock() - start, FILES


def _opened(flags: int, use: Callable[[int], object]) -> Callable[[str], None]:
    def call(path: str) -> None:
        fd = os.open(path, flags)
        use(fd)
        os.close(fd)

    return call


def create_close(top: str) -> tuple[float, float]:
    return _each(top, lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)))


def stat_cached(top: str) -> tuple[float, float]:
    _each(top, os.stat)
    return _each(top, os.stat)


def stat_missing(top: str) -> tuple[float, float]:
    return _each(top, lambda path: os.path.exists(path + ".none"))


def open_close(top: str) -> tuple[float, float]:
    return _each(top, _opened(os.O_RDONLY, lambda fd: None))


def open_write4k_close(top: str) -> tuple[float, float]:
    data = b"x" * PAGE
    return _each(top, _opened(os.O_WRONLY, lambda fd: os.write(fd, data)))


def open_read4k_close(top: str) -> tuple[float, float]:
    return _each(top, _opened(os.O_RDONLY, lambda fd: os.read(fd, PAGE)))


def chmod(top: str) -> tuple[float, float]:
    return _each(top, lambda path: os.chmod(path, 0o640))


def scandir_stat(top: str) -> tuple[float, float]:
    """One operation is one entry."""
    start = _clock()
    with os.scandir(top) as entries:
        count = len([entry.stat(follow_symlinks=False) for entry in entries])
    return _clock() - start, count


def rename(top: str) -> tuple[float, float]:
    taken = _each(top, lambda path: os.rename(path, path + ".new"))
    _each(top, lambda path: os.rename(path + ".new", path))
    return taken


def unlink(top: str) -> tuple[float, float]:
    return _each(top, os.unlink)


def sequential_write(top: str) -> tuple[float, float]:
    data = os.urandom(CHUNK)
    start = _clock()
    with open(f"{top}/big", "wb", buffering=0) as file:
        for _ in range(BIG // CHUNK):
            file.write(data)
    return _clock() - start, BIG


def sequential_read(top: str) -> tuple[float, float]:
    buffer = bytearray(CHUNK)
    start = _clock()
    with open(f"{top}/big", "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return _clock() - start, BIG


def _offsets() -> list[int]:
    rng = Random(1)
    return [rng.randrange(BIG // PAGE) * PAGE for _ in range(RANDOM_IOS)]


def random_read(top: str) -> tuple[float, float]:
    fd = os.open(f"{top}/big", os.O_RDONLY)
    offsets = _offsets()
    start = _clock()
    for offset in offsets:
        os.pread(fd, PAGE, offset)
    taken = _clock() - start
    os.close(fd)
    return taken, PAGE * len(offsets)


def random_write(top: str) -> tuple[float, float]:
    fd = os.open(f"{top}/big", os.O_WRONLY)
    offsets, data = _offsets(), b"y" * PAGE
    start = _clock()
    for offset in offsets:
        os.pwrite(fd, data, offset)
    taken = _clock() - start
    os.close(fd)
    return taken, PAGE * len(offsets)


#: In the order in which they are done: each finds what the ones before it have left.
ROWS: dict[str, Row] = {
    "create+close": create_close,
    "stat, cached": stat_cached,
    "stat, missing": stat_missing,
    "open+close": open_close,
    "open+write 4k+close": open_write4k_close,
    "open+read 4k+close": open_read4k_close,
    "chmod": chmod,
    "scandir+stat, an entry": scandir_stat,
    "rename": rename,
    "unlink": unlink,
    "sequential write, MB/s": sequential_write,
    "sequential read, MB/s": sequential_read,
    "random read 4k, MB/s": random_read,
    "random write 4k, MB/s": random_write,
}


def is_rate(row: str) -> bool:
    return row.endswith("MB/s")


def value(row: str, seconds: float, amount: float) -> float:
    """Return microseconds an operation, or MB/s."""
    return amount / seconds / 1e6 if is_rate(row) else seconds / amount * 1e6


@contextmanager
def xloop(source: Path, mountpoint: Path, options: str) -> Iterator[None]:
    command = [sys.executable, "-m", "xloop"]
    given = ["-o", options] if options else []
    subprocess.run([*command, "mount", *given, source, mountpoint], check=True)
    try:
        yield
    finally:
        subprocess.run([*command, "umount", mountpoint], check=True)


@contextmanager
def peer(command: str, source: Path, mountpoint: Path) -> Iterator[None]:
    """Mount with another program, whether it stays in the foreground or goes to the background."""
    words = [word.format(source=source, mountpoint=mountpoint) for word in command.split()]
    before = os.stat(mountpoint).st_dev
    with subprocess.Popen(words) as process:
        while os.stat(mountpoint).st_dev == before:
            if process.poll():
                sys.exit(f"{' '.join(words)} ended with status {process.returncode}")
            time.sleep(0.01)
        try:
            yield
        finally:
            umount = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
            subprocess.run([*umount, mountpoint], check=True)


def measure(subjects: dict[str, Path], rows: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return the medians: by row, then by subject."""
    found: dict[str, dict[str, list[float]]] = {r: {s: [] for s in subjects} for r in rows}
    order = list(subjects)
    for number in range(rounds + 1):
        tops = {}
        for subject in order:
            tops[subject] = subjects[subject] / f"{subject}-{number}"
            tops[subject].mkdir()
        for row, do in ROWS.items():
            for subject in order:
                result = value(row, *do(str(tops[subject])))
                # The first round warms up; rows that are not wanted prepare those that are.
                if number and row in rows:
                    found[row][subject].append(result)
        for top in tops.values():
            shutil.rmtree(top)
        order.append(order.pop(0))
    return {row: {s: median(v) for s, v in by.items()} for row, by in found.items()}


def ratio(row: str, native: float, other: float) -> float:
    return native / other if is_rate(row) else other / native


def show(results: dict[str, dict[str, float]]) -> None:
    subjects = list(next(iter(results.values())))
    others = subjects[1:]
    heads = [*subjects, *(f"{name}:native" for name in others)]
    print(f"{'us, or MB/s':26}" + "".join(f"{head:>15}" for head in heads))  # noqa: T201
    for row, by in results.items():
        values = "".join(f"{by[name]:15.1f}" for name in subjects)
        ratios = "".join(f"{ratio(row, by['native'], by[name]):14.1f}x" for name in others)
        print(f"{row:26}{values}{ratios}")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--source", default="/dev/shm", help="where the files lie")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="may be repeated")
    parser.add_argument("-o", dest="options", default="", help="mount options for xloop")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another program to compare",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    place = tempfile.TemporaryDirectory(prefix="xloop-ops-", dir=arguments.source)
    with place as top, ExitStack() as stack:
        source = Path(top, "source")
        source.mkdir()
        subjects = {"native": source}
        peers = dict(given.split("=", 1) for given in arguments.peer)
        if shutil.which("bindfs"):
            peers["bindfs"] = "bindfs --multithreaded {source} {mountpoint}"
        for name in ("xloop", *peers):
            mountpoint = Path(top, name)
            mountpoint.mkdir()
            if name == "xloop":
                stack.enter_context(xloop(source, mountpoint, arguments.options))
            else:
                stack.enter_context(peer(peers[name], source, mountpoint))
            subjects[name] = mountpoint
        results = measure(subjects, arguments.only or list(ROWS), arguments.rounds)
    if arguments.json:
        print(json.dumps(results, indent=2))  # noqa: T201
    else:
        show(results)


if __name__ == "__main__":
    main()
