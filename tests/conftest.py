# SPDX-License-Identifier: MIT
"""What all tests share: subjects, the two trees of a contract test, and the proof that nothing is left.

    pytest tests/contract                                  native, in process, every backend
    pytest tests/contract --contract-subject native        validates the tests
    pytest tests/contract --source-dir /dev/shm            with a source on tmpfs
    pytest --require-mount                                 a backend that cannot mount is a failure

A contract test takes `pair`, or `mnt` and `ref`, and does the same to both; `src` is what lies behind
`mnt`, without a mount in between; `need` skips, and always says why.  Owns no test.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import xloop
from xloop import registry
from xloop.testing import InProcessTree, NativeTree, Pair, Tree

HERE = Path(__file__).parent
sys.path.append(str(HERE / "plugins"))
from elsewhere import holders  # noqa: E402  # found there

ROOT = os.geteuid() == 0
#: Not a measure of anything: a test that takes as long hangs, and its mounts are cut off.
HANG = 30.0
#: Processes started by this run inherit it, however far they go away.
MARKER = f"XLOOP_TEST_SESSION={uuid.uuid4().hex}"


# -- subjects -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """Something that shows a directory, and how it is mounted for the tests."""

    name: str
    backend: str | None = None  #: None: no mount
    options: dict[str, Any] = field(default_factory=dict)
    #: None: always; otherwise the only kind of user for whom it differs from another subject.
    only: str | None = None
    #: The directory of tests that it is for: a backend that is not exact has no business elsewhere.
    where: str = ""
    variant: str = ""

    @property
    def mount_name(self) -> str:
        return self.name + self.variant

    def forgetful(self) -> Subject:
        """Return the same, mounted so that the kernel believes what it knows for a moment only."""
        if self.backend is None:
            return self
        options = self.options | {"attr_timeout": 0.05, "entry_timeout": 0.05}
        return replace(self, options=options, variant="-forgetful")

    @property
    def has_kernel(self) -> bool:
        return self.name != "inprocess"


# Root mounts for everybody, so that tests can be somebody else.
_FOR_ALL: dict[str, Any] = {"allow_other": True} if ROOT else {}
SUBJECTS = [
    Subject("native"),
    Subject("inprocess"),
    Subject("devfuse", "devfuse", _FOR_ALL),
    # Without it the kernel reads and writes by itself; an ordinary user never has it.
    Subject("devfuse-served", "devfuse", _FOR_ALL | {"passthrough": False}, only="root"),
    # The kernel keeps what is written, and the sizes and times of files.
    Subject("devfuse-writeback", "devfuse", _FOR_ALL | {"writeback": True}),
    Subject("libfuse3", "libfuse3", _FOR_ALL, where="contract"),
    Subject("libfuse2", "libfuse2", _FOR_ALL, where="contract"),
    Subject("refuse", "refuse", _FOR_ALL, where="contract"),
]
# The backend "refuse" is the tests' own, and is found by its entry point like anybody's.
sys.path.append(str(HERE / "refuse_backend"))
pytest_plugins = ["subject_table"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xloop")
    group.addoption(
        "--require-mount", action="store_true", help="fail, not skip, where a backend cannot mount"
    )
    group.addoption(
        "--write-requests",
        action="store_true",
        help="write the table of requests into docs/performance.md",
    )
    group.addoption("--source-dir", metavar="DIR", help="where the source directories are made")
    group.addoption(
        "--contract-subject",
        action="append",
        metavar="NAME",
        choices=[s.name for s in SUBJECTS],
        help="run the contract tests on this subject only; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update([MARKER.split("=")])
    config.addinivalue_line("markers", "forgetful: on a mount with short cache timeouts")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "under_test" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--contract-subject")
    kind = "root" if ROOT else "user"
    subjects = [s for s in SUBJECTS if s.only in (None, kind) and (not wanted or s.name in wanted)]
    subjects = [s for s in subjects if metafunc.definition.path.is_relative_to(HERE / s.where)]
    if metafunc.definition.get_closest_marker("mount"):
        subjects = [s for s in subjects if s.backend is not None]
    if metafunc.definition.get_closest_marker("forgetful"):
        subjects = [s.forgetful() for s in subjects]
    params = [pytest.param(s, id=s.name) for s in subjects]
    metafunc.parametrize("under_test", params, indirect=True)


# -- differences that are known, and skips that are explained -------------------------------


def known_differences() -> list[dict[str, str]]:
    text = (HERE / "known_differences.toml").read_text()
    return list(tomllib.loads(text).get("difference", []))


def _expected(difference: dict[str, str]) -> pytest.MarkDecorator:
    run = difference.get("run") != "no"
    return pytest.mark.xfail(strict=True, reason=difference["why"], run=run)


def _is_known(item: pytest.Item) -> bool:
    """Tell whether *item* is expected to fail."""
    return item.get_closest_marker("xfail") is not None


def _applies(difference: dict[str, str], item: pytest.Function, source_type: str) -> bool:
    subject = item.callspec.params.get("under_test") if hasattr(item, "callspec") else None
    path = item.path.relative_to(HERE) if item.path.is_relative_to(HERE) else item.path
    return (
        isinstance(subject, Subject)
        and difference["test"] == f"{path}::{item.originalname}"
        and difference["subject"] == subject.name
        and difference.get("case", "") in item.name
        and difference.get("user", "root" if ROOT else "user") == ("root" if ROOT else "user")
        and difference.get("source", source_type) == source_type
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    where = _file_system_of(_source_dir(config))
    for difference in known_differences():
        for item in items:
            if isinstance(item, pytest.Function) and _applies(difference, item, where):
                item.add_marker(_expected(difference))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        why = str(report.longrepr[2]).removeprefix("Skipped:").strip()
        if len(why) < 8 or why == "unconditional skip":
            report.outcome = "failed"
            report.longrepr = f"a skip must say why, this one says {why!r}"
    return report


# -- where it all happens -------------------------------------------------------------------


def _source_dir(config: pytest.Config) -> str:
    return os.path.realpath(config.getoption("--source-dir") or tempfile.gettempdir())


def _mounts() -> list[tuple[str, str, str]]:
    """Return mountpoint, device and type of every mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        found.append((point, fields[2], fields[fields.index("-") + 1]))
    return found


def _below(path: str) -> list[tuple[str, str]]:
    """Return the mountpoints at and below *path* and their devices, the deepest first."""
    found = [(p, dev) for p, dev, _ in _mounts() if p == path or p.startswith(path + "/")]
    return sorted(found, reverse=True)


def _file_system_of(path: str) -> str:
    def contains(point: str) -> bool:
        return path == point or path.startswith(point.rstrip("/") + "/")

    # The last of several mounts on the same point is the one on top.
    matching = [
        (len(point), i, kind) for i, (point, _, kind) in enumerate(_mounts()) if contains(point)
    ]
    return max(matching)[2]


def _our_processes() -> dict[int, str]:
    """Return what this test run has started, directly or not, and what is still there."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
            if state in ("Z", "X"):
                continue
            environment = b""
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{entry}/environ").read_bytes()
            if parent == str(os.getpid()) or MARKER.encode() in environment:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = os.fsdecode(command).strip()
    return found


def wait_until(holds: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Wait until *holds*, and return False when that never happens.

    An OSError is a "not yet".  The time is no measure of anything: it is when to give up.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)


Wait = Callable[[Callable[[], Any]], bool]


def cut_off(base: str) -> None:
    """Let every request on a mount at or below *base* fail, and take the mounts away."""
    for point, device in _below(base):
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{device.split(':')[1]}/abort").write_text("1")
        umount = "umount -f -l" if ROOT else "fusermount3 -u -z"
        os.spawnvp(os.P_WAIT, umount.split()[0], [*umount.split(), point])


@pytest.fixture(scope="session", autouse=True)
def base(pytestconfig: pytest.Config) -> Iterator[Path]:
    """The directory that the tests work below.  At the end nothing is mounted there or serves it."""
    before = set(_our_processes())
    path = Path(tempfile.mkdtemp(prefix="xloop-tests-", dir=_source_dir(pytestconfig)))
    # For other users too.
    path.chmod(0o755)
    runtime = path / "run"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)

    def leftovers() -> dict[int, str]:
        ours = _our_processes().items()
        return {p: c for p, c in ours if p not in before and "resource_tracker" not in c}

    yield path
    # A server is allowed to take its time over the end, but not for ever.
    wait_until(lambda: not leftovers(), 10)
    mounts, processes = _below(str(path)), leftovers()
    others = set(holders(path)) - processes.keys()
    cut_off(str(path))
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)
    left = f"still mounted at the end of the tests: {mounts}, still running: {processes}"
    if others and not mounts:
        print(f"\n{left}: the mount namespaces of {others} have copies of the mounts")
        return
    assert not mounts and not processes, left  # noqa: PT018


class Watchdog:
    """Cuts the mounts off when a test hangs: no signal reaches a thread that waits for a server."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._deadline = float("inf")
        self._end = threading.Event()
        self.bitten = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="watchdog")
        self._thread.start()

    def __enter__(self) -> None:
        self.bitten = False
        self._deadline = time.monotonic() + HANG

    def __exit__(self, *_: object) -> None:
        self._deadline = float("inf")
        assert not self.bitten, "the test hung, and its mounts were cut off"

    def _run(self) -> None:
        while not self._end.wait(1):
            if time.monotonic() > self._deadline:
                self.bitten = True
                self._deadline = float("inf")
                cut_off(str(self._base))

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="session")
def watchdog(base: Path) -> Iterator[Watchdog]:
    dog = Watchdog(base)
    yield dog
    dog.stop()


class Mounts:
    """One mount for each subject, made when the first test asks for it."""

    def __init__(self, source: Path, require: bool) -> None:
        self.source = source
        self.require = require
        self._made: dict[str, Any] = {}

    def view(self, subject: Subject) -> Path:
        """Return the directory where *subject* shows the source."""
        if subject.backend is None:
            return self.source
        point = self.source.parent / f"mnt-{subject.mount_name}"
        if not self._alive(subject.mount_name, point):
            self._bury(subject.mount_name, point)
            self._made[subject.mount_name] = self._mount(subject, point)
        return point

    def server(self, subject: Subject) -> int:
        mount = self._made.get(subject.mount_name)
        return os.getpid() if mount is None else int(mount.pid)

    def _alive(self, name: str, point: Path) -> bool:
        if name not in self._made:
            return False
        try:
            return os.stat(point).st_dev != os.stat(point.parent).st_dev
        except OSError:
            return False

    def _bury(self, name: str, point: Path) -> None:
        """Take away what is left of a mount that ended in the middle of a test, which has failed."""
        if (mount := self._made.pop(name, None)) is not None:
            cut_off(str(point))
            with contextlib.suppress(xloop.XloopError, OSError):
                mount.unmount()

    def _mount(self, subject: Subject, point: Path) -> Any:
        assert subject.backend is not None
        availability = registry.load(subject.backend).probe()
        if not availability.ok:
            why = f"{subject.backend}: {availability.why} ({availability.fix})"
            if self.require:
                pytest.fail(f"--require-mount: {why}")
            pytest.skip(why)
        point.mkdir(exist_ok=True)
        return xloop.mount(str(self.source), str(point), backend=subject.backend, **subject.options)

    def unmount_all(self) -> None:
        for mount in self._made.values():
            mount.unmount()


@pytest.fixture(scope="session")
def mounts(base: Path, pytestconfig: pytest.Config) -> Iterator[Mounts]:
    source = base / "source"
    source.mkdir()
    made = Mounts(source, pytestconfig.getoption("--require-mount"))
    yield made
    made.unmount_all()


# -- one test ---------------------------------------------------------------------------------


@pytest.fixture
def under_test(request: pytest.FixtureRequest) -> Subject:
    """The subject.  A test that asks for `pair`, `mnt` or `need` runs once on each."""
    assert isinstance(request.param, Subject)
    return request.param


@dataclass(frozen=True)
class Place:
    """The directories of one test: the tested one as it lies on the source, and its twin."""

    name: str
    source: Path
    ref: Path


@pytest.fixture
def place(mounts: Mounts, request: pytest.FixtureRequest) -> Iterator[Place]:
    top = Path(tempfile.mkdtemp(prefix="t", dir=mounts.source))
    top.chmod(0o755)
    place = Place(top.name, top / "mnt", top / "ref")
    for path in (place.source, place.ref):
        path.mkdir()
        path.chmod(0o755)
    yield place
    _remove(top)


def _remove(top: Path) -> None:
    """Remove *top*, however deep, and whatever modes the test left behind."""
    shutil.rmtree(top, ignore_errors=True)
    if not top.exists():
        return
    fd = os.open(top, os.O_RDONLY)
    try:
        os.fchmod(fd, 0o700)
        for root, names, _, here in os.fwalk(dir_fd=fd):
            for name in names:
                with contextlib.suppress(OSError):
                    os.chmod(name, 0o700, dir_fd=here)
            del root
    finally:
        os.close(fd)
    shutil.rmtree(top)


def _in_process(source: Path) -> Iterator[Tree]:
    """Yield a tree without a kernel, and see that its file system keeps nothing at the end."""
    loopback = xloop.Loopback(str(source))
    before = _descriptors(source)
    tree = InProcessTree(loopback)
    yield tree
    tree.let_go()
    assert len(loopback.handles) == 0
    assert len(loopback.nodes) == 1, "more than the root is known, and everything was forgotten"
    if not _descriptors(source) <= before:
        # The test's own exceptions hold frames, and those what was at hand.
        gc.collect()
    assert _descriptors(source) <= before
    tree.shut()
    tree.check_balanced()


def _descriptors(below: Path) -> set[tuple[str, str]]:
    """Return the descriptors of this process that lead to *below*."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{fd}")
            if link.startswith(str(below)):
                found.add((fd, link))
    return found


@pytest.fixture
def mnt(under_test: Subject, mounts: Mounts, place: Place, watchdog: Watchdog) -> Iterator[Tree]:
    """The tree that is tested."""
    with watchdog:
        view = mounts.view(under_test)
        if under_test.has_kernel:
            tree: Tree = NativeTree(view / place.name / "mnt")
            yield tree
            tree.shut()
        else:
            yield from _in_process(place.source)


@pytest.fixture
def ref(place: Place) -> Iterator[Tree]:
    """The native twin of `mnt`: an empty directory on the same file system."""
    tree = NativeTree(place.ref)
    yield tree
    tree.shut()


@pytest.fixture
def src(place: Place) -> Iterator[Tree]:
    """What lies behind `mnt`, without a mount in between."""
    tree = NativeTree(place.source)
    yield tree
    tree.shut()


@pytest.fixture
def server(mnt: Tree, under_test: Subject, mounts: Mounts) -> int:
    """The process that answers for `mnt`; this one where there is no mount."""
    return mounts.server(under_test)


@pytest.fixture
def pair(mnt: Tree, ref: Tree) -> Pair:
    return Pair(mnt, ref)


class Need:
    """What a test needs.  Each method skips the test, and says why, where that is not there."""

    def __init__(self, subject: Subject, probe: Tree) -> None:
        self.subject = subject
        self._probe = probe

    def root(self, why: str) -> None:
        if not ROOT:
            pytest.skip(f"needs root: {why}")

    def ordinary_user(self, why: str) -> None:
        if ROOT:
            pytest.skip(f"needs an ordinary user: {why}")

    def kernel(self, why: str) -> None:
        if not self.subject.has_kernel:
            pytest.skip(f"needs a kernel: {why}")

    def source(self, what: str, attempt: Callable[[Tree], Any]) -> None:
        """Skip where *attempt* shows that the file system of the source lacks *what*."""
        try:
            attempt(self._probe)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
                raise
            pytest.skip(f"the file system of the source has no {what}: {error.strerror}")


@pytest.fixture
def need(under_test: Subject, place: Place) -> Iterator[Need]:
    path = place.ref.parent / "probe"
    path.mkdir()
    tree = NativeTree(path)
    yield Need(under_test, tree)
    tree.shut()


@pytest.fixture
def eventually(request: pytest.FixtureRequest) -> Wait:
    # What is known never to happen is not waited for that long.
    return partial(wait_until, seconds=1.0) if _is_known(request.node) else wait_until


@pytest.fixture
def is_native(under_test: Subject) -> bool:
    """True where `mnt` is no mount: for what only a mount can get wrong."""
    return under_test.name == "native"


@pytest.fixture(autouse=True)
def harmless_interrupts() -> Iterator[None]:
    """Let SIGUSR1, with which tests interrupt what waits, do nothing else."""
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR1, old)
