# SPDX-License-Identifier: MIT
"""``xloop mount --log`` and ``--debug``: where the log goes, and what is in it."""

from __future__ import annotations

import os
import pty
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it prepares a mount namespace"
)


def wait_for(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# -- a file ---------------------------------------------------------------------------------


def test_a_file_tells_the_life_of_a_mount(spot: Spot) -> None:
    done = spot.run("mount", "--log", "./log", spot.source, spot.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = spot.server()
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    log = spot.top / "log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    expected = [
        rf"{date} xloop\[{pid}\] INFO: '{spot.source}' is mounted at '{spot.mnt}' by devfuse",
        rf"{date} xloop\[{pid}\] INFO: '{spot.mnt}' is unmounted",
    ]
    lines = log.read_text().splitlines()
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_the_file_of_ones_own_lies_in_the_state_directory(spot: Spot) -> None:
    state = {"XDG_STATE_HOME": str(spot.top / "state"), "HOME": str(spot.top)}
    done = spot.run("mount", "--log", "file", spot.source, spot.mnt, env=os.environ | state)
    assert done.returncode == 0, done.stderr
    log = spot.top / "state" / "xloop" / "log" / "xloop.log"
    assert "is mounted at" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert spot.run("umount", spot.mnt).returncode == 0


def test_warnings_are_in_it(spot: Spot) -> None:
    assert spot.run("mount", "--log", "./log", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    user = spot.use(spot.mnt / "file")
    os.kill(server, signal.SIGTERM)
    log = spot.top / "log"
    wait_for(lambda: "WARNING" in log.read_text())
    assert f"WARNING: '{spot.mnt}' is busy, used by " in log.read_text()
    user.communicate("")
    assert spot.alone()


def test_several_servers_share_a_file(spot: Spot) -> None:
    other = spot.top / "other"
    other.mkdir()
    log = spot.top / "log"
    for point in (spot.mnt, other):
        assert spot.run("mount", "--log", log, spot.source, point).returncode == 0
    assert spot.run("umount", spot.mnt, other).returncode == 0
    assert spot.alone()
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    assert len({re.findall(r"xloop\[(\d+)\]", line)[0] for line in lines}) == 2


def test_a_hangup_opens_the_file_again(spot: Spot) -> None:
    log, old = spot.top / "log", spot.top / "log.1"
    assert spot.run("mount", "--log", log, spot.source, spot.mnt).returncode == 0
    log.rename(old)
    os.kill(spot.server(), signal.SIGHUP)
    wait_for(log.exists)
    assert spot.mounted()
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    assert "is mounted at" in old.read_text()
    assert "is unmounted" not in old.read_text()
    assert log.read_text().endswith(f"'{spot.mnt}' is unmounted\n")


def test_a_file_that_cannot_be_opened_again_is_written_on(spot: Spot) -> None:
    place, moved = spot.top / "place", spot.top / "moved"
    place.mkdir()
    assert spot.run("mount", "--log", place / "log", spot.source, spot.mnt).returncode == 0
    place.rename(moved)
    os.kill(spot.server(), signal.SIGHUP)
    warning = f"WARNING: log '{place}/log' cannot be opened again: No such file or directory\n"
    wait_for(lambda: warning in (moved / "log").read_text())
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    assert (moved / "log").read_text().endswith("is unmounted\n")


def test_without_a_log_a_hangup_is_nothing_to_a_server_in_the_background(spot: Spot) -> None:
    mount = xloop.mount(spot.source, spot.mnt)
    with open(spot.mnt / "file"):
        os.kill(mount.pid, signal.SIGHUP)
        wait_for(lambda: not pending(mount.pid))
        for _ in range(5):  # one that ends the mount has it detached while it is asked this
            with pytest.raises(xloop.UnmountError, match="is busy"):
                mount.unmount()
    mount.unmount()


def pending(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(mask, 16) & 1 for mask in re.findall(r"^\w+Pnd:\s+(\w+)$", status, re.MULTILINE))


# -- the foreground -------------------------------------------------------------------------


def test_without_a_terminal_a_hangup_opens_the_file_again_in_the_foreground(spot: Spot) -> None:
    log = spot.top / "log"
    words = ("mount", "-f", "--log", log, spot.source, spot.mnt)
    server = spot.start(*words, start_new_session=True)
    assert spot.answers()
    wait_for(lambda: "is mounted" in text_of(log))
    log.unlink()
    server.send_signal(signal.SIGHUP)
    wait_for(log.exists)
    assert spot.mounted()
    server.terminate()
    assert server.wait(60) == 0
    assert "is unmounted" in log.read_text()


def test_the_end_of_its_terminal_ends_a_mount_in_the_foreground(spot: Spot) -> None:
    log = spot.top / "log"
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["-m", "xloop", "mount", "-f", "--log", log, spot.source, spot.mnt]
        os.execv(sys.executable, [sys.executable, *map(str, words)])
    try:
        assert spot.answers()
        os.close(terminal)  # as when a window is closed
        wait_for(lambda: ended(pid))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert spot.alone()
    assert "is unmounted" in log.read_text()


def ended(pid: int) -> bool:
    """Tell whether a child has ended; it can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_without_a_log_a_hangup_ends_a_mount_in_the_foreground(spot: Spot) -> None:
    server = spot.start("mount", "-f", "--debug", spot.source, spot.mnt, start_new_session=True)
    assert spot.answers()
    server.send_signal(signal.SIGHUP)
    server.communicate(timeout=60)
    assert server.returncode == 0


def test_debug_tells_each_request_and_no_contents(spot: Spot) -> None:
    words = ("mount", "-f", "--debug", "-o", "nopassthrough", spot.source, spot.mnt)
    server = spot.start(*words)
    assert spot.answers()
    (spot.mnt / "new").write_text("the secret\n")
    assert (spot.mnt / "file").read_text() == "content\n"
    os.setxattr(spot.mnt / "new", "user.x", b"another secret")
    os.rename(spot.mnt / "new", spot.mnt / "inner" / "moved")
    os.chmod(spot.mnt / "inner" / "moved", 0o600)
    with pytest.raises(FileNotFoundError):
        os.stat(spot.mnt / "missing\n")
    server.terminate()
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out) == (0, "")
    me = rf"\(pid {os.getpid()}, uid {os.geteuid()}, gid {os.getegid()}, \d+ us\)"
    # ".*": what only the requests of somebody without CAP_FSETID say.
    for pattern in [
        r"init -> ok \(\d+ us\)",
        rf"'{spot.source}' is mounted at '{spot.mnt}' by devfuse",
        rf"create '/new' O_WRONLY\|O_CREAT\|O_TRUNC.* mode=0100666 umask=0\d+.* -> #\d+ -rw-.* 0 bytes, handle \d+ {me}",
        rf"write '/new' handle=\d+ offset=0 data=11 bytes.* -> 11 {me}",
        rf"read '/file' handle=\d+ offset=0 size=\d+ -> 8 bytes {me}",
        rf"setxattr '/new' name='user.x' value=14 bytes flags=0 -> ok {me}",
        rf"rename '/new' '/inner/moved'.* -> ok {me}",
        rf"setattr '/inner/moved'.* mode=0600.* -> -rw------- \d+:\d+ 11 bytes {me}",
        rf"lookup '/missing\\n' -> ENOENT {me}",
        rf"'{spot.mnt}' is unmounted",
    ]:
        assert re.search(rf"^xloop: {pattern}$", err, re.MULTILINE), (pattern, err)
    assert "secret" not in err
    assert "content" not in err


def test_debug_in_the_background_goes_to_the_log(spot: Spot) -> None:
    log = spot.top / "log"
    assert spot.run("mount", "--debug", "--log", log, spot.source, spot.mnt).returncode == 0
    assert (spot.mnt / "inner").is_dir()
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
    assert re.search(r"DEBUG: lookup '/inner' -> #\d+ drwx", log.read_text())


# -- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (
            ["--log", "jornald"],
            2,
            [
                "--log: 'jornald' is none of stderr, file, journald, syslog; did you mean 'journald'?",
                "a file is written with its directory: ./jornald",
            ],
        ),
        (["--log", "stderr"], 2, ["--log stderr is for --foreground: a server in the background has no stderr"]),
        (["--debug"], 2, ["--debug: a server in the background has no stderr: add --foreground, or --log FILE"]),
        (["--log", "missing/log"], 1, ["log 'TOP/missing/log' cannot be written: No such file or directory", "--log FILE"]),
        (["-f", "--log", "missing/log"], 1, ["log 'TOP/missing/log' cannot be written: No such file or directory"]),
        (["--log", "source/../mnt/log"], 1, ["log 'TOP/mnt/log' lies below the mountpoint: the server would wait for itself"]),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_is_refused(
    args: list[str], status: int, words: list[str], spot: Spot
) -> None:
    done = spot.run("mount", *args, spot.source, spot.mnt)
    assert done.returncode == status
    spot.refused(done, *(word.replace("TOP", str(spot.top)) for word in words))
    assert spot.alone()


# -- journald and syslog --------------------------------------------------------------------

#: Without /run and with only what a mount needs in /dev: nobody listens for logs.
_ALONE = """
import os, socket, subprocess, sys, time

def sh(*words, **more):
    return subprocess.run(words, **more)

top, source, mnt = sys.argv[1:]
xloop = [sys.executable, "-m", "xloop"]
dev = f"{top}/dev"
os.mkdir(dev)
sh("mount", "-t", "tmpfs", "none", dev, check=True)
for name in ("fuse", "null"):
    open(f"{dev}/{name}", "w").close()
    sh("mount", "--bind", f"/dev/{name}", f"{dev}/{name}", check=True)
sh("mount", "--rbind", dev, "/dev", check=True)
sh("mount", "-t", "tmpfs", "none", "/run", check=True)

def listening(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(path)
    listener.settimeout(30)
    return listener

def mounted_and_unmounted(*words):
    sh(*xloop, "mount", *words, source, mnt, check=True)
    sh(*xloop, "umount", mnt, check=True)
"""


def alone(spot: Spot, text: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", _ALONE + textwrap.dedent(text), spot.top, spot.source, spot.mnt]
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=100,
    )


@needs_root
def test_journald_gets_fields(spot: Spot) -> None:
    done = alone(
        spot,
        """
        listener = listening("/run/systemd/journal/socket")
        mounted_and_unmounted("--log", "journald")
        print(*(listener.recv(1 << 16) for _ in range(2)), sep="\\n")
        """,
    )
    assert done.returncode == 0, done.stderr
    mounted, unmounted = map(eval, done.stdout.splitlines())
    fields = dict(line.split(b"=", 1) for line in mounted.splitlines())
    assert fields[b"MESSAGE"].decode() == f"'{spot.source}' is mounted at '{spot.mnt}' by devfuse"
    assert fields[b"PRIORITY"] == b"6"
    assert fields[b"SYSLOG_IDENTIFIER"] == b"xloop"
    assert fields[b"LOGGER"] == b"xloop"
    assert f"MESSAGE='{spot.mnt}' is unmounted\n".encode() in unmounted


@needs_root
def test_syslog_gets_lines(spot: Spot) -> None:
    done = alone(
        spot,
        """
        import signal
        listener = listening("/dev/log")
        sh(*xloop, "mount", "--log", "syslog", source, mnt, check=True)
        mounted = listener.recv(1 << 16)
        os.kill(int(mounted.partition(b"[")[2].partition(b"]")[0]), signal.SIGUSR1)
        status = [listener.recv(1 << 16) for _ in range(3)]
        sh(*xloop, "umount", mnt, check=True)
        while not (last := listener.recv(1 << 16)).endswith(b"is unmounted"):
            pass
        print(mounted, last, *status, sep="\\n")
        """,
    )
    assert done.returncode == 0, done.stderr
    mounted, unmounted, *status = map(eval, done.stdout.splitlines())
    # daemon.info: 3 * 8 + 6
    line = rf"<30>xloop\[\d+\]: '{spot.source}' is mounted at '{spot.mnt}' by devfuse"
    assert re.fullmatch(line, mounted.decode())
    assert unmounted.decode().endswith(f"'{spot.mnt}' is unmounted")
    head = mounted.partition(b" ")[0].decode()
    assert [line.decode() for line in status] == [
        f"{head} {line}"
        for line in (
            f"{spot.source} at {spot.mnt}",
            "  backend: devfuse, type fuse.xloop",
            "  options: none but the defaults",
        )
    ]


@needs_root
def test_a_journald_that_is_real_takes_what_it_gets(spot: Spot) -> None:
    program = "/lib/systemd/systemd-journald"
    if not os.access(program, os.X_OK) or not os.path.exists("/etc/machine-id"):
        pytest.skip("systemd-journald is not installed")
    done = alone(
        spot,
        f"""
        os.makedirs("/run/log/journal")
        os.environ.pop("NOTIFY_SOCKET", None)
        journald = subprocess.Popen([{program!r}], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not os.path.exists("/run/systemd/journal/socket"):
                assert time.monotonic() < deadline and journald.poll() is None
                time.sleep(0.01)
            mounted_and_unmounted("--log", "journald", "--debug")
            read = ["journalctl", "-D", "/run/log/journal", "-t", "xloop", "-o", "cat"]
            while "is unmounted" not in (said := sh(*read, capture_output=True, text=True).stdout):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            print(said)
        finally:
            journald.terminate()
            journald.wait()
        """,
    )
    assert done.returncode == 0, done.stderr
    assert f"'{spot.source}' is mounted at '{spot.mnt}' by devfuse\n" in done.stdout
    assert "getattr '/' -> drwx" in done.stdout


@needs_root
@pytest.mark.parametrize("left", [False, True], ids=["nothing", "a socket of the dead"])
@pytest.mark.parametrize(
    ("where", "path"), [("journald", "/run/systemd/journal/socket"), ("syslog", "/dev/log")]
)
def test_where_nobody_listens_nothing_is_mounted(
    where: str, path: str, left: bool, spot: Spot
) -> None:
    done = alone(
        spot,
        f"""
        {left} and listening({path!r}).close()
        sys.exit(sh(*xloop, "mount", "--log", {where!r}, source, mnt).returncode)
        """,
    )
    assert done.returncode == 1
    why = f"there is no {where} here: nobody listens at '{path}' ("
    assert done.stderr.startswith(f"xloop: {why}")
    assert done.stderr.endswith(")\n       --log FILE writes to a file\n")


def test_a_record_of_many_lines_and_bytes_goes_to_journald_whole(tmp_path: Path) -> None:
    import logging
    import socket

    from xloop import logs

    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        journal = logs._Journal(path)
        journal.setFormatter(logs._Formatter("%(message)s"))
        try:
            for text in ("xloop: a\n\udcff", "x" * 10_000_000):
                journal.emit(logging.LogRecord("xloop", logging.ERROR, "f.py", 7, text, (), None))
            first, second = listener.recv(1 << 20), listener.recv(1 << 20)
        finally:
            journal.close()
    assert first.startswith(b"MESSAGE\n" + (8).to_bytes(8, "little") + b"a\n\\udcff\nPRIORITY=3\n")
    assert second.startswith(b"MESSAGE=" + b"x" * 100_000 + b"\nPRIORITY=3\n")
