# SPDX-License-Identifier: MIT
"""Linux: reaching what is mounted without standing in its way: open_tree(2), open_by_handle_at(2).

Owns these system calls.  Does not own what is done there.  Nothing is loaded before the first call, so that
every system can import this.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from typing import Any, Final

from xloop.host.base import Descriptor
from xloop.host.linux_watch import Handle

__all__ = ["clone_mount", "open_handle"]

# The numbers of all architectures but alpha.
_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442

_CLONE, _CLOEXEC = 1, os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_RDONLY = 1


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def clone_mount(path: bytes) -> Descriptor:
    """Return the root of a mount like the one at *path*, that may be written to, that nothing is mounted in, that is
    nowhere in the tree, and that keeps nobody from unmounting the other one.

    EPERM without CAP_SYS_ADMIN.
    """
    call = _libc().syscall
    fd = Descriptor(_done(call(_SYS_OPEN_TREE, _AT_FDCWD, path, _CLONE | _CLOEXEC)))
    wanted = _MountAttr(attr_clr=_MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    _done(call(_SYS_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(wanted), size))
    return fd


def open_handle(mount: int, handle: Handle, flags: int) -> Descriptor:
    """Open what *handle* stands for in the file system of *mount*; ESTALE: it is not known there any more.

    EPERM without CAP_DAC_READ_SEARCH.
    """
    size = len(handle.data)
    buffer = ctypes.create_string_buffer(
        struct.pack("=Ii", size, handle.kind) + handle.data, 8 + size
    )
    return Descriptor(_done(_libc().open_by_handle_at(mount, buffer, flags | _CLOEXEC)))
