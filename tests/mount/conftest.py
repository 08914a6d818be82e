# SPDX-License-Identifier: MIT
"""For tests of mounting itself: a place to mount at, the command line, backends that misbehave.

Each test gets a source and a mountpoint of its own, and must leave neither a mount nor a process
behind; that is looked at after each, so that the guilty one fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from elsewhere import holders  # tests/plugins: tests/conftest.py has put that into the path

from xloop import mounts, registry
from xloop.host.mounttable import MountEntry

#: No measure of anything: what takes longer hangs.
PATIENCE = 30.0

#: Backends like devfuse, but for one thing.  They are found as entry points.
BACKENDS = """
import os, time
from xloop_backends.devfuse import backend as DevFuse

FLAGS = os.environ.get("XLOOP_TEST_FLAGS", "")

def wait_for(name):
    open(os.path.join(FLAGS, name + ".reached"), "w").close()
    while not os.path.exists(os.path.join(FLAGS, name)):
        time.sleep(0.01)

class SlowToMount(DevFuse):
    name = "slow-to-mount"
    def mount(self, *args):
        wait_for("mount")
        return super().mount(*args)

class SlowToAttach(DevFuse):
    name = "slow-to-attach"
    def attach(self, *args):
        wait_for("attach")
        return super().attach(*args)

class Wrapped(DevFuse):
    def mount(self, *args):
        return self.Session(super().mount(*args))

class Session:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)

class SlowToServe(Wrapped):
    name = "slow-to-serve"
    class Session(Session):
        def serve(self, ready=None):
            wait_for("serve")
            self.inner.serve(ready)

class SlowToAgree(DevFuse):
    name = "slow-to-agree"
    def mount(self, *args):
        from xloop_backends.devfuse import session
        negotiate = session.negotiate
        def slowly(*args, **more):
            wait_for("agree")
            return negotiate(*args, **more)
        session.negotiate = slowly
        return super().mount(*args)

class Dying(Wrapped):
    name = "dying"
    class Session(Session):
        def serve(self, ready=None):
            os._exit(3)

class Killed(Wrapped):
    name = "killed"
    class Session(Session):
        def serve(self, ready=None):
            os.kill(os.getpid(), 9)

class Raising(Wrapped):
    name = "raising"
    class Session(Session):
        def serve(self, ready=None):
            raise RuntimeError("out of luck")

class RaisingLater(Wrapped):
    name = "raising-later"
    class Session(Session):
        def serve(self, ready=None):
            def then():
                ready()
                wait_for("raise")
                raise RuntimeError("out of luck")
            self.inner.serve(then)

class KilledWhenMounted(DevFuse):
    name = "killed-when-mounted"
    def mount(self, *args):
        super().mount(*args)
        os.kill(os.getpid(), 9)

class NotMounting(DevFuse):
    name = "not-mounting"
    def mount(self, *args):
        raise RuntimeError("no hands")

class Exhausted(DevFuse):
    name = "exhausted"
    def mount(self, *args):
        raise OSError(24, os.strerror(24))
"""

_NAMES = "SlowToMount SlowToAttach SlowToServe SlowToAgree Dying Killed Raising RaisingLater KilledWhenMounted NotMounting Exhausted"


def eventually(holds: Callable[[], Any]) -> bool:
    """Wait until *holds*; False when that never happens."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@dataclass
class Spot:
    """Where one test mounts."""

    top: Path
    source: Path
    mnt: Path
    #: Processes that are to be ended after the test.
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    def mounted(self, path: Path | None = None) -> MountEntry | None:
        """Return what is mounted at *path* (default: the mountpoint), without touching it."""
        return mounts.mount_at(mounts.read_table(), str(path or self.mnt))

    def mounts_below(self) -> list[MountEntry]:
        top = str(self.top)
        return [e for e in mounts.read_table() if e.mountpoint.startswith(top)]

    def servers(self) -> list[int]:
        """Return the processes that have the mountpoint among their arguments."""
        wanted = os.fsencode(self.top)
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    if wanted in Path(f"/proc/{name}/cmdline").read_bytes():
                        found.append(int(name))
        return found

    def server(self) -> int:
        """Return the one process that serves here."""

        def serving() -> list[int]:
            return sorted({*self.servers()} - {*self._guardians()})

        assert eventually(lambda: len(serving()) == 1), self.servers()
        return serving()[0]

    def guardian(self) -> int:
        """Return the one process that waits for the end of the server here."""
        found = self._guardians()
        assert len(found) == 1, found
        return found[0]

    def _guardians(self) -> list[int]:
        found = []
        for pid in self.servers():
            with contextlib.suppress(OSError):
                if b"xloop.guardian" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def sleeping(self, guardian: int) -> bool:
        """Wait until *guardian* has looked at the mounts and waits for a change; False: it never does."""
        # Its shell waits too, but for a pipe.
        wchan = Path(f"/proc/{guardian}/wchan")
        interpreter = os.fsencode(sys.executable)
        command = Path(f"/proc/{guardian}/cmdline")
        return eventually(
            lambda: command.read_bytes().startswith(interpreter) and "poll" in wchan.read_text()
        )

    @staticmethod
    def ended(pid: int) -> bool:
        """Wait until process *pid* runs no more; False when that never happens."""

        def over() -> bool:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                return True
            return state in "ZX"  # whoever should ask for its status may take his time

        return eventually(over)

    def alone(self) -> bool:
        """Wait until nothing is mounted here and nobody serves; False when that never happens."""
        return eventually(lambda: not self.mounts_below() and not self.servers())

    def answers(self) -> bool:
        """Wait until the mount is there and shows the source; False when that never happens."""
        return eventually(lambda: self.mounted() and os.path.exists(self.mnt / "file"))

    def unmounted(self) -> bool:
        """Wait until nothing is mounted at the mountpoint; False when that never happens."""
        return eventually(lambda: self.mounted() is None)

    @staticmethod
    def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
        """Check that a command failed, said all *words*, and showed no traceback."""
        assert done.returncode != 0
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr, done.stderr

    def run(self, *args: object, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "xloop", *map(str, args)],
            **{"cwd": self.top, "text": True, "capture_output": True, "timeout": 60, **more},
        )

    def start(self, *args: object, **more: Any) -> subprocess.Popen[str]:
        """Start the command line, and go on."""
        return self.start_python("-m", "xloop", *args, **more)

    def start_python(self, *args: object, **more: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, args)],
            **{
                "cwd": self.top,
                "text": True,
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **more,
            },
        )
        self.started.append(process)
        return process

    def program(self, text: str, *args: object, **more: Any) -> subprocess.Popen[str]:
        """Start a program that knows ``source`` and ``mnt``, and has imported xloop."""
        head = "import os, sys, time, xloop\nsource, mnt, *args = sys.argv[1:]\n"
        return self.start_python(
            "-c", head + textwrap.dedent(text), self.source, self.mnt, *args, **more
        )

    def use(self, path: Path) -> subprocess.Popen[str]:
        """Start a process that holds *path* open until its stdin is closed."""
        program = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
        process = self.start_python("-c", program, path)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    def clean(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in self.servers():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for entry in reversed(self.mounts_below()):
            with contextlib.suppress(Exception):
                mounts.take_away(entry.mountpoint, lazy=True)


@pytest.fixture
def spot(base: Path, pytestconfig: pytest.Config) -> Iterator[Spot]:
    state = registry.load("devfuse").probe()
    if not state.ok:
        if pytestconfig.getoption("--require-mount"):
            pytest.fail(f"--require-mount: devfuse: {state.why} ({state.fix})")
        pytest.skip(f"devfuse: {state.why}")
    top = Path(tempfile.mkdtemp(prefix="mount-", dir=base))
    here = Spot(top, top / "source", top / "mnt")
    here.source.mkdir()
    here.mnt.mkdir()
    (here.source / "file").write_text("content\n")
    (here.source / "inner").mkdir()
    yield here
    alone = eventually(lambda: not here.mounts_below()) and eventually(
        lambda: set(here.servers()) <= {process.pid for process in here.started}
    )
    left = [*here.mounts_below()], here.servers()
    others = holders(top)
    here.clean()
    if others and not left[0]:
        pytest.skip(f"the mount namespaces of {others} have copies of the mount")
    assert alone, f"the test left mounts and processes: {left}"


@dataclass
class Flags:
    """What the processes of a test tell each other: files that are there or not."""

    path: Path

    def set(self, name: str) -> None:
        (self.path / name).touch()

    def reached(self, name: str) -> bool:
        return eventually((self.path / f"{name}.reached").exists)


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flags:
    """The backends that misbehave, for this process and those it starts, and what they wait for."""
    modules = tmp_path / "modules"
    info = modules / "samples-1.dist-info"
    info.mkdir(parents=True)
    (modules / "misbehaving.py").write_text(BACKENDS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samples\nVersion: 1\n")
    lines = [f"{_dashed(name)} = misbehaving:{name}" for name in _NAMES.split()]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines]))
    monkeypatch.syspath_prepend(str(modules))
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(modules), path])))
    place = tmp_path / "flags"
    place.mkdir()
    monkeypatch.setenv("XLOOP_TEST_FLAGS", str(place))
    sys.modules.pop("misbehaving", None)
    return Flags(place)


def _dashed(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")
