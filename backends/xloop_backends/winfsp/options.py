# SPDX-License-Identifier: MIT
r"""What WinFsp is told, and which options of a mount it cannot honour.

Owns the ``-o`` words and the refusals.  Does not own forms of mount points (:mod:`xloop.host.windows_mounts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from xloop.errors import OptionError
from xloop.options import SELINUX, MountOptions

__all__ = ["NOT_COHERENT", "check_options", "words"]

#: Why nothing can be believed until it changes (src/sys/file.c, FspFileNodeDelete).
NOT_COHERENT: Final = (
    "WinFsp keeps attributes and listings of what is open only, and asks for every name:"
    " there is nothing that could be believed for longer"
)
#: src/dll/fuse/fuse.c, fsp_fuse_notify.  Programs would take "NEW.TXT" for a file of its own.
_NOT_RELAYED: Final = (
    "WinFsp's fuse_notify tells names in upper case on a file system that does not tell case apart"
)

_MOST_MILLISECONDS: Final = 2**31 - 1
_LABEL: Final = 32  # UTF-16 units in a volume's label
_TYPE: Final = 10  # of its 16 for a type, "FUSE-" takes five


def check_options(options: MountOptions) -> None:
    """Raise OptionError for what WinFsp cannot be told."""
    refused = (
        (options.passthrough is True, "passthrough", "WinFsp has no such thing"),
        (options.writeback, "writeback", "nobody has tried what Windows makes of it"),
        (options.cache == "coherent", "cache=coherent", NOT_COHERENT),
        (options.events == "relay", "events=relay", _NOT_RELAYED),
        (options.poll is not None, "poll", "how WinFsp waits is its own affair"),
        (options.allow_root, "allow_root", "WinFsp lets in the owner, or everybody (allow_other)"),
        (options.default_permissions is True, "default_permissions", "the source decides who may"),
        (options.dev, "dev", "there are no device nodes on Windows"),
        (options.suid, "suid", "there are no set-user-ID bits on Windows"),
        (not options.exec, "noexec", "WinFsp cannot forbid to run programs"),
        (options.atime is not None, str(options.atime), "the source decides about access times"),
        (options.nodiratime, "nodiratime", "the source decides about access times"),
        (not options.symfollow, "nosymfollow", "WinFsp has no such option"),
        *((getattr(options, word) is not None, word, "Windows has no SELinux") for word in SELINUX),
        (options.sync, "sync", "WinFsp has no such option"),
        (options.dirsync, "dirsync", "WinFsp has no such option"),
        (options.max_read is not None, "max_read", "WinFsp reads as much as a program asks for"),
        (options.negative_timeout > 0, "negative_timeout", "WinFsp remembers no missing names"),
    )
    for wanted, word, why in refused:
        if wanted:
            raise OptionError(f"winfsp cannot honour {word}: {why}", f"leave out {word}")


def words(options: MountOptions, prefix: str | None) -> list[bytes]:
    """Return the arguments of fuse_main_real() but for the mount point."""
    return [
        b"xloop",
        b"-o",
        ",".join(_escaped(word) for word in _words(options, prefix)).encode("utf-8", "replace"),
    ]


def _words(options: MountOptions, prefix: str | None) -> Iterator[str]:
    # Files belong to whoever mounted, with all rights: what may be done the source decides.  But it
    # decides about us and not about who asks us, so nobody else may enter unless that is wanted.
    yield "uid=-1"
    yield "gid=-1"
    if not options.allow_other:
        yield "umask=077"
    # An absolute link of the source is shown as one from the root of the mount; WinFsp makes it relative.
    yield "rellinks"
    yield f"FileInfoTimeout={_milliseconds(options.attr_timeout)}"
    yield f"DirInfoTimeout={_milliseconds(options.entry_timeout)}"
    yield f"FileSystemName={options.subtype[:_TYPE]}"
    label = (options.fsname or "xloop").rstrip("\\/")
    yield f"volname={label.replace('/', chr(92)).rpartition(chr(92))[2][:_LABEL] or 'xloop'}"
    if options.max_threads is not None:
        yield f"ThreadCount={options.max_threads}"
    if prefix is not None:
        yield f"VolumePrefix={prefix}"


def _milliseconds(seconds: float) -> int:
    return min(round(seconds * 1000), _MOST_MILLISECONDS)


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace(",", "\\,")
