# SPDX-License-Identifier: MIT
"""The files and directories that are open: their numbers.

Owns :class:`HandleTable`.  Does not own what a handle holds; that is its file system's.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import Generic, TypeVar

from xloop.types import HandleId

__all__ = ["HandleTable"]

H = TypeVar("H")


class HandleTable(Generic[H]):
    """Numbers for open things.  A number is never used twice, so a late release hits nobody else.

    Every method is a single step of the interpreter on its data, and needs no lock.
    """

    def __init__(self) -> None:
        self._handles: dict[int, H] = {}
        # Not from 0: a zero in a message is more often a forgotten field than a handle.
        self._numbers = itertools.count(1)

    def add(self, handle: H) -> HandleId:
        number = next(self._numbers)
        self._handles[number] = handle
        return HandleId(number)

    def __getitem__(self, number: HandleId) -> H:
        """Return the handle.  EBADF for a number that is not open."""
        try:
            return self._handles[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def pop(self, number: HandleId) -> H | None:
        """Take the handle out, if it is there."""
        return self._handles.pop(number, None)

    def values(self) -> list[H]:
        return list(self._handles.values())

    def __len__(self) -> int:
        return len(self._handles)
