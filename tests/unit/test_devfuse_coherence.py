# SPDX-License-Identifier: MIT
"""Coherence: what the kernel is told when a directory is not watched any more."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterable
from typing import cast

import pytest

if sys.platform != "linux":
    pytest.skip("devfuse is Linux's", allow_module_level=True)

from xloop.changes import IGNORED, Change, Watch
from xloop.types import ROOT_INO, Ino
from xloop_backends.devfuse import abi, coherence
from xloop_backends.devfuse.coherence import Coherence

#: No measure of anything: what takes longer is never going to happen.
PATIENCE = 20.0


class Known:
    """A watch that knows one file in one directory, and of nothing else."""

    def __init__(self) -> None:
        self.tell: Callable[[list[Change]], None] = lambda changes: None

    def listen(self, listener: Callable[[list[Change]], None]) -> None:
        self.tell = listener

    def on_other_name(self, displaced: Callable[[Ino, bytes], None]) -> None:
        pass

    def start(self) -> None:
        pass

    def known(self) -> Iterable[tuple[Ino, Ino | None, bytes]]:
        return [(ROOT_INO, None, b""), (Ino(2), ROOT_INO, b"dir"), (Ino(3), Ino(2), b"file")]

    def is_told(self, directory: Ino, name: bytes) -> bool:
        return True

    def name_of(self, ino: Ino) -> None:
        return None


def names(messages: int, patience: float) -> list[tuple[Ino, bytes, int]]:
    """Return the names in directory 2 that the kernel is told of, up to the first or for so long: directory, name, flags."""
    entry = abi.NOTIFY_INVAL_ENTRY
    while select.select([messages], [], [], patience)[0]:
        message = os.read(messages, 4096)
        _, code, _, directory, _, flags = entry.unpack_from(message + bytes(entry.size))
        if code == abi.NOTIFY_INVAL_ENTRY_CODE and directory == 2:
            return [(directory, message[entry.size : -1], flags)]
    return []


def test_names_that_nobody_watches_any_more_are_expired_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reply that was sent before may give one a long life after the first time."""
    monkeypatch.setattr(coherence, "_TAKEN", 0.1)
    watch = Known()
    failed: list[BaseException] = []
    # One message at a time, as the kernel takes them.
    messages, connection = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    try:
        told = Coherence(cast(Watch, watch), connection, (), failed.append, source_checks=False)
        told.start()
        watch.tell([Change(IGNORED, Ino(2))])
        assert names(messages, PATIENCE) == [(2, b"file", abi.EXPIRE_ONLY)]
        assert names(messages, PATIENCE) == [(2, b"file", abi.EXPIRE_ONLY)]
        # And not for ever.
        assert names(messages, 0.5) == []
        told.close()
    finally:
        os.close(messages)
        os.close(connection)
    assert not failed
