# SPDX-License-Identifier: MIT
"""Linux: xloop's own side of the kernel's FUSE protocol, on /dev/fuse, without libfuse.

Owns the backend "devfuse".  What is where: the protocol's numbers in abi, what is agreed with the
kernel in negotiate, the mount in device, threads in session, requests in handlers, waiting
locks in waits, data that the kernel moves by itself in passthrough, data that it keeps in writeback, what
xloop doctor asks in offers.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from xloop.backend import Availability, Session
from xloop.errors import OptionError
from xloop.host import Descriptor
from xloop.ops import Operations
from xloop.options import SELINUX, MountOptions

from . import device

if TYPE_CHECKING:
    from .offers import Offers

__all__ = ["backend"]


class DevFuse:
    """See :class:`xloop.backend.Backend` and :class:`xloop.backend.PrivateBackend`."""

    name = "devfuse"

    def probe(self) -> Availability:
        return device.probe()

    def offers(self) -> Offers:
        """Ask the kernel what it offers.  Costs a process; for xloop doctor."""
        from .offers import ask  # here: mounting needs none of it

        return ask()

    def check_options(self, options: MountOptions) -> None:
        self.check_private(options)
        if device.privileged():
            return
        # relatime needs no word: it is what a mount of Linux gets that says nothing else.
        for wanted, word in (
            (options.atime == "strictatime", "strictatime"),
            (not options.symfollow, "nosymfollow"),
            *((True, name) for name in _labels(options)),
        ):
            if wanted:
                raise OptionError(
                    f"fusermount3 has no option {word}", f"leave out {word}, or mount as root"
                )
        if options.events == "relay":
            from .events import why_not  # here: few mounts are watched

            why = why_not(options, privileged=False)
            if why:
                raise OptionError(
                    f"events=relay is not to be had: {why}",
                    "leave out ro or events, or mount as root",
                )

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        checks = _kernel_checks(options)
        if options.read_only and options.may_relay and device.privileged():
            from xloop.layers import ReadOnly

            # The kernel's file system is writable then, and only this mount of it is not.
            operations = ReadOnly(operations)
        connection = device.attach(mountpoint, options, default_permissions=checks)
        return _session(operations, os.path.abspath(mountpoint), options, connection)

    def probe_private(self) -> Availability:
        return device.probe_device()

    def check_private(self, options: MountOptions) -> None:
        labels = _labels(options)
        if labels and not os.path.exists("/sys/fs/selinux/enforce"):
            raise OptionError(
                f"{labels[0]} is an option of SELinux, which is not enabled here",
                f"leave out {labels[0]}",
            )
        if device.privileged():
            return
        for wanted, word in ((options.dev, "dev"), (options.suid, "suid")):
            if wanted:
                raise OptionError(
                    f"the option {word} is root's: a user's mount is always no{word}",
                    f"leave out {word}, or mount as root",
                )
        if options.passthrough is True:
            raise OptionError(
                "the kernel allows passthrough to root (CAP_SYS_ADMIN) only",
                "leave out passthrough, or mount as root",
            )

    def attach(self, mountpoint: str, options: MountOptions) -> Descriptor:
        if options.events == "relay":
            raise OptionError(
                "events cannot be relayed to a mount namespace of its own: xloop does not get in there",
                "leave out events, or use xloop mount",
            )
        return device.mount(mountpoint, replace(options, events="off"), _kernel_checks(options))

    def adopt(
        self, connection: Descriptor, operations: Operations, shown: str, options: MountOptions
    ) -> Session:
        options = replace(options, events="off")
        return _session(operations, shown, options, connection, elsewhere=True)


def _labels(options: MountOptions) -> list[str]:
    return [name for name in SELINUX if getattr(options, name) is not None]


def _kernel_checks(options: MountOptions) -> bool:
    checks = options.default_permissions
    return options.allow_other or options.allow_root if checks is None else checks


def _session(
    operations: Operations,
    mountpoint: str,
    options: MountOptions,
    connection: Descriptor,
    *,
    elsewhere: bool = False,
) -> Session:
    from .session import DevFuseSession  # here: probing must stay cheap
    from .waits import listen

    listen()
    return DevFuseSession(
        operations,
        mountpoint,
        options,
        connection,
        kernel_checks=_kernel_checks(options),
        elsewhere=elsewhere,
    )


backend = DevFuse
