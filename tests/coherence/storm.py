# SPDX-License-Identifier: MIT
"""Several processes that change a source and a mount of it at once, and the comparison of what both show.

Owns the changes, the looking meanwhile, and what is compared.  Not a test: see test_coherence.py.  As a program it
goes on for as long as one likes: ``python tests/coherence/storm.py SOURCE MOUNTPOINT SECONDS [SEED]``.

The names are few, so that the processes get in each other's way all the time.  The lookers are there to
have the kernel know as much as possible, what is not there included.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Storm", "believe", "differences", "flood", "storm", "view"]

DIRECTORIES = ("a", "b", "a/c", "b/d", "a/c/e")
NAMES = tuple("fghijk")
MAPPED = ("map0", "map1")

#: What may go wrong when others are faster.
_EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,  # a directory into itself
    errno.ELOOP,
    errno.ESTALE,
    errno.EBUSY,
    errno.ENXIO,
    errno.EACCES,  # modes are changed, too
    errno.EPERM,
    errno.EMLINK,
    errno.EXDEV,
    errno.EDEADLK,
    errno.ETXTBSY,
    # What mkdir has made may be something else when the kernel is told what it is.
    errno.EIO,
}


def _some(rng: random.Random) -> str:
    place = rng.choice(("", *DIRECTORIES))
    return os.path.join(place, rng.choice(NAMES))


def _place(rng: random.Random) -> str:
    return rng.choice((*DIRECTORIES, _some(rng)))


def _write(path: str, rng: random.Random, flags: int) -> None:
    fd = os.open(path, flags, 0o644)
    try:
        os.write(fd, rng.randbytes(rng.choice((1, 10, 5000))))
    finally:
        os.close(fd)


def _overwrite(path: str, rng: random.Random) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, rng.randbytes(4), rng.choice((0, 4096)))
    finally:
        os.close(fd)


def _map(rng: random.Random) -> None:
    # One of its own, that never gets shorter: what is beyond the end of a mapped file is a SIGBUS.
    fd = os.open(rng.choice(MAPPED), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.truncate(fd, 4096)
        with mmap.mmap(fd, 4096) as pages:
            pages[rng.randrange(4096)] = rng.randrange(256)
    finally:
        os.close(fd)


def _attribute(path: str, rng: random.Random) -> None:
    os.setxattr(path, "user.storm", rng.randbytes(3), follow_symlinks=False)


Act = Callable[[str, str, random.Random], object]

ACTS: tuple[tuple[int, Act], ...] = (
    (6, lambda a, b, r: _write(a, r, os.O_CREAT | os.O_WRONLY)),
    (4, lambda a, b, r: _write(a, r, os.O_CREAT | os.O_WRONLY | os.O_EXCL)),
    (3, lambda a, b, r: _write(a, r, os.O_WRONLY | os.O_APPEND)),
    (3, lambda a, b, r: _write(a, r, os.O_WRONLY | os.O_TRUNC)),
    (3, lambda a, b, r: _overwrite(a, r)),
    (5, lambda a, b, r: os.unlink(a)),
    (6, lambda a, b, r: os.rename(a, b)),
    (3, lambda a, b, r: os.link(a, b, follow_symlinks=False)),
    (2, lambda a, b, r: os.symlink("f", a)),
    (3, lambda a, b, r: os.mkdir(a)),
    (3, lambda a, b, r: os.rmdir(a)),
    (2, lambda a, b, r: os.chmod(a, r.choice((0o700, 0o744, 0o755)))),
    (2, lambda a, b, r: os.utime(a, ns=(1, r.randrange(10**18)), follow_symlinks=False)),
    (2, lambda a, b, r: os.truncate(a, r.choice((0, 1, 4096, 10000)))),
    (1, lambda a, b, r: _map(r)),
    (1, lambda a, b, r: _attribute(a, r)),
)


def _change(top: str, seed: int) -> None:
    os.chdir(top)
    rng = random.Random(seed)
    acts = [act for weight, act in ACTS for _ in range(weight)]
    while True:
        act = rng.choice(acts)
        # Directories move and vanish, too.
        one = _place(rng) if rng.random() < 0.15 else _some(rng)
        other = _place(rng) if rng.random() < 0.15 else _some(rng)
        try:
            act(one, other, rng)
        except OSError as exc:
            if exc.errno not in _EXPECTED:
                raise
        if rng.random() < 0.02:
            for directory in DIRECTORIES:
                with suppress(OSError):
                    os.mkdir(directory)
            time.sleep(rng.random() * 0.01)


def _look(top: str, seed: int) -> None:
    os.chdir(top)
    rng = random.Random(seed)
    held: list[tuple[int, mmap.mmap | None]] = []
    while True:
        path = _place(rng) if rng.random() < 0.3 else rng.choice((_some(rng), *MAPPED))
        try:
            st = os.lstat(path)
            if stat.S_ISDIR(st.st_mode):
                os.listdir(path)
                if rng.random() < 0.2:
                    for entry in os.scandir(path):
                        entry.stat(follow_symlinks=False)
            elif stat.S_ISREG(st.st_mode):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                os.read(fd, 20000)
                pages = None
                with suppress(OSError, ValueError):
                    pages = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
                held.append((fd, pages))
            elif stat.S_ISLNK(st.st_mode):
                os.readlink(path)
        except OSError as exc:
            if exc.errno not in _EXPECTED:
                raise
        while len(held) > 5:
            fd, pages = held.pop(0)
            if pages is not None:
                pages.close()
            os.close(fd)


class Storm:
    """*outside* processes that change the source, *inside* that change the mount, *lookers* there."""

    def __init__(
        self,
        source: Path,
        point: Path,
        *,
        seed: int,
        outside: int = 2,
        inside: int = 1,
        lookers: int = 2,
    ) -> None:
        self._source, self._point = str(source), str(point)
        what = [("change", self._source)] * outside + [("change", self._point)] * inside
        what += [("look", self._point)] * lookers
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, word, top, str(seed * 100 + number)],
                stdin=subprocess.DEVNULL,
            )
            for number, (word, top) in enumerate(what)
        ]

    def rage(self, seconds: float) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        self._signal(signal.SIGSTOP)
        for process in self._processes:
            # Stopped are those that are stopped, not those that were told to.
            while _state(process.pid) not in "TtZ":
                time.sleep(0.001)
            assert process.poll() is None, "a process of the storm has failed"

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(30)


def flood(
    source: Path, server: int, seed: int, *, last: Callable[[], object] = lambda: None
) -> None:
    """Change more than the system keeps for a *server* that does not read it: it is stopped meanwhile.

    And then do *last*, which goes unheard.
    """
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    try:
        limit = max(limit, int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text()))
    except OSError:
        pass  # a kernel before 5.13, whose limit is the same for all
    rng = random.Random(seed)
    os.kill(server, signal.SIGSTOP)
    try:
        while _state(server) not in "Tt":
            time.sleep(0.001)
        for number in range(limit + 100):
            path = source / f"flood{number}"
            path.touch()
            path.unlink()
        for _ in range(50):  # and these are the ones that went unheard
            with suppress(OSError):
                os.rename(source / _some(rng), source / _some(rng))
            with suppress(OSError):
                _write(str(source / _some(rng)), rng, os.O_CREAT | os.O_WRONLY)
            with suppress(OSError):
                os.unlink(source / _some(rng))
        last()
    finally:
        os.kill(server, signal.SIGCONT)


@contextmanager
def storm(source: Path, point: Path, **what: int) -> Iterator[Storm]:
    raging = Storm(source, point, **what)
    try:
        yield raging
    finally:
        raging.end()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _shown(path: str, numbers: bool) -> tuple[object, ...]:
    st = os.lstat(path)
    what = (
        st.st_mode,
        st.st_ino if numbers else 0,
        st.st_nlink,
        st.st_uid,
        st.st_gid,
        st.st_mtime_ns,
        st.st_ctime_ns,
    )
    if stat.S_ISLNK(st.st_mode):
        return (*what, os.readlink(path))
    if not stat.S_ISREG(st.st_mode):
        return what
    with open(path, "rb") as file:
        return (*what, st.st_size, file.read())


def view(top: str | Path, *, numbers: bool = True) -> dict[str, object]:
    """Return what *top* shows: attributes, contents, listings, and which of all the names are not there.

    *numbers*: inode numbers, too.  A mount shows others of what lies on further devices.
    """
    found: dict[str, object] = {}

    def walk(path: str) -> None:
        listed = sorted(os.listdir(os.path.join(top, path)))
        found[path + "/"] = listed
        for name in sorted({*listed, *NAMES, "a", "b", "c", "d", "e"}):
            below = os.path.join(path, name)
            # What a change turns up in the middle of a walk may be gone at the next step.
            try:
                found[below] = shown = _shown(os.path.join(top, below), numbers)
                if stat.S_ISDIR(int(str(shown[0]))):
                    walk(below)
            except OSError as exc:
                found[below] = errno.errorcode[exc.errno or 0]

    found[""] = _shown(str(top), numbers)
    walk("")
    return found


def differences(source: str | Path, point: str | Path, *, numbers: bool = True) -> list[str]:
    """Return where the two differ, in words."""
    there, here = view(source, numbers=numbers), view(point, numbers=numbers)
    return [
        f"{path!r}: {_brief(there.get(path))} on the source, {_brief(here.get(path))} on the mount"
        for path in sorted({*there, *here})
        if there.get(path) != here.get(path)
    ]


def believe(point: str | Path) -> None:
    """Have the kernel know the attributes of all that *point* shows.

    Once more, after :func:`differences`: that has read the files, and so their times of access are to be asked for, with
    which comes all the rest.  Nothing would be stale then, whatever is told.
    """
    for directory, _, files in os.walk(point):
        os.lstat(directory)
        for name in files:
            os.lstat(os.path.join(directory, name))


def _brief(shown: object) -> str:
    if isinstance(shown, tuple):
        return str(tuple(hash(x) if isinstance(x, bytes) else x for x in shown))
    return str(shown)


def main() -> None:
    """Be one process of a storm, or all of it."""
    word, *rest = sys.argv[1:]
    if word == "change":
        _change(rest[0], int(rest[1]))
    elif word == "look":
        _look(rest[0], int(rest[1]))
    else:
        source, point, seconds = Path(word), Path(rest[0]), float(rest[1])
        seed = int(rest[2]) if len(rest) > 2 else random.randrange(10**6)
        print("seed", seed)
        for directory in DIRECTORIES:
            (source / directory).mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + seconds
        rounds = worst = 0.0
        server = int(os.environ.get("SERVER", "0"))
        rng = random.Random(seed)
        with storm(source, point, seed=seed) as raging:
            while time.monotonic() < end:
                raging.rage(rng.random() * 0.5)
                if server and rounds % 10 == 9:
                    flood(source, server, seed + int(rounds))
                begun = time.monotonic()
                wrong = differences(source, point)
                first = wrong
                while wrong and time.monotonic() < begun + 10:
                    time.sleep(0.005)
                    wrong = differences(source, point)
                took = time.monotonic() - begun
                rounds += 1
                if first:
                    worst = max(worst, took)
                    print(
                        f"round {rounds:.0f}: {len(first)} differences, right after {took:.3f} s",
                        first[:2] if took > 0.5 else "",
                    )
                if wrong:
                    print("\n".join(wrong))
                    sys.exit(1)
        print(f"{rounds:.0f} rounds, the worst right after {worst:.3f} s")


if __name__ == "__main__":
    main()
