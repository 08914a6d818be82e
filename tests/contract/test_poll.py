# SPDX-License-Identifier: MIT


"""Readiness: poll, which finds a regular file always ready."""

from __future__ import annotations

import os
import select

import pytest

from xloop.testing import Pair


@pytest.mark.parametrize(
    "events", [select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT, select.POLLPRI]
)
def test_a_file_is_always_ready(pair: Pair, events: int) -> None:
    pair.same(lambda t: t.make(b"f"))
    for flags in (os.O_RDONLY, os.O_RDWR):
        fd = pair.each(lambda t: t.open(b"f", flags))
        assert pair.same(lambda t: t.poll(fd[t], events)) == events & ~select.POLLPRI


def test_a_directory_is_always_ready(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b".", os.O_RDONLY))
    pair.same(lambda t: t.poll(fd[t], select.POLLIN))
