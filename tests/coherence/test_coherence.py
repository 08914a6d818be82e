# SPDX-License-Identifier: MIT
"""cache=coherent: what is warm asks nothing, and what others change shows all the same."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coherence.conftest import PATIENCE, Place, eventually
from coherence.storm import DIRECTORIES, believe, differences, flood, storm
from sources.served import Served

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
Places = Callable[..., Place]

#: The mounts of both kinds: data by way of the server, and past it where that can be had.
PASSTHROUGH = pytest.mark.parametrize("passthrough", [None, False], ids=["auto", "served"])


def warm(place: Place, *command: str) -> dict[str, int]:
    """Return the requests of a command that has been run three times before."""

    def run() -> None:
        done = subprocess.run(command, cwd=place.point, capture_output=True, check=True)
        assert done.stdout or command[0] == "git"

    for _ in range(3):
        run()
    return place.counted(run)


# -- what is warm -----------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_what_is_known_is_not_asked_for(place: Places, pytestconfig: pytest.Config) -> None:
    p = place()
    for number in range(pytestconfig.getoption("--coherence-files") // 50):
        directory = p.source / f"d{number}"
        directory.mkdir()
        for name in range(48):
            (directory / f"f{name}").touch()
        (directory / "link").symlink_to("f0")
    requests = warm(p, "find", ".", "-ls")
    requests.pop("STATFS", None)  # which is asked for once, and never kept
    assert requests == {}
    # Right after a change behind the mount it shows.
    (p.source / "d1" / "f1").write_text("more")
    (p.source / "d2" / "new").touch()
    (p.source / "d3" / "f3").unlink()
    os.rename(p.source / "d4", p.source / "moved")

    def listed(top: Path) -> list[bytes]:
        done = subprocess.run(["find", ".", "-ls"], cwd=top, capture_output=True, check=False)
        # Without blocks: a delayed allocation may be counted differently from one moment to the next.
        return sorted(b" ".join(line.split()[2:]) for line in done.stdout.splitlines())

    assert eventually(lambda: listed(p.point) == listed(p.source))
    requests = warm(p, "find", ".", "-ls")
    requests.pop("STATFS", None)
    assert requests == {}


@pytest.mark.skipif(
    not ROOT, reason="root alone is let in, and so no directory has to be asked about"
)
def test_what_find_asks_does_not_grow_with_the_tree(place: Places) -> None:
    """Entering its directory and coming back, and once for the type of the file system."""
    p = place(default_permissions=None)
    costs = []
    for number in range(30):
        (p.source / f"d{number}").mkdir()
        (p.source / f"d{number}" / "file").touch()
        if number in (1, 29):
            costs.append(warm(p, "find", ".", "-ls"))
    assert costs[0] == costs[1]
    assert costs[0].keys() <= {"STATFS", "ACCESS"}
    assert sum(costs[0].values()) <= 3


@pytest.mark.timeout(600)
def test_git_status_opens_its_own_files_and_asks_nothing_else(place: Places) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    p = place()
    for number in range(20):
        directory = p.source / f"d{number}"
        directory.mkdir()
        for name in range(20):
            (directory / f"f{name}").write_text(f"{number} {name}\n")
            # Older than the index: what may be younger git reads each time.
            os.utime(directory / f"f{name}", (10**9, 10**9))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "core.untrackedCache=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=p.source, check=True, capture_output=True)
    status = ["git", "--no-optional-locks", "status", "--porcelain"]
    requests = warm(p, *status)
    # What git opens is its own; the 400 files and 20 directories are not asked about.
    assert sum(requests.values()) < 100
    assert not {"LOOKUP", "READDIR", "READDIRPLUS", "OPENDIR", "READLINK"} & set(requests)
    (p.source / "d3" / "f3").write_text("changed\n")
    (p.source / "d4" / "new").touch()

    def told() -> bytes:
        return subprocess.run(status, cwd=p.point, capture_output=True, check=True).stdout

    assert eventually(lambda: told() == b" M d3/f3\n?? d4/new\n"), told()


def test_ones_own_changes_are_not_asked_for_again(place: Places) -> None:
    p = place()
    # In a directory of its own: of a name that the kernel does not know yet it is told by another name there.
    other = p.source / "elsewhere" / "other"
    other.parent.mkdir()
    shown = p.point / "elsewhere" / "other"
    assert eventually(shown.parent.exists)

    def make() -> None:
        for number in range(20):
            (p.point / f"f{number}").touch()

    def settled() -> None:
        # A change from outside that shows was told after all that came before.
        other.write_text("x")
        assert eventually(shown.exists)
        other.unlink()
        assert eventually(lambda: not shown.exists())

    settled()
    make()
    settled()
    requests = p.counted(lambda: [os.stat(p.point / f"f{n}") for n in range(20)])
    assert "LOOKUP" not in requests
    requests = p.counted(lambda: [os.stat(p.point / f"f{n}") for n in range(20)])
    assert requests == {}


# -- what others change -----------------------------------------------------------------


def exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            pytest.skip("the source cannot exchange names")
        raise OSError(number, os.strerror(number))


def replace(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_text("another file")
    os.rename(fresh, path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda top: (top / "file").write_text("longer than before"),
    "write as much": lambda top: (top / "file").write_text("CONTENT"),
    "append": lambda top: os.truncate(top / "file", 10_000),
    "truncate": lambda top: os.truncate(top / "file", 0),
    "chmod": lambda top: (top / "file").chmod(0o600),
    "chmod of a directory": lambda top: (top / "dir").chmod(0o711),
    "utime": lambda top: os.utime(top / "file", ns=(1, 1)),
    "create": lambda top: (top / "missing").touch(),
    "create below": lambda top: (top / "dir" / "missing").touch(),
    "mkdir": lambda top: (top / "missing").mkdir(),
    "symlink": lambda top: (top / "missing").symlink_to("file"),
    "mkfifo": lambda top: os.mkfifo(top / "missing"),
    "unlink": lambda top: (top / "file").unlink(),
    "rmdir": lambda top: (top / "empty").rmdir(),
    "rename": lambda top: (top / "file").rename(top / "missing"),
    "rename of a directory": lambda top: (top / "dir").rename(top / "missing"),
    "rename into a directory": lambda top: (top / "file").rename(top / "dir" / "missing"),
    "rename away and back": lambda top: (top / "file").rename(top / "x").rename(top / "file"),
    "replace": lambda top: replace(top / "file"),
    "replace a link": lambda top: [(top / "link").unlink(), (top / "link").symlink_to("dir")],
    "replace a file by a directory": lambda top: [(top / "file").unlink(), (top / "file").mkdir()],
    "exchange": lambda top: exchange(top / "file", top / "dir"),
    "link": lambda top: os.link(top / "file", top / "missing"),
    "link into a directory": lambda top: os.link(top / "file", top / "dir" / "missing"),
    "remove a tree": lambda top: shutil.rmtree(top / "dir"),
    "a listing whose time is set back": lambda top: [
        times := (top / "dir").stat(),
        (top / "dir" / "fresh").touch(),
        os.utime(top / "dir", ns=(times.st_atime_ns, times.st_mtime_ns)),
    ],
}


@PASSTHROUGH
def test_a_change_shows(place: Places, passthrough: bool | None) -> None:
    p = place(passthrough=passthrough)
    for name, change in CHANGES.items():
        top = p.source / name
        (top / "dir" / "below").mkdir(parents=True)
        (top / "dir" / "below" / "deep").write_text("deep")
        (top / "empty").mkdir()
        (top / "file").write_text("content")
        (top / "link").symlink_to("file")
        shown = p.point / name
        assert eventually(lambda: not differences(top, shown)), differences(top, shown)
        believe(shown)
        change(top)
        assert eventually(lambda: not differences(top, shown)), (name, differences(top, shown))


@pytest.mark.skipif(not ROOT, reason="only root watches more than single directories")
def test_a_change_by_another_name_shows(place: Places) -> None:
    p = place()
    (p.source / "a").mkdir()
    (p.source / "b").mkdir()
    (p.source / "a" / "file").write_text("content")
    os.link(p.source / "a" / "file", p.source / "b" / "other")
    assert (p.point / "a" / "file").read_text() == "content"
    assert os.stat(p.point / "a" / "file").st_nlink == 2
    (p.source / "b" / "other").write_text("new")
    assert eventually(lambda: (p.point / "a" / "file").read_text() == "new")
    (p.source / "b" / "other").unlink()
    assert eventually(lambda: os.stat(p.point / "a" / "file").st_nlink == 1)


@pytest.mark.skipif(ROOT, reason="root may search every directory")
def test_who_may_search_is_asked_when_it_changes(place: Places) -> None:
    p = place(default_permissions=None)
    (p.source / "dir").mkdir()
    (p.source / "dir" / "file").touch()
    os.stat(p.point / "dir" / "file")
    (p.source / "dir").chmod(0o600)

    def refused() -> bool:
        try:
            os.stat(p.point / "dir" / "file")
        except PermissionError:
            return True
        return False

    try:
        assert eventually(refused)
    finally:
        (p.source / "dir").chmod(0o700)


@PASSTHROUGH
def test_what_is_mapped_shows_what_is_written(place: Places, passthrough: bool | None) -> None:
    p = place(passthrough=passthrough)
    (p.source / "file").write_bytes(b"a" * 8192)
    with (
        open(p.point / "file", "rb") as file,
        mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ) as pages,
    ):
        assert pages[0] == pages[8191] == ord("a")
        with open(p.source / "file", "r+b") as there:
            there.write(b"b")
            there.flush()
            assert eventually(lambda: pages[0] == ord("b"))
            # And what no event tells of, as the file is not closed.
            with mmap.mmap(there.fileno(), 8192) as written:
                written[8191] = ord("c")
                written.flush()
                if _moves_times(p.source):
                    assert eventually(lambda: pages[8191] == ord("c"))
        assert eventually(lambda: pages[8191] == ord("c"))


def _moves_times(directory: Path) -> bool:
    from xloop.host import linux

    fd = os.open(directory, os.O_PATH)
    try:
        return linux.notes_mapped_writes(fd)
    finally:
        os.close(fd)


def test_what_was_removed_is_seen_by_who_has_it_open(place: Places) -> None:
    p = place()
    (p.source / "file").write_text("content")
    with open(p.point / "file") as file:
        assert os.fstat(file.fileno()).st_nlink == 1
        (p.source / "file").unlink()
        assert eventually(lambda: os.fstat(file.fileno()).st_nlink == 0)
        assert file.read() == "content"


def test_a_process_keeps_its_directory(place: Places) -> None:
    """What did not change is not dropped: that would leave who is there without a path."""
    p = place()
    (p.source / "dir").mkdir()
    shell = subprocess.Popen(
        ["sh", "-c", "while read line; do /bin/pwd; done"],
        cwd=p.point / "dir",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        (p.source / "dir").rename(p.source / "away")
        (p.source / "away").rename(p.source / "dir")
        (p.source / "dir" / "file").touch()
        assert eventually(lambda: (p.point / "dir" / "file").exists())
        flood(p.source, p.pid, 1)
        assert eventually(lambda: p.status()["cache"]["everything dropped"] > 0)
        os.stat(p.point / "dir")
        shell.stdin.write("\n")
        assert shell.stdout.readline() == f"{p.point}/dir\n"
    finally:
        shell.stdin.close()
        shell.wait(PATIENCE)
        shell.stdout.close()


@pytest.mark.skipif(not ROOT, reason="only root may mount there")
def test_what_is_mounted_over_a_directory_shows(place: Places) -> None:
    p = place()
    (p.source / "dir").mkdir()
    (p.source / "dir" / "below").touch()
    assert os.listdir(p.point / "dir") == ["below"]
    subprocess.run(["mount", "-t", "tmpfs", "none", p.source / "dir"], check=True)
    try:
        assert eventually(lambda: os.listdir(p.point / "dir") == [])
        (p.source / "dir" / "on top").touch()
        assert eventually(lambda: os.listdir(p.point / "dir") == ["on top"])
        os.stat(p.point / "dir" / "on top")
        (p.source / "dir" / "on top").unlink()
        assert eventually(lambda: not (p.point / "dir" / "on top").exists())
    finally:
        subprocess.run(["umount", "-l", p.source / "dir"], check=True)
    assert eventually(lambda: os.listdir(p.point / "dir") == ["below"])


# -- all at once ------------------------------------------------------------------------


@PASSTHROUGH
@pytest.mark.timeout(3600)
def test_after_a_storm_both_show_the_same(
    place: Places, passthrough: bool | None, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--storm-seed")
    if seed is None:
        seed = random.randrange(10**6)
    print("seed", seed)  # shown with a failure
    # The default lifetimes: some replies are not watched, and say so by those.
    p = place(passthrough=passthrough, attr_timeout=1.0, entry_timeout=1.0, negative_timeout=0.0)
    for directory in DIRECTORIES:
        (p.source / directory).mkdir(parents=True)
    rng = random.Random(seed)
    with storm(p.source, p.point, seed=seed) as raging:
        for number in range(pytestconfig.getoption("--storm-rounds")):
            raging.rage(rng.random() * 0.5)
            if number % 4 == 2:
                before = p.status()["cache"]["overflows"]
                flood(p.source, p.pid, seed + number)
                assert eventually(lambda: p.status()["cache"]["overflows"] > before)
            assert eventually(lambda: not differences(p.source, p.point)), differences(
                p.source, p.point
            )
            assert p.status()["cache"]["lost"] == ""


# -- where it cannot be had -------------------------------------------------------------


def test_what_cannot_be_watched_is_refused(place: Places, tmp_path: Path) -> None:
    p = place()
    point = tmp_path / "on top"
    point.mkdir()
    from xloop import mount
    from xloop.errors import MountError

    with pytest.raises(MountError, match="cache=coherent is not to be had: its file system"):
        mount(p.point, point, cache="coherent")
    assert not os.path.ismount(point)
    with Served(p.point, point, cache="auto") as there:
        told = there.status()["cache"]
    assert told["mode"] == "timeout"
    assert "may change without this kernel being told" in told["not coherent"]


def test_without_a_cache_everything_is_asked_for(tmp_path: Path, base: Path) -> None:
    source, point = tmp_path / "source", tmp_path / "mnt"
    source.mkdir()
    point.mkdir()
    (source / "file").touch()
    from xloop import mount

    with mount(source, point, cache="none", attr_timeout=3600.0, entry_timeout=3600.0):
        os.stat(point / "file")
        (source / "file").chmod(0o600)
        assert stat.S_IMODE(os.stat(point / "file").st_mode) == 0o600
        (source / "file").unlink()
        assert not (point / "file").exists()
