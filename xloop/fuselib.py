# SPDX-License-Identifier: MIT
"""What adapters over libraries with libfuse's high-level interface share: libfuse itself, macFUSE, FUSE-T.

Owns structures, prototypes and the handshake that are the same in all of them, and what to do about what
fusermount says, which devfuse calls too.  Does not own
paths (:mod:`xloop.pathview`) nor what one library has and another has not: that is its adapter's.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable, Iterator, Mapping
from enum import IntFlag
from typing import Any, Generic, TypeVar

from xloop.errors import errno_of

__all__ = ["Agreement", "FuseArgs", "advice", "callback_type", "fill", "until_error"]

C = TypeVar("C", bound=IntFlag)
T = TypeVar("T")


_OWN = "choose a mountpoint that this user owns and may write to"
_INSIDE = (
    f"{_OWN}; inside of a user's mount, or on top of one, it takes root, or that mount allow_other"
)

#: What is in the words of fusermount and fusermount3 (util/fusermount.c of libfuse), and the way out.
_ADVICE = (
    (
        "user_allow_other",
        "let root write the line user_allow_other into /etc/fuse.conf, or leave out allow_other",
    ),
    ("too many FUSE filesystems", "raise mount_max in /etc/fuse.conf, or unmount some"),
    ("no write access", _OWN),
    ("not owned by user", _OWN),
    ("failed to chdir to mountpoint", _INSIDE),
    ("failed to access mountpoint", _INSIDE),
    ("mounting over filesystem type", "choose a mountpoint on an ordinary file system"),
)


def advice(words: str) -> str:
    """Return what a person can do about it when fusermount refuses a mount with *words*; "" if unknown."""
    return next((way for part, way in _ADVICE if part in words), "")


class FuseArgs(ctypes.Structure):
    """struct fuse_args."""

    _fields_ = [
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    ]

    @classmethod
    def of(cls, words: list[bytes]) -> FuseArgs:
        args = cls()
        args.argc = len(words)
        args.argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
        return args


def callback_type(prototype: Any, instead: Mapping[int, Any] | None = None) -> Any:
    """Return *prototype*, a CFUNCTYPE of mfusepy's, with plain addresses for pointers.

    An address is an int; a pointer object costs half a microsecond to make and to look through.
    *instead*: the types of some arguments, by their index.
    """
    arguments = [
        ctypes.c_void_p if isinstance(kind, type(ctypes.POINTER(ctypes.c_int))) else kind
        for kind in prototype._argtypes_
    ]
    for index, kind in (instead or {}).items():
        arguments[index] = kind
    return ctypes.CFUNCTYPE(prototype._restype_, *arguments)


def fill(value: bytes, buffer: int | None, size: int) -> int:
    """Answer an xattr call: the size alone, or the value if it fits."""
    if not size or not buffer:
        return len(value)
    if len(value) > size:
        return -errno.ERANGE
    ctypes.memmove(buffer, value, len(value))
    return len(value)


def until_error(entries: Iterable[T]) -> Iterator[T]:
    """Yield *entries*; an error after the first is left for the next call to meet again."""
    some = False
    try:
        for entry in entries:
            yield entry
            some = True
    except Exception as exc:
        if not some:
            raise
        errno_of(exc)  # logs what is a bug


class Agreement(Generic[C]):
    """Which capabilities a mount asked for, was granted, and does without, and why."""

    def __init__(self, none: C, asked: Mapping[C, str], refused: Mapping[C, str]) -> None:
        self._none = none
        self.protocol = ""
        self.granted = none
        self.asked = dict(asked)
        self.refused = dict(refused)

    def agree(self, conn: Any, lacking: str) -> None:
        """Answer the struct fuse_conn_info *conn*.  *lacking*: why something is not to be had."""
        capability_of = type(self._none)
        capable = capability_of(conn.capable)
        wanted = self._none
        for capability in self.asked:
            if capability in capable:
                wanted |= capability
            else:
                self.refused[capability] = lacking
        given_up = self._none
        for capability in self.refused:
            given_up |= capability
        conn.want = int((capability_of(conn.want) & ~given_up) | wanted)
        self.granted = wanted
        self.protocol = f"{conn.proto_major}.{conn.proto_minor}"

    def status(self) -> dict[str, object]:
        return {
            "protocol": self.protocol,
            "granted": {str(c.name): why for c, why in self.asked.items() if c in self.granted},
            "refused": {str(c.name): why for c, why in self.refused.items()},
        }
