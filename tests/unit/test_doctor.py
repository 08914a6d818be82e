# SPDX-License-Identifier: MIT
"""What `xloop doctor` says: word for word, for each system, from facts of machines that are not this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xloop import __version__, registry
from xloop.backend import Availability
from xloop.doctor import Facts, Report, diagnose, gather, install
from xloop.host.mounttable import MountEntry
from xloop.machine import (
    Config,
    Device,
    Helper,
    Kernel,
    Point,
    Server,
    Stale,
    inspect,
    parse_config,
)
from xloop.mounts import Health

DEBIAN = {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
TRIXIE = {"ID": "debian", "VERSION_ID": "13"}
UBUNTU = {"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "24.04", "PRETTY_NAME": "Ubuntu 24.04"}
JAMMY = {"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "22.04"}
MINT = {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}
FEDORA = {"ID": "fedora", "VERSION_ID": "42"}
ROCKY = {"ID": "rocky", "ID_LIKE": "rhel centos fedora"}
LEAP = {"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}
ARCH = {"ID": "arch"}
ALPINE = {"ID": "alpine"}
GENTOO = {"ID": "gentoo", "PRETTY_NAME": "Gentoo Linux"}

NO_HELPER = Availability(
    False, "only root may mount directly, and fusermount3 is not installed", "install it", "fuse3"
)
NO_DEVICE = Availability(False, "/dev/fuse does not exist", "load it", "fuse-device")
NO_MFUSEPY = Availability(
    False, "the Python package mfusepy is not installed", "pip install mfusepy", "mfusepy"
)


def missing(what: str, needs: str, fix: str = "the backend's own words") -> Availability:
    return Availability(False, f"{what} is not installed", fix, needs)


def said(facts: Facts) -> str:
    return "\n".join(diagnose(facts).lines()) + "\n"


def text(block: str) -> str:
    return textwrap.dedent(block).replace("VERSION", __version__).lstrip("\n")


def test_on_debian_without_anything() -> None:
    backends = {
        "devfuse": NO_HELPER,
        "libfuse": NO_MFUSEPY,
        "libfuse2": missing("libfuse 2", "libfuse2"),
    }
    assert said(Facts("linux", backends, "/opt/x/bin/python", os_release=DEBIAN)) == text("""
        xloop VERSION on Debian GNU/Linux 12 (bookworm)
        devfuse   cannot mount: only root may mount directly, and fusermount3 is not installed
                    $ sudo apt-get install fuse3
        libfuse   cannot mount: the Python package mfusepy is not installed
                    $ /opt/x/bin/python -m pip install 'mfusepy>=3.1.1,<4'
        libfuse2  cannot mount: libfuse 2 is not installed
                    $ sudo apt-get install libfuse2
        xloop cannot mount here: one of the above must be put right.
        """)


def test_on_ubuntu_as_root_with_one_that_works() -> None:
    backends = {"devfuse": Availability(True), "libfuse2": missing("libfuse 2", "libfuse2")}
    assert said(Facts("linux", backends, root=True, os_release=UBUNTU)) == text("""
        xloop VERSION on Ubuntu 24.04
        devfuse   can mount
        libfuse2  cannot mount: libfuse 2 is not installed
                    $ apt-get install libfuse2t64
        xloop mount uses devfuse.
        """)


def test_in_a_container_without_the_device() -> None:
    assert said(Facts("linux", {"devfuse": NO_DEVICE}, root=True, os_release=ALPINE)) == text("""
        xloop VERSION on Linux
        devfuse  cannot mount: /dev/fuse does not exist
                   $ modprobe fuse
                   In a container, give it the device instead: --device /dev/fuse
        xloop cannot mount here: one of the above must be put right.
        """)


def test_on_a_distribution_that_nobody_knows() -> None:
    backends = {"devfuse": NO_HELPER}
    assert said(Facts("linux", backends, os_release=GENTOO)) == text("""
        xloop VERSION on Gentoo Linux
        devfuse  cannot mount: only root may mount directly, and fusermount3 is not installed
                   install it
        xloop cannot mount here: one of the above must be put right.
        """)


def test_what_no_package_puts_right_is_said_in_the_backend_s_words() -> None:
    state = Availability(False, "this user may not open /dev/fuse", "chmod 666 /dev/fuse")
    assert said(Facts("linux", {"devfuse": state}, os_release=FEDORA)) == text("""
        xloop VERSION on Linux
        devfuse  cannot mount: this user may not open /dev/fuse
                   chmod 666 /dev/fuse
        xloop cannot mount here: one of the above must be put right.
        """)


def test_on_macos() -> None:
    backends = {"macfuse": missing("macFUSE", "macfuse"), "fuse-t": missing("FUSE-T", "fuse-t")}
    assert said(Facts("darwin", backends)) == text("""
        xloop VERSION on macOS
        macfuse  cannot mount: macFUSE is not installed
                   $ brew install --cask macfuse
                   Then allow its kernel extension in System Settings > Privacy & Security, and restart.
        fuse-t   cannot mount: FUSE-T is not installed
                   $ brew install --cask macos-fuse-t/cask/fuse-t
        xloop cannot mount here: one of the above must be put right.
        """)


def test_on_windows() -> None:
    python = r"C:\Program Files\Python\python.exe"
    backends = {
        "winfsp": missing("WinFsp", "winfsp"),
        "other": missing("the Python package refuse", "refuse"),
    }
    assert said(Facts("win32", backends, python)) == text(r"""
        xloop VERSION on Windows
        winfsp  cannot mount: WinFsp is not installed
                  $ winget install WinFsp.WinFsp
                  Or download it: https://winfsp.dev/rel/
        other   cannot mount: the Python package refuse is not installed
                  $ "C:\Program Files\Python\python.exe" -m pip install "refuse==0.0.4"
        xloop cannot mount here: one of the above must be put right.
        """)


def test_on_freebsd() -> None:
    backends = {"libfuse2": missing("libfuse 2", "libfuse2"), "libfuse3": NO_DEVICE}
    assert said(Facts("freebsd", backends)) == text("""
        xloop VERSION on FreeBSD
        libfuse2  cannot mount: libfuse 2 is not installed
                    $ sudo pkg install fusefs-libs
        libfuse3  cannot mount: /dev/fuse does not exist
                    $ sudo kldload fusefs
        xloop cannot mount here: one of the above must be put right.
        """)


def test_where_there_is_no_backend_at_all() -> None:
    assert said(Facts("sunos5", {})).endswith("xloop has no backend for this system.\n")


@pytest.mark.parametrize(
    ("release", "fuse3", "libfuse2"),
    [
        (DEBIAN, "apt-get install fuse3", "apt-get install libfuse2"),
        (TRIXIE, "apt-get install fuse3", "apt-get install libfuse2t64"),
        (UBUNTU, "apt-get install fuse3", "apt-get install libfuse2t64"),
        (JAMMY, "apt-get install fuse3", "apt-get install libfuse2"),
        (MINT, "apt-get install fuse3", "apt-get install libfuse2"),
        (FEDORA, "dnf install fuse3", "dnf install fuse-libs"),
        (ROCKY, "dnf install fuse3", "dnf install fuse-libs"),
        (LEAP, "zypper install fuse3", "zypper install libfuse2"),
        (ARCH, "pacman -S fuse3", "pacman -S fuse2"),
        (ALPINE, "apk add fuse3", "apk add fuse"),
    ],
    ids=lambda value: value.get("ID") if isinstance(value, dict) else None,
)
def test_each_distribution_has_its_command(
    release: dict[str, str], fuse3: str, libfuse2: str
) -> None:
    facts = Facts("linux", {}, root=True, os_release=release)
    assert install("fuse3", facts) == (fuse3,)
    assert install("libfuse2", facts) == (libfuse2,)
    assert len(install("libfuse3", facts)) == 1


def needed() -> set[str]:
    """Return what bundled backends need, as they say."""
    import ast

    found = {"libfuse2", "libfuse3", "fuse2", "fuse3", "macfuse", "fuse-t"}  # these are made up
    backends = Path(registry.__file__).parents[1] / "backends" / "xloop_backends"
    if not backends.is_dir():
        import xloop_backends

        backends = Path(xloop_backends.__path__[0])
    for path in backends.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Availability":
                last = node.args[3] if len(node.args) > 3 else None
                if isinstance(last, ast.Constant):
                    found.add(str(last.value))
    return found


def test_there_is_a_command_for_whatever_a_backend_needs() -> None:
    systems = [
        Facts(name, {}, os_release=DEBIAN) for name in ("linux", "darwin", "freebsd", "win32")
    ]
    assert {"mfusepy", "fuse-device"} < needed()
    for needs in needed():
        assert any(install(needs, facts) for facts in systems), needs


def test_json_holds_what_the_text_says() -> None:
    facts = Facts("linux", {"devfuse": NO_HELPER}, "/usr/bin/python3", os_release=DEBIAN)
    report = diagnose(facts)
    assert json.loads(json.dumps(report.as_json())) == {
        "version": __version__,
        "system": "linux",
        "distribution": "Debian GNU/Linux 12 (bookworm)",
        "python": "/usr/bin/python3",
        "ok": False,
        "uses": None,
        "mountpoint": None,
        "findings": [
            {
                "kind": "backend",
                "name": "devfuse",
                "ok": False,
                "why": NO_HELPER.why,
                "commands": ["sudo apt-get install fuse3"],
                "advice": "",
                "detail": "",
                "wrong": False,
            }
        ],
    }


def test_the_facts_of_this_machine_are_gathered() -> None:
    facts = gather()
    assert list(facts.backends) == list(registry.bundled())
    assert facts.root == (os.geteuid() == 0)
    assert facts.python == sys.executable


RUN = """
import sys
from xloop import machine, registry
from xloop.backend import Availability
registry._BUNDLED = {registry.system(): {"fake": "fake_backend"}}
# What others have mounted here, and how this machine is set up, is not the question.
machine._stale = lambda table: ()
machine.system = lambda: "plan9"
import types
class Fake:
    name = "fake"
    def probe(self): return Availability(%s, "no", "buy one")
    def check_options(self, options): ...
    def mount(self, *a): ...
sys.modules["fake_backend"] = types.SimpleNamespace(backend=Fake)
sys.argv = ["xloop", "doctor", *%s]
from xloop.cli import main
main()
"""


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_status_is_0_only_if_something_can_mount(works: bool, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN % (works, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if works else 1), done.stderr
    assert not done.stderr
    if options:
        assert json.loads(done.stdout)["uses"] == ("fake" if works else None)
    else:
        assert ("xloop mount uses fake." if works else "buy one") in done.stdout


# -- the machine ----------------------------------------------------------------------------

WELL = Facts(
    "linux",
    {"devfuse": Availability(True), "libfuse3": Availability(True, version="libfuse 3.14.0")},
    os_release=DEBIAN,
    uid=1000,
    kernel=Kernel("6.18.1", (7, 45), passthrough=True, no_namespaces=""),
    device=Device(0o666, may_open=True),
    helper=Helper("/usr/bin/fusermount3", set_uid=True),
    config=Config(),
    packages={"mfusepy": "3.1.1"},
)


def wrong(report: Report) -> list[str]:
    return [finding.name for finding in report.findings if finding.wrong]


def lines_of(name: str, facts: Facts) -> str:
    """Return what the report says of *name*, its commands and advice with it."""
    lines = diagnose(facts).lines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{name} "))
    more = next(
        (n for n, line in enumerate(lines[at + 1 :]) if not line.startswith("    ")), len(lines)
    )
    # How far apart its columns are depends on the names of others.
    return "\n".join(re.sub(" {2,}", "  ", line.strip()) for line in lines[at : at + 1 + more])


def test_a_machine_that_is_well() -> None:
    report = diagnose(WELL)
    assert report.ok
    assert "\n".join(report.lines()) + "\n" == text("""
        xloop VERSION on Debian GNU/Linux 12 (bookworm)
        devfuse   can mount
        libfuse3  can mount (libfuse 3.14.0)
        kernel           Linux 6.18.1, FUSE 7.45, with passthrough
        CAP_SYS_ADMIN    not this user's
        user namespaces  for everybody
        /dev/fuse        mode 666
        fusermount3      /usr/bin/fusermount3, set-user-ID root
        /etc/fuse.conf   users may not say allow_other, and have 1000 mounts at most
                           To allow it: sudo sh -c 'echo user_allow_other >> /etc/fuse.conf'
        mfusepy          3.1.1
        xloop mount uses devfuse.
        """)


ROOT_S = replace(
    WELL, root=True, uid=0, kernel=Kernel("6.18.1", (7, 45), passthrough=True, may_mount=True)
)


@pytest.mark.parametrize(
    ("name", "change", "said", "wrong_for_users"),
    [
        (
            "kernel",
            {"kernel": Kernel("6.1.0", (7, 37))},
            "kernel  Linux 6.1.0, FUSE 7.37, without passthrough\n"
            "Passthrough, which makes reading and writing as fast as without xloop, needs Linux 6.9.",
            False,
        ),
        (
            "kernel",
            {"kernel": Kernel("6.1.0", why="Permission denied")},
            "kernel  Linux 6.1.0; its FUSE cannot be asked (Permission denied)",
            False,
        ),
        (
            "user namespaces",
            {"kernel": Kernel("6.8.0", (7, 39), True, no_namespaces="sysctl x=1")},
            "user namespaces  not for ordinary users: sysctl x=1",
            False,
        ),
        (
            "/dev/fuse",
            {"device": Device(0o600, may_open=False)},
            "/dev/fuse  mode 600: only root may open it, so only root can mount\n"
            "$ sudo chmod 666 /dev/fuse\nIt grants nothing by itself. udev sets it at boot.",
            True,
        ),
        (
            "fusermount3",
            {"helper": Helper(None)},
            "fusermount3  not installed, so only root can mount\n$ sudo apt-get install fuse3",
            True,
        ),
        (
            "fusermount3",
            {"helper": Helper("/opt/a b/fusermount3")},
            "fusermount3  /opt/a b/fusermount3: not set-user-ID root, so only root can mount\n"
            "$ sudo chown root '/opt/a b/fusermount3'\n$ sudo chmod u+s '/opt/a b/fusermount3'\n"
            "Or reinstall it. On a file system that is mounted nosuid neither helps.",
            True,
        ),
        (
            "fusermount3",
            {"kernel": Kernel("6.18.1", (7, 45), True, no_new_privileges=True)},
            "fusermount3  /usr/bin/fusermount3: without effect here: set-user-ID programs gain "
            "nothing (no_new_privs)\n"
            "A sandbox, or NoNewPrivileges= of a systemd unit, set that: mount outside of it.",
            True,
        ),
        (
            "/etc/fuse.conf",
            {"config": Config(error="Permission denied")},
            "/etc/fuse.conf  cannot be read (Permission denied)\n"
            "fusermount3 reads it as root, and does as it says.",
            False,
        ),
        (
            "/etc/fuse.conf",
            {"config": Config(True, 5), "users_mounts": 5},
            "/etc/fuse.conf  users may say allow_other, and have 5 mounts at most: "
            "users have 5, and so no more\nUnmount some, or write there: mount_max = 10",
            True,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_what_is_missing_stands_beside_its_remedy(
    name: str, change: dict[str, Any], said: str, wrong_for_users: bool
) -> None:
    facts = replace(WELL, **change)
    assert lines_of(name, facts) == said
    assert wrong(diagnose(facts)) == ([name] if wrong_for_users else [])
    assert diagnose(facts).ok == (not wrong_for_users)
    # Root mounts without any of it.
    if "kernel" not in change:
        change = {**change, "kernel": ROOT_S.kernel}
        if "device" in change:
            change["device"] = replace(change["device"], may_open=True)
        assert wrong(diagnose(replace(ROOT_S, **change))) == []


def test_what_two_things_need_is_typed_once() -> None:
    backends = {"devfuse": NO_HELPER, "libfuse3": missing("libfuse 3", "libfuse3")}
    facts = replace(WELL, backends=backends, helper=Helper(None))
    assert "\n".join(diagnose(facts).lines()).count("apt-get install fuse3") == 1


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ("", Config()),
        ("#user_allow_other\n# mount_max = 5\n", Config()),
        ("user_allow_other\nmount_max = 5\n", Config(True, 5)),
        ("  user_allow_other # yes\nmount_max=7", Config(True, 7)),
        ("mount_max = many\n", Config()),
    ],
)
def test_the_file_of_fusermount3_is_read(content: str, config: Config) -> None:
    assert parse_config(content) == config


# -- mounts ---------------------------------------------------------------------------------

OURS = MountEntry(40, 27, (0, 53), "/home/me/a b", "fuse.xloop", "/srv/x", 1000, 1000)
ROOTS = OURS._replace(owner=0)
SSHFS = MountEntry(41, 27, (0, 54), "/mnt/far", "fuse.sshfs", "host:/x", 1000, 1000)


@pytest.mark.parametrize(
    ("stale", "said", "wrong_too"),
    [
        (
            Stale(OURS, Health.DEAD),
            "/home/me/a b  fuse.xloop of '/srv/x': dead (Transport endpoint is not connected): "
            "its server ended without unmounting it\n$ xloop umount '/home/me/a b'",
            True,
        ),
        (
            Stale(ROOTS, Health.DEAD),
            "/home/me/a b  fuse.xloop of '/srv/x': dead (Transport endpoint is not connected): "
            "its server ended without unmounting it\n$ sudo xloop umount '/home/me/a b'",
            True,
        ),
        (
            Stale(OURS, Health.HANGS),
            "/home/me/a b  fuse.xloop of '/srv/x': hangs: it did not answer for 5 seconds\n"
            "$ xloop doctor '/home/me/a b'\nIt says who serves it, and what can be done.",
            True,
        ),
        (
            Stale(SSHFS, Health.DEAD),
            "/mnt/far  fuse.sshfs of 'host:/x': dead (Transport endpoint is not connected): "
            "its server ended without unmounting it\n$ fusermount3 -u /mnt/far",
            False,
        ),
    ],
    ids=["dead", "root's", "hangs", "somebody else's"],
)
def test_a_mount_that_is_not_well_stands_beside_its_remedy(
    stale: Stale, said: str, wrong_too: bool
) -> None:
    facts = replace(WELL, stale=(stale,))
    assert lines_of(stale.entry.mountpoint, facts) == said
    assert diagnose(facts).ok == (not wrong_too)
    assert wrong(diagnose(facts)) == ([stale.entry.mountpoint] if wrong_too else [])


def test_root_unmounts_what_is_not_xloop_s_without_a_helper() -> None:
    facts = replace(ROOT_S, stale=(Stale(SSHFS._replace(owner=0), Health.DEAD),))
    assert "$ umount /mnt/far" in lines_of("/mnt/far", facts)


def of_point(point: Point) -> Facts:
    return Facts("linux", {}, uid=1000, point=point)


def test_a_mountpoint_that_is_well() -> None:
    point = Point(
        OURS.mountpoint,
        OURS,
        servers=(Server(7, "xloop", "S", "/home/me/log"),),
        users=((8, "bash", "working directory /home/me/a b"), (9, "vi", "/home/me/a b/f")),
        inside=("/home/me/a b/in",),
        below=SSHFS._replace(mountpoint=OURS.mountpoint),
    )
    assert diagnose(of_point(point)).ok
    assert said(of_point(point)) == text("""
        /home/me/a b
        mounted  fuse.xloop of '/srv/x', by user 1000
        covers   another mount, fuse.sshfs of 'host:/x'
        answers  yes
        server   xloop (pid 7), its messages go to /home/me/log
        used by  bash (pid 8): working directory /home/me/a b
        used by  vi (pid 9): /home/me/a b/f
        inside   another mount, /home/me/a b/in
        """)


def test_a_mountpoint_that_is_dead() -> None:
    facts = of_point(Point(OURS.mountpoint, OURS, health=Health.DEAD))
    assert not diagnose(facts).ok
    assert said(facts) == text("""
        /home/me/a b
        mounted  fuse.xloop of '/srv/x', by user 1000
        answers  dead (Transport endpoint is not connected): its server ended without unmounting it
                   $ xloop umount '/home/me/a b'
                   Or mount again in its place: xloop mount --replace /srv/x '/home/me/a b'
        server   none any more
        used by  nobody that this user can see
        """)


def test_a_mountpoint_that_hangs() -> None:
    server = Server(7, "xloop", "T", "/dev/null")
    facts = of_point(Point(OURS.mountpoint, ROOTS, health=Health.HANGS, servers=(server,)))
    assert not diagnose(facts).ok
    assert said(facts) == text("""
        /home/me/a b
        mounted  fuse.xloop of '/srv/x', by user 0
        answers  hangs: it did not answer for 5 seconds
                   $ sudo xloop umount --lazy '/home/me/a b'
                   This takes it out of the way. Who has something open waits on, until the server answers or ends.
                   To cut everybody off: sudo xloop umount --force '/home/me/a b'
        server   xloop (pid 7), stopped: let it go on
                   $ kill -CONT 7
        used by  nobody that this user can see
        """)


def test_another_program_s_mount_that_hangs_is_cut_off_by_the_kernel() -> None:
    point = Point(SSHFS.mountpoint, SSHFS, health=Health.HANGS)
    assert "$ fusermount3 -u -z /mnt/far\n" in said(of_point(point))
    cut_off = "To cut everybody off: sh -c 'echo 1 > /sys/fs/fuse/connections/54/abort'\n"
    assert cut_off in said(of_point(point))
    assert "cut" not in said(replace(of_point(point), system="freebsd"))


@pytest.mark.parametrize(
    ("why", "said_of_it"),
    [
        (
            "'/x y' is not a mountpoint: nothing is mounted there",
            "mounted  no: it is not a mountpoint: nothing is mounted there\n"
            "           To mount there: xloop mount SOURCE '/x y'\n",
        ),
        ("'/x y' does not exist", "mounted  no: it does not exist\n"),
    ],
)
def test_where_nothing_is_mounted(why: str, said_of_it: str) -> None:
    facts = of_point(Point("/x y", None, why))
    assert not diagnose(facts).ok
    assert said(facts) == f"/x y\n{said_of_it}"


def test_json_of_a_mountpoint_names_it(tmp_path: Path) -> None:
    report = diagnose(inspect(str(tmp_path / "missing"))).as_json()
    assert report["mountpoint"].endswith("missing")
    assert report["ok"] is False
    assert [finding["kind"] for finding in report["findings"]] == ["mountpoint"]
