# SPDX-License-Identifier: MIT
"""``xloop run``: who sees the mount, who the command is, and what is left afterwards: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from documents import Shell, commands  # tests/plugins

from xloop.host import namespaces

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0

#: A command that tells when it has begun, and ends when its stdin does.
WAITING = 'echo started; read line; cat "$XLOOP_VIEW/file"'


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Skip where this user may have no mounts of its own, and say which setting forbids them."""
    found = None if ROOT else namespaces.forbidden_by()
    if found is not None:
        pytest.skip(f"{found[0]} is {found[1]}")


def started(spot: Spot, *args: object, script: str = WAITING) -> subprocess.Popen[str]:
    """Start a command in a view, and return when it runs."""
    process: subprocess.Popen[str] = spot.start("run", spot.source, *args, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def test_the_command_starts_in_a_view_of_the_source(spot: Spot) -> None:
    done = spot.run(
        "run", spot.source, "--", "sh", "-c", 'pwd; echo "$PWD $XLOOP_VIEW"; ls; echo new >made'
    )
    assert (done.returncode, done.stderr) == (0, "")
    place, told, *names = done.stdout.splitlines()
    assert told == f"{place} {place}"
    assert names == ["file", "inner"]
    # Programs take a project's name from its directory.
    assert os.path.basename(place) == "source"
    assert (spot.source / "made").read_text() == "new\n"
    assert not os.path.exists(place)
    assert os.listdir(os.path.dirname(os.path.dirname(place))) == []
    assert spot.alone()


def test_the_view_is_at_a_directory_that_was_chosen_and_the_command_stays_where_it_was(
    spot: Spot,
) -> None:
    done = spot.run(
        "run", "source", "--at", "mnt", "--", "sh", "-c", 'pwd; ls mnt; echo "$XLOOP_VIEW"'
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(spot.top), "file", "inner", str(spot.mnt)]
    assert spot.alone()


def test_nobody_else_sees_it(spot: Spot) -> None:
    process = started(spot, "--at", spot.mnt)
    assert os.listdir(spot.mnt) == []
    assert spot.mounts_below() == []
    (spot.source / "file").write_text("changed outside\n")
    assert process.communicate("go on\n") == ("changed outside\n", "")
    assert process.returncode == 0
    assert spot.alone()


def test_the_signal_that_asks_for_a_status_harms_no_server(spot: Spot) -> None:
    process = spot.start("run", spot.source, "--", "sh", "-c", WAITING)
    sent = 0
    while not select.select([process.stdout], [], [], 0)[0]:
        for pid in spot.servers():
            if pid != process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
                    sent += 1
    assert sent
    assert process.communicate("go on\n")[0] == "started\ncontent\n"  # stderr may have it
    assert process.returncode == 0
    assert spot.alone()


def test_two_at_once_have_a_view_each(spot: Spot) -> None:
    other = spot.top / "other"
    other.mkdir()
    (other / "file").write_text("other content\n")
    first = started(spot)
    second = spot.start("run", other, "--", "sh", "-c", WAITING)
    assert first.communicate("\n")[0] == "content\n"
    assert second.communicate("\n")[0] == "started\nother content\n"
    assert spot.alone()


def test_a_view_in_a_view(spot: Spot) -> None:
    (spot.source / "inner" / "deep").write_text("deep\n")
    inner = f'"{sys.executable}" -m xloop run inner -- sh -c "cat deep $XLOOP_VIEW/file; pwd"'
    done = spot.run("run", spot.source, "--", "sh", "-c", inner)
    assert done.stderr == ""
    *lines, place = done.stdout.splitlines()
    assert lines == ["deep", "content"]
    assert os.path.basename(place) == "inner"
    assert spot.alone()


def test_read_only_in_place(spot: Spot) -> None:
    script = "cat file; mkdir new || echo refused"
    done = spot.run("run", "-o", "ro", ".", "--at", ".", "--", "sh", "-c", script, cwd=spot.source)
    assert done.stdout == "content\nrefused\n"
    assert "Read-only file system" in done.stderr
    assert sorted(os.listdir(spot.source)) == ["file", "inner"]
    assert spot.alone()


def test_the_view_inside_of_its_source(spot: Spot) -> None:
    script = "ls inner; ls inner/inner; echo seen >inner/inner/made"
    done = spot.run("run", ".", "--at", "inner", "--", "sh", "-c", script, cwd=spot.source)
    assert (done.stdout.split(), done.stderr) == (["file", "inner"], "")
    assert (spot.source / "inner" / "made").read_text() == "seen\n"
    assert spot.alone()


def test_a_working_directory_that_the_view_hides_is_refused(spot: Spot) -> None:
    (spot.mnt / "here").mkdir()
    done = spot.run("run", spot.source, "--at", "..", "--", "ls", cwd=spot.mnt / "here")
    spot.refused(done, f"the working directory '{spot.mnt}/here' is not there for the command")
    assert done.returncode == 1
    assert spot.alone()


# -- who the command is ---------------------------------------------------------------------


def test_the_process_becomes_the_command(spot: Spot) -> None:
    """So signals, job control and the exit status need nobody to pass them on."""
    script = (
        "import os; print(os.getpid(), os.getpgrp(), os.getsid(0), os.getuid(), os.getgid());"
        "print(*open('/proc/self/task/%d/children' % os.getpid()))"
    )
    process = spot.start("run", spot.source, "--", sys.executable, "-c", script)
    out, err = process.communicate()
    assert err == ""
    ids, children = out.split("\n", 1)
    assert [int(word) for word in ids.split()] == [
        process.pid,
        os.getpgrp(),
        os.getsid(0),
        os.getuid(),
        os.getgid(),
    ]
    assert children.strip() == "", "a command must not find children that it did not start"
    assert spot.alone()


def test_a_key_that_interrupts_reaches_the_command(spot: Spot) -> None:
    script = "trap 'echo interrupted; exit 3' INT; echo started; while :; do sleep 1; done"
    words = [sys.executable, "-m", "xloop", "run", str(spot.source), "--", "sh", "-c", script]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    said = b""
    pressed = False
    with contextlib.suppress(OSError), open(terminal, "r+b", buffering=0) as keys:  # EIO: the end
        while data := keys.read(1024):
            said += data
            if b"started" in said and not pressed:
                keys.write(b"\x03")
                pressed = True
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert b"interrupted" in said
    assert spot.alone()


def test_its_status_is_passed_on(spot: Spot) -> None:
    assert spot.run("run", spot.source, "--", "sh", "-c", "exit 7").returncode == 7
    killed = spot.run("run", spot.source, "--", "sh", "-c", "kill -TERM $$")
    assert killed.returncode == -signal.SIGTERM
    assert spot.alone()


def test_its_signals_and_descriptors_are_those_of_the_caller(spot: Spot) -> None:
    look = "grep -E '^Sig(Blk|Ign|Cgt)|^Cap(Eff|Prm|Inh|Amb)' /proc/self/status; cat /proc/self/fd/"
    with open(spot.source / "file") as file:
        words = ["sh", "-c", look + str(file.fileno())]
        more = {"pass_fds": [file.fileno()], "capture_output": True, "text": True}
        plain = subprocess.run(words, **more)
        done = spot.run("run", spot.source, "--", *words, **more)
    assert (done.stdout, done.stderr) == (plain.stdout, "")
    assert done.stdout.endswith("content\n")
    assert spot.alone()


def test_whoever_reads_its_output_waits_for_nobody_else(spot: Spot) -> None:
    # subprocess.run() returns at the end of the pipes: the server must not hold them.
    done = spot.run("run", spot.source, "--", "sh", "-c", "sleep 1000 <&- >&- 2>&- & echo $!")
    sleeper = int(done.stdout)
    assert spot.server()
    os.kill(sleeper, signal.SIGTERM)
    assert spot.alone()


def test_a_command_that_cannot_be_run_leaves_nothing(spot: Spot) -> None:
    missing = spot.run("run", spot.source, "--", "no-such-command", "-x")
    spot.refused(missing, "the command 'no-such-command' cannot be run: No such file or directory")
    assert missing.returncode == 127
    (spot.source / "file").chmod(0o644)
    denied = spot.run("run", spot.source, "--", "./file")
    spot.refused(denied, "the command './file' cannot be run: Permission denied")
    assert denied.returncode == 126
    assert spot.alone()


# -- rights ---------------------------------------------------------------------------------


def test_a_user_needs_no_helper_and_gets_no_rights(spot: Spot, tmp_path: Path) -> None:
    if ROOT:
        pytest.skip("needs an ordinary user: root needs no helper to mount")
    (tmp_path / "sh").symlink_to(str(shutil.which("sh")))
    env = os.environ | {"PATH": str(tmp_path)}
    umount = shutil.which("umount")
    script = f'echo "$XLOOP_VIEW"; {umount} "$XLOOP_VIEW" || echo kept'
    done = spot.run("run", spot.source, "--", "sh", "-c", script, env=env)
    assert done.stdout.splitlines()[1:] == ["kept"]
    assert spot.alone()


def test_a_user_writes_where_the_source_lets_it_whoever_owns_that(spot: Spot) -> None:
    """The kernel refuses that to a file whose owner a user namespace does not know."""
    if ROOT:
        pytest.skip("needs an ordinary user: root has no user namespace")
    places = [Path(path) for path in (tempfile.gettempdir(), "/var/tmp", "/dev/shm")]
    foreign = [p for p in places if p.stat().st_uid != os.getuid() and os.access(p, os.W_OK)]
    if not foreign:
        pytest.skip(f"this user may write to no directory of somebody else: {places}")
    name = spot.top.name + ".made"
    script = f"echo made >{name}; cat {name}; rm {name}; stat -c %u:%g ."
    done = spot.run("run", foreign[0], "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == (f"made\n{os.getuid()}:{os.getgid()}\n", "")
    assert not (foreign[0] / name).exists()


def test_where_the_kernel_forbids_namespaces_the_setting_is_named(spot: Spot) -> None:
    # The limit is each user namespace's own, so one can be had that forbids more of them.
    flag = spot.top / "ran"
    script = 'echo 0 >/proc/sys/user/max_user_namespaces || exit 77; exec setpriv --bounding-set=-all "$@"'
    words = [sys.executable, "-m", "xloop", "run", str(spot.source), "--", "touch", str(flag)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip(f"a user namespace cannot be limited here: {done.stderr}")
    spot.refused(
        done,
        "a user namespace cannot be had here: user.max_user_namespaces is 0, which forbids it",
        "let root allow it: sysctl -w user.max_user_namespaces=10000",
        "xloop mount",
    )
    assert done.returncode == 1
    assert not flag.exists()
    assert spot.alone()


# -- the end --------------------------------------------------------------------------------


def test_the_mount_stays_for_what_the_command_has_left_behind(spot: Spot) -> None:
    """Else a path would begin to mean something else under a process that is still at work."""
    script = "(read line <go; cat mnt/file; echo x >mnt/file) >out 2>&1 <&- & echo started"
    os.mkfifo(spot.top / "go")
    done = spot.run("run", "-o", "ro", spot.source, "--at", "mnt", "--", "sh", "-c", script)
    assert done.stdout == "started\n"
    assert spot.server()
    (spot.top / "go").write_text("on\n")
    assert spot.alone()
    out = (spot.top / "out").read_text()
    assert out.startswith("content\n")
    assert "Read-only file system" in out
    assert os.listdir(spot.mnt) == []


def test_a_killed_command_leaves_nothing(spot: Spot) -> None:
    process = started(spot)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert spot.alone()


def test_a_killed_server_leaves_a_command_that_hears_of_it(spot: Spot) -> None:
    process = started(spot)
    os.kill(spot.server(), signal.SIGKILL)
    _, err = process.communicate("\n", timeout=30)
    # ENOTCONN, or ECONNABORTED for what was asked at that moment.
    assert "not connected" in err or "connection abort" in err
    assert process.returncode == 1
    assert spot.alone()


def test_killed_while_it_mounts_nothing_is_left(spot: Spot, flags: Flags) -> None:
    words = ("run", "--backend", "slow-to-attach", spot.source, "--", "true")
    process = spot.start(*words)
    assert flags.reached("attach")
    assert len(spot.servers()) == 2  # the one that is going to be the command, and the server
    process.kill()
    process.wait(30)
    assert spot.alone()


def test_a_server_that_dies_while_it_mounts_is_an_error(spot: Spot, flags: Flags) -> None:
    process = spot.start("run", "--backend", "slow-to-attach", spot.source, "--", "true")
    assert flags.reached("attach")
    (server,) = set(spot.servers()) - {process.pid}
    os.kill(server, signal.SIGKILL)
    flags.set("attach")
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == ("", 1)
    assert "the server process ended before the mount was ready" in err
    assert spot.alone()


def test_a_signal_to_the_server_does_not_take_the_view_from_the_command(spot: Spot) -> None:
    process = started(spot)
    server = spot.server()
    os.kill(server, signal.SIGTERM)
    assert process.communicate("\n") == ("content\n", "")
    assert process.returncode == 0
    assert spot.alone()


# -- what others see of it ------------------------------------------------------------------


def test_it_is_listed_as_a_mount_elsewhere(spot: Spot) -> None:
    process = started(spot, "--at", spot.mnt)
    rows = json.loads(spot.run("list", "--json").stdout)
    (row,) = [row for row in rows if row["source"] == str(spot.source)]
    assert (row["mountpoint"], row["state"]) == (str(spot.mnt), "elsewhere")
    assert row["pid"] == spot.server()
    process.communicate("\n")
    assert spot.alone()
    assert str(spot.source) not in spot.run("list").stdout


def test_inside_its_status_can_be_asked(spot: Spot) -> None:
    script = f'"{sys.executable}" -m xloop status --json "$XLOOP_VIEW"'
    done = spot.run("run", spot.source, "--", "sh", "-c", script)
    assert done.stderr == ""
    assert json.loads(done.stdout)["source"] == str(spot.source)
    assert spot.alone()


def test_a_mount_outside_at_the_same_place_is_left_alone(spot: Spot) -> None:
    """The server knows the view by a path that leads it to another mount."""
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    outer = spot.server()
    process = started(spot, "--at", spot.mnt)
    (server,) = set(spot.servers()) - {outer, process.pid}
    os.kill(server, signal.SIGTERM)
    assert process.communicate("\n") == ("content\n", "")
    assert eventually_gone(server)
    assert spot.mounted()
    assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def eventually_gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}/cmdline") and Path(f"/proc/{pid}/cmdline").read_bytes():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("page", ["README.md", "docs/run.md"])
def test_the_printed_sessions(page: str, spot: Spot, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    sessions = re.findall(
        r"<!-- run by: tests/mount/test_run.py -->\n(.*?^```\n)", text, re.M | re.S
    )
    assert sessions
    ours = tmp_path / "page.md"
    ours.write_text("# Page\n" + "".join(re.findall("```console.*?```\n", "".join(sessions), re.S)))
    (spot.source / "file").write_text("text\n")
    (spot.source / "inner").rmdir()
    spot.source.rename(spot.top / "src")
    scripts = Path(sys.executable).parent
    shell = Shell(spot.top, os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"})
    try:
        for command in commands(ours):
            _, printed = shell.run(command.text)
            assert printed == command.shown, command.text
    finally:
        shell.end()
    assert spot.alone()


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["source"], 2, "write it after '--'"),
        (["source", "--"], 2, "write it after '--'"),
        (["source", "ls", "-l"], 2, "write it after '--'"),
        (["missing", "--", "ls"], 1, "source 'missing' does not exist"),
        (["source", "--at", "missing", "--", "ls"], 1, "mountpoint 'missing' does not exist"),
        (["source", "-o", "rp", "--", "ls"], 2, "unknown option 'rp'"),
        (["source", "-o", "auto_unmount", "--", "ls"], 1, "the mount goes with the command"),
        (["source", "--backend", "libfuse", "--", "ls"], 1, "use it with `xloop mount`"),
        (["source", "--backend", "devfuze", "--", "ls"], 1, "there is no backend 'devfuze'"),
    ],
)
def test_what_is_refused_says_why(args: list[str], status: int, words: str, spot: Spot) -> None:
    done = spot.run("run", *args)
    spot.refused(done, words)
    assert done.returncode == status
    assert spot.alone()


def test_options_of_root_are_refused_to_users(spot: Spot) -> None:
    if ROOT:
        pytest.skip("needs an ordinary user: root may")
    spot.refused(spot.run("run", "-o", "dev", "source", "--", "ls"), "the option dev is root's")
    # fusermount3 has no such option, but is not asked here.
    script = "grep xloop-views/ /proc/self/mountinfo"
    done = spot.run("run", "-o", "strictatime", "source", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert " rw,nosuid,nodev " in done.stdout
    assert "relatime" not in done.stdout


def test_a_place_for_views_that_is_somebody_elses_is_refused(spot: Spot, tmp_path: Path) -> None:
    views = tmp_path / "xloop-views"
    env = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    views.symlink_to(spot.mnt)
    done = spot.run("run", spot.source, "--", "ls", env=env)
    spot.refused(done, f"{str(views)!r} cannot be used: it is no directory", "choose one: --at DIR")
    views.unlink()
    if ROOT:
        views.mkdir()
        os.chown(views, 1, 1)
        done = spot.run("run", spot.source, "--", "ls", env=env)
        spot.refused(done, f"{str(views)!r} cannot be used: it belongs to user 1")
        views.rmdir()
    assert spot.run("run", "source", "--", "ls", env=env).stdout == "file\ninner\n"
    assert stat.S_IMODE(views.stat().st_mode) & 0o022 == 0
