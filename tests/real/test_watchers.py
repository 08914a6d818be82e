# SPDX-License-Identifier: MIT
"""Programs that watch a mount hear of what is changed on its source: inotifywait, watchdog, tail, a development server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from real.support import Arg, clean_environment, need, wait_until

if TYPE_CHECKING:
    from real.conftest import Place, Show


@pytest.fixture
def watched(work: Path, show: Show) -> Place:
    source = work / "source"
    (source / "app").mkdir(parents=True)
    return show(source, events="relay")


class Running(NamedTuple):
    pid: int
    #: Returns what it has said so far.
    said: Callable[[], str]

    def watches(self) -> bool:
        """Tell whether it watches anything by inotify."""
        infos = Path(f"/proc/{self.pid}/fdinfo").iterdir()
        return any("inotify wd:" in info.read_text() for info in infos)


@contextlib.contextmanager
def running(command: list[Arg], out: Path, cwd: Path | None = None) -> Iterator[Running]:
    """Run a program meanwhile."""
    with open(out, "wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
            start_new_session=True,  # with those that it starts
        )
        try:
            yield Running(process.pid, out.read_text)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
            wait_until(lambda: not alive(process.pid), f"all processes of {command} have ended")


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def save(path: Path, text: str) -> None:
    """Save as editors do: a temporary file beside it takes its place."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def test_inotifywait(watched: Place, work: Path) -> None:
    need("inotifywait")
    command: list[Arg] = ["inotifywait", "-m", "-r", "--format", "%w %e %f", "."]
    with running(command, work / "out", cwd=watched.mnt) as program:
        wait_until(lambda: "established" in program.said(), "inotifywait watches")
        (watched.source / "app" / "dir").mkdir()
        wait_until(lambda: "./app/ CREATE,ISDIR dir" in program.said(), "the directory is told")

        def told_inside() -> bool:
            # inotifywait watches a new directory a moment after it has heard of it.
            (watched.source / "app" / "dir" / "file").touch()
            return "./app/dir/ " in program.said()

        wait_until(told_inside, "the new directory is watched")
        save(watched.source / "app" / "file", "text")
        wait_until(lambda: "./app/ MOVED_TO file" in program.said(), "the file is told")
        lines = [
            line for line in program.said().splitlines() if "file" in line and "./app/ " in line
        ]
    kinds = [line.split()[1] for line in lines]
    assert kinds == ["CREATE", "OPEN", "MODIFY", "CLOSE_WRITE,CLOSE", "MOVED_FROM", "MOVED_TO"] or (
        # What was still unheard when more of it came is one.
        kinds == ["CREATE", "MODIFY", "OPEN", "CLOSE_WRITE,CLOSE", "MOVED_FROM", "MOVED_TO"]
    )


OBSERVER = """
import sys, time
from watchdog.events import FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

class Say(FileSystemEventHandler):
    def on_any_event(self, event):
        print(event.event_type, event.src_path, event.dest_path, flush=True)

observer = InotifyObserver()
observer.schedule(Say(), ".", recursive=True)
observer.start()
print("ready", flush=True)
time.sleep(3600)
"""


def test_watchdog(watched: Place, work: Path) -> None:
    pytest.importorskip("watchdog")
    with running([sys.executable, "-c", OBSERVER], work / "out", cwd=watched.mnt) as program:
        wait_until(lambda: "ready" in program.said(), "the observer watches")
        source = watched.source
        (source / "app" / "file").write_text("text")
        wait_until(lambda: "closed ./app/file" in program.said(), "the file is told")
        os.rename(source / "app" / "file", source / "moved")
        (source / "app").rmdir()
        (source / "moved").unlink()
        wait_until(lambda: "deleted ./moved" in program.said(), "the end is told")
        lines = program.said().splitlines()
    for line in (
        "created ./app/file ",
        "modified ./app/file ",
        "moved ./app/file ./moved",  # one event: its halves have one cookie
        "deleted ./app ",
    ):
        assert line in lines


@pytest.mark.parametrize("follow", ["-f", "-F"])
def test_tail(watched: Place, work: Path, follow: str) -> None:
    log = watched.source / "log"
    log.write_text("first\n")
    command: list[Arg] = ["tail", follow, "-s", "0.1", watched.mnt / "log"]
    with running(command, work / "out") as program:
        wait_until(lambda: "first\n" in program.said(), "tail reads")
        with open(log, "a") as file:
            file.write("second\n")
        wait_until(lambda: "second\n" in program.said(), "what is appended is shown")
        if follow == "-F":
            log.rename(log.with_name("log.1"))
            log.write_text("third\n")
            wait_until(lambda: "third\n" in program.said(), "the new file is shown")


APPLICATION = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%s"})
"""


def test_a_development_server(watched: Place, work: Path) -> None:
    """uvicorn --reload, which asks watchfiles, which asks inotify."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("watchfiles")
    (watched.source / "application.py").write_text(APPLICATION % "first")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[Arg] = [
        *(sys.executable, "-m", "uvicorn", "application:app", "--reload"),
        *("--lifespan", "off", "--port", str(port)),
    ]

    def answer() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                return bytes(reply.read())
        except OSError:
            return b""

    with running(command, work / "out", cwd=watched.mnt) as program:
        wait_until(lambda: answer() == b"first", "the server answers")
        wait_until(program.watches, "it watches")
        for text in ("second", "third"):
            save(watched.source / "application.py", APPLICATION % text)
            wait_until(lambda: answer() == text.encode(), f"it answers {text!r}")
        assert "changes in 'application.py'" in program.said()
        assert program.said().count("Reloading") == 2
