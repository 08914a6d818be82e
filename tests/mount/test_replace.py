# SPDX-License-Identifier: MIT
"""``xloop mount --replace``: what it takes away, and what it never does."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


def die(spot: Spot) -> None:
    """Mount, and kill the server."""
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    pid = spot.server()
    os.kill(pid, signal.SIGKILL)
    assert spot.ended(pid)


def test_a_dead_mount_is_replaced_though_files_of_it_are_open(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    user = spot.use(spot.mnt / "file")
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    refused = spot.run("mount", spot.source, spot.mnt)
    spot.refused(
        refused,
        "xloop: mountpoint",
        "is a dead mount (Transport endpoint is not connected): "
        "its server ended without unmounting it\n",
        f"       clean it away: xloop umount {spot.mnt}\n",
        "       or replace it: --replace (in Python: replace=True)\n",
    )
    done = spot.run("mount", "--replace", spot.source, spot.mnt)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"xloop: {str(spot.mnt)!r} was dead (Transport endpoint is not connected): cleaned\n"
    )
    assert (spot.mnt / "file").read_text() == "content\n"
    assert len(spot.mounts_below()) == 1
    user.communicate("")
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_a_living_mount_is_replaced_if_nobody_uses_it(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    old = spot.server()
    refused = spot.run("mount", spot.source / "inner", spot.mnt)
    spot.refused(refused, "or replace it, if nobody uses it: --replace (in Python: replace=True)\n")
    user = spot.use(spot.mnt / "file")
    refused = spot.run("mount", "--replace", spot.source / "inner", spot.mnt)
    assert refused.returncode == 1
    spot.refused(
        refused,
        f"xloop: {str(spot.mnt)!r} cannot be replaced: {str(spot.mnt)!r} is busy, used by ",
        f"(pid {user.pid}): {spot.mnt}/file",
    )
    assert os.listdir(spot.mnt) == os.listdir(spot.source)
    user.communicate("")
    done = spot.run("mount", "--replace", spot.source / "inner", spot.mnt)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"xloop: {str(spot.mnt)!r} showed {str(spot.source)!r}: unmounted\n"
    assert os.listdir(spot.mnt) == []
    assert spot.ended(old)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_where_nothing_is_mounted_nothing_is_replaced(spot: Spot) -> None:
    done = spot.run("mount", "--replace", spot.source, spot.mnt)
    assert (done.returncode, done.stderr) == (0, "")
    assert spot.run("umount", spot.mnt).returncode == 0


def test_what_is_not_xloop_s_stays(spot: Spot) -> None:
    assert spot.run("mount", "-o", "subtype=other", spot.source, spot.mnt).returncode == 0
    refused = spot.run("mount", "--replace", spot.source, spot.mnt)
    assert refused.returncode == 1
    spot.refused(
        refused,
        "is a mount (fuse.other) already",
        "--replace takes away mounts of xloop, and no others\n",
    )
    server = spot.server()
    os.kill(server, signal.SIGKILL)
    assert spot.ended(server)
    refused = spot.run("mount", "--replace", spot.source, spot.mnt)
    assert refused.returncode == 1
    spot.refused(refused, "is a dead mount")
    assert "--replace" not in refused.stderr
    # The word that names it makes it ours.
    done = spot.run("mount", "--replace", "-o", "subtype=other", spot.source, spot.mnt)
    assert done.returncode == 0, done.stderr
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", "--subtype", "other", spot.mnt).returncode == 0
    assert spot.alone()


def test_a_mount_that_hangs_stays(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    server = spot.server()
    os.kill(server, signal.SIGSTOP)
    try:
        refused = spot.run("mount", "--replace", spot.source, spot.mnt)
        assert refused.returncode == 1
        spot.refused(refused, "does not answer", f"detach it: xloop umount --lazy {spot.mnt}")
        assert spot.mounted()
    finally:
        os.kill(server, signal.SIGCONT)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


def test_a_source_inside_of_what_would_go_is_refused(spot: Spot) -> None:
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    refused = spot.run("mount", "--replace", spot.mnt / "inner", spot.mnt)
    assert refused.returncode == 1
    spot.refused(
        refused,
        f"{str(spot.mnt)!r} cannot be replaced: the source {str(spot.mnt / 'inner')!r} lies in it",
        "name the directory that it shows itself",
    )
    assert (spot.mnt / "file").exists()
    assert spot.run("umount", spot.mnt).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [["missing"], ["source", "-o", "attr_timeout=x"], ["source", "--backend", "devfuze"]],
    ids=["source", "option", "backend"],
)
def test_what_can_be_checked_is_checked_before_anything_goes(wrong: list[str], spot: Spot) -> None:
    die(spot)
    entry = spot.mounted()
    done = spot.run("mount", "--replace", *wrong, spot.mnt)
    assert done.returncode != 0
    assert "cleaned" not in done.stderr
    assert spot.mounted() == entry
    assert spot.run("umount", spot.mnt).returncode == 0


def test_a_new_mount_that_fails_leaves_neither_and_says_so(spot: Spot, flags: Flags) -> None:
    die(spot)
    done = spot.run("mount", "--replace", "--backend", "not-mounting", spot.source, spot.mnt)
    assert done.returncode == 1
    assert "was dead (Transport endpoint is not connected): cleaned\n" in done.stderr
    assert done.stderr.endswith("xloop: RuntimeError: no hands\n")
    assert spot.alone()


def test_on_top_and_replace_are_not_both_meant(spot: Spot) -> None:
    done = spot.run("mount", "--replace", "--on-top", spot.source, spot.mnt)
    assert done.returncode == 2
    spot.refused(done, "--on-top and --replace contradict each other: give one of them")


def test_from_python(spot: Spot) -> None:
    die(spot)
    with pytest.raises(xloop.MountError, match="is a dead mount"):
        xloop.mount(spot.source, spot.mnt)
    with xloop.mount(spot.source, spot.mnt, replace=True):
        assert (spot.mnt / "file").exists()
    die(spot)
    served = spot.program(
        """
        xloop.serve(xloop.Loopback(source), mnt, replace=True, ready=lambda: print("ready", flush=True))
        """
    )
    assert served.stdout.readline() == "ready\n"
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: fusermount3 mounts on nothing dead")
def test_all_that_is_dead_goes(spot: Spot) -> None:
    die(spot)
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.run("mount", spot.source, spot.mnt).returncode == 0
    assert spot.run("mount", "--on-top", spot.source, spot.mnt).returncode == 0
    for pid in spot.servers():
        os.kill(pid, signal.SIGKILL)
        assert spot.ended(pid)
    assert len(spot.mounts_below()) == 2
    assert spot.run("mount", "--replace", spot.source, spot.mnt).returncode == 0
    assert len(spot.mounts_below()) == 1
    assert spot.run("umount", spot.mnt).returncode == 0
    assert spot.alone()
