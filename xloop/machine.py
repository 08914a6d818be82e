# SPDX-License-Identifier: MIT
"""What is known of this machine, and of the mounts on it: :class:`Facts`, and :func:`gather`.

Owns looking.  Does not own what follows from it: :mod:`xloop.doctor`.

Nothing here can hang, whatever is mounted: the mount table is read, and mounts are asked by processes
that can be left behind.  Nothing here changes anything.
"""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xloop import mounts, records
from xloop.backend import Availability
from xloop.errors import BackendUnavailable
from xloop.host import mounttable, process
from xloop.host.mounttable import MountEntry
from xloop.mounts import Health
from xloop.registry import available, load, system

__all__ = [
    "Config",
    "Device",
    "Facts",
    "Helper",
    "Kernel",
    "Point",
    "Server",
    "Stale",
    "gather",
    "inspect",
    "parse_config",
]

_os: Any = os  # not every system has all of it

_DEVICE = "/dev/fuse"
_CONFIG = "/etc/fuse.conf"
#: Packages that adapters go through.
_PACKAGES = ("mfusepy", "refuse")


@dataclass(frozen=True, slots=True)
class Device:
    """/dev/fuse."""

    mode: int  #: permission bits
    may_open: bool  #: this user


@dataclass(frozen=True, slots=True)
class Helper:
    """fusermount3, which mounts for users."""

    path: str | None  #: None: not installed
    set_uid: bool = False  #: root's, with the set-user-ID bit, where that counts


@dataclass(frozen=True, slots=True)
class Config:
    """/etc/fuse.conf, which fusermount3 reads."""

    user_allow_other: bool = False
    mount_max: int = 1000  #: how many mounts users may have, all of them together
    error: str = ""  #: why it cannot be read


@dataclass(frozen=True, slots=True)
class Kernel:
    """Linux, as far as mounting is concerned."""

    release: str
    protocol: tuple[int, int] | None = None  #: version of FUSE; None: it could not be asked
    passthrough: bool = False
    why: str = ""  #: why it could not be asked
    may_mount: bool = False  #: CAP_SYS_ADMIN
    no_new_privileges: bool = False  #: set-user-ID programs have no power here
    #: Why ordinary users may make no user namespaces; "" where they may, None where that is not known.
    no_namespaces: str | None = None


@dataclass(frozen=True, slots=True)
class Stale:
    """A mount of a user-space file system that does not answer as it should."""

    entry: MountEntry
    health: Health


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves a mount."""

    pid: int
    program: str
    state: str = ""  #: as in /proc/PID/stat; "T" is stopped
    errors: str = ""  #: where its standard error goes


@dataclass(frozen=True, slots=True)
class Point:
    """One mountpoint."""

    path: str
    entry: MountEntry | None  #: None: nothing is mounted there
    why: str = ""  #: what is there instead
    health: Health = Health.ANSWERS
    servers: tuple[Server, ...] = ()
    users: tuple[tuple[int, str, str], ...] = ()  #: process, program, what it uses
    inside: tuple[str, ...] = ()  #: mountpoints inside
    below: MountEntry | None = None  #: a mount that this one covers


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known.  What nobody has looked at is None or empty, and nothing is said about it."""

    system: str  #: as in xloop.registry: linux, darwin, freebsd, win32
    backends: Mapping[str, Availability]  #: the bundled ones, best first
    python: str = "python3"  #: the interpreter that xloop runs in
    root: bool = False
    #: /etc/os-release: os-release(5).  Empty where there is none.
    os_release: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0  #: who asks
    kernel: Kernel | None = None
    device: Device | None = None
    helper: Helper | None = None
    config: Config | None = None
    #: Python packages that adapters go through, and their versions.
    packages: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[Stale, ...] = ()
    #: How many mounts users have made.
    users_mounts: int = 0
    point: Point | None = None  #: the one mountpoint that is to be diagnosed, and nothing else


def gather(names: Sequence[str] = ()) -> Facts:
    """Return the facts of this machine; with *names*, of these backends only."""
    states = available()
    table = mounts.read_table()
    linux = system() == "linux"
    return Facts(
        system=system(),
        backends={name: states[name] for name in names} if names else states,
        python=sys.executable or "python3",
        root=process.is_root(),
        os_release=_os_release(),
        uid=process.user(),
        kernel=_kernel() if linux else None,
        device=_device() if linux else None,
        helper=_helper() if linux else None,
        config=_config() if linux else None,
        packages=_packages(),
        stale=_stale(table),
        users_mounts=sum(bool(entry.owner) for entry in table),
    )


def inspect(mountpoint: str) -> Facts:
    """Return the facts of one mountpoint."""
    table = mounts.read_table()
    path = mounts.locate(mountpoint, table)
    entry = mounts.mount_at(table, path)
    if entry is None:
        point = Point(path, None, mounts.nothing_there(table, path).why)
    else:
        point = Point(
            path,
            entry,
            health=mounts.health(path),
            servers=_servers(entry),
            users=tuple(process.users_of(path)),
            inside=tuple(e.mountpoint for e in table if e.parent == entry.id and e.id != entry.id),
            below=next(
                (e for e in table if e.id == entry.parent and e.mountpoint == path and e.is_fuse),
                None,
            ),
        )
    return Facts(
        system=system(),
        backends={},
        python=sys.executable or "python3",
        root=process.is_root(),
        os_release=_os_release(),
        uid=process.user(),
        point=point,
    )


def _os_release() -> Mapping[str, str]:
    if system() != "linux":
        return {}
    try:
        return platform.freedesktop_os_release()
    except OSError:  # a minimal system: then nobody knows what it installs with
        return {}


def _packages() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # here: it reads many files

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _stale(table: list[MountEntry]) -> tuple[Stale, ...]:
    """Ask every mount of a user-space file system that can be seen, all at once."""
    from concurrent.futures import ThreadPoolExecutor  # here: only the doctor asks more than one

    asked = [e for e in table if e.is_fuse and mounts.mount_at(table, e.mountpoint) == e]
    with ThreadPoolExecutor(max_workers=16) as pool:
        states = list(pool.map(lambda entry: mounts.health(entry.mountpoint), asked))
    pairs = zip(asked, states, strict=True)
    return tuple(Stale(entry, state) for entry, state in pairs if state is not Health.ANSWERS)


# -- Linux ----------------------------------------------------------------------------------


def _device() -> Device | None:
    try:
        found = os.stat(_DEVICE)
    except OSError:
        return None
    return Device(stat.S_IMODE(found.st_mode), os.access(_DEVICE, os.R_OK | os.W_OK))


def _helper() -> Helper:
    from shutil import which

    path = which("fusermount3")
    if path is None:
        return Helper(None)
    found = os.stat(path)
    nosuid = bool(_os.statvfs(path).f_flag & _os.ST_NOSUID)
    return Helper(path, found.st_uid == 0 and bool(found.st_mode & stat.S_ISUID) and not nosuid)


def _config() -> Config:
    try:
        with open(_CONFIG, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return Config()
    except OSError as exc:
        return Config(error=exc.strerror or str(exc))
    return parse_config(text)


def parse_config(text: str) -> Config:
    """Return what fusermount3 reads from *text*: mount.fuse3(8)."""
    allow, most = False, Config().mount_max
    for line in text.splitlines():
        word, _, value = line.partition("#")[0].partition("=")
        if word.strip() == "user_allow_other":
            allow = True
        elif word.strip() == "mount_max":
            try:
                most = int(value)
            except ValueError:
                continue
    return Config(allow, most)


def _kernel() -> Kernel:
    status = _status("self")
    kernel = Kernel(
        release=platform.release(),
        may_mount=bool(int(status.get("CapEff", "0"), 16) >> 21 & 1),  # CAP_SYS_ADMIN
        no_new_privileges=status.get("NoNewPrivs") == "1",
        # Root may always, whatever others may: that is only said by settings.
        no_namespaces=_forbidden(),
    )
    try:
        # Not of every backend: this one alone speaks with the kernel itself.
        offers = load("devfuse").offers()  # type: ignore[attr-defined]
    except BackendUnavailable as exc:
        return replace(kernel, why=exc.why)
    if offers.namespaces is not None:
        kernel = replace(kernel, no_namespaces=offers.namespaces)
    return replace(kernel, protocol=offers.protocol, passthrough=offers.passthrough, why=offers.why)


def _forbidden() -> str:
    """Return the setting that forbids user namespaces to ordinary users, or nothing."""
    for name, forbids in (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),  # Debian's kernels before 11
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),  # Ubuntu
    ):
        try:
            with open(f"/proc/sys/{name}", encoding="ascii") as file:
                if file.read().strip() == forbids:
                    return f"sysctl {name.replace('/', '.')}={forbids}"
        except OSError:
            continue
    return ""


def _status(pid: int | str) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            pairs = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in pairs}


def _servers(entry: MountEntry) -> tuple[Server, ...]:
    if not mounttable.COVERS_DIRECTORIES:
        return (Server(entry.id, ""),)  # the records there are the servers' own
    found = records.find(entry)
    noted = {found.record.pid} if found is not None else set()
    servers = []
    # A record tells one at most, and a kernel that tells tells all; old ones do not.
    for pid in sorted(noted | set(process.servers_of(entry.device[1]))):
        status = _status(pid)
        try:
            errors = os.readlink(f"/proc/{pid}/fd/2")
        except OSError:
            errors = ""
        servers.append(Server(pid, status.get("Name", "?"), status.get("State", "")[:1], errors))
    return tuple(servers)
