# SPDX-License-Identifier: MIT
"""Mounting by libfuse: the words it is given, and its own words when it fails.

Owns the translation of MountOptions into ``-o`` words, and of what the library and its set-user-ID
helper say on standard error into a MountError.  Does not own the mount system call: that is the library's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from typing import Any

from xloop.backend import Availability
from xloop.errors import MountError, OptionError
from xloop.fuselib import advice
from xloop.options import SELINUX, MountOptions
from xloop.registry import system

from . import library

__all__ = ["NOT_COHERENT", "check_options", "overheard", "probe", "refused", "words"]

DEVICE = "/dev/fuse"
#: Why names cannot be believed until they change.
NOT_COHERENT = (
    "libfuse's path-based interface has no call that tells the kernel of a name that has appeared or is"
    " gone (fuse_invalidate_path is about attributes and data)"
)
#: The helpers that mount for others than root, by the library's version.
_HELPERS = {3: "fusermount3", 2: "fusermount"}

_os: Any = os  # not every system has all of it
_stderr_lock = threading.Lock()


def probe(major: int) -> Availability:
    """Tell whether a mount has a chance here."""
    if library.find(major) is None:
        package = library.PACKAGES[major]
        return Availability(
            False,
            f"libfuse {major} is not installed",
            f"install it: apt-get install {package}",
            f"libfuse{major}",
        )
    if not _has_mfusepy():
        from xloop.remedies import python_package  # here: only what is missing needs it

        return Availability(
            False,
            "the Python package mfusepy is not installed",
            f"install it: {python_package('mfusepy')}",
            "mfusepy",
        )
    if not os.path.exists(DEVICE):
        return Availability(
            False,
            f"{DEVICE} does not exist",
            "load the kernel module (modprobe fuse), or give the container the device "
            "(--device /dev/fuse)",
            "fuse-device",
        )
    if _is_root():
        return Availability(True, version=library.version(major))
    helper = _HELPERS[major]
    if shutil.which(helper) is None:
        return Availability(
            False,
            f"only root may mount directly, and {helper} is not installed",
            "install it: apt-get install fuse3",
            f"fuse{major}",
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Availability(
            False,
            f"this user may not open {DEVICE}",
            f"let root give it the usual mode: chmod 666 {DEVICE} (it grants nothing by itself)",
        )
    return Availability(True, version=library.version(major))


def _is_root() -> bool:
    return bool(_os.geteuid() == 0)


def _has_mfusepy() -> bool:
    from importlib.util import find_spec  # here: finding is not importing, which may fail

    return find_spec("mfusepy") is not None


def check_options(name: str, options: MountOptions) -> None:
    """Raise OptionError for what libfuse cannot be told."""
    if options.poll is not None:
        raise OptionError(
            f"{name} cannot honour poll: how libfuse waits is its own affair",
            "leave out poll, or use the backend devfuse",
        )
    if options.auto_unmount and system() != "linux":
        raise OptionError(
            f"{name} cannot honour auto_unmount: on {system()} nobody has tried it yet",
            "leave out auto_unmount",
        )
    if options.cache == "coherent":
        raise OptionError(
            f"{name} cannot honour cache=coherent: {NOT_COHERENT}",
            "use the backend devfuse, which needs no more than libfuse does; or leave out cache, and the"
            " timeouts hold",
        )
    if options.events == "relay":
        raise OptionError(
            f"{name} cannot honour events=relay: libfuse keeps names of its own, and would take a change that"
            " is only repeated for a new one",
            "leave out events, or use the backend devfuse",
        )
    if options.writeback:
        raise OptionError(
            f"{name} cannot honour writeback: libfuse does not tell which times the kernel has made up itself",
            "leave out writeback, or use the backend devfuse",
        )
    if options.passthrough is True:
        raise OptionError(
            f"{name} cannot honour passthrough: libfuse's path-based interface has no such thing",
            "leave out passthrough, or use the backend devfuse",
        )
    if options.atime in ("relatime", "strictatime"):
        raise OptionError(
            f"libfuse has no option {options.atime}",
            f"leave out {options.atime}, or use the backend devfuse as root",
        )
    if options.nodiratime:
        raise OptionError("libfuse has no option nodiratime", "use noatime, or the backend devfuse")
    for wanted, word in (
        (not options.symfollow, "nosymfollow"),
        *((getattr(options, name) is not None, name) for name in SELINUX),
    ):
        if wanted:
            raise OptionError(
                f"libfuse has no option {word}", "leave it out, or use the backend devfuse as root"
            )
    if _is_root():
        return
    for wanted, word in ((options.dev, "dev"), (options.suid, "suid")):
        if wanted:
            raise OptionError(
                f"the option {word} is root's: a user's mount is always no{word}",
                f"leave out {word}, or mount as root",
            )


def words(options: MountOptions, *, kernel_checks: bool) -> list[str]:
    """Return the -o words for the mount itself."""
    choices = (
        (options.read_only, "ro"),
        (options.allow_other, "allow_other"),
        (options.allow_root, "allow_root"),
        (kernel_checks, "default_permissions"),
        (options.dev, "dev"),
        (options.suid, "suid"),
        (not options.exec, "noexec"),
        (options.sync, "sync"),
        (options.dirsync, "dirsync"),
        (options.atime == "noatime", "noatime"),
    )
    chosen = [word for wanted, word in choices if wanted]
    if options.max_read is not None:
        chosen.append(f"max_read={options.max_read}")
    chosen.append(f"fsname={_escaped(options.fsname or 'xloop')}")
    chosen.append(f"subtype={_escaped(options.subtype)}")
    return chosen


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")


def overheard(call: Callable[[], bool]) -> tuple[bool, str]:
    """Return the outcome of *call* and what was written to standard error meanwhile.

    The library prints why it failed, and so does the helper that it runs.  If all went well the words
    are passed on to where they were meant for: other threads may have written them.
    """
    with _stderr_lock:
        if sys.stderr is not None:
            sys.stderr.flush()
        hearing, speaking = os.pipe()
        kept = os.dup(2)
        try:
            # Whoever writes more than a pipe holds shall lose it, and not wait for ever.
            for end in (hearing, speaking):
                _os.set_blocking(end, False)
            os.dup2(speaking, 2)
            try:
                done = call()
            finally:
                os.dup2(kept, 2)
            said = _all_of(hearing)
        finally:
            for fd in (hearing, speaking, kept):
                os.close(fd)
    if done and said:
        os.write(2, said)
    return done, said.decode(errors="backslashreplace").strip()


def _all_of(pipe: int) -> bytes:
    parts = []
    with contextlib.suppress(BlockingIOError):  # empty
        while part := os.read(pipe, 65536):
            parts.append(part)
    return b"".join(parts)


def refused(said: str, mountpoint: str, major: int) -> MountError:
    """Turn the library's words into a reason and a way out."""
    helper = _HELPERS[major]
    lines = [line.removeprefix(f"{helper}: ").removeprefix("fuse: ") for line in said.splitlines()]
    why = "; ".join(filter(None, lines)) or f"libfuse {major} failed without a word"
    hints = (
        ("unknown option", f"libfuse {major} here does not know it: leave it out"),
        ("modprobe fuse", "load the kernel module (modprobe fuse)"),
        ("No such file or directory", f"is {helper} installed? apt-get install fuse3"),
        (
            "Operation not permitted",
            f"{helper} must be set-user-ID root: reinstall fuse3; in a container it needs the right besides: --cap-add SYS_ADMIN",
        ),
    )
    fix = advice(why) or next((way for words, way in hints if words in why), "")
    return MountError(f"{mountpoint!r} cannot be mounted on: {why}", fix)
