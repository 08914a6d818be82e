# SPDX-License-Identifier: MIT
"""Nothing is left: no descriptor and no node after work, no mount, process or thread after the end."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from elsewhere import holders  # tests/plugins: tests/conftest.py has put that into the path

import xloop
from real.conftest import force_unmount, mounts_below
from real.support import clean_environment, need_root, python_script, run, wait_until
from xloop.types import ROOT_INO, Caller, Entry

#: A server that tells, as the file counts of statvfs, how many nodes and handles it knows.
SERVER = """
import faulthandler, signal, sys, xloop
faulthandler.register(signal.SIGUSR2)
class Counting(xloop.Loopback):
    def statfs(self, caller, ino):
        handles = len(list(self.handles.values()))
        return super().statfs(caller, ino)._replace(files=len(self.nodes), ffree=handles)
ready = lambda: print("ready", flush=True)
xloop.serve(Counting(sys.argv[1]), sys.argv[2], backend=sys.argv[3], ready=ready)
"""


class Held(NamedTuple):
    """What a server holds."""

    nodes: int
    handles: int
    descriptors: int
    threads: int


#: Over these libraries a path leads to a node for the time of one call.  What the kernel remembers, the
#: library has in a table of its own (tests/libfuse looks at what the backend keeps beside it).
BY_PATH = ("libfuse", "libfuse3", "libfuse2", "refuse")


class Counted(NamedTuple):
    """A mount whose server can be counted."""

    source: Path
    mnt: Path
    pid: int
    by_path: bool

    def held(self) -> Held:
        counts = os.statvfs(self.mnt)
        # Each thread has a descriptor of the device, and their number changes with the load.
        descriptors = [target for target in targets(self.pid) if target != "/dev/fuse"]
        threads = len(os.listdir(f"/proc/{self.pid}/task"))
        return Held(counts.f_files, counts.f_ffree, len(descriptors), threads)


@pytest.fixture
def counted(work: Path, subject: str) -> Iterator[Counted]:
    if subject == "native":
        pytest.skip("a directory without a mount has no server that could leak")
    source, mnt = work / "source", work / "mnt"
    source.mkdir()
    mnt.mkdir()
    server = subprocess.Popen(
        [*python_script(SERVER), source, mnt, subject],
        stdout=subprocess.PIPE,
        env=clean_environment(),
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    yield Counted(source, mnt, server.pid, subject in BY_PATH)
    server.terminate()
    try:
        assert server.wait(20) == 0
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGUSR2)  # it says on stderr where its threads are
        time.sleep(1)
        still, others = mounts_below(work), holders(work)
        server.kill()
        server.wait()
        if others and not still:
            pytest.skip(f"the mount namespaces of {others} have copies of the mount")
        pytest.fail(f"the server does not end, mounted is {still}")
    finally:
        server.stdout.close()
    assert mounts_below(work) == []


def make_tree(top: Path, directories: int = 12, files: int = 12) -> None:
    for number in range(directories):
        directory = top / f"d{number}" / "e"
        directory.mkdir(parents=True)
        for name in range(files):
            (directory / f"f{name}").write_bytes(b"data")


def work_hard(top: Path) -> None:
    """Do some of everything, and close everything that was opened."""
    make_tree(top)
    for directory, dirs, files in os.walk(top):
        for name in files:
            os.stat(os.path.join(directory, name))
        with os.scandir(directory) as entries:
            assert len(list(entries)) == len(dirs) + len(files)
    open_and_map(top / "d1" / "e" / "f1")
    os.rename(top / "d0", top / "moved")
    os.rename(top / "d2" / "e" / "f1", top / "d3" / "e" / "f2")
    os.link(top / "d4" / "e" / "f1", top / "linked")
    os.symlink("linked", top / "symlink")
    assert os.readlink(top / "symlink") == "linked"
    os.unlink(top / "d5" / "e" / "f3")
    run("rm", "-r", top / "d6" / "e", top / "d7")
    with open(top / "d8" / "e" / "f4", "r+b") as file:
        os.unlink(file.name)
        file.write(b"nameless")
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 0
    for bad in ("none", "d1/none", "linked/x"):
        with pytest.raises(OSError, match=bad):
            os.stat(top / bad)
    with pytest.raises(FileExistsError):
        os.mkdir(top / "d1")


def open_and_map(path: Path) -> None:
    fds = [os.open(path, os.O_RDWR) for _ in range(40)]
    os.write(fds[0], b"x" * 5000)
    with mmap.mmap(fds[1], 0) as mapped:
        mapped[0] = ord("y")
    for fd in fds:
        os.close(fd)


def targets(pid: int) -> list[str]:
    """Return what the descriptors of a process are open on."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return sorted(found)


def settles(counted: Counted, base: Held, before: Callable[[], object] = lambda: None) -> None:
    """Wait until the server holds no more than at first; releasing and forgetting take their time."""

    def settled() -> bool:
        before()
        # Fewer descriptors: at first one was open for a moment.
        return all(now <= then for now, then in zip(counted.held()[:3], base[:3], strict=True))

    try:
        wait_until(settled, "the server holds what it held at first")
    except pytest.fail.Exception:
        now = f"at first the server held {base}, now it holds {counted.held()}"
        pytest.fail("\n  ".join([now, *targets(counted.pid)]))


def kernel_remembers(counted: Counted, base: Held) -> None:
    """Check that nodes are known because the kernel remembers names, and only where that is the reason."""
    if counted.by_path:
        settles(counted, base)
    else:
        assert counted.held().nodes > 100


def drop_caches() -> None:
    """Let the kernel forget every node that nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2")


def test_nothing_is_held_once_everything_is_removed(counted: Counted) -> None:
    base = counted.held()
    assert base.nodes == 1
    for _ in range(2):
        work_hard(counted.mnt)
        kernel_remembers(counted, base)
        run("find", counted.mnt, "-mindepth", "1", "-delete")
        settles(counted, base)


def test_nothing_is_held_once_the_kernel_has_dropped_its_caches(counted: Counted) -> None:
    need_root("/proc/sys/vm/drop_caches")
    base = counted.held()
    work_hard(counted.mnt)
    kernel_remembers(counted, base)
    settles(counted, base, drop_caches)
    names = sorted(os.listdir(counted.source))
    assert sorted(os.listdir(counted.mnt)) == names, "what was forgotten is found again"
    settles(counted, base, drop_caches)


def test_nothing_is_held_for_removals_behind_the_mount(counted: Counted) -> None:
    need_root("/proc/sys/vm/drop_caches")
    base = counted.held()
    make_tree(counted.mnt)
    run("find", counted.mnt, "-ls")
    run("find", counted.source, "-mindepth", "1", "-delete")
    run("find", counted.mnt, "-ls", status=(0, 1))
    settles(counted, base, drop_caches)


def test_a_killed_program_leaves_nothing_open(counted: Counted) -> None:
    base = counted.held()
    script = """
import fcntl, os, sys, time
top = sys.argv[1]
held = [open(f"{top}/{n}", "w+b") for n in range(20)]
for n, f in enumerate(held):
    (fcntl.flock if n % 2 else fcntl.lockf)(f, fcntl.LOCK_EX)
os.unlink(f"{top}/3")
listing = os.open(top, os.O_RDONLY)
os.listdir(listing)
print("ready", flush=True)
time.sleep(1000)
"""
    command = [*python_script(script), counted.mnt]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        assert counted.held().handles >= 21
        client.kill()
    run("flock", "-n", counted.mnt / "1", "true")
    run("find", counted.mnt, "-mindepth", "1", "-delete")
    settles(counted, base)


def test_programs_killed_while_they_wait_for_a_lock_leave_nothing(counted: Counted) -> None:
    base = counted.held()
    locked = counted.mnt / "locked"
    locked.touch()
    with open(counted.source / "locked", "rb") as holder:
        import fcntl

        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting = [subprocess.Popen(["flock", locked, "true"]) for _ in range(12)]
        wait_until(lambda: counted.held().handles == 12, "all have opened the file")
        os.stat(locked)  # the mount answers while they wait
        for process in waiting:
            process.kill()
        for process in waiting:
            process.wait(20)
    wait_until(lambda: counted.held().handles == 0, "no file is open any more")
    run("flock", "-n", locked, "true")
    locked.unlink()
    settles(counted, base)


def test_threads_do_not_pile_up(counted: Counted) -> None:
    """Twice the same work leaves as many threads as once."""
    make_tree(counted.mnt)

    def read_all() -> None:
        threads = [
            threading.Thread(
                target=run, args=("grep", "-r", "nothing", counted.mnt), kwargs={"status": (1,)}
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(3):
        read_all()
    first = counted.held().threads
    for _ in range(5):
        read_all()
    wait_until(lambda: counted.held().threads <= first + 2, f"no more than {first} threads")


# -- in process -----------------------------------------------------------------------------


def test_a_loopback_knows_nothing_that_was_forgotten(work: Path) -> None:
    for part in ("first", "second"):
        (work / part).mkdir()
        make_tree(work / part)
    walk_and_forget(work / "first")
    # What a process opens once, and keeps, is open by now.
    descriptors = len(os.listdir("/proc/self/fd"))
    walk_and_forget(work / "second")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def walk_and_forget(work: Path) -> None:
    me = Caller(os.getuid(), os.getgid(), os.getpid(), tuple(os.getgroups()))
    loopback = xloop.Loopback(str(work))
    loopback.init()
    entries: list[Entry] = []
    for number in range(12):
        first = loopback.lookup(me, ROOT_INO, b"d%d" % number)
        second = loopback.lookup(me, first.ino, b"e")
        entries += [first, second]
        opened = loopback.opendir(me, second.ino, os.O_RDONLY)
        for _, entry in loopback.readdirplus(me, second.ino, opened.handle, 0):
            if entry is not None:
                entries.append(entry)
        loopback.releasedir(second.ino, opened.handle)
        entries.append(loopback.lookup(me, second.ino, b"f1"))
        file = loopback.open(me, entries[-1].ino, os.O_RDWR)
        loopback.unlink(me, second.ino, b"f1")
        loopback.flush(me, entries[-1].ino, file.handle, 1)
        loopback.release(entries[-1].ino, file.handle)
    assert len(loopback.nodes) == 1 + 12 * (2 + 12)
    loopback.batch_forget([(entry.ino, 1) for entry in entries])
    assert len(loopback.nodes) == 1
    assert list(loopback.handles.values()) == []
    loopback.destroy()


# -- the end of a mount -----------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Tell whether a process has ended, and was waited for: a zombie is something left too."""
    return not os.path.exists(f"/proc/{pid}")


def own_state() -> tuple[int, int]:
    """Return how many descriptors and threads this process has."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.fixture
def mounted(work: Path, subject: str) -> Iterator[xloop.Mount]:
    """A mount in use, whose end is up to the test."""
    if subject == "native":
        pytest.skip("a directory without a mount has no end")
    source, mnt = work / "source", work / "mnt"
    source.mkdir()
    mnt.mkdir()
    made = xloop.mount(source, mnt, backend=subject)
    try:
        make_tree(mnt)
        yield made
    finally:
        force_unmount(work)
        made.unmount()


def umount_command() -> list[str]:
    return ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]


ENDS: dict[str, Callable[[xloop.Mount], object]] = {
    "library": lambda made: made.unmount(),
    "umount": lambda made: run(*umount_command(), made.mountpoint),
    "xloop umount": lambda made: run(sys.executable, "-m", "xloop", "umount", made.mountpoint),
    "SIGTERM": lambda made: os.kill(made.pid, signal.SIGTERM),
    "SIGINT": lambda made: os.kill(made.pid, signal.SIGINT),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_leaves_nothing(work: Path, mounted: xloop.Mount, end: str) -> None:
    ENDS[end](mounted)
    wait_until(lambda: mounts_below(work) == [], "it is unmounted")
    mounted.unmount()
    wait_until(lambda: gone(mounted.pid), "the server has ended")
    assert os.listdir(work / "mnt") == [], "the mountpoint is an ordinary directory again"
    assert len(os.listdir(work / "source")) == 12


def test_a_killed_server_leaves_a_dead_mount_that_can_be_removed(
    work: Path, mounted: xloop.Mount
) -> None:
    mnt = work / "mnt"
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: raises(errno.ENOTCONN, lambda: os.statvfs(mnt)), "the mount is dead")
    run(sys.executable, "-m", "xloop", "umount", mnt)
    assert mounts_below(work) == []
    assert os.listdir(mnt) == []
    mounted.unmount()
    assert gone(mounted.pid)


def raises(number: int, call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == number
    return False


def test_unmounting_after_the_server_was_killed_cleans_up(work: Path, mounted: xloop.Mount) -> None:
    os.kill(mounted.pid, signal.SIGKILL)
    mounted.unmount()
    assert mounts_below(work) == []
    assert gone(mounted.pid)


def test_a_program_that_dies_takes_its_mount_with_it(work: Path, subject: str) -> None:
    if subject == "native":
        pytest.skip("needs a mount")
    (work / "source").mkdir()
    (work / "mnt").mkdir()
    script = (
        "import os, sys, signal, xloop\n"
        "m = xloop.mount(sys.argv[1], sys.argv[2], backend=sys.argv[3])\n"
        "print(m.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    program = [*python_script(script), work / "source", work / "mnt", subject]
    pid = int(run(*program, status=(-9,)).out)
    wait_until(lambda: mounts_below(work) == [], "it is unmounted")
    wait_until(lambda: gone(pid), "the server has ended")


def test_a_program_that_mounts_again_and_again_collects_nothing(work: Path, subject: str) -> None:
    (work / "source").mkdir()
    if subject == "native":
        pytest.skip("needs a mount")
    mnt = work / "again"
    mnt.mkdir()
    before = None
    for _ in range(8):
        with xloop.mount(work / "source", mnt, backend=subject) as made:
            assert os.listdir(mnt) == []
            pid = made.pid
        assert gone(pid)
        before = before or own_state()
        assert own_state() == before
