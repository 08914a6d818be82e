# SPDX-License-Identifier: MIT
"""/dev/fuse and the mount itself: getting a connection, mounting it, one way for root, one for others.

Owns mount(2) and the helper fusermount3.  Does not own the protocol that is then spoken over
the descriptor, nor unmounting (:mod:`xloop.mounts`).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import replace

from xloop.backend import Availability
from xloop.errors import MountError
from xloop.host import Descriptor, mounttable, namespaces
from xloop.host.mountflags import flags_of, restrict, words_of
from xloop.host.namespaces import may_mount as privileged
from xloop.options import SELINUX, MountOptions

from . import abi

__all__ = ["DEVICE", "attach", "clone", "mount", "privileged", "probe", "probe_device"]

DEVICE = "/dev/fuse"
_HELPER = "fusermount3"

#: The flags of mount(2) that the helper has words for.  nosuid and nodev it sets by itself.
_HELPERS_WORDS = frozenset(
    {"ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime", "nodiratime"}
)


def probe() -> Availability:
    """Tell whether a mount has a chance here."""
    if privileged() or not os.path.exists(DEVICE):
        return probe_device()
    if os.geteuid() == 0:  # in a container; what the helper may is bounded in the same way
        return Availability(
            False,
            "this root may not mount: it has no CAP_SYS_ADMIN",
            "give the container the right (--cap-add SYS_ADMIN), or use `xloop run`, which needs none",
        )
    if _helper() is None:
        return Availability(
            False,
            f"only root may mount directly, and {_HELPER} is not installed",
            "install it: apt-get install fuse3 (dnf install fuse3, apk add fuse3)",
            "fuse3",
        )
    return probe_device()


def probe_device() -> Availability:
    """Tell whether this process can have a connection, which leaves open who mounts it."""
    if not os.path.exists(DEVICE):
        return Availability(
            False,
            f"{DEVICE} does not exist",
            "load the kernel module (modprobe fuse), or give the container the device "
            "(--device /dev/fuse)",
            "fuse-device",
        )
    if privileged():
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            return Availability(
                False,
                f"{DEVICE} cannot be opened: {exc.strerror}",
                "load the kernel module (modprobe fuse), or allow the container the device",
            )
    elif not os.access(DEVICE, os.R_OK | os.W_OK):
        return Availability(
            False,
            f"this user may not open {DEVICE}",
            f"let root give it the usual mode: chmod 666 {DEVICE} (it grants nothing by itself)",
        )
    return Availability(True)


def _helper() -> str | None:
    from shutil import which  # here: root never asks

    return which(_HELPER)


def attach(mountpoint: str, options: MountOptions, *, default_permissions: bool) -> Descriptor:
    """Mount an unserved file system at *mountpoint* and return its connection.

    MountError says why not; then nothing is mounted.
    """
    if privileged():
        return mount(mountpoint, options, default_permissions)
    return _ask_helper(mountpoint, options, default_permissions)


def _common(options: MountOptions, default_permissions: bool) -> list[str]:
    words = []
    if options.allow_other or options.allow_root:
        # The kernel knows only allow_other; for allow_root the session turns the others away.
        words.append("allow_other")
    if default_permissions:
        words.append("default_permissions")
    if options.max_read is not None:
        words.append(f"max_read={options.max_read}")
    for name in SELINUX:
        label = getattr(options, name)
        if label is not None:
            words.append(f'{name}="{label}"')
    return words


def mount(mountpoint: str, options: MountOptions, default_permissions: bool) -> Descriptor:
    """As attach(), by mount(2) alone, as this process may or may not."""
    try:
        fd = Descriptor(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        available = probe()
        raise MountError(available.why or f"{DEVICE}: {exc.strerror}", available.fix) from exc
    words = [
        f"fd={fd:d}",
        "rootmode=40000",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        *_common(options, default_permissions),
    ]
    fstype = f"fuse.{options.subtype}"
    # Events are relayed through another mount of the same file system: that has to be writable, where this one is not.
    apart = options.read_only and options.may_relay
    flags = flags_of(replace(options, read_only=False) if apart else options)
    try:
        namespaces.mount(options.fsname or "xloop", mountpoint, fstype, flags, ",".join(words))
    except OSError as exc:
        fix = ""
        if exc.errno in (errno.EPERM, errno.EACCES):
            fix = "mounting needs CAP_SYS_ADMIN in this mount namespace"
        elif exc.errno == errno.ENODEV:
            fix = "this kernel has no FUSE: load the module (modprobe fuse)"
        raise MountError(f"{mountpoint!r} cannot be mounted on: {exc.strerror}", fix) from exc
    if apart:
        try:
            restrict(mountpoint, options)
        except OSError as exc:
            with suppress(OSError):
                mounttable.unmount(mountpoint, lazy=True)
            raise MountError(f"{mountpoint!r} cannot be made read-only: {exc.strerror}") from exc
    return fd


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _ask_helper(mountpoint: str, options: MountOptions, default_permissions: bool) -> Descriptor:
    import subprocess  # here: root never comes this way, and it costs 10 ms

    helper = _helper()
    if helper is None:
        available = probe()
        raise MountError(available.why, available.fix)
    words = [word for word in words_of(options) if word in _HELPERS_WORDS]
    words += _common(options, default_permissions)
    words.append(f"fsname={_escaped(options.fsname or 'xloop')}")
    words.append(f"subtype={_escaped(options.subtype)}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", ",".join(words), "--", mountpoint],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            env={**os.environ, "LC_ALL": "C", "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
            check=False,
        )
        theirs.close()
        if done.returncode:
            raise _refused(done.stderr, mountpoint)
        fds = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise MountError(f"{helper} mounted {mountpoint!r} but handed over no connection")
    os.set_inheritable(fds[0], False)
    return Descriptor(fds[0])


def _refused(said: str, mountpoint: str) -> MountError:
    """Turn the helper's words into a reason and a way out."""
    words = said.strip().removeprefix(f"{_HELPER}: ") or f"{_HELPER} failed without a word"
    from xloop.fuselib import advice  # here: only who is refused needs it

    fix = advice(words)
    if f"open {DEVICE}" in words:
        fix = probe().fix
    elif not fix and "Operation not permitted" in words:
        fix = f"{_HELPER} must be set-user-ID root: reinstall fuse3; in a container it needs the right besides: --cap-add SYS_ADMIN"
    return MountError(f"{mountpoint!r} cannot be mounted on: {words}", fix)


def clone(connection: int) -> Descriptor | None:
    """Return another descriptor of the same connection, or None where that cannot be had.

    With one for each thread the kernel keeps their requests apart; with one for all they share
    a queue and its lock.
    """
    try:
        fd = Descriptor(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        fcntl.ioctl(fd, abi.DEV_IOC_CLONE, connection.to_bytes(4, "little"))
    except OSError:
        return None  # the device is root's alone here
    return fd
