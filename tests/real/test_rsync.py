# SPDX-License-Identifier: MIT
"""A big tree and its mount are the same to rsync, tar and find.  Reading only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from real.conftest import Show
from real.support import ROOT, Arg, Finished, need, run, run_together

USR = Path("/usr")

#: A part of /usr with all that a distribution has: programs, set-id programs, headers, links, modules.
PARTS = ("bin", "sbin", "include/linux", "share/perl5", "share/zoneinfo", "lib/python3*")

FIND_FORMAT = r"%P\0%i\0%y\0%m\0%U\0%G\0%n\0%s\0%b\0%T@\0%C@\0%l\0\n"


def chosen(full: bool) -> list[str]:
    """Return what of /usr is looked at."""
    if full:
        return ["."]
    found = [path for part in PARTS for path in USR.glob(part) if path.is_dir()]
    return [str(path.relative_to(USR)) for path in sorted(found)]


def unreadable(parts: list[str]) -> list[str]:
    """Return rsync's patterns for what this user may not read, natively either."""
    hidden = []
    for part in parts:
        for directory, dirs, files in os.walk(USR / part):
            for name in dirs + files:
                path = os.path.join(directory, name)
                mode = os.R_OK | (os.X_OK if name in dirs else 0)
                if not os.path.islink(path) and not os.access(path, mode):
                    hidden.append("/" + os.path.relpath(path, USR))
    return hidden


def rsync(parts: list[str], excluded: list[str], mnt: Path) -> list[Arg]:
    """Return the command that itemizes every difference between /usr and *mnt*."""
    return [
        *("rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", "--relative"),
        "--modify-window=-1",  # nanoseconds too
        *(f"--exclude={pattern}" for pattern in excluded),
        *(f"{USR}/./{part}" for part in parts),
        f"{mnt}/",
    ]


@pytest.fixture(scope="module")
def parts(full: bool) -> list[str]:
    return chosen(full)


@pytest.mark.timeout(3600)
def test_rsync_finds_nothing_while_others_read(show: Show, parts: list[str]) -> None:
    need("rsync", "find", "tar")
    mnt = show(USR, read_only=True).mnt
    excluded = unreadable(parts)
    command = rsync(parts, excluded, mnt)
    hidden = [f"--exclude=.{pattern}" for pattern in excluded]
    tar: list[Arg] = ["tar", "-C", mnt, "-cf", "/dev/null", "--totals", *hidden]
    find: list[Arg] = ["find", mnt, "-xdev", "-ls"]
    done: list[Finished] = run_together(
        [command, command, [*tar, *(f"./{p}" for p in parts)], find],
        # find says 1 where it meets a directory that this user may not enter.
        status=(0,) if ROOT else (0, 1),
    )
    assert done[0].out == b""
    assert done[1].out == b""


@pytest.mark.timeout(3600)
def test_find_prints_the_same_for_every_name(show: Show, parts: list[str]) -> None:
    """Inode numbers, link counts, blocks and nanoseconds too, which rsync does not look at."""
    need("find")
    mnt = show(USR, read_only=True).mnt
    command: list[Arg] = ["find", *parts, "-printf", FIND_FORMAT]
    native = run(*command, cwd=USR, status=(0, 1)).out.splitlines()
    seen = run(*command, cwd=mnt, status=(0, 1)).out.splitlines()
    assert len(native) > 1000
    different = sorted(set(native) ^ set(seen))
    assert not different, different[:20]
    assert len(seen) == len(native)


def test_tar_of_the_mount_is_the_tar_of_the_source(show: Show) -> None:
    need("tar", "sha256sum")
    part = "share/zoneinfo" if (USR / "share/zoneinfo").is_dir() else "bin"
    mnt = show(USR, read_only=True).mnt
    shell = f"tar --sort=name --xattrs --acls --sparse -cf - {part} | sha256sum"
    native = run("sh", "-c", shell, cwd=USR).out
    commands: list[list[Arg]] = [["sh", "-c", shell]] * 3
    assert [done.out for done in run_together(commands, cwd=mnt)] == [native] * 3
