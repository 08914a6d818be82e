# SPDX-License-Identifier: MIT
"""What a mount can be told: :class:`MountOptions`.

Owns the options, their defaults and their meaning.  Parsing ``-o`` strings and finding
conflicts belongs here too.  Does not own what a backend makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MountOptions"]


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount.  None stands for "the backend's own default"."""

    #: Refuse every change with EROFS.
    read_only: bool = False
    #: Let all users in (root, or users where /etc/fuse.conf says user_allow_other).
    allow_other: bool = False
    #: Let root in beside the owner.
    allow_root: bool = False
    #: Let the kernel check permissions by owner, mode and ACL.  None: on if others may enter
    #: (allow_other, allow_root), off where the mount is its owner's alone and the source checks.
    default_permissions: bool | None = None
    #: Honour device nodes.  Root only; off by default, as for every mount of a user-space file system.
    dev: bool = False
    #: Honour set-user-ID and set-group-ID bits.  Root only; off by default.
    suid: bool = False
    #: Allow programs to be executed.
    exec: bool = True
    #: "relatime", "strictatime" or "noatime".  None: the kernel's default.
    atime: str | None = None
    #: Do not update access times of directories.
    nodiratime: bool = False
    #: All writes at once to stable storage (mount option sync).
    sync: bool = False
    #: Changes of directories at once to stable storage.
    dirsync: bool = False
    #: What mount tables show as the source; None: the source's path.
    fsname: str | None = None
    #: Mount tables show the type fuse.SUBTYPE.
    subtype: str = "xloop"
    #: Most bytes in one read request; None: as many as the kernel sends.
    max_read: int | None = None
    #: Seconds for which the kernel may believe attributes without asking.
    attr_timeout: float = 1.0
    #: Seconds for which the kernel may believe that a name is there.
    entry_timeout: float = 1.0
    #: Seconds for which the kernel may believe that a name is not there.
    negative_timeout: float = 0.0
    #: Let the kernel read, write and map the source's files without asking.  None: where it
    #: can be had.  True: fail the mount if it cannot.  False: never.
    passthrough: bool | None = None
    #: Most threads that serve; None: as many as needed up to a sane limit.
    max_threads: int | None = None
