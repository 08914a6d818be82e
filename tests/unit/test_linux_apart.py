# SPDX-License-Identifier: MIT
"""The process that makes a copy of a mount for who is not root: what becomes of it when it does not answer."""

from __future__ import annotations

import errno
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from xloop.host import linux_apart, process
from xloop.options import MountOptions
from xloop_backends.devfuse import events


def has_ended(pid: int) -> bool:
    try:
        return bool(os.waitpid(pid, os.WNOHANG)[0])
    except ChildProcessError:
        return True


def test_who_does_not_answer_is_ended_and_that_is_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []
    start = process.start_aside

    def start_and_note(words: list[str], stdin: int) -> int:
        started.append(start(words, stdin))
        return started[0]

    monkeypatch.setattr(process, "start_aside", start_and_note)
    monkeypatch.setattr(linux_apart, "_BOOT", "import time; time.sleep(3600)")
    monkeypatch.setattr(linux_apart, "_PATIENCE", 0.5)
    with pytest.raises(OSError, match=r"not done so in 0\.5 seconds") as caught:
        linux_apart.clone_mount_apart("/")
    assert caught.value.errno == errno.ETIMEDOUT
    deadline = time.monotonic() + 30  # not a measure of anything: what takes as long hangs
    while not has_ended(started[0]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_without_a_text_is_no_reason_called_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(events, "Aside", fail)
    nothing: Any = None
    watch: Any = SimpleNamespace(of_others=True, by_directory=True, how="")
    with pytest.raises(OSError, match="timed out"):
        events.relay_for(
            nothing,
            MountOptions(),
            watch,
            nothing,
            nothing,
            -1,
            "/nowhere",
            (0, 0),
            own=set(),
            privileged=False,
            kernel_checks=False,
        )
