# SPDX-License-Identifier: MIT
"""The command line, as a person meets it: a process with arguments, output and a status."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import commands, matches  # tests/plugins

from xloop import __version__, options, registry

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
on_top_works = pytest.mark.skipif(
    not ROOT, reason="fusermount3 may not enter a user's mount, so cannot mount on top of it"
)
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: it prepares a mount namespace")


# -- mounting -------------------------------------------------------------------------------


def test_the_mount_answers_when_the_command_returns(spot: Spot) -> None:
    done = spot.run("mount", spot.source, spot.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(spot.mnt)) == ["file", "inner"]
    assert (spot.mnt / "file").read_text() == "content\n"
    entry = spot.mounted()
    assert (entry.fstype, entry.source) == ("fuse.xloop", str(spot.source))
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    assert os.listdir(spot.mnt) == []


def test_the_server_keeps_nothing_of_its_caller(spot: Spot) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open(spot.top / "lock", "w") as lock:
        keep = (theirs.fileno(), lock.fileno())
        done = spot.run("mount", spot.source, spot.mnt, pass_fds=keep)
        assert done.returncode == 0
        pid = spot.server()
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert str(spot.top / "lock") not in links
        theirs.close()
        assert ours.recv(1) == b""  # nobody has the other end any more
    for number in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_caller_without_standard_descriptors_gets_its_mount(closed: str, spot: Spot) -> None:
    command = f'exec "$@" {closed}'
    words = [sys.executable, "-m", "xloop", "mount", str(spot.source), str(spot.mnt)]
    done = subprocess.run(["sh", "-c", command, "sh", *words], timeout=60)
    assert done.returncode == 0
    assert (spot.mnt / "file").read_text() == "content\n"
    pid = spot.server()
    for number in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_relative_paths_and_links_are_understood(spot: Spot) -> None:
    os.symlink("source", spot.top / "source-link")
    os.symlink("mnt", spot.top / "mnt-link")
    assert spot.run("mount", "./source-link/", "source/../mnt-link//").returncode == 0
    assert spot.mounted().source == str(spot.source)
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", "mnt-link").returncode == 0
    assert spot.alone()


def test_a_mountpoint_may_be_where_one_stands(spot: Spot) -> None:
    assert spot.run("mount", "../source", ".", cwd=spot.mnt).returncode == 0
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", ".", cwd=spot.mnt).returncode == 0
    assert spot.alone()


def test_slashes_and_dots_are_understood(spot: Spot) -> None:
    assert spot.run("mount", f"//{spot.source}/./", f"//{spot.top}/./x/..//mnt/").returncode == 0
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", f"//{spot.mnt}/.").returncode == 0
    assert spot.alone()


def test_a_working_directory_that_is_gone_is_named(spot: Spot) -> None:
    gone = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    words = [sys.executable, "-m", "xloop", "mount", "source", str(spot.mnt)]
    done = subprocess.run(
        ["sh", "-c", gone, "sh", *words], cwd=spot.top, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    spot.refused(done, "the working directory is gone", "absolute path")


def test_a_caller_that_ignores_the_end_of_its_children_is_told_the_reason(
    spot: Spot, flags: Flags
) -> None:
    ignore = "import os, signal, sys; signal.signal(17, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    words = [sys.executable, "-m", "xloop", "mount", "--backend", "not-mounting"]
    command = spot.start_python("-c", ignore, *words, spot.source, spot.mnt)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 1
    assert err.splitlines()[-1] == "xloop: RuntimeError: no hands"


@pytest.mark.parametrize("name", ["with blank", "a,b", "back\\slash", "new\nline", "\udcff\udcfe"])
def test_names_may_hold_anything(name: str, spot: Spot) -> None:
    source, mnt = spot.top / f"source{name}", spot.top / f"mnt{name}"
    source.mkdir()
    mnt.mkdir()
    (source / "in").touch()
    assert (
        spot.run("mount", os.fsencode(source).decode("utf-8", "surrogateescape"), mnt).stderr == ""
    )
    assert os.listdir(mnt) == ["in"]
    assert spot.mounted(mnt).source == str(source)
    assert spot.run("umount", mnt).returncode == 0
    assert spot.alone()


def test_mount_tables_show_what_they_are_told(spot: Spot) -> None:
    done = spot.run("mount", "-o", "fsname=a\\,b c,subtype=view", spot.source, spot.mnt)
    assert done.returncode == 0
    assert (spot.mounted().fstype, spot.mounted().source) == ("fuse.view", "a,b c")
    spot.refused(spot.run("umount", spot.mnt), "fuse.view", "--subtype view")
    assert spot.run("umount", "--subtype", "view", spot.mnt).returncode == 0
    assert spot.alone()


def test_ro_refuses_every_change(spot: Spot) -> None:
    assert spot.run("mount", "-o", "noexec", "-o", "ro", spot.source, spot.mnt).returncode == 0
    with pytest.raises(OSError, match="Read-only file system"):
        (spot.mnt / "new").touch()
    assert spot.run("umount", spot.mnt).returncode == 0


def test_verbose_tells_what_was_mounted_and_how(spot: Spot) -> None:
    done = spot.run("mount", "-v", spot.source, spot.mnt)
    assert done.stdout == ""
    assert f"{str(spot.source)!r} is mounted at {str(spot.mnt)!r} by devfuse" in done.stderr
    assert spot.run("umount", "-v", spot.mnt).stderr == f"xloop: {str(spot.mnt)!r} is unmounted\n"


def test_verbose_tells_why_auto_took_no_better_backend(spot: Spot, flags: Flags) -> None:
    (Path(os.environ["PYTHONPATH"].split(os.pathsep)[0]) / "unwell.py").write_text(
        "from xloop.backend import Availability\n"
        "from xloop_backends.devfuse import DevFuse\n"
        "class backend(DevFuse):\n"
        "    def probe(self):\n"
        "        return Availability(False, 'the moon is full', 'wait a night')\n"
    )
    program = (
        "import sys; from xloop import registry\n"
        "table = {'better': 'unwell', 'lost': 'no_such_module', **registry.bundled()}\n"
        "registry._BUNDLED = {sys.platform: table}\n"
        "from xloop.cli import main; main()\n"
    )
    words = [sys.executable, "-c", program, "mount", "-v", str(spot.source), str(spot.mnt)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "xloop: backend 'devfuse' is the best that can mount here\n"
        "       backend 'better' cannot mount here: the moon is full\n"
        "           wait a night\n"
        "       backend 'lost' comes with xloop but cannot be loaded: "
    )
    assert spot.run("umount", spot.mnt).returncode == 0
    # Who asks for one by name is told nothing of the others.
    done = spot.run("mount", "-v", "--backend", "devfuse", spot.source, spot.mnt)
    assert "the best" not in done.stderr
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.skipif(ROOT, reason="needs an ordinary user: root mounts without a helper")
def test_auto_takes_libfuse_where_devfuse_lacks_its_helper(spot: Spot) -> None:
    """Without fusermount3 there is libfuse 2 still, whose helper has another name."""
    helper = shutil.which("fusermount")
    if helper is None or not registry.load("libfuse2").probe().ok:
        pytest.skip("libfuse 2 or its helper fusermount is not installed")
    tools = spot.top / "tools"
    tools.mkdir()
    (tools / "fusermount").symlink_to(helper)
    environment = os.environ | {"PATH": str(tools)}
    done = spot.run("mount", "-v", spot.source, spot.mnt, env=environment)
    assert done.returncode == 0, done.stderr
    page = Path(__file__).parents[2] / "docs" / "backends.md"
    (printed,) = commands(page, by="tests/mount/test_cli.py")
    assert matches(printed.shown, done.stderr.splitlines()), done.stderr
    assert "version: 2." in done.stderr
    assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.run("umount", spot.mnt, env=environment).returncode == 0


# -- one inside the other -------------------------------------------------------------------


def test_a_mountpoint_inside_the_source(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.source / "inner").returncode == 0
    assert (spot.source / "inner" / "file").read_text() == "content\n"
    # Inside the view the walk ends, at an empty directory or an error.
    probe = "import os, sys; print(os.listdir(sys.argv[1]))"
    target = spot.source / "inner" / "inner"
    seen = subprocess.run(
        [sys.executable, "-c", probe, target], capture_output=True, text=True, timeout=60
    )
    assert seen.stdout == "[]\n" or "Too many levels of symbolic links" in seen.stderr
    assert spot.run("umount", spot.source / "inner").returncode == 0
    assert spot.alone()


def test_the_source_inside_the_mountpoint(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.top).returncode == 0
    assert sorted(os.listdir(spot.top)) == ["file", "inner"]
    assert spot.run("umount", spot.top, cwd="/").returncode == 0
    assert spot.alone()


def test_a_directory_on_itself(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.source).returncode == 0
    assert (spot.source / "file").read_text() == "content\n"
    (spot.source / "new").write_text("through the mount")
    assert spot.run("umount", spot.source).returncode == 0
    assert (spot.source / "new").read_text() == "through the mount"
    assert spot.alone()


def test_the_root_directory(spot: Spot) -> None:
    assert spot.run("mount", "-o", "ro", "/", spot.mnt).returncode == 0
    inside = f"{spot.mnt}{spot.source}/file"
    assert Path(inside).read_text() == "content\n"
    subprocess.run(["ls", f"{spot.mnt}{spot.mnt}"], capture_output=True, timeout=60)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


# -- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "mountpoint", "words"),
    [
        ("missing", "mnt", ["source 'missing' does not exist"]),
        ("source/file", "mnt", ["source 'source/file' is a file, not a directory"]),
        ("source", "missing", ["mountpoint 'missing' does not exist", "mkdir "]),
        ("source", "source/file", ["mountpoint 'source/file' is a file, not a directory"]),
        ("source/file/x", "mnt", ["source 'source/file/x' cannot be used: Not a directory"]),
        ("loop", "mnt", ["source 'loop' cannot be used: Too many levels of symbolic links"]),
        ("source", "loop", ["mountpoint 'loop' cannot be used: Too many levels"]),
        ("fifo", "mnt", ["source 'fifo' is a device, socket or pipe, not a directory"]),
        ("x" * 300, "mnt", ["cannot be used: File name too long"]),
        ("", "mnt", ["source '' does not exist"]),
    ],
)
def test_what_cannot_be_mounted_is_named(
    source: str, mountpoint: str, words: list[str], spot: Spot
) -> None:
    os.symlink("loop", spot.top / "loop")
    os.mkfifo(spot.top / "fifo")
    done = spot.run("mount", source, mountpoint)
    assert done.returncode == 1
    spot.refused(done, *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-o", "alow_other"], ["unknown option 'alow_other'", "'allow_other'"]),
        (["-o", "allow_other,allow_root"], ["'allow_other' and 'allow_root' contradict"]),
        (["-o", "attr_timeout=x"], ["'attr_timeout' takes seconds", "'x'"]),
        (["--bakcend", "x"], ["--bakcend", "--backend"]),
        (["-o", "ro,", "noexec"], ["'-o ro,' ends with a comma", "-o ro,noexec"]),
        (["--noexec"], ["no such option '--noexec'", "-o noexec"]),
        (["-r"], ["no such option '-r'", "-o ro"]),
    ],
)
def test_what_is_not_understood_is_named(args: list[str], words: list[str], spot: Spot) -> None:
    done = spot.run("mount", *args, spot.source, spot.mnt)
    assert done.returncode == 2
    spot.refused(done, *words)


def test_a_backend_that_is_not_there_is_named(spot: Spot) -> None:
    done = spot.run("mount", "--backend", "devfuze", spot.source, spot.mnt)
    assert done.returncode == 1
    spot.refused(done, "no backend 'devfuze'", "'devfuse'")


def test_a_command_that_is_not_there_is_named(spot: Spot) -> None:
    done = spot.run("unmount")
    assert done.returncode == 2
    spot.refused(done, "no command 'unmount'", "'umount'")


def test_a_stdout_that_is_full_is_told(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    for args in (["--help"], ["list"], ["mount", "--help"]):  # more than a buffer holds, and less
        with open("/dev/full", "w") as full:
            done = spot.run(*args, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert done.stderr == "xloop: stdout cannot be written to: No space left on device\n"
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.skipif(ROOT, reason="needs an ordinary user: root may mount anywhere")
def test_a_user_is_told_where_mounting_is_allowed(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    for args in (["/"], [spot.mnt / "inner"], ["--on-top", spot.mnt]):
        done = spot.run("mount", spot.source / "inner", *args)
        assert done.returncode == 1
        spot.refused(done, "cannot be mounted on: ", "choose a mountpoint that this user owns")
    assert len(spot.mounts_below()) == 1
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("passthrough", "the kernel allows passthrough to root (CAP_SYS_ADMIN) only"),
        ("dev", "the option dev is root's"),
        ("strictatime", "fusermount3 has no option strictatime"),
    ],
)
@pytest.mark.skipif(ROOT, reason="needs an ordinary user: root may")
def test_what_is_root_s_is_refused_to_a_user(word: str, words: str, spot: Spot) -> None:
    done = spot.run("mount", "--backend", "devfuse", "-o", word, spot.source, spot.mnt)
    assert done.returncode == 1
    spot.refused(done, words, f"leave out {word}, or mount as root")
    assert spot.mounted() is None


@pytest.mark.skipif(ROOT, reason="needs an ordinary user: root may enter")
def test_a_source_that_may_not_be_entered_is_named(spot: Spot) -> None:
    (spot.source / "inner").chmod(0)
    done = spot.run("mount", "source/inner", spot.mnt)
    (spot.source / "inner").chmod(0o700)
    assert done.returncode == 1
    spot.refused(done, "source 'source/inner' may not be entered by this user", "let its owner")


@pytest.mark.skipif(os.path.exists("/sys/fs/selinux/enforce"), reason="SELinux is enabled here")
def test_a_label_where_there_is_no_selinux_is_refused(spot: Spot) -> None:
    done = spot.run("mount", "-o", "context=u:r:t:s0", spot.source, spot.mnt)
    assert done.returncode == 1
    spot.refused(done, "context", "leave out context")


def test_a_server_without_descriptors_says_so(spot: Spot, flags: Flags) -> None:
    done = spot.run("mount", "--backend", "exhausted", spot.source, spot.mnt)
    assert done.returncode == 1
    spot.refused(done, f"{str(spot.mnt)!r} cannot be served: Too many open files", "ulimit -n")
    assert spot.alone()


@on_top_works
def test_a_second_mount_on_the_same_directory_needs_a_flag(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    done = spot.run("mount", spot.source / "inner", spot.mnt)
    assert done.returncode == 1
    spot.refused(done, "is a mount of xloop already", str(spot.source), "xloop umount", "--on-top")
    assert (spot.mnt / "file").exists()
    assert spot.run("mount", "--on-top", spot.source / "inner", spot.mnt).returncode == 0
    assert os.listdir(spot.mnt) == []
    assert spot.run("umount", spot.mnt).returncode == 0
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


@on_top_works
def test_a_covered_server_that_is_to_end_leaves_the_mount_on_top_alone(spot: Spot) -> None:
    lower = spot.start("mount", "-f", spot.source, spot.mnt)
    assert spot.answers()
    assert spot.run("mount", "--on-top", spot.source / "inner", spot.mnt).returncode == 0
    upper = spot.mounted()
    lower.send_signal(signal.SIGTERM)
    assert "another mount covers it" in lower.stderr.readline()
    assert spot.mounted() == upper
    assert spot.run("umount", spot.mnt).returncode == 0
    assert lower.wait(60) == 0  # it kept trying
    assert spot.alone()


def test_a_dead_mount_is_named_and_cleaned(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    os.kill(spot.server(), signal.SIGKILL)
    assert spot.mounted() is not None
    for args in (["source", "mnt"], ["mnt", "source/inner"], ["source", "mnt/inner"]):
        done = spot.run("mount", *args)
        assert done.returncode == 1
        spot.refused(done, "Transport endpoint is not connected", f"xloop umount {spot.mnt}")
    done = spot.run("umount", spot.mnt)
    assert done.returncode == 0
    assert "was dead (Transport endpoint is not connected)" in done.stderr
    assert spot.alone()


def test_a_dead_mount_is_cleaned_though_files_of_it_are_open(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    spot.use(spot.mnt / "file")
    [server] = [pid for pid in spot.servers() if pid not in {p.pid for p in spot.started}]
    os.kill(server, signal.SIGKILL)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.mounted() is None


def test_a_server_that_hangs_hangs_nobody_else(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = spot.run("mount", spot.source, spot.mnt)
        spot.refused(done, "does not answer", f"xloop umount --lazy {spot.mnt}")
        for args in ([spot.source, "mnt/inner"], ["mnt/inner/", spot.source]):
            done = spot.run("mount", *args)
            spot.refused(done, f"lies in {str(spot.mnt)!r}", "does not answer")
        assert spot.run("umount", "--lazy", spot.mnt).returncode == 0
        assert spot.mounted() is None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert spot.alone()


@needs_root
def test_a_machine_without_the_device_is_told_so(spot: Spot) -> None:
    words = [sys.executable, "-m", "xloop", "mount", str(spot.source), str(spot.mnt)]
    hide = 'mount -t tmpfs none "$0" && mount --bind "$0" /dev && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, str(spot.mnt), *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    spot.refused(done, "/dev/fuse", "\n ")


@needs_root
def test_a_user_without_the_right_to_mount_is_told_so(spot: Spot) -> None:
    spot.top.chmod(0o755)
    hide = 'for f in fusermount fusermount3; do p=$(command -v $f) && mount --bind /dev/null "$p"; done; exec "$@"'
    words = [sys.executable, "-m", "xloop", "mount", str(spot.source), str(spot.mnt)]
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if subprocess.run([*drop, sys.executable, "-c", "import xloop, click"]).returncode:
        pytest.skip("this Python is not accessible to another user")
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh", *drop, *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    spot.refused(done, "fuse")


# -- learning -------------------------------------------------------------------------------


def test_help_explains_every_option(spot: Spot) -> None:
    done = spot.run("mount", "--help", env=os.environ | {"COLUMNS": "100"})
    assert done.returncode == 0
    for option in options.TABLE:
        for word in filter(None, [*option.words, option.key]):
            assert re.search(rf"\b{word}\b", done.stdout), word
    assert "Examples:" in done.stdout
    assert "--foreground" in done.stdout


@pytest.mark.parametrize("command", [[], ["umount"], ["bench"], ["doctor"]])
def test_every_command_has_help_with_examples(command: list[str], spot: Spot) -> None:
    done = spot.run(*command, "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout


def test_version(spot: Spot) -> None:
    assert spot.run("--version").stdout == f"xloop {__version__}\n"


def test_mounting_imports_nothing_slow_that_it_does_not_need(spot: Spot) -> None:
    """Start-up is Python's own and little more; these cost a tenth of a second together."""
    slow = {"asyncio", "importlib.metadata", "difflib", "subprocess", "tempfile", "urllib", "email"}
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(*sorted({slow} & set(sys.modules))))\n"
        "from xloop.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "mount", str(spot.source), str(spot.mnt)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert spot.run("umount", spot.mnt).returncode == 0
    assert done.stdout == "\n"


def test_the_mountpoint_keeps_its_mode(spot: Spot) -> None:
    spot.mnt.chmod(0o700)
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert spot.run("umount", spot.mnt).returncode == 0
    assert stat.S_IMODE(os.stat(spot.mnt).st_mode) == 0o700
