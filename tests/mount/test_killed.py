# SPDX-License-Identifier: MIT
"""A server that is killed while files are open: nothing that reached the disk is lost, and one command cleans."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0

#: Writes in every way that promises something, says so, and goes on until it is told the end.
WRITER = """
import mmap, os, sys
top = sys.argv[1]
synced = os.open(top + "/synced", os.O_RDWR | os.O_CREAT, 0o644)
appended = os.open(top + "/appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
direct = os.open(top + "/dsync", os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o644)
mapped = os.open(top + "/mapped", os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(mapped, 1 << 20)
memory = mmap.mmap(mapped, 1 << 20)
for n in range(256):
    os.pwrite(synced, bytes([n]) * 4096, n * 4096)
    os.write(appended, b"%d\\n" % n)
    os.write(direct, bytes([n]) * 512)
    memory[n * 4096 : (n + 1) * 4096] = bytes([255 - n]) * 4096
os.fdatasync(synced)
os.fsync(appended)
memory.flush()
with open(top + "/temporary", "w") as file:
    file.write("renamed\\n")
    file.flush()
    os.fsync(file.fileno())
os.rename(top + "/temporary", top + "/name")
here = os.open(top, os.O_RDONLY)
os.fsync(here)
print("safe", flush=True)
for line in sys.stdin:  # the server is dead now; whether these work or fail, they do no harm
    for act in (
        lambda: os.pwrite(synced, b"later", 1 << 20),
        lambda: os.read(mapped, 1),
        lambda: os.open(top + "/name", os.O_RDONLY),
    ):
        try:
            act()
        except OSError as exc:
            print(exc.errno, end=" ")
    print(flush=True)
"""


def check(source: Path) -> None:
    assert (source / "synced").read_bytes()[: 1 << 20] == b"".join(
        bytes([n]) * 4096 for n in range(256)
    )
    assert (source / "appended").read_text() == "".join(f"{n}\n" for n in range(256))
    assert (source / "dsync").read_bytes() == b"".join(bytes([n]) * 512 for n in range(256))
    assert (source / "mapped").read_bytes() == b"".join(bytes([255 - n]) * 4096 for n in range(256))
    assert (source / "name").read_text() == "renamed\n"
    assert not (source / "temporary").exists()


@pytest.mark.parametrize(
    ("command", "passthrough"),
    # An ordinary user never has passthrough.
    [("umount", "auto"), ("umount", "off"), ("replace", "off")][0 if ROOT else 1 :],
)
def test_nothing_that_was_synced_is_lost_and_one_command_cleans(
    command: str, passthrough: str, spot: Spot
) -> None:
    done = spot.run("mount", "-o", f"passthrough={passthrough}", spot.source, spot.mnt)
    assert done.returncode == 0, done.stderr
    server = spot.server()
    writer = spot.start_python("-c", WRITER, spot.mnt)
    assert writer.stdout.readline() == "safe\n"
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    check(spot.source)
    writer.stdin.write("\n")
    writer.stdin.flush()
    # ENOTCONN, or ECONNABORTED at the very moment of the end: no name is found any more.
    assert {"107", "103"} & set(writer.stdout.readline().split())
    if command == "umount":
        done = spot.run("umount", spot.mnt)
        assert done.returncode == 0
        assert done.stderr == (
            f"xloop: {str(spot.mnt)!r} was dead (Transport endpoint is not connected): "
            "its server ended without unmounting; cleaned\n"
        )
        assert spot.mounts_below() == []
        assert os.listdir(spot.mnt) == []
    else:
        done = spot.run("mount", "--replace", spot.source, spot.mnt)
        assert done.returncode == 0, done.stderr
        check(spot.mnt)
        assert spot.run("umount", spot.mnt).returncode == 0
    # It never got in the way of who has files open, and cannot harm what is there now.
    assert writer.poll() is None
    writer.communicate("")
    check(spot.source)
    assert spot.alone()
