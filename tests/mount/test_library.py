# SPDX-License-Identifier: MIT
"""Mounting from a program: ``xloop.mount()``, which serves elsewhere, and ``xloop.serve()``."""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
on_top_works = pytest.mark.skipif(
    not ROOT, reason="fusermount3 may not enter a user's mount, so cannot mount on top of it"
)

#: File systems and layers that a server can import.
SAMPLES = '''
import errno, os, stat, time
import xloop
from xloop.layers import Layer

class Empty(xloop.Operations):
    """One directory, with nothing in it."""
    def lookup(self, caller, parent, name):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    def getattr(self, caller, ino, handle):
        return xloop.Attr.make(stat.S_IFDIR | 0o755, ino=1, nlink=2)
    def opendir(self, caller, ino, flags):
        return xloop.Opened(xloop.HandleId(1))
    def readdirplus(self, caller, ino, handle, offset):
        return iter(())
    def statfs(self, caller, ino):
        return xloop.StatFs(0, 0, 0, 0, 0, 4096, 255, 4096)

class Rootless(xloop.Operations):
    pass

class Hanging(xloop.Operations):
    def getattr(self, caller, ino, handle):
        time.sleep(3600)

class Source(xloop.Loopback):
    def __init__(self, path, fail=None):
        if fail:
            raise fail
        super().__init__(path)

class NoDelete(Layer):
    def unlink(self, caller, parent, name):
        raise OSError(errno.EPERM, "the layer said no")

class Stubborn(Layer):
    """Its answer is seen only if it is outside of NoDelete."""
    def unlink(self, caller, parent, name):
        raise OSError(errno.EBUSY, "the outer layer said no")

def not_a_file_system():
    return 42
'''


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sample_fs.py").write_text(SAMPLES)
    monkeypatch.syspath_prepend(str(tmp_path))
    import sample_fs

    yield sample_fs
    del sys.modules["sample_fs"]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# -- mount() --------------------------------------------------------------------------------


def test_the_mount_is_there_in_the_block_and_gone_after_it(spot: Spot) -> None:
    before = descriptors()
    with xloop.mount(spot.source, spot.mnt) as m:
        assert m.mountpoint == str(spot.mnt)
        assert m.source == str(spot.source)
        assert m.backend == "devfuse"
        assert m.pid in spot.servers()
        assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.mounted() is None
    assert not os.path.exists(f"/proc/{m.pid}")  # reaped: not even a zombie is left
    assert descriptors() == before
    m.unmount()  # does nothing, as often as one likes
    assert "unmounted" in repr(m)


def test_a_program_may_touch_its_own_mount_while_it_holds_the_interpreter_lock(spot: Spot) -> None:
    with (
        xloop.mount(spot.source, spot.mnt, passthrough=False),
        open(spot.mnt / "file") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[:] == b"content\n"


def test_options_are_given_as_fields_or_as_a_record(spot: Spot) -> None:
    options = xloop.MountOptions(read_only=True, fsname="mine")
    with xloop.mount(spot.source, spot.mnt, options=options, subtype="view"):
        assert (spot.mounted().fstype, spot.mounted().source) == ("fuse.view", "mine")
        with pytest.raises(OSError, match="Read-only"):
            (spot.mnt / "new").touch()


def test_wrong_options_mount_nothing(spot: Spot) -> None:
    with pytest.raises(TypeError, match="'readonly' is not a mount option"):
        xloop.mount(spot.source, spot.mnt, readonly=True)
    with pytest.raises(xloop.OptionError, match="contradict"):
        xloop.mount(spot.source, spot.mnt, allow_other=True, allow_root=True)
    with pytest.raises(xloop.BackendUnavailable, match="no backend 'x'"):
        xloop.mount(spot.source, spot.mnt, backend="x")


@pytest.mark.parametrize(
    ("source", "mountpoint", "why"),
    [
        ("missing", "mnt", "does not exist"),
        ("source/file", "mnt", "is a file"),
        ("source", "missing", "does not exist"),
        ("source", "source/file", "is a file"),
    ],
)
def test_what_cannot_be_mounted_is_named(
    source: str, mountpoint: str, why: str, spot: Spot
) -> None:
    before = descriptors()
    with pytest.raises(xloop.MountError, match=why):
        xloop.mount(spot.top / source, spot.top / mountpoint)
    assert descriptors() == before


@on_top_works
def test_a_second_mount_on_the_same_directory_must_be_wanted(spot: Spot) -> None:
    with xloop.mount(spot.source, spot.mnt):
        with pytest.raises(xloop.MountError, match="already"):
            xloop.mount(spot.source / "inner", spot.mnt)
        with xloop.mount(spot.source / "inner", spot.mnt, on_top=True):
            assert os.listdir(spot.mnt) == []
        assert (spot.mnt / "file").exists()


def test_a_mount_lives_on_when_the_thread_that_made_it_ends(spot: Spot) -> None:
    made: list[xloop.Mount] = []
    thread = threading.Thread(target=lambda: made.append(xloop.mount(spot.source, spot.mnt)))
    thread.start()
    thread.join()
    assert (spot.mnt / "file").exists()
    made[0].unmount()


# -- file systems of one's own, and layers --------------------------------------------------


def test_a_class_from_a_module_is_served(samples: Any, spot: Spot) -> None:
    with xloop.mount(samples.Empty, spot.mnt) as m:
        assert m.source is None
        assert spot.mounted().source == "Empty"
        assert os.listdir(spot.mnt) == []


def test_a_partial_is_served(samples: Any, spot: Spot) -> None:
    with xloop.mount(functools.partial(samples.Source, str(spot.source)), spot.mnt):
        assert (spot.mnt / "file").exists()


def test_layers_are_put_around_the_first_one_innermost(samples: Any, spot: Spot) -> None:
    layers = [samples.NoDelete, samples.Stubborn]
    with xloop.mount(spot.source, spot.mnt, layers=layers):
        assert removal(spot.mnt / "file") == errno.EBUSY
    with xloop.mount(spot.source, spot.mnt, layers=[xloop.layers.ReadOnly]):
        assert removal(spot.mnt / "file") == errno.EROFS


def removal(path: Path) -> int | None:
    """Return the errno of the attempt to remove *path*."""
    try:
        path.unlink()
    except OSError as exc:
        return exc.errno
    return None


def test_what_cannot_be_sent_to_the_server_is_refused(samples: Any, spot: Spot) -> None:
    class Local(xloop.Operations):
        pass

    before = descriptors()
    for source in (
        Local,
        lambda: samples.Empty(),
        functools.partial(samples.Source, threading.Lock()),
    ):
        with pytest.raises(xloop.MountError, match="from another process") as info:
            xloop.mount(source, spot.mnt)
        assert "xloop.serve()" in info.value.fix
    with pytest.raises(xloop.MountError, match="from another process") as info:
        xloop.mount(samples.Empty(), spot.mnt)
    assert "xloop.serve()" in info.value.fix
    assert descriptors() == before


def test_what_is_defined_in_the_main_program_is_refused_by_name(spot: Spot) -> None:
    text = """
        class Mine(xloop.Operations): pass
        def layer(operations): return operations
        for source, layers in ((Mine, ()), (source, [layer])):
            try:
                xloop.mount(source, mnt, layers=layers)
            except xloop.MountError as exc:
                print(exc.why, exc.fix)
        """
    out, err = spot.program(text).communicate(timeout=60)
    first, second = out.splitlines()
    assert "cannot import 'Mine' from __main__" in first
    assert "cannot import 'layer' from __main__" in second
    assert "put it in a module, or use xloop.serve()" in first
    assert err == ""


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("not_a_file_system", "returned a int, which is no xloop.Operations"),
        ("Rootless", "its root cannot be looked at: Function not implemented"),
        ("failing", "ValueError: no such luck"),
    ],
)
def test_a_file_system_that_does_not_come_about_leaves_nothing(
    source: str, why: str, samples: Any, spot: Spot, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = functools.partial(samples.Source, str(spot.source), ValueError("no such luck"))
    before = descriptors()
    with pytest.raises(xloop.MountError, match=why):
        xloop.mount(failing if source == "failing" else getattr(samples, source), spot.mnt)
    assert spot.alone()
    assert descriptors() == before
    if source == "failing":
        assert "Traceback" in capfd.readouterr().err  # whose file system it is needs to see where


def test_a_file_system_that_hangs_on_its_first_request_is_ended(
    samples: Any, spot: Spot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would hang for an hour; only how long to wait before saying so is shortened.
    monkeypatch.setattr("xloop.preflight.PATIENCE", 1.0)
    monkeypatch.setattr("xloop.starting.FAREWELL", 1.0)
    with pytest.raises(xloop.MountError, match="was made but does not answer"):
        xloop.mount(samples.Hanging, spot.mnt)
    assert spot.alone()


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("not-mounting", "RuntimeError: no hands"),
        ("raising", "RuntimeError: out of luck"),
        ("dying", "ended with status 3 before the mount was ready"),
        ("killed", "was ended by SIGKILL before the mount was ready"),
    ],
)
def test_a_server_that_fails_leaves_nothing(
    backend: str, why: str, spot: Spot, flags: Flags
) -> None:
    before = descriptors()
    with pytest.raises(xloop.MountError, match=why):
        xloop.mount(spot.source, spot.mnt, backend=backend)
    assert spot.mounted() is None
    assert spot.alone()
    assert descriptors() == before


# -- unmounting -----------------------------------------------------------------------------


def test_a_busy_mount_stays_and_its_users_are_named(spot: Spot) -> None:
    with xloop.mount(spot.source, spot.mnt) as m:
        with open(spot.mnt / "file"):
            with pytest.raises(xloop.UnmountError, match="is busy") as info:
                m.unmount()
            assert f"(pid {os.getpid()}): {spot.mnt}/file" in info.value.why
            assert spot.mounted() is not None
        m.unmount()
        assert spot.mounted() is None


def test_leaving_the_block_detaches_a_busy_mount_and_says_so(spot: Spot) -> None:
    with contextlib.ExitStack() as stack:
        m = xloop.mount(spot.source, spot.mnt)
        with pytest.raises(xloop.UnmountError, match="it was detached"), m:
            file = stack.enter_context(open(spot.mnt / "file"))
        assert spot.mounted() is None
        assert file.read() == "content\n"
    assert spot.alone()


def test_leaving_the_block_keeps_an_exception_that_is_on_its_way(
    spot: Spot, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        m = xloop.mount(spot.source, spot.mnt)
        with pytest.raises(KeyError, match="mine"), m:  # noqa: PT012
            stack.enter_context(open(spot.mnt / "file"))
            raise KeyError("mine")
        assert "is busy" in caplog.text
    assert spot.alone()


def test_lazy_takes_the_mount_out_of_the_way(spot: Spot) -> None:
    m = xloop.mount(spot.source, spot.mnt)
    with open(spot.mnt / "file") as file:
        m.unmount(lazy=True)
        assert spot.mounted() is None
        assert file.read() == "content\n"
    assert spot.alone()


def test_a_mount_that_somebody_else_unmounted_is_gone(spot: Spot) -> None:
    with xloop.mount(spot.source, spot.mnt) as m:
        xloop.umount(spot.mnt)
    assert not os.path.exists(f"/proc/{m.pid}")


def test_a_mount_whose_server_was_killed_is_cleaned_away(spot: Spot) -> None:
    with xloop.mount(spot.source, spot.mnt) as m:
        os.kill(m.pid, signal.SIGKILL)
    assert spot.mounted() is None
    assert not os.path.exists(f"/proc/{m.pid}")


@on_top_works
def test_a_mount_that_is_covered_stays(spot: Spot) -> None:
    lower = xloop.mount(spot.source, spot.mnt)
    with xloop.mount(spot.source / "inner", spot.mnt, on_top=True):
        upper = spot.mounted()
        with pytest.raises(xloop.UnmountError, match="another mount covers it"):
            lower.unmount()
        assert spot.mounted() == upper
    lower.unmount()
    assert spot.alone()


def test_umount_names_what_is_not_there(spot: Spot) -> None:
    with pytest.raises(xloop.UnmountError, match="nothing is mounted there"):
        xloop.umount(spot.mnt)


# -- the lifeline ---------------------------------------------------------------------------


def test_the_mount_ends_with_a_program_that_forgets_it(spot: Spot) -> None:
    done = spot.program("m = xloop.mount(source, mnt)\n")
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert spot.alone()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_mount_ends_with_a_program_that_is_killed(number: signal.Signals, spot: Spot) -> None:
    parent = spot.program(
        "m = xloop.mount(source, mnt)\nprint(m.pid, flush=True)\ntime.sleep(600)\n"
    )
    assert parent.stdout is not None
    assert parent.stdout.readline()
    assert (spot.mnt / "file").exists()
    parent.send_signal(number)
    parent.wait(60)
    assert spot.alone()


@pytest.mark.parametrize("stage", ["mount", "serve"])
def test_the_mount_ends_with_a_program_that_is_killed_before_it_is_there(
    stage: str, spot: Spot, flags: Flags
) -> None:
    parent = spot.program(f"xloop.mount(source, mnt, backend='slow-to-{stage}')\n")
    assert flags.reached(stage)
    parent.kill()
    parent.wait(60)
    flags.set(stage)
    assert spot.alone()


def test_the_mount_ends_with_the_program_though_a_fork_of_it_lives_on(spot: Spot) -> None:
    """A fork has a copy of the lifeline: its end is not the only sign."""
    text = """
        m = xloop.mount(source, mnt)
        if os.fork() == 0:
            os.close(1)
            time.sleep(600)
        print("ready", flush=True)
        time.sleep(600)
        """
    parent = spot.program(text, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.wait(60)
    assert spot.unmounted()
    os.killpg(parent.pid, signal.SIGKILL)
    assert spot.alone()


def test_the_server_of_a_program_without_standard_output_has_one(spot: Spot) -> None:
    text = """
        import os, sys, xloop
        mount = xloop.mount(*sys.argv[1:])
        standard = [os.readlink(f"/proc/{mount.pid}/fd/{number}") for number in range(3)]
        with open(sys.argv[2] + "/made", "w") as file:
            print(*standard, file=file)
        os._exit(0)
    """
    words = [sys.executable, "-c", textwrap.dedent(text), str(spot.source), str(spot.mnt)]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], timeout=60)
    assert done.returncode == 0
    # Nothing else has its number, to be closed as if it were that.
    standard = (spot.source / "made").read_text().split()
    assert standard[:2] == ["/dev/null", "/dev/null"]
    assert not standard[2].startswith(("/dev/fuse", "socket:"))
    assert spot.alone()


def test_a_fork_that_leaves_the_block_leaves_the_mount_to_its_maker(spot: Spot) -> None:
    text = """
        with xloop.mount(source, mnt) as m:
            pid = os.fork()
            if pid == 0:
                try:
                    m.unmount()
                except xloop.UnmountError as exc:
                    print(exc.why, flush=True)
            else:
                os.waitpid(pid, 0)
                print(os.listdir(mnt), flush=True)
        """
    out, err = spot.program(text).communicate(timeout=60)
    first, second = out.splitlines()
    assert "this is a fork of it" in first
    assert "file" in second
    assert err == ""
    assert spot.alone()


def test_an_interrupt_from_the_terminal_is_for_the_program_alone(spot: Spot) -> None:
    text = """
        with xloop.mount(source, mnt) as m:
            try:
                print("ready", flush=True)
                time.sleep(600)
            except KeyboardInterrupt:
                print(sorted(os.listdir(mnt)), flush=True)
        """
    parent = spot.program(text, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=60)
    assert (out, err) == ("['file', 'inner']\n", "")
    assert spot.alone()


def test_a_program_that_is_interrupted_while_it_mounts_leaves_nothing(
    spot: Spot, flags: Flags
) -> None:
    text = """
        try:
            xloop.mount(source, mnt, backend="slow-to-serve")
        except KeyboardInterrupt:
            print("interrupted")
        """
    parent = spot.program(text)
    assert flags.reached("serve")
    parent.send_signal(signal.SIGINT)
    flags.set("serve")
    out, err = parent.communicate(timeout=60)
    assert (out, err) == ("interrupted\n", "")
    assert spot.alone()
