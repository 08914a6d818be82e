# SPDX-License-Identifier: MIT
"""mount(8), /etc/fstab and umount(8) on mounts of xloop, on a machine of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import (
    USER,
    Machine,
    closed_to_others,
)  # tests/plugins: conftest.py has put that into the path

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a machine of its own"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Machine]:
    with Machine().running() as machine:
        yield machine


@pytest.fixture
def machine(made: Machine, spot: Spot) -> Iterator[Machine]:
    with made.works_below(spot.top):
        yield made


@pytest.fixture
def as_user(machine: Machine, spot: Spot) -> str:
    """The name of a user whose mountpoint it is."""
    if why := closed_to_others():
        pytest.skip(why)
    os.chown(spot.mnt, 65534, 65534)
    os.chown(spot.source, 65534, 65534)
    return USER


def fstab(machine: Machine, *lines: str) -> None:
    machine.write("/etc/fstab", "".join(f"{line} 0 0\n" for line in lines))


def done(result: Any) -> None:
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# -- mount(8) -------------------------------------------------------------------------------


@pytest.mark.parametrize("fstype", ["xloop", "fuse.xloop"])
@pytest.mark.parametrize("prefix", ["", "xloop#"])
def test_the_mount_is_there_when_mount_returns(
    fstype: str, prefix: str, machine: Machine, spot: Spot
) -> None:
    spec = f"{prefix}{spot.source}"
    # The output is read to its end: who waits for it must not wait for the server.
    done(machine.run("mount", "-t", fstype, "-o", "noexec", spec, spot.mnt))
    (entry,) = machine.mounted()
    assert (entry.mountpoint, entry.fstype, entry.source) == (str(spot.mnt), "fuse.xloop", spec)
    assert {"rw", "noexec", "nosuid", "nodev"} <= machine.options(entry)
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    done(machine.run("umount", spot.mnt))
    assert machine.mounted() == []
    assert spot.alone()


def test_the_commands_of_the_documentation(machine: Machine, spot: Spot) -> None:
    places = {
        "/opt/xloop/bin/xloop": f"{sys.executable} -m xloop",
        "/srv/data": str(spot.source),
        "/srv/view": str(spot.mnt),
        "/mnt": str(spot.top / "other"),
    }
    (spot.top / "other").mkdir()
    text = (Path(__file__).parents[2] / "docs" / "fstab.md").read_text()
    text = re.sub("|".join(places), lambda found: places[found[0]], text)
    machine.write("/etc/fstab", text.split("## /etc/fstab\n\n```\n", 1)[1].split("```", 1)[0])
    commands = [line.removeprefix("sudo ") for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE)]
    # The first two install xloop, which is what is tested here.
    assert commands[1] == "/opt/xloop/bin/pip install ."
    for command in commands[2:]:
        result = machine.run("sh", "-c", command)
        assert (result.returncode, result.stderr) == (0, ""), command
    (entry,) = machine.mounted()
    assert entry.mountpoint == str(spot.mnt)
    done(machine.run("umount", spot.mnt))


def test_the_server_keeps_nothing_of_mount(machine: Machine, spot: Spot) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keep = (theirs.fileno(),)
        done(machine.run("mount", "-t", "xloop", spot.source, spot.mnt, pass_fds=keep))
        theirs.close()
        assert ours.recv(1) == b""  # nobody has the other end any more
    pid = spot.server()
    for number in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
    assert os.getsid(pid) == pid
    done(machine.run("umount", spot.mnt))
    assert spot.alone()


def test_the_same_place_can_be_mounted_again_at_once(machine: Machine, spot: Spot) -> None:
    script = """
    count=0
    while [ $count -lt 30 ]; do
        mount -t xloop "$1" "$2" && [ -e "$2/file" ] && umount "$2" && [ ! -e "$2/file" ] || break
        count=$((count + 1))
    done
    echo $count
    """
    result = machine.run("sh", "-c", script, "sh", spot.source, spot.mnt, timeout=100)
    assert (result.stdout, result.stderr) == ("30\n", "")
    assert machine.mounted() == []
    assert spot.alone()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("bogus", 1, "unknown option 'bogus'"),
        ("noexe", 1, "did you mean 'noexec'?"),
        ("allow_other=1", 1, "'allow_other' takes no value"),
        ("attr_timeout=soon", 1, "attr_timeout"),
        ("iversion", 1, "FUSE has no change counter"),
        ("mand", 1, "mandatory locks"),
        ("setuid=joe", 1, "user in fstab"),
        ("allow_other,allow_root", 1, "contradict"),
        ("backend=bogus", 32, "there is no backend 'bogus'"),
    ],
)
def test_what_cannot_be_honoured_is_said(
    words: str, status: int, said: str, machine: Machine, spot: Spot
) -> None:
    result = machine.run("mount", "-t", "xloop", "-o", words, spot.source, spot.mnt)
    assert result.returncode == status
    spot.refused(result, said)
    assert machine.mounted() == []


def test_a_failure_has_the_status_that_mount_has_for_it(machine: Machine, spot: Spot) -> None:
    for source, mountpoint, said in (
        (spot.top / "nothing", spot.mnt, "does not exist"),
        (spot.source / "file", spot.mnt, "is a file, not a directory"),
        (spot.source, spot.top / "nothing", "does not exist"),
    ):
        result = machine.run("mount", "-t", "xloop", source, mountpoint)
        assert result.returncode == 32
        spot.refused(result, said)
    result = machine.run("/sbin/mount.xloop", spot.source)
    assert result.returncode == 1
    spot.refused(result, "Missing argument 'MOUNTPOINT'")
    assert machine.mounted() == []


def test_what_is_unknown_is_ignored_on_request(machine: Machine, spot: Spot) -> None:
    result = machine.run("mount", "-t", "xloop", "-s", "-v", "-o", "bogus", spot.source, spot.mnt)
    assert result.returncode == 0
    assert "ignored: bogus" in result.stderr
    assert f"is mounted at '{spot.mnt}' by devfuse" in result.stderr
    done(machine.run("umount", spot.mnt))


def test_a_fake_mount_checks_and_does_not_mount(machine: Machine, spot: Spot) -> None:
    done(machine.run("mount", "-f", "-t", "xloop", spot.source, spot.mnt))
    assert machine.mounted() == []
    result = machine.run("mount", "-f", "-t", "xloop", spot.top / "nothing", spot.mnt)
    assert result.returncode == 32


def test_another_name_of_the_type_is_refused(machine: Machine, spot: Spot) -> None:
    result = machine.run("mount", "-t", "xloop.photos", spot.source, spot.mnt)
    assert result.returncode == 1
    spot.refused(result, "'xloop.photos' is none that xloop mounts", "subtype=")


def test_a_mount_may_be_made_in_another_namespace(machine: Machine, spot: Spot) -> None:
    # One without any Python: what is mounted there is served by what was loaded here.
    script = """
    mkdir /run/root && mount -t tmpfs -o mode=755 root /run/root && cd /run/root
    mkdir proc dev src mnt old && touch dev/null dev/fuse src/file
    mount -t proc proc proc
    for name in null fuse; do mount --bind /dev/$name dev/$name; done
    pivot_root . old && echo ready && read end
    """
    words = [*("nsenter", "--target", str(machine.pid()), "--mount", "--wd=/")]
    words += ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "ready\n"
        there = Path(f"/proc/{inside.pid}")
        done(machine.run("mount", "-N", inside.pid, "-t", "xloop", "/src", "/mnt"))
        assert " fuse.xloop /src " in (there / "mountinfo").read_text()
        assert os.listdir(there / "root/mnt") == ["file"]
        assert machine.mounted() == []
        done(machine.run("umount", "-N", inside.pid, "/mnt"))
        result = machine.run("/sbin/mount.xloop", "/src", "/mnt", "-N", "/run/nothing")
        assert result.returncode == 32
        spot.refused(result, "'/run/nothing' cannot be entered")


# -- fstab ----------------------------------------------------------------------------------


def test_a_line_of_fstab_may_say_what_is_for_others(machine: Machine, spot: Spot) -> None:
    words = (
        "defaults,auto,nouser,_netdev,nofail,comment=mine,x-systemd.automount,X-mount.mkdir,"
        "x-gvfs-hide,silent,lazytime,norelatime,uhelper=nothing,helper=nothing,attr_timeout=3,async,"
        'noiversion,nomand,sync,diratime,relatime,strictatime,fsname="a,b"'
    )
    fstab(machine, f"{spot.source} {spot.mnt}/made xloop {words}")
    spot.mnt.rmdir()
    done(machine.run("mount", f"{spot.mnt}/made"))
    (entry,) = machine.mounted()
    assert (entry.mountpoint, entry.source) == (f"{spot.mnt}/made", "a,b")
    shown = machine.options(entry)
    assert {"rw", "nosuid", "nodev", "sync"} <= shown
    assert not {"noexec", "relatime", "noatime"} & shown
    # Read back by umount(8): uhelper= and helper= name no program that there is.
    done(machine.run("umount", f"{spot.mnt}/made"))
    assert machine.mounted() == []


def test_devices_and_set_user_id_bits_take_a_word(machine: Machine, spot: Spot) -> None:
    for words, shown, not_shown in (
        ("defaults", {"nosuid", "nodev"}, set[str]()),
        ("allow_suid", {"nodev"}, {"nosuid"}),
        ("allow_suid,allow_dev,user", set[str](), {"nosuid", "nodev"}),
    ):
        fstab(machine, f"{spot.source} {spot.mnt} xloop {words}")
        done(machine.run("mount", spot.mnt))
        (entry,) = machine.mounted()
        assert shown <= machine.options(entry)
        assert not not_shown & machine.options(entry)
        done(machine.run("umount", spot.mnt))


def test_names_may_hold_blanks(machine: Machine, spot: Spot) -> None:
    source, mnt = spot.top / "the source", spot.top / "a mnt"
    source.mkdir()
    mnt.mkdir()
    line = " ".join(str(path).replace(" ", "\\040") for path in (source, mnt))
    fstab(machine, f"{line} xloop ro")
    done(machine.run("mount", mnt))
    assert [(e.source, e.mountpoint) for e in machine.mounted()] == [(str(source), str(mnt))]
    done(machine.run("umount", mnt))


@pytest.mark.parametrize("spec", ["{}", "xloop#{}"])
def test_mount_all_mounts_what_is_not_mounted_yet(spec: str, machine: Machine, spot: Spot) -> None:
    other = spot.top / "other"
    other.mkdir()
    source = spec.format(spot.source)
    fstab(
        machine,
        f"{source} {spot.mnt} xloop defaults",
        f"{source} {other} fuse.xloop noauto",
    )
    for _ in range(2):
        done(machine.run("mount", "-a"))
        assert [entry.mountpoint for entry in machine.mounted()] == [str(spot.mnt)]
    done(machine.run("umount", "-a", "-t", "fuse.xloop"))
    assert machine.mounted() == []


def test_nofail_forgives_a_source_that_is_missing_and_nothing_else(
    machine: Machine, spot: Spot
) -> None:
    for missing in (spot.top / "nothing", spot.source / "file" / "below"):
        fstab(machine, f"{missing} {spot.mnt} xloop nofail")
        done(machine.run("mount", spot.mnt))
        done(machine.run("mount", "-a"))
    fstab(machine, f"{spot.source} {spot.mnt} xloop nofail,bogus")
    assert machine.run("mount", spot.mnt).returncode == 1
    fstab(machine, f"{spot.source} {spot.top}/nothing xloop nofail")
    assert machine.run("mount", f"{spot.top}/nothing").returncode == 32
    assert machine.mounted() == []


def options_listed(machine: Machine, spot: Spot) -> str:
    """Return the options that xloop list shows of the mount."""
    mounts = json.loads(machine.xloop("list", "--json").stdout)
    (options,) = [one["options"] for one in mounts if one["mountpoint"] == str(spot.mnt)]
    assert isinstance(options, str)
    return options


# -- remounting -----------------------------------------------------------------------------


def test_a_mount_becomes_read_only_and_writable_again(machine: Machine, spot: Spot) -> None:
    fstab(machine, f"{spot.source} {spot.mnt} xloop noexec,attr_timeout=3")
    done(machine.run("mount", spot.mnt))
    new = spot.mnt / "new"
    for option, fails in (("ro", True), ("rw", False), ("ro", True)):
        done(machine.run("mount", "-o", f"remount,{option}", spot.mnt))
        (entry,) = machine.mounted()
        assert {option, "noexec", "nosuid", "nodev"} <= machine.options(entry)
        result = machine.run("touch", new)
        assert ("Read-only file system" in result.stderr) == fails
        assert bool(result.returncode) == fails
    assert options_listed(machine, spot) == "ro,noexec,attr_timeout=3"
    # Both named: what is in fstab does not count, and all that is not named is the default.
    words = ("-t", "xloop", "-o", "remount,allow_dev,sync")
    done(machine.run("mount", *words, spot.source, spot.mnt))
    (entry,) = machine.mounted()
    shown = machine.options(entry)
    assert {"rw", "nosuid", "sync"} <= shown
    assert not {"noexec", "nodev"} & shown
    assert options_listed(machine, spot) == "dev,sync,attr_timeout=3"
    assert machine.run("cat", spot.mnt / "file").stdout == "content\n"
    done(machine.run("umount", spot.mnt))
    assert spot.alone()


def test_a_mount_that_delays_writes_is_made_read_only_and_not_to_wait(
    machine: Machine, spot: Spot
) -> None:
    done(machine.run("mount", "-t", "xloop", "-o", "writeback", spot.source, spot.mnt))
    result = machine.run("mount", "-o", "remount,sync", spot.mnt)
    spot.refused(result, "'writeback' and 'sync' contradict each other", "leave out one of them")
    (entry,) = machine.mounted()
    assert "sync" not in machine.options(entry)
    done(machine.run("mount", "-o", "remount,ro", spot.mnt))
    assert {"ro", "writeback"} <= set(options_listed(machine, spot).split(","))
    done(machine.run("umount", spot.mnt))


def test_events_are_relayed_in_what_became_read_only(machine: Machine, spot: Spot) -> None:
    done(machine.run("mount", "-t", "xloop", "-o", "events=relay", spot.source, spot.mnt))
    done(machine.run("mount", "-o", "remount,ro,events=relay", spot.mnt))
    assert "Read-only file system" in machine.run("touch", spot.mnt / "new").stderr
    # inotifywait ends with the first event that it is told.
    script = (
        'exec 2>&1; timeout 60 inotifywait -q -e create "$1" & n=0;'
        ' while kill -0 $!; do touch "$2/$((n += 1))"; sleep 0.05; done 2>/dev/null; wait $!'
    )
    if shutil.which("inotifywait") is not None:
        assert "CREATE" in machine.run("sh", "-c", script, "sh", spot.mnt, spot.source).stdout
    done(machine.run("umount", spot.mnt))
    # What was mounted so is read-only to its server too.
    done(machine.run("mount", "-t", "xloop", "-o", "ro,events=relay", spot.source, spot.mnt))
    result = machine.run("mount", "-o", "remount,rw", spot.mnt)
    spot.refused(result, "remount cannot change rw", "unmount it, and mount it again")
    done(machine.run("umount", spot.mnt))


def test_a_mount_in_which_somebody_writes_does_not_become_read_only(
    machine: Machine, spot: Spot
) -> None:
    done(machine.run("mount", "-t", "xloop", spot.source, spot.mnt))
    script = 'exec 3>>"$1/file" && mount -o remount,ro "$1"; echo $?; echo more >&3'
    result = machine.run("sh", "-c", script, "sh", spot.mnt)
    assert result.stdout == "32\n"
    assert "files in it are open for writing" in result.stderr
    assert (spot.source / "file").read_text() == "content\nmore\n"
    (entry,) = machine.mounted()
    assert "rw" in machine.options(entry)
    done(machine.run("umount", spot.mnt))


@pytest.mark.parametrize(
    "word", ["allow_other", "noatime", "max_read=8192", "dirsync", "attr_timeout=7", "fsname=other"]
)
def test_what_a_remount_cannot_change_is_said(word: str, machine: Machine, spot: Spot) -> None:
    done(machine.run("mount", "-t", "xloop", spot.source, spot.mnt))
    (entry,) = machine.mounted()
    before = machine.options(entry)
    result = machine.run("mount", "-o", f"remount,ro,{word}", spot.mnt)
    assert result.returncode == 1
    spot.refused(result, "remount cannot change", "unmount it, and mount it again")
    assert machine.options(entry) == before
    done(machine.run("umount", spot.mnt))


def test_only_what_is_mounted_can_be_remounted(machine: Machine, spot: Spot) -> None:
    result = machine.run("mount", "-t", "xloop", "-o", "remount,ro", spot.source, spot.mnt)
    assert result.returncode == 32
    spot.refused(result, "nothing is mounted there")


# -- other users ----------------------------------------------------------------------------


def test_a_user_mounts_and_unmounts_what_fstab_lets_them(
    machine: Machine, spot: Spot, as_user: str
) -> None:
    fstab(machine, f"{spot.source} {spot.mnt} xloop user,noauto,relatime,attr_timeout=3")
    done(machine.run("mount", spot.mnt, user=as_user))
    (entry,) = machine.mounted()
    assert {"user_id=65534", "noexec", "nosuid", "nodev"} <= machine.options(entry)
    assert os.stat(f"/proc/{spot.server()}").st_uid == 65534
    assert machine.run("cat", spot.mnt / "file", user=as_user).stdout == "content\n"
    assert machine.run("cat", spot.mnt / "file").returncode != 0  # theirs alone
    assert machine.run("umount", spot.mnt, user="daemon").returncode != 0
    result = machine.run("mount", "-o", "remount,ro", spot.mnt, user=as_user)
    assert result.returncode == 32
    assert "that is for root" in result.stderr
    done(machine.run("mount", "-o", "remount,ro", spot.mnt))
    assert "ro" in machine.options(entry)
    done(machine.run("umount", spot.mnt, user=as_user))
    assert machine.mounted() == []
    assert spot.alone()


def test_users_lets_one_user_unmount_what_another_has_mounted(
    machine: Machine, spot: Spot, as_user: str
) -> None:
    fstab(machine, f"{spot.source} {spot.mnt} xloop users,exec,noauto")
    done(machine.run("mount", spot.mnt, user=as_user))
    (entry,) = machine.mounted()
    assert "noexec" not in machine.options(entry)
    done(machine.run("umount", spot.mnt, user="daemon"))
    assert machine.mounted() == []


def test_what_is_for_root_is_refused_to_a_user(machine: Machine, spot: Spot, as_user: str) -> None:
    for option in ("suid", "dev", "strictatime", "nosymfollow"):
        fstab(machine, f"{spot.source} {spot.mnt} xloop user,{option}")
        result = machine.run("mount", spot.mnt, user=as_user)
        assert result.returncode == 1
        spot.refused(result, option, "mount as root")
    assert machine.mounted() == []


def test_what_fstab_says_to_others_is_still_the_user_s_own(
    machine: Machine, spot: Spot, as_user: str
) -> None:
    # Without "user", mount(8) tries it with no more rights than the user has.  Those suffice.
    fstab(machine, f"{spot.source} {spot.mnt} xloop noauto")
    done(machine.run("mount", spot.mnt, user=as_user))
    (entry,) = machine.mounted()
    assert {"user_id=65534", "nosuid", "nodev"} <= machine.options(entry)
    done(machine.run("umount", spot.mnt, user=as_user))
    os.chown(spot.mnt, 0, 0)
    result = machine.run("mount", spot.mnt, user=as_user)
    assert result.returncode == 32
    spot.refused(result, "choose a mountpoint that this user owns")
    assert machine.mounted() == []
