# SPDX-License-Identifier: MIT
"""What is missing on this machine, and the exact command that installs it: :func:`diagnose`.

Owns the commands for each system and distribution, and the findings.  Does not own whether a backend can
mount: its ``probe()`` says so, with what it *needs*; nor how findings look (:mod:`xloop.cli.doctor`).

Everything but :func:`gather` is a function of :class:`Facts`, so that what is said on one system can be
tested on every other.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from xloop import __version__
from xloop.backend import Availability
from xloop.registry import available, system

__all__ = ["Facts", "Finding", "Report", "diagnose", "gather", "install"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the machine."""

    system: str  #: as in xloop.registry: linux, darwin, freebsd, win32
    backends: Mapping[str, Availability]  #: the bundled ones, best first
    python: str = "python3"  #: the interpreter that xloop runs in
    root: bool = False
    #: /etc/os-release: os-release(5).  Empty where there is none.
    os_release: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    kind: str  #: "backend"
    name: str
    ok: bool
    why: str = ""
    #: What to type, line by line; nothing where no command would do.
    commands: tuple[str, ...] = ()
    #: What else there is to be done.
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and what follows from them."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def uses(self) -> str | None:
        """The backend that ``xloop mount`` takes by itself; None: it cannot mount."""
        fit = (f.name for f in self.findings if f.kind == "backend" and f.ok)
        return next(fit, None)

    @property
    def ok(self) -> bool:
        return self.uses is not None

    def as_json(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "system": self.facts.system,
            "distribution": self.facts.os_release.get("PRETTY_NAME"),
            "python": self.facts.python,
            "ok": self.ok,
            "uses": self.uses,
            "findings": [
                {
                    "kind": finding.kind,
                    "name": finding.name,
                    "ok": finding.ok,
                    "why": finding.why,
                    "commands": list(finding.commands),
                    "advice": finding.advice,
                }
                for finding in self.findings
            ],
        }

    def lines(self) -> list[str]:
        """Return the report for people."""
        where = self.facts.os_release.get("PRETTY_NAME") or _SYSTEMS.get(self.facts.system, "")
        lines = [f"xloop {__version__} on {where or self.facts.system}"]
        width = max((len(finding.name) for finding in self.findings), default=0)
        for finding in self.findings:
            state = "can mount" if finding.ok else f"cannot mount: {finding.why}"
            lines.append(f"{finding.name:{width}}  {state}")
            said = [f"$ {command}" for command in finding.commands] + finding.advice.splitlines()
            lines += [f"{'':{width}}    {line}" for line in said]
        if self.uses is not None:
            lines.append(f"xloop mount uses {self.uses}.")
        elif self.findings:
            lines.append("xloop cannot mount here: one of the above must be put right.")
        else:
            lines.append("xloop has no backend for this system.")
        return lines


_SYSTEMS: Final = {
    "linux": "Linux",
    "darwin": "macOS",
    "freebsd": "FreeBSD",
    "win32": "Windows",
}

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
_ADVICE: Final = {
    "macfuse": "Then allow its kernel extension in System Settings > Privacy & Security, and restart.",
    "winfsp": "Or download it: https://winfsp.dev/rel/",
}


def install(needs: str, facts: Facts) -> tuple[str, ...]:
    """Return the commands that bring what a backend *needs*; none where there is no telling."""
    if needs in _PYTHON:
        return (
            shlex.join([facts.python, "-m", "pip", "install", _PYTHON[needs]])
            if facts.system != "win32"
            else f'"{facts.python}" -m pip install "{_PYTHON[needs]}"',
        )
    if facts.system == "darwin":
        return _DARWIN.get(needs, ())
    if facts.system == "win32":
        return _WINDOWS.get(needs, ())
    if facts.system == "freebsd":
        return tuple(_as_root(command, facts) for command in _FREEBSD.get(needs, ()))
    if needs == "fuse-device":
        return (_as_root("modprobe fuse", facts),)
    family = _family(facts.os_release)
    if family is None or needs not in _LINUX[family][1]:
        return ()
    command, packages = _LINUX[family]
    package = packages[needs]
    if needs == "libfuse2" and _is_t64(facts.os_release):
        package = "libfuse2t64"
    return (_as_root(f"{command} {package}", facts),)


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


def _as_root(command: str, facts: Facts) -> str:
    return command if facts.root else f"sudo {command}"


def diagnose(facts: Facts) -> Report:
    """Return what there is to say about *facts*."""
    findings = [_backend(name, state, facts) for name, state in facts.backends.items()]
    return Report(facts, tuple(findings))


def _backend(name: str, state: Availability, facts: Facts) -> Finding:
    if state.ok:
        return Finding("backend", name, True)
    commands = install(state.needs, facts) if state.needs else ()
    # The backend's own words know no distribution: they are for where we know no command.
    advice = _ADVICE.get(state.needs, "") if commands else state.fix
    if state.needs == "fuse-device" and facts.system == "linux":
        advice = "In a container, give it the device instead: --device /dev/fuse"
    return Finding("backend", name, False, state.why, commands, advice)


def gather(names: Sequence[str] = ()) -> Facts:
    """Return the facts of this machine; with *names*, of these backends only."""
    states = available()
    release: dict[str, str] = {}
    if system() == "linux":
        try:
            release = platform.freedesktop_os_release()
        except OSError:  # a minimal system: then nobody knows what it installs with
            release = {}
    return Facts(
        system=system(),
        backends={name: states[name] for name in names} if names else states,
        python=sys.executable or "python3",
        root=getattr(os, "geteuid", lambda: -1)() == 0,
        os_release=release,
    )
