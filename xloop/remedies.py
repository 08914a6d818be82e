# SPDX-License-Identifier: MIT
"""What to type to get what is missing, on each system and distribution: :func:`install`.

Owns the names of packages and the commands of package managers.  Does not own what is missing: a backend
says what it needs by a name (:class:`xloop.backend.Availability`), and these are looked up here.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from xloop.registry import system

if TYPE_CHECKING:
    from xloop.machine import Facts

__all__ = ["ADVICE", "as_root", "install", "python_package"]

#: By family of distributions: the package manager's command, and what it calls the things that are needed.
_LINUX: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    # fuse3 depends on the library of its own version, whatever that package is called.
    "debian": (
        "apt-get install",
        {"fuse3": "fuse3", "libfuse3": "fuse3", "libfuse2": "libfuse2", "fuse2": "fuse3"},
    ),
    "fedora": (
        "dnf install",
        {"fuse3": "fuse3", "libfuse3": "fuse3-libs", "libfuse2": "fuse-libs", "fuse2": "fuse"},
    ),
    "arch": (
        "pacman -S",
        {"fuse3": "fuse3", "libfuse3": "fuse3", "libfuse2": "fuse2", "fuse2": "fuse2"},
    ),
    "suse": (
        "zypper install",
        {"fuse3": "fuse3", "libfuse3": "libfuse3-3", "libfuse2": "libfuse2", "fuse2": "fuse"},
    ),
    "alpine": (
        "apk add",
        {"fuse3": "fuse3", "libfuse3": "fuse3-libs", "libfuse2": "fuse", "fuse2": "fuse"},
    ),
}
#: What ID and ID_LIKE of os-release(5) say, where that is not the name above.
_FAMILIES: Final = {
    "ubuntu": "debian",
    "rhel": "fedora",
    "centos": "fedora",
    "opensuse": "suse",
    "sles": "suse",
    "archlinux": "arch",
}
#: The first version of a distribution whose library is called libfuse2t64, for times after 2038.
_T64: Final = {"debian": 13, "ubuntu": 24}

_FREEBSD: Final = {
    "libfuse3": ("pkg install fusefs-libs3",),
    "libfuse2": ("pkg install fusefs-libs",),
    "fuse-device": ("kldload fusefs",),
    "fuse3": ("sysctl vfs.usermount=1",),
    "fuse2": ("sysctl vfs.usermount=1",),
}
_DARWIN: Final = {
    "macfuse": ("brew install --cask macfuse",),
    "fuse-t": ("brew install --cask macos-fuse-t/cask/fuse-t",),
}
_WINDOWS: Final = {"winfsp": ("winget install WinFsp.WinFsp",)}
_PYTHON: Final = {"mfusepy": "mfusepy>=3.1.1,<4", "refuse": "refuse==0.0.4"}
#: What else is to be done.
ADVICE: Final = {
    "macfuse": "Then allow its kernel extension in System Settings > Privacy & Security, and restart.",
    "winfsp": "Or download it: https://winfsp.dev/rel/",
}


def install(needs: str, facts: Facts) -> tuple[str, ...]:
    """Return the commands that bring what a backend *needs*; none where there is no telling."""
    if needs in _PYTHON:
        return (python_package(needs, facts.python, facts.system),)
    if facts.system == "darwin":
        return _DARWIN.get(needs, ())
    if facts.system == "win32":
        return _WINDOWS.get(needs, ())
    if facts.system == "freebsd":
        return tuple(as_root(command, facts) for command in _FREEBSD.get(needs, ()))
    if needs == "fuse-device":
        return (as_root("modprobe fuse", facts),)
    family = _family(facts.os_release)
    if family is None or needs not in _LINUX[family][1]:
        return ()
    command, packages = _LINUX[family]
    package = packages[needs]
    if needs == "libfuse2" and _is_t64(facts.os_release):
        package = "libfuse2t64"
    return (as_root(f"{command} {package}", facts),)


def python_package(
    needs: str, python: str = sys.executable or "python3", where: str = system()
) -> str:
    """Return the command that brings the Python package *needs* to the interpreter *python*.

    A bare "pip" is often that of another one, which the distribution keeps from installing anything.
    """
    words = [python, "-m", "pip", "install", _PYTHON[needs]]
    if where == "win32":
        return '"{}" {} {} {} "{}"'.format(*words)
    return shlex.join(words)


def _family(os_release: Mapping[str, str]) -> str | None:
    words = [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]
    for word in words:
        base = word.partition("-")[0]  # opensuse-leap
        family = _FAMILIES.get(base, base)
        if family in _LINUX:
            return family
    return None


def _is_t64(os_release: Mapping[str, str]) -> bool:
    first = _T64.get(os_release.get("ID", ""))
    version = os_release.get("VERSION_ID", "").partition(".")[0]
    return first is not None and version.isdecimal() and int(version) >= first


def as_root(command: str, facts: Facts) -> str:
    """Return *command* as whoever asks must type it to have it run by root."""
    return command if facts.root else f"sudo {command}"
