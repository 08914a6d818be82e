# SPDX-License-Identifier: MIT


"""The end of a handle: release."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Place, Wait


def _held(server: int) -> list[str]:
    """Return what the process *server* has open."""
    held = []
    for fd in os.listdir(f"/proc/{server}/fd"):
        link = ""
        # Closed meanwhile, or a path that is too long to be told.
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/{server}/fd/{fd}")
        held.append(link)
    return held


def test_an_unlinked_file_is_held_by_nobody_after_the_last_close(
    mnt: Tree, place: Place, server: int, eventually: Wait
) -> None:
    # Or its space would stay taken.
    mnt.make(b"f", b"data")
    fd = mnt.open(b"f", os.O_RDONLY)
    mnt.unlink(b"f")
    assert mnt.pread(fd, 10, 0) == b"data"
    gone = f"{place.source}/f (deleted)"
    assert gone in _held(server)
    mnt.close(fd)
    assert eventually(lambda: gone not in _held(server))


def test_thousands_of_opens_leave_no_descriptor_behind(
    mnt: Tree, server: int, eventually: Wait
) -> None:
    mnt.make(b"f", b"data")
    mnt.make(b"g", b"data")
    keeper = mnt.open(b"f", os.O_RDONLY)
    before = len(_held(server))
    for _ in range(1000):
        mnt.close(mnt.open(b"f", os.O_RDONLY))
        mnt.close(mnt.open(b"g", os.O_RDWR))
        mnt.close(mnt.open(b".", os.O_RDONLY))
    # A few that are kept in reserve are no leak.
    assert eventually(lambda: len(_held(server)) < before + 20)
    assert mnt.pread(keeper, 10, 0) == b"data"


def test_hundreds_of_handles_are_open_at_once(pair: Pair) -> None:
    fds = []
    for i in range(300):
        fds.append(pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_CREAT)))
        pair.same(lambda t: t.pwrite(fds[i][t], b"%03d" % i, i * 3))
    for i, fd in enumerate(fds):
        assert pair.same(lambda t: t.pread(fd[t], 3, i * 3)) == b"%03d" % i
