# SPDX-License-Identifier: MIT
"""How many requests things cost: counted by the server, and the table in docs/performance.md.

A request is two switches of context and some work of the interpreter; what the kernel does not ask
costs nothing.  So the numbers are exact where a time is noisy: if one of them rises, this fails.
If it is meant to, run this file with --write-requests and commit the document.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sources.served import Served

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: the table is of mounts by root")
DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- requests: begin -->\n", "<!-- requests: end -->\n"

COUNT = 20
#: What nobody waits for: when and in how many messages it comes is the kernel's to choose.
UNCOUNTED = {"FORGET", "BATCH_FORGET", "RELEASE", "RELEASEDIR", "INTERRUPT"}


def _create(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _opened(flags: int, use: Callable[[int], object] = lambda fd: None) -> Callable[[str], None]:
    def call(path: str) -> None:
        fd = os.open(path, flags)
        use(fd)
        os.close(fd)

    return call


def _list(path: str) -> None:
    with os.scandir(os.path.dirname(path)) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


#: What is done to each of the files, in this order; True: once for all of them.
OPERATIONS: dict[str, tuple[Callable[[str], object], bool]] = {
    "create, close": (_create, False),
    "stat": (os.stat, False),
    "stat of a missing name": (lambda path: os.path.exists(f"{path}.none"), False),
    "open, close": (_opened(os.O_RDONLY), False),
    "open, write 4 KiB, close": (
        _opened(os.O_WRONLY, lambda fd: os.write(fd, bytes(4096))),
        False,
    ),
    "open, read 4 KiB, close": (_opened(os.O_RDONLY, lambda fd: os.read(fd, 4096)), False),
    "chmod": (lambda path: os.chmod(path, 0o640), False),
    "list and stat all, an entry": (_list, True),
    "rename": (lambda path: os.rename(path, f"{path}.new"), False),
    "unlink": (lambda path: os.unlink(f"{path}.new"), False),
    "mkdir": (os.mkdir, False),
    "rmdir": (os.rmdir, False),
    "symlink": (lambda path: os.symlink("target", path), False),
    "readlink": (os.readlink, False),
}


def _counted(served: Served, call: Callable[[], object], share: int) -> dict[str, float]:
    before = served.status()["requests"]
    call()
    after = served.status()["requests"]
    return {
        name: (after[name] - before.get(name, 0)) / share
        for name in sorted(after)
        if name not in UNCOUNTED and after[name] != before.get(name, 0)
    }


def _measured(served: Served) -> dict[str, dict[str, float]]:
    top = served.point / "d"
    top.mkdir()
    paths = [str(top / f"f{number}") for number in range(COUNT)]
    found = {}
    for name, (do, once) in OPERATIONS.items():
        chosen = paths[:1] if once else paths
        os.stat(top)  # the directories on the way are known, whatever was done last

        def call() -> None:
            for path in chosen:
                do(path)

        found[name] = _counted(served, call, COUNT)
    return found


def _shown(requests: dict[str, float]) -> str:
    words = []
    for name, number in requests.items():
        times = round(number)
        if times:
            words.append(name if times == 1 else f"{times} {name}")
    return ", ".join(words) or "none"


@pytest.fixture
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []
    work = tmp_path_factory.mktemp("requests")

    def serve(**fields: object) -> Served:
        source, point = work / f"source{len(made)}", work / f"mnt{len(made)}"
        source.mkdir()
        point.mkdir()
        made.append(Served(source, point, **fields))
        return made[-1]

    yield serve
    for one in made:
        assert one.end() == 0


@needs_root
def test_requests_are_what_the_document_says(
    served: Callable[..., Served], pytestconfig: pytest.Config
) -> None:
    long = {"entry_timeout": 60.0, "attr_timeout": 60.0}
    alone = _measured(served(**long))
    shared = _measured(served(allow_other=True, **long))
    apart = _measured(served(passthrough=False, **long))
    lines = [
        "| | root's own mount | with `allow_other` | without passthrough |",
        "|---|---|---|---|",
    ]
    for name in OPERATIONS:
        columns = (_shown(found[name]) for found in (alone, shared, apart))
        lines.append(f"| {name} | {' | '.join(columns)} |")
    table = "\n".join(lines) + "\n"
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    said, _, after = rest.partition(END)
    if pytestconfig.getoption("--write-requests"):
        DOCUMENT.write_text(before + BEGIN + table + END + after)
        return
    assert said == table


def _work(served: Served, command: str) -> int:
    """Return how many requests a shell command costs that works in the mount."""
    counts = _counted(
        served,
        lambda: subprocess.run(["sh", "-ec", command], cwd=served.point, check=True),
        1,
    )
    return int(sum(counts.values()))


@needs_root
def test_what_real_programs_cost_for_each_file(served: Callable[..., Served]) -> None:
    """Bounds, not exact numbers: what tar and rm ask differs from one version to the next."""
    one = served()
    _work(
        one, "mkdir t && for n in $(seq 100); do echo $n >t/$n; done && tar -cf t.tar t && rm -r t"
    )
    # LOOKUP, CREATE, FLUSH, one SETATTR each for times, owner and mode, and whether a write and a chown
    # have a file capability to clear.
    assert _work(one, "tar -xf t.tar") <= 100 * 8 + 30
    # Whether each has an ACL and a label; its attributes came with the listing.
    assert _work(one, "ls -l t >/dev/null") <= 100 * 2 + 30
    assert _work(one, "rm -r t") <= 100 * 1 + 30


def test_every_close_is_asked_for_once_record_locks_are_used(
    served: Callable[..., Served],
) -> None:
    """They go with the first descriptor that their process closes, and nothing else tells of that."""
    mount = served()
    path = mount.point / "f"
    path.write_bytes(b"data")

    def closing() -> dict[str, float]:
        return _counted(mount, lambda: _opened(os.O_RDONLY)(str(path)), 1)

    assert "FLUSH" not in closing()
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # goes with the open file, whoever closes what
        assert "FLUSH" not in closing()
        fcntl.lockf(file, fcntl.LOCK_EX)
    assert closing()["FLUSH"] == 1


@needs_root
def test_a_lock_through_what_was_open_before_goes_with_the_last_duplicate(
    served: Callable[..., Served],
) -> None:
    mount = served()
    source = mount.point.parent / mount.point.name.replace("mnt", "source") / "f"
    path = mount.point / "f"
    path.write_bytes(b"data")
    first = os.open(path, os.O_RDWR)
    second = os.dup(first)
    fcntl.lockf(first, fcntl.LOCK_EX)
    os.close(second)

    def is_free() -> bool:
        with open(source, "r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    free = is_free()
    os.close(first)
    assert not free  # natively it would have been
    deadline = time.monotonic() + 30
    while not is_free():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _reads(served: Served, path: str) -> int:
    before = served.reads()
    _opened(os.O_RDONLY, lambda fd: os.read(fd, 4096))(path)
    return served.reads() - before


@pytest.fixture
def one_file(base: Path, served: Callable[..., Served]) -> tuple[Served, Path, str]:
    """A mount without passthrough, a file in its source that was left alone for a while, and in it."""
    fields = {"passthrough": False} if ROOT else {}
    mount = served(**fields)
    source = mount.point.parent / mount.point.name.replace("mnt", "source") / "f"
    source.write_bytes(bytes(4096))
    time.sleep(0.05)
    return mount, source, str(mount.point / "f")


def test_what_is_unchanged_is_read_once(one_file: tuple[Served, Path, str]) -> None:
    mount, source, path = one_file
    if (
        subprocess.run(["stat", "-f", "-c", "%T", source.parent], capture_output=True).stdout
        == b"tmpfs\n"
    ):
        pytest.skip("tmpfs does not tell of writes to mappings: nothing is believed")
    assert _reads(mount, path) == 1
    assert [_reads(mount, path) for _ in range(5)] == [0] * 5
    source.write_bytes(b"changed" * 500)
    assert _reads(mount, path) == 1
    assert Path(path).read_bytes() == b"changed" * 500


def test_who_maps_a_file_for_writing_is_believed_nothing(
    one_file: tuple[Served, Path, str],
) -> None:
    """Later writes to a mapping move no time, and are seen by who opens the file all the same."""
    mount, source, path = one_file
    with open(source, "r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[0] = 1
        time.sleep(0.05)
        for value in (2, 3, 4):
            assert _reads(mount, path) == 1
            mapped[0] = value
            assert Path(path).read_bytes()[0] == value


def _listing(served: Served, path: str) -> tuple[dict[str, float], list[str]]:
    """Return what a listing of *path* with all attributes costs, and what it shows."""
    shown: list[str] = []

    def look() -> None:
        with os.scandir(path) as entries:
            shown.extend(
                sorted(entry.name for entry in entries if entry.stat(follow_symlinks=False))
            )

    return _counted(served, look, 1), shown


def _left_alone(directory: Path) -> None:
    """A listing is kept of what has not changed for a while."""
    os.utime(directory, (1, 1))


def test_a_listing_that_is_believed_is_asked_for_once(served: Callable[..., Served]) -> None:
    mount = served(entry_timeout=60.0, attr_timeout=60.0)
    source = mount.point.parent / mount.point.name.replace("mnt", "source") / "d"
    source.mkdir()
    names = sorted(f"f{number}" for number in range(1000))
    for name in names:
        (source / name).touch()
    _left_alone(source)
    path = str(mount.point / "d")
    first, shown = _listing(mount, path)
    assert shown == names
    assert first["READDIRPLUS"] > 3
    again, shown = _listing(mount, path)
    assert shown == names
    assert "READDIR" not in again
    assert "READDIRPLUS" not in again
    assert "LOOKUP" not in again
    for change in (
        lambda: os.unlink(f"{path}/f0"),
        lambda: os.mkdir(f"{path}/new"),
        lambda: os.rename(f"{path}/f1", f"{path}/g1"),
        lambda: os.link(f"{path}/f2", f"{path}/g2"),
        lambda: os.rename(f"{path}/f3", f"{mount.point}/g3"),
    ):
        change()
        assert _listing(mount, path)[1] == sorted(os.listdir(source))


def test_a_listing_is_not_kept_longer_than_it_is_believed(served: Callable[..., Served]) -> None:
    mount = served(entry_timeout=0.2, attr_timeout=0.2)
    source = mount.point.parent / mount.point.name.replace("mnt", "source") / "d"
    source.mkdir()
    (source / "f").touch()
    _left_alone(source)
    path = str(mount.point / "d")
    assert _listing(mount, path)[1] == ["f"]
    times = os.stat(source)
    (source / "new").touch()
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # nothing tells of the change
    deadline = time.monotonic() + 30
    while _listing(mount, path)[1] != ["f", "new"]:
        assert time.monotonic() < deadline
