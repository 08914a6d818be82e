# SPDX-License-Identifier: MIT
"""The INIT exchange: what is asked of the kernel, what it grants, and why the rest is not.

Owns the choice of protocol features and their reasons.  Does not own their use: the request
handlers ask :class:`Terms`.
"""

from __future__ import annotations

import os
import struct

from xloop.errors import MountError
from xloop.options import MountOptions

from . import abi
from .abi import Init

_SELINUX = "/sys/fs/selinux/status"

__all__ = ["MAX_WRITE", "Terms", "negotiate"]

#: Most bytes of data in one request: what the kernel allows by default (256 pages).
MAX_WRITE = 1024 * 1024

_MAX_STACK_DEPTH = 2  # FILESYSTEM_MAX_STACK_DEPTH of linux/fs.h

_ALWAYS = {
    Init.ASYNC_READ: "several reads of one file at a time",
    Init.POSIX_LOCKS: "record locks exclude programs on the source",
    Init.FLOCK_LOCKS: "flock excludes programs on the source",
    Init.ATOMIC_O_TRUNC: "an open that fails has truncated nothing",
    Init.BIG_WRITES: "writes of more than a page",
    Init.DONT_MASK: "a default ACL takes the place of the umask, so the source must see both",
    Init.HAS_IOCTL_DIR: "file attributes of directories",
    Init.AUTO_INVAL_DATA: "cached data goes when size or mtime change on the source",
    Init.DO_READDIRPLUS: "names and attributes in one request",
    Init.READDIRPLUS_AUTO: "but only where the attributes are wanted",
    Init.ASYNC_DIO: "direct reads and writes in parallel",
    Init.PARALLEL_DIROPS: "look-ups in one directory in parallel",
    Init.MAX_PAGES: "requests of 1 MiB",
    Init.CACHE_SYMLINKS: "targets of symbolic links are asked once",
    Init.HANDLE_KILLPRIV_V2: "set-user-ID bits go in the same request as the write, and no "
    "security.capability is asked before each write",
    Init.SETXATTR_EXT: "setting an ACL may clear S_ISGID",
    Init.INIT_EXT: "more than 32 features",
    Init.HAS_EXPIRE_ONLY: "names can be expired without being dropped",
    Init.DIRECT_IO_ALLOW_MMAP: "mapping a file that is open for direct I/O",
    Init.NO_EXPORT_SUPPORT: "handles of forgotten inodes are not promised",
}


class Terms:
    """What this mount and its kernel agreed on."""

    def __init__(self, minor: int, granted: Init, max_readahead: int) -> None:
        self.minor = minor
        self.granted = granted
        self.max_readahead = max_readahead  #: bytes
        self.asked: dict[Init, str] = {}
        #: Feature -> why it is not in force.
        self.refused: dict[Init, str] = {}

    def has(self, feature: Init) -> bool:
        return feature in self.granted

    def status(self) -> dict[str, object]:
        return {
            "protocol": f"{abi.MAJOR}.{self.minor}",
            "max_write": MAX_WRITE,
            "max_readahead": self.max_readahead,
            "granted": {f.name: why for f, why in self.asked.items() if f in self.granted},
            "refused": {f.name: why for f, why in self.refused.items()},
        }


def negotiate(
    request: memoryview,
    options: MountOptions,
    *,
    kernel_checks: bool,
    privileged: bool,
    stack_depth: int,
) -> tuple[Terms | None, bytes]:
    """Answer the INIT *request* (without its header).

    Returns the terms and the body of the reply; no terms when the kernel must ask again in an
    older version.  Raises MountError for a kernel that is too old.
    """
    try:
        major, minor, max_readahead, flags = abi.INIT_IN.unpack_from(request)
    except struct.error:
        raise MountError("the kernel's INIT request is too short") from None
    if major > abi.MAJOR:
        return None, _reply(0, 0, 0)
    if major < abi.MAJOR or minor < abi.OLDEST_MINOR:
        raise MountError(
            f"this kernel speaks FUSE {major}.{minor}; xloop needs {abi.MAJOR}.{abi.OLDEST_MINOR}",
            "use Linux 4.20 or newer, or another backend",
        )
    if flags & Init.INIT_EXT and len(request) >= abi.INIT_IN_EXT.size:
        flags |= abi.INIT_IN_EXT.unpack_from(request)[4] << 32
    offered = Init(flags)

    asked = dict(_ALWAYS)
    refused: dict[Init, str] = {}
    if kernel_checks:
        asked[Init.POSIX_ACL] = "the kernel checks permissions, and so must know the ACLs"
        asked[Init.CREATE_SUPP_GROUP] = "new files in directories of a caller's other groups"
        if options.allow_root:
            refused[Init.ALLOW_IDMAP] = "allow_root has to know who asks"
        else:
            asked[Init.ALLOW_IDMAP] = "idmapped mounts of this mount"
    else:
        without = "permissions are checked by the source, not by the kernel"
        for feature in (Init.POSIX_ACL, Init.CREATE_SUPP_GROUP, Init.ALLOW_IDMAP):
            refused[feature] = without
    if os.path.exists(_SELINUX):
        asked[Init.SECURITY_CTX] = "new files are labelled as the security module says"
    else:
        refused[Init.SECURITY_CTX] = "no security module that labels files"
    if options.may_watch:
        asked[Init.NO_OPENDIR_SUPPORT] = "listings that are known are not asked for"
    if options.may_relay:
        del asked[Init.NO_EXPORT_SUPPORT]
        refused[Init.NO_EXPORT_SUPPORT] = "events are relayed to directories by their handles"
    if not options.writeback:
        refused[Init.WRITEBACK_CACHE] = "only by the option writeback: others may change the source"
    elif options.read_only:
        refused[Init.WRITEBACK_CACHE] = "the mount is read-only: there is nothing to write"
    else:
        asked[Init.WRITEBACK_CACHE] = "many small writes become few large ones (option writeback)"
    if options.passthrough is False:
        refused[Init.PASSTHROUGH] = "switched off by option"
    elif Init.WRITEBACK_CACHE in asked:
        # fs/fuse/inode.c, process_init_reply(): it would be granted, and every open with it fail.
        refused[Init.PASSTHROUGH] = (
            "the kernel either delays writes (option writeback) or passes them through"
        )
    elif not privileged:
        refused[Init.PASSTHROUGH] = "the kernel allows it to CAP_SYS_ADMIN only"
    elif stack_depth >= _MAX_STACK_DEPTH:
        refused[Init.PASSTHROUGH] = "the source is stacked too deep already"
    else:
        asked[Init.PASSTHROUGH] = "the kernel reads, writes and maps the source's files itself"

    want = Init(0)
    for feature in asked:
        want |= feature
    terms = Terms(min(minor, abi.MINOR), want & offered, min(max_readahead, MAX_WRITE))
    terms.asked = asked
    terms.refused = refused
    for feature in want & ~offered:
        refused[feature] = f"this kernel (FUSE {major}.{minor}) does not have it"
    if options.passthrough is True and not terms.has(Init.PASSTHROUGH):
        raise MountError(
            f"passthrough is not to be had: {refused[Init.PASSTHROUGH]}",
            "leave the option passthrough away, or mount as root on Linux 6.9 or newer",
        )
    if Init.WRITEBACK_CACHE in asked and not terms.has(Init.WRITEBACK_CACHE):
        raise MountError(
            f"writeback is not to be had: {refused[Init.WRITEBACK_CACHE]}",
            "leave out the option writeback",
        )
    # Just as deep as the source needs: an overlayfs that has this mount as a layer adds one more.
    return terms, _reply(terms.granted, terms.max_readahead, stack_depth + 1)


def _reply(flags: int, max_readahead: int, stack_depth: int) -> bytes:
    page = os.sysconf("SC_PAGE_SIZE")
    body = abi.INIT_REPLY.pack(
        abi.INIT_REPLY.size,
        0,
        0,
        abi.MAJOR,
        abi.MINOR,
        max_readahead,
        flags & 0xFFFFFFFF,
        # Requests that nobody waits for (read-ahead, release, writing back): the kernel's default
        # of 12 at a time makes descriptors of closed files pile up.
        256,
        192,
        MAX_WRITE,
        1,  # time stamps are exact to the nanosecond
        MAX_WRITE // page,
        0,
        flags >> 32,
        stack_depth,
        0,
    )
    return body[abi.OUT_HEADER.size :]
