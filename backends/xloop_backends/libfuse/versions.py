# SPDX-License-Identifier: MIT
"""The callbacks as libfuse 3 and libfuse 2 call them.

Owns what differs between the two.  Does not own what is the same (:mod:`.callbacks`).
"""

from __future__ import annotations

from typing import Any

from xloop.types import HandleId

from .callbacks import Callbacks

__all__ = ["Callbacks2", "Callbacks3"]


class Callbacks3(Callbacks):
    """As libfuse 3 calls them: with the handle wherever the kernel sent one."""

    def getattr(self, path: bytes | None, address: int, info: int | None) -> int:
        return self._getattr(path, address, self._handle(info))

    def lseek(self, path: bytes | None, offset: int, whence: int, info: int) -> int:
        handle = HandleId(self._file(info).fh)
        return self._view.lseek(self._request.caller, handle, offset, whence)

    def copy_file_range(
        self,
        path_in: bytes | None,
        info_in: int,
        offset_in: int,
        path_out: bytes | None,
        info_out: int,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        return self._view.copy_file_range(
            self._request.caller,
            HandleId(self._file(info_in).fh),
            offset_in,
            HandleId(self._file(info_out).fh),
            offset_out,
            length,
            flags,
        )


class Callbacks2(Callbacks):
    """As libfuse 2 calls them: two of them have a second form that takes a handle."""

    def table(self) -> Any:
        table = super().table()
        # Paths are not wanted where there is a handle; and a time may be left as it is.
        table.flag_nullpath_ok = table.flag_nopath = table.flag_utime_omit_ok = 1
        return table

    def getattr(self, path: bytes, address: int) -> int:
        return self._getattr(path, address, None)

    def fgetattr(self, path: bytes | None, address: int, info: int | None) -> int:
        return self._getattr(path, address, self._handle(info))

    def ftruncate(self, path: bytes | None, size: int, info: int | None) -> int:
        return self._setattr(path, self._handle(info))
