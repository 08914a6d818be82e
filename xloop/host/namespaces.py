# SPDX-License-Identifier: MIT
"""A mount namespace of this process's own: mounts that it makes are seen by it and its children alone.

Owns the calls: unshare(2), the maps of a user namespace, the propagation of mounts, mount(2).  Does not own
what is mounted there, nor the command that then runs (:mod:`xloop.running`).  Linux alone has such
namespaces; elsewhere :data:`SUPPORTED` is false, and the calls raise OSError(EOPNOTSUPP).
"""

from __future__ import annotations

import errno
import os
import sys

__all__ = [
    "PLAIN",
    "SUPPORTED",
    "enter",
    "forbidden_by",
    "identity",
    "knows_all_users",
    "may_mount",
    "mount",
]

#: Whether a process may have mounts of its own here.
SUPPORTED = sys.platform == "linux"

_CAP_SYS_ADMIN = 21
_INITIAL_USER = (
    0xEFFFFFFD  # linux/proc_ns.h: the number of the user namespace that a machine starts with
)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 2, 4, 1 << 14, 1 << 19  # linux/mount.h

#: Flags of mount(2): neither device nodes nor set-user-ID programs.
PLAIN = _MS_NOSUID | _MS_NODEV


def may_mount() -> bool:
    """Tell whether this process may mount by itself: CAP_SYS_ADMIN."""
    if sys.platform != "linux":
        return False
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return os.geteuid() == 0


def knows_all_users() -> bool:
    """Tell whether no user of this machine, nor its kernel, is unknown in this process's user namespace."""
    return sys.platform != "linux" or os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER


def identity() -> tuple[int, int]:
    """Return the user and the group that this process acts as."""
    if sys.platform == "win32":
        raise _unsupported()
    return os.geteuid(), os.getegid()


def enter() -> None:
    """Give this process, which must have one thread only, a mount namespace of its own.

    Who may not mount gets a user namespace besides, in which it may.  That knows the process's own user and
    group, under the numbers they have anyway, and nobody else: what belongs to others seems to belong to
    the overflow user ("nobody").  The right to mount ends there with the next exec, as for every user but 0.

    What is mounted outside later is seen inside too, never the other way round.

    OSError: it was not allowed; :func:`forbidden_by` may know why.
    """
    if sys.platform != "linux":
        raise _unsupported()
    user, group = identity()
    if may_mount():
        _unshare(_CLONE_NEWNS)
    else:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
        # setgroups first: without that renounced the kernel takes no map of groups from a user.
        _tell("setgroups", "deny")
        _tell("uid_map", f"{user} {user} 1")
        _tell("gid_map", f"{group} {group} 1")
    # Before the first mount: in a copy of a shared mount it would appear outside.
    mount("none", "/", "", _MS_REC | _MS_SLAVE)


def _unshare(flags: int) -> None:
    import ctypes  # here: whoever only asks need not pay for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise _failed(ctypes.get_errno())


def _tell(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "wb", buffering=0) as file:
        file.write(text.encode("ascii"))


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2).  OSError says why not, and its filename is *target*."""
    if sys.platform != "linux":
        raise _unsupported()
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fstype),
        ctypes.c_ulong(flags),
        os.fsencode(data),
    )
    if done:
        raise _failed(ctypes.get_errno(), target)


#: The settings that forbid it, what they are when they do, and what to set them to; the first also for
#: who may mount.  namespaces(7); the last two are Debian's and Ubuntu's own.
_SETTINGS = (
    ("user/max_mnt_namespaces", "0", "10000"),
    ("user/max_user_namespaces", "0", "10000"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
)


def forbidden_by(settings: str = "/proc/sys", *, user: bool = True) -> tuple[str, str, str] | None:
    """Return a setting of this machine by which enter() fails, its value, and one that lets it succeed.

    *user*: for somebody who may not mount.  Named as sysctl(8) does.  None: no setting does.
    """
    for name, forbids, allows in _SETTINGS if user else _SETTINGS[:1]:
        try:
            with open(os.path.join(settings, name), encoding="ascii") as file:
                value = file.read().strip()
        except OSError:  # this kernel has no such setting
            continue
        if value == forbids:
            return name.replace("/", "."), value, allows
    return None


def _failed(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, "this system has no mount namespaces")
