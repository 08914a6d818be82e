# SPDX-License-Identifier: MIT
"""What `xloop doctor` says: word for word, for each system, from facts of machines that are not this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xloop import __version__, registry
from xloop.backend import Availability
from xloop.doctor import Facts, diagnose, gather, install

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
        "findings": [
            {
                "kind": "backend",
                "name": "devfuse",
                "ok": False,
                "why": NO_HELPER.why,
                "commands": ["sudo apt-get install fuse3"],
                "advice": "",
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
from xloop import registry
from xloop.backend import Availability
registry._BUNDLED = {registry.system(): {"fake": "fake_backend"}}
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
