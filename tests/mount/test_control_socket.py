# SPDX-License-Identifier: MIT
"""The control socket, and people who use it badly: the mount and everybody else must not notice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from xloop import control_socket, records

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount


@pytest.fixture
def path(spot: Spot) -> Iterator[str]:
    """The socket of a mount."""
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    found = records.find(spot.mounted())
    assert found is not None
    yield found.socket
    # Whatever was done to it, it answers.
    answer = control_socket.ask(found, "status", 30)
    assert answer is not None
    assert answer["say"] == "status"
    assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert not os.path.exists(found.socket)


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(30)
    return sock


def lines(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    with sock.makefile("rb") as file:
        return [json.loads(file.readline()) for _ in range(count)]


def test_requests_are_answered_in_order_on_one_connection(path: str) -> None:
    with connected(path) as sock:
        sock.sendall(
            b'{"say": "status"}\n{"say": "stauts"}\n{"say": ["status"]}\n{"say": "status"}'
        )
        sock.sendall(b"\n")
        answers = lines(sock, 4)
    assert [answer["say"] for answer in answers] == ["status", "failed", "failed", "status"]
    assert answers[1]["why"] == "this server does not know the request 'stauts'"
    assert "unmount, and mount again" in answers[1]["fix"]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"status\n", id="no JSON"),
        pytest.param(b"[1]\n", id="no object"),
        pytest.param(b"[" * 60000 + b"\n", id="deep"),
        pytest.param(b"x" * (1 << 17), id="no end"),
        pytest.param(b"\xff\xfe\n", id="no text"),
    ],
)
def test_what_is_no_request_ends_the_connection(said: bytes, path: str) -> None:
    with connected(path) as sock:
        try:
            sock.sendall(said)
            assert sock.recv(1) == b""
        except (ConnectionResetError, BrokenPipeError):
            pass


def test_who_never_reads_and_who_never_speaks_hold_up_nobody(path: str) -> None:
    silent = [connected(path) for _ in range(8)]
    deaf = [connected(path) for _ in range(8)]
    try:
        for sock in deaf:
            sock.setblocking(False)
            try:
                while True:
                    sock.send(b'{"say": "status"}\n' * 100)
            except (BlockingIOError, ConnectionError):
                pass
        with connected(path) as sock:
            sock.sendall(b'{"say": "status"}\n')
            assert lines(sock, 1)[0]["say"] == "status"
    finally:
        for sock in [*silent, *deaf]:
            sock.close()


def test_of_too_many_connections_the_oldest_end(path: str) -> None:
    many = [connected(path) for _ in range(100)]
    try:
        newest = many[-1]
        newest.sendall(b'{"say": "status"}\n')
        assert lines(newest, 1)[0]["say"] == "status"
        assert many[0].recv(1) == b""
    finally:
        for sock in many:
            sock.close()


def test_the_mount_can_be_taken_away_by_request(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    found = records.find(spot.mounted())
    assert found is not None
    with open(spot.mnt / "file") as file:
        answer = control_socket.ask(found, "unmount", 30)
        assert answer is not None
        assert answer["say"] == "failed"
        assert "is busy" in answer["why"]
        answer = control_socket.ask(found, "unmount", 30, lazy=True)
        assert answer == {"say": "detached"}
        assert file.read() == "content\n"
    assert spot.alone()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as another user")
def test_another_user_is_not_answered_whatever_the_modes(path: str, spot: Spot) -> None:
    """The directory's mode keeps others out; if somebody has changed it, the server does."""
    for directory in (spot.top, os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
        os.chmod(directory, 0o755)
    try:
        program = (
            "import os, socket, sys\n"
            "os.setgid(65533); os.setuid(65533)\n"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1])\n"
            "try:\n"
            '    s.sendall(b\'{"say": "status"}\\n\'); print(s.recv(100))\n'
            "except ConnectionError: print(b'')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60
        )
        assert (done.stdout, done.stderr) == ("b''\n", "")
    finally:
        for directory in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
            os.chmod(directory, 0o700)
