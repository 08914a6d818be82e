# SPDX-License-Identifier: MIT
"""``xloop mount NAME`` and ``xloop mount --all``."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = pytest.mark.mount

Done = subprocess.CompletedProcess[str]


@dataclass
class Named:
    """A spot, and the file that names mounts there."""

    spot: Spot
    file: Path

    def write(self, text: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text.replace("TOP", str(self.spot.top)))
        self.file.chmod(0o600)

    def mount(self, *args: object, **more: Any) -> Done:
        home = {"XDG_CONFIG_HOME": str(self.file.parents[1]), "HOME": str(self.spot.top)}
        return self.spot.run("mount", *args, env=os.environ | home, **more)

    def options_of(self, mountpoint: str) -> set[str]:
        """Return the mount options and those of the file system, as the kernel has them."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            if fields[4] == str(self.spot.top / mountpoint):
                return {*fields[5].split(","), *fields[-1].split(",")}
        return set()


@pytest.fixture
def named(spot: Spot) -> Named:
    for name in ("m1", "m2", "m3"):
        (spot.top / name).mkdir()
    return Named(spot, spot.top / "etc" / "xloop" / "config.toml")


ONE = '[mounts.one]\nsource = "~/source"\nmountpoint = "TOP/m1"\noptions = "ro,noexec"\n'


def test_a_name_mounts_what_it_stands_for(named: Named) -> None:
    named.write(ONE)
    done = named.mount("one")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (named.spot.top / "m1" / "file").read_text() == "content\n"
    assert {"ro", "noexec"} <= named.options_of("m1")
    assert named.spot.mounted(named.spot.top / "m1").source == str(named.spot.source)
    assert named.spot.run("umount", "m1").returncode == 0
    assert named.spot.alone()


def test_what_the_command_says_counts_more_than_what_the_file_says(named: Named) -> None:
    named.write(ONE + 'backend = "devfuse"\n')
    done = named.mount("one", "-o", "rw,nodev", "--backend", "devfuze")
    named.spot.refused(done, "there is no backend 'devfuze'")
    done = named.mount("one", "-o", "rw", "-v")
    assert done.returncode == 0, done.stderr
    assert "is mounted at" in done.stderr
    assert "by devfuse" in done.stderr
    assert "ro" not in named.options_of("m1")
    assert "noexec" in named.options_of("m1")
    assert named.spot.run("umount", "m1").returncode == 0


def test_a_named_mount_in_the_foreground(named: Named) -> None:
    named.write(ONE.replace("m1", "mnt"))
    server = named.spot.start(
        "mount", "-f", "--config", named.file, "one", env=os.environ | {"HOME": str(named.spot.top)}
    )
    assert named.spot.answers()
    server.terminate()
    assert server.communicate(timeout=60) == ("", "")
    assert server.returncode == 0


def test_another_file_can_be_given(named: Named) -> None:
    other = named.spot.top / "other.toml"
    named.write("nonsense")
    other.write_text(ONE.replace("TOP", str(named.spot.top)))
    other.chmod(0o600)
    assert named.mount("--config", "other.toml", "one").returncode == 0
    assert named.spot.run("umount", "m1").returncode == 0
    done = named.mount("--config", "missing.toml", "one")
    assert done.returncode == 1
    named.spot.refused(done, "there is no file 'missing.toml' that would name mounts")


ALL = (
    ONE
    + '[mounts.two]\nsource = "TOP/missing"\nmountpoint = "TOP/m2"\n'
    + '[mounts.three]\nsource = "TOP/source"\nmountpoint = "TOP/m3"\noptions = ["fsname=third"]\n'
)


def test_all_are_mounted_though_one_fails(named: Named) -> None:
    named.write(ALL)
    done = named.mount("--all")
    assert done.returncode == 1
    top = str(named.spot.top)
    assert done.stderr == (
        f"xloop: 'two': source '{top}/missing' does not exist\n"
        f"       correct the path, or make it: mkdir {top}/missing\n"
        "xloop: 1 of 3 could not be mounted: two\n"
    )
    assert [e.mountpoint for e in named.spot.mounts_below()] == [f"{top}/m1", f"{top}/m3"]
    assert named.spot.run("umount", "m1").returncode == 0

    # Once more: what is there stays, what is missing is mounted.
    (named.spot.top / "missing").mkdir()
    done = named.mount("--all", "-v", "-o", "noexec")
    assert done.returncode == 0, done.stderr
    assert f"'{named.spot.source}' is mounted at '{top}/m3' already" in done.stderr
    assert len(named.spot.mounts_below()) == 3
    assert "noexec" in named.options_of("m2")
    assert "noexec" not in named.options_of("m3")
    assert named.spot.run("umount", "m1", "m2", "m3").returncode == 0
    assert named.spot.alone()


def test_what_is_mounted_but_shows_something_else_is_a_failure(named: Named) -> None:
    named.write(ALL.replace("TOP/missing", "TOP/source/inner"))
    assert named.spot.run("mount", "source", "m2").returncode == 0
    done = named.mount("--all")
    assert done.returncode == 1
    assert "'two': mountpoint" in done.stderr
    assert "is a mount of xloop already" in done.stderr
    assert done.stderr.endswith("xloop: 1 of 3 could not be mounted: two\n")
    assert named.spot.run("umount", "m1", "m2", "m3").returncode == 0


def test_a_file_with_a_mistake_mounts_nothing(named: Named) -> None:
    named.write(ALL + "optoins = 'ro'\n")
    for words in (["--all"], ["one"]):
        done = named.mount(*words)
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"xloop: '{named.file}', line 12: unknown key 'optoins' in [mounts.three]; did you mean 'options'?\n"
        )
    assert named.spot.mounts_below() == []


def test_a_file_that_others_may_write_mounts_nothing(named: Named) -> None:
    named.write(ALL)
    named.file.chmod(0o666)
    done = named.mount("one")
    assert done.returncode == 1
    named.spot.refused(done, "everybody may change it", f"chmod go-w {named.file}")
    assert named.spot.mounts_below() == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["oen"], "no mount is named 'oen' in 'FILE'; did you mean 'one'? (there are: one)"),
        (["source"], "'source' is a directory: where shall it be shown? xloop mount source MOUNTPOINT"),
        (["./source"], "'./source' is a path: where shall it be shown? xloop mount ./source MOUNTPOINT"),
        (["."], "'.' is a path: where shall it be shown?"),
        ([], "give SOURCE MOUNTPOINT, or the NAME of a mount, or --all"),
        (["a", "b", "c"], "too many words: SOURCE MOUNTPOINT are two, a NAME is one, and 'c' is a third"),
        (["--all", "one"], "--all mounts everything that has a name, and takes no other words"),
        (["--all", "-f"], "--all and --foreground: one process serves one mount"),
        (["--config", "FILE", "source", "m1"], "--config is for a NAME or --all, not for SOURCE MOUNTPOINT"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(args: list[str], words: str, named: Named) -> None:
    named.write(ONE)
    done = named.mount(*args)
    assert done.returncode == 2
    named.spot.refused(done, words.replace("FILE", str(named.file)))


def test_a_name_where_there_is_no_file(named: Named) -> None:
    done = named.mount("one")
    assert done.returncode == 2
    named.spot.refused(
        done,
        f"nothing is named 'one': there is no '{named.file}', which would name mounts (docs/config.md)",
    )
    named.spot.refused(named.mount("source"), "'source' is a directory: where shall it be shown?")
    done = named.mount("--all")
    assert done.returncode == 1
    named.spot.refused(done, f"there is no file '{named.file}' that would name mounts")
    named.write("")
    named.spot.refused(named.mount("one"), "no mount is named 'one'", "(it names none)")
    assert named.mount("--all").returncode == 0
