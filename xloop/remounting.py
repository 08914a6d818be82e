# SPDX-License-Identifier: MIT
"""Changing a mount that is there: :func:`remount`, as mount(8) asks for it with ``-o remount``.

Owns what of a mount can be changed while it is used, and the words for what cannot.  Does not own the
system call (:mod:`xloop.host.mountflags`).

What ``ro``, ``nosuid``, ``nodev``, ``noexec``, ``nosymfollow`` and ``sync`` do is done by the kernel alone, before
anything reaches a server.  So changing them is a system call, for root.  The server is told, so that its record
says what holds.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from xloop import records
from xloop.control_socket import ask
from xloop.errors import MountError, OptionError
from xloop.fstab import Wanted, changed, fixed_by_mounting
from xloop.host import mountflags
from xloop.host.mounttable import MountEntry
from xloop.mounts import locate, mount_at, read_table
from xloop.options import parse_options, spelled

__all__ = ["remount"]


def remount(mountpoint: str, wanted: Wanted, *, fake: bool = False) -> None:
    """Give the mount of xloop at *mountpoint* the flags that *wanted* asks for; *fake*: say whether that can be.

    Raises MountError, and then the mount is as it was.
    """
    table = read_table()
    path = locate(mountpoint, table)
    entry = mount_at(table, path)
    fstype = f"fuse.{wanted.options.subtype}"
    if entry is None or entry.fstype != fstype:
        there = "nothing is mounted there" if entry is None else f"its type is {entry.fstype}"
        raise MountError(f"{mountpoint!r} is no mount of type {fstype} to be remounted: {there}")
    found = records.find(entry)
    current = parse_options([found.record.options]) if found is not None else None
    known = _known(entry)
    if current is not None:
        known = {field: getattr(current, field) for field in wanted.fields} | known
    fixed = fixed_by_mounting(wanted, known)
    relays = current is not None and current.may_relay
    if current is not None and relays and current.read_only and not wanted.options.read_only:
        fixed.append("rw (while events are relayed)")  # the server itself refuses changes then
    if fixed:
        raise OptionError(
            f"remount cannot change {', '.join(fixed)} of the mount at {mountpoint!r}",
            "unmount it, and mount it again",
        )
    # Before anything is changed: what is asked for may contradict what the mount was made with.
    after = None if current is None else changed(current, wanted)
    if fake:
        return
    try:
        if relays:
            # Events come through another mount of the file system, which stays writable.
            mountflags.remount(path, replace(wanted.options, read_only=False))
            mountflags.restrict(path, wanted.options)
        else:
            mountflags.remount(path, wanted.options)
    except OSError as exc:
        raise _refused(mountpoint, exc) from exc
    if found is not None and after is not None:
        # Whatever it answers: the mount has been changed.
        ask(found, "remount", options=spelled(after))


def _known(entry: MountEntry) -> dict[str, object]:
    """Return the fields of MountOptions that the kernel's table tells of a mount."""
    shown = mountflags.options_of(entry)
    read = next((word for word in shown if word.startswith("max_read=")), None)
    known: dict[str, object] = {
        "allow_other": "allow_other" in shown,
        "default_permissions": "default_permissions" in shown,
        "dirsync": "dirsync" in shown,
        "max_read": None if read is None else int(read.partition("=")[2]),
        "atime": "noatime" if "noatime" in shown else None,
        "fsname": entry.source,
    }
    if "allow_other" not in shown:
        known["allow_root"] = False
    return known


def _refused(mountpoint: str, exc: OSError) -> MountError:
    why, fix = exc.strerror or str(exc), ""
    if exc.errno == errno.EPERM:
        fix = "that is for root: fusermount3, which mounts for others, cannot remount"
    elif exc.errno == errno.EBUSY:
        why = f"files in it are open for writing ({os.strerror(errno.EBUSY)})"
        fix = "end what writes there; `fuser -vm` lists the programs"
    return MountError(f"{mountpoint!r} cannot be remounted: {why}", fix)
