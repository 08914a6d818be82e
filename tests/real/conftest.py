# SPDX-License-Identifier: MIT
"""The mounts and the options of the real-program tests.  Owns no test.

Programs, by the names that Debian's apt-get install wants:
    acl attr busybox-static fio fuse3 gcc git inotify-tools libc6-dev make podman procps python3-venv rsync
    runc sqlite3 tar uidmap util-linux

    pytest tests/real                       over devfuse, and a part over libfuse 3 too
    pytest tests/real --subject native      without any mount: validates the tests
    pytest tests/real --full --attack-seconds 30 --scale-files 200000       what a release must pass
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    import xloop


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("real", "real programs on real mounts (tests/real)")
    group.addoption("--subject", default=None, help="backend to test, or 'native' for no mount")
    group.addoption("--full", action="store_true", default=False, help="all of /usr, and the net")
    group.addoption("--attack-seconds", type=float, default=None, help="time for each attack: 5")
    group.addoption("--scale-files", type=int, default=None, help="files of the big tree: 20000")


#: Of these the path-based way is worth its time in every run: a build, databases with locks and maps,
#: everything that metadata can be, what is kept and for how long, what is imported.  The others do the
#: same in bulk, for minutes.  All of it: --subject libfuse3.
ALSO_BY_PATH = {
    "test_cproject.py",
    "test_leaks.py",
    "test_sqlite.py",
    "test_startup.py",
    "test_tar.py",
}


#: devfuse with writes delayed, which is asked for by this name.
DELAYED = "devfuse-writeback"
#: Of these it is worth its time: what writes in small pieces, maps, locks, sets times and syncs.
ALSO_DELAYED = {"test_fio.py", "test_git.py", "test_sqlite.py", "test_tar.py"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        asked = option(metafunc.config, "subject", None)
        also = ["libfuse3"] if metafunc.definition.path.name in ALSO_BY_PATH else []
        if metafunc.definition.path.name in ALSO_DELAYED:
            also.append(DELAYED)
        names = [str(asked)] if asked else ["devfuse", *also]
        metafunc.parametrize("subject", names, indirect=True, scope="session")


def option(config: pytest.Config, name: str, default: object) -> object:
    """Return an option of this directory: its default where pytest was pointed elsewhere.

    An option of a conftest below the directories on the command line is not there.
    """
    value = config.getoption(name, None)
    return default if value is None else value


class Place(NamedTuple):
    """A directory and where it is shown; the same twice in a native run."""

    source: Path
    mnt: Path
    mount: xloop.Mount | None

    @property
    def pid(self) -> int | None:
        return None if self.mount is None else self.mount.pid


Show = Callable[..., Place]


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> str:
    """The backend under test, or "native"."""
    name = str(request.param)
    if name == "native":
        return name
    from xloop import registry

    availability = registry.load("devfuse" if name == DELAYED else name).probe()
    if not availability.ok:
        why = f"{name}: {availability.why} ({availability.fix})"
        if request.config.getoption("--require-mount"):
            pytest.fail(f"--require-mount: {why}")
        pytest.skip(why)
    return name


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    return bool(option(request.config, "full", False))


@pytest.fixture(scope="session")
def attack_seconds(request: pytest.FixtureRequest) -> float:
    return float(str(option(request.config, "attack_seconds", 5.0)))


@pytest.fixture(scope="session")
def scale_files(request: pytest.FixtureRequest) -> int:
    return int(str(option(request.config, "scale_files", 20_000)))


@pytest.fixture
def work(base: Path) -> Iterator[Path]:
    """A directory for one test, removed with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix="real-", dir=base))
    path.chmod(0o755)
    yield path
    # What a test made unreadable too; never into a mount that a failed test left behind.
    force_unmount(path)
    subprocess.run(["chmod", "-R", "u+rwx", path], check=False, capture_output=True)
    shutil.rmtree(path)


def mounts_below(top: Path) -> list[tuple[str, str]]:
    """Return the mountpoints below *top* and the minors of their devices, the deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        if point.startswith(f"{os.path.realpath(top)}/"):
            found.append((point, fields[2].partition(":")[2]))
    return sorted(found, reverse=True)


def force_unmount(top: Path) -> list[str]:
    """Unmount whatever is mounted below *top*, hanging or not, and return what was."""
    umount = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
    found = mounts_below(top)
    for point, minor in found:
        # No signal reaches a program that waits for a server which has its request.
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
        subprocess.run([*umount, point], check=False, capture_output=True)
    return [point for point, _ in found]


@pytest.fixture
def show(work: Path, subject: str, request: pytest.FixtureRequest) -> Iterator[Show]:
    """Return a function that shows a directory somewhere else and takes MountOptions' fields."""
    mounts: list[xloop.Mount] = []

    def mount(source: Path, **options: Any) -> Place:
        if subject == "native":
            return Place(source, source, None)
        import xloop

        mountpoint = work / f"mnt{len(mounts)}"
        mountpoint.mkdir()
        backend = subject
        if subject == DELAYED:
            backend, options = "devfuse", {"writeback": True} | options
        made = xloop.mount(source, mountpoint, backend=backend, **options)
        mounts.append(made)
        return Place(source, mountpoint, made)

    marker = request.node.get_closest_marker("timeout")
    # Before pytest gives up, with the whole run: everything that waits for a server fails.
    hang = threading.Timer((marker.args[0] if marker else 120.0) - 20.0, force_unmount, [work])
    hang.daemon = True
    hang.start()
    try:
        yield mount
        for made in reversed(mounts):
            made.unmount()
    finally:
        hang.cancel()
        left = force_unmount(work)
    assert not left, f"still mounted after unmount(): {left}"


@pytest.fixture
def place(work: Path, show: Show) -> Place:
    """An empty directory, shown."""
    source = work / "source"
    source.mkdir()
    return show(source)
