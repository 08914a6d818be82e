# SPDX-License-Identifier: MIT
"""Mounting by macFUSE and FUSE-T: the words they are given, and their own words when it fails.

Owns the translation of MountOptions into ``-o`` words, which options the two cannot honour, and what
the library and its mount program say on standard error.  Does not own the mount itself.

FUSE-T takes macFUSE's words without a complaint and does nothing about most of them (its
lib/mount_darwin.c).  So what it ignores is refused here.
"""

from __future__ import annotations

import math
import os
import re
from typing import Final

from xloop.errors import MountError, OptionError
from xloop.host import host
from xloop.options import SELINUX, MountOptions

__all__ = ["NOT_COHERENT", "check_options", "refused", "volume_name", "words"]

#: Why names cannot be believed until they change.
NOT_COHERENT: Final = (
    "nothing tells this kernel of a name that has appeared or is gone (macFUSE's fuse_invalidate_path is"
    " about attributes and data; NFS, by which FUSE-T mounts, has no such call)"
)
_NOT_RELAYED: Final = "what others change is heard of on Linux only"

#: What is left of 15 characters for a type of file system behind "macfuse_".
_SUBTYPE: Final = 7


def volume_name(name: str, options: MountOptions) -> str:
    """Return what the Finder shows: the last part of fsname.

    A mount of FUSE-T is known as ours by nothing else, so there it begins with "xloop".
    """
    label = (options.fsname or "").rstrip("/").rpartition("/")[2]
    # A slash or a colon cannot be in a name there; a comma ends a word for FUSE-T.
    label = re.sub(r"[/:,\\\x00-\x1f]", "-", label)
    if name == "fuse-t":
        return f"xloop-{label}" if label else "xloop"
    return label or "xloop"


def check_options(name: str, options: MountOptions) -> None:
    """Raise OptionError for what the backend *name* cannot be told."""
    _refuse(
        name,
        (options.passthrough is True, "passthrough", "macOS has no such thing"),
        (
            options.cache == "coherent",
            "cache=coherent",
            NOT_COHERENT,
        ),
        (options.events == "relay", "events=relay", _NOT_RELAYED),
        (options.writeback, "writeback", "macOS has no such thing"),
        (options.poll is not None, "poll", "how the library waits is its own affair"),
        (options.auto_unmount, "auto_unmount", "nobody has tried it on a Mac yet"),
        (options.atime in ("relatime", "strictatime"), str(options.atime), "use atime or noatime"),
        (options.nodiratime, "nodiratime", "macOS has noatime, for everything"),
        (not options.symfollow, "nosymfollow", "the library has no such word"),
        *((getattr(options, word) is not None, word, "macOS has no SELinux") for word in SELINUX),
        (options.dirsync, "dirsync", "macOS has no such mount option"),
        (options.max_read is not None, "max_read", "the kernel decides on the size of requests"),
        (
            options.max_threads not in (None, 1),
            f"threads={options.max_threads}",
            "the library decides how many threads serve: give threads=1, or leave it out",
        ),
        (options.dev and not _is_root(), "dev", "a user's mount is always nodev"),
        (options.suid and not _is_root(), "suid", "a user's mount is always nosuid"),
    )
    if name == "fuse-t":
        _refuse(
            name,
            (options.allow_other, "allow_other", "FUSE-T decides who may enter"),
            (options.allow_root, "allow_root", "FUSE-T decides who may enter"),
            (bool(options.default_permissions), "default_permissions", "FUSE-T has no such word"),
            (not options.exec, "noexec", "FUSE-T has no such word"),
            (options.sync, "sync", "FUSE-T has no such word"),
            (options.dev, "dev", "FUSE-T mounts nodev"),
            (options.suid, "suid", "FUSE-T mounts nosuid"),
            (options.negative_timeout > 0, "negative_timeout", "FUSE-T has no such word"),
            (options.subtype != "xloop", "subtype", "an NFS mount has no type of its own"),
        )
    elif len(options.subtype) > _SUBTYPE:
        raise OptionError(
            f"option 'subtype': {options.subtype!r} is too long for macOS",
            f"at most {_SUBTYPE} characters: mount tables show macfuse_NAME",
        )
    if options.allow_other and _is_root() and not host.may_act_as_others():
        raise OptionError(
            "root cannot serve others here: what they make would be root's",
            "macOS lacks pthread_setugid_np(2): leave out allow_other, or mount as the user it is for",
        )


def _refuse(name: str, *cases: tuple[bool, str, str]) -> None:
    for asked, word, why in cases:
        if asked:
            raise OptionError(f"{name} cannot honour {word}", f"{why}: leave it out")


def _is_root() -> bool:
    return getattr(os, "geteuid", lambda: -1)() == 0


def words(name: str, options: MountOptions, *, kernel_checks: bool) -> list[str]:
    """Return the -o words."""
    volume = volume_name(name, options)
    # Of the library itself, both of them.
    chosen = [
        "use_ino",
        "readdir_ino",
        f"entry_timeout={options.entry_timeout:f}",
        f"negative_timeout={options.negative_timeout:f}",
        f"attr_timeout={options.attr_timeout:f}",
        f"volname={_escaped(volume)}",
    ]
    if options.read_only:
        chosen.append("ro")
    if options.atime == "noatime":
        chosen.append("noatime")
    if name == "fuse-t":
        if options.attr_timeout < 1:
            chosen.append("noattrcache")
        else:
            chosen.append(f"attrcache-timeout={math.floor(options.attr_timeout)}")
        return chosen
    choices = (
        (options.allow_other, "allow_other"),
        (options.allow_root, "allow_root"),
        (kernel_checks, "default_permissions"),
        (options.dev, "dev"),
        (options.suid, "suid"),
        (not options.exec, "noexec"),
        (options.attr_timeout == 0, "noattrcache"),
        (options.entry_timeout == 0, "novncache"),
        (options.negative_timeout > 0, "negative_vncache"),
        # Else it is answered by a dialogue after a minute without a reply, and then the mount is dead.
        (True, "daemon_timeout=600"),
    )
    chosen += [word for wanted, word in choices if wanted]
    chosen.append(f"fsname={_escaped(options.fsname or 'xloop')}")
    chosen.append(f"fstypename={options.subtype}")
    return chosen


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def refused(name: str, said: str, mountpoint: str) -> MountError:
    """Turn the library's words into a reason and a way out."""
    lines = [
        line.removeprefix("fuse: ").removeprefix("mount_macfuse: ") for line in said.splitlines()
    ]
    why = "; ".join(filter(None, lines)) or f"{name} failed without a word"
    hints = (
        (
            "not available",
            "allow macFUSE's kernel extension in System Settings > Privacy & Security, and restart; "
            "or use FUSE-T, which needs none: --backend fuse-t",
        ),
        ("mount program missing", f"reinstall {name}"),
        ("Operation not permitted", "allow_other and allow_root want a member of the group admin"),
        ("No such file or directory", "does the mountpoint exist?"),
    )
    fix = next((way for words, way in hints if words in why), "")
    return MountError(f"{mountpoint!r} cannot be mounted on: {why}", fix)
