# SPDX-License-Identifier: MIT
"""cache=coherent in the moments that no storm meets for certain: the server waits in the middle of a request."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coherence.conftest import PATIENCE, Place, eventually

pytestmark = pytest.mark.mount

Places = Callable[..., Place]


@contextmanager
def meanwhile(call: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Do *call*, which gets stuck, in a thread; what is yielded waits for its end, and raises what it raised."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001  # raised again below
            failed.append(exc)

    thread = threading.Thread(target=run)
    thread.start()

    def joined() -> None:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    yield joined
    thread.join(PATIENCE)


@contextmanager
def open_path(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_PATH)
    try:
        yield
    finally:
        os.close(fd)


def _told(place: Place) -> int:
    return int(place.status()["cache"]["told"])


@pytest.mark.parametrize("how", ["rmdir", "rename"])
def test_a_directory_that_was_not_the_one_removed_lives(place: Places, how: str) -> None:
    """Whom the kernel takes for dead it never lists again: so it must not be the one that moved away."""
    p = place(stuck=True, entry_timeout=1.0)
    victim = p.source / "removed"
    victim.mkdir()
    (p.source / "empty").mkdir()
    if how == "rmdir":
        remove = lambda: os.rmdir(p.point / "removed")  # noqa: E731
    else:
        remove = lambda: os.rename(p.point / "empty", p.point / "removed")  # noqa: E731
    assert os.listdir(p.point / "removed") == []
    os.listdir(p.point / "empty")
    # Who has it open keeps the kernel from forgetting what it takes for dead.
    with open_path(p.point / "removed"), meanwhile(remove) as joined:
        assert eventually(lambda: "removed" in p.stuck_on())
        victim.rename(p.source / "moved")
        (p.source / "moved" / "inside").touch()
        victim.mkdir()
        p.let_go()
        joined()
        assert victim.exists() == (how == "rename")
        assert eventually(lambda: (p.point / "moved" / "inside").exists())
        assert os.listdir(p.point / "moved") == ["inside"]
        (p.source / "moved" / "later").touch()
        assert eventually(lambda: sorted(os.listdir(p.point / "moved")) == ["inside", "later"])


def test_a_reply_that_is_on_its_way_is_waited_for(place: Places, tmp_path: Path) -> None:
    """The kernel does not know the inode yet when it is told, and then is given attributes from before."""
    file = tmp_path / "told"
    file.touch(0o644)  # before anybody watches: nothing else is to be told
    p = place(source=tmp_path, stuck=True)
    with meanwhile(lambda: os.stat(p.point / "told")) as joined:
        assert eventually(lambda: "told" in p.stuck_on())
        before = _told(p)
        file.chmod(0o600)
        # One message that meets no inode, and one more: that waits, or comes too early.
        assert eventually(lambda: _told(p) >= before + 2)
        p.let_go()
        joined()
    assert eventually(lambda: stat.S_IMODE(os.stat(p.point / "told").st_mode) == 0o600)
