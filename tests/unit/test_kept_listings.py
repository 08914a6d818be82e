# SPDX-License-Identifier: MIT
"""Which listings of a directory the kernel may keep, and which it may use again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xloop.loopback import Loopback
from xloop.types import ROOT_INO, Caller, Opened


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loopback]:
    (tmp_path / "f").touch()
    loop = Loopback(tmp_path)
    loop.believed = 60.0
    yield loop
    loop.destroy()


def _open(loop: Loopback, me: Caller) -> Opened:
    opened = loop.opendir(me, ROOT_INO, 0)
    loop.releasedir(ROOT_INO, opened.handle)
    return opened


def _list(loop: Loopback, me: Caller) -> None:
    opened = loop.opendir(me, ROOT_INO, 0)
    for _, entry in loop.readdirplus(me, ROOT_INO, opened.handle, 0):
        if entry is not None:
            loop.forget(entry.ino, 1)
    loop.releasedir(ROOT_INO, opened.handle)


@pytest.fixture
def me() -> Caller:
    return Caller(os.getuid(), os.getgid(), os.getpid())


def test_what_was_listed_whole_is_used_again(loop: Loopback, me: Caller) -> None:
    os.utime(loop.source, (1, 1))
    assert _open(loop, me)[1:] == Opened(_open(loop, me).handle, cache_dir=True)[1:]
    _list(loop, me)
    opened = _open(loop, me)
    assert opened.cache_dir
    assert opened.keep_cache


def test_what_was_listed_in_part_is_not(loop: Loopback, me: Caller) -> None:
    os.utime(loop.source, (1, 1))
    opened = loop.opendir(me, ROOT_INO, 0)
    next(iter(loop.readdirplus(me, ROOT_INO, opened.handle, 0)))
    assert not _open(loop, me).keep_cache


def test_what_changed_within_the_same_tick_is_not_kept(
    loop: Loopback, me: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = os.stat(loop.source).st_mtime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + 19_000_000)
    assert not _open(loop, me).cache_dir
    monkeypatch.setattr(time, "time_ns", lambda: changed + 21_000_000)
    assert _open(loop, me).cache_dir


def test_nothing_is_kept_where_nothing_is_believed(loop: Loopback, me: Caller) -> None:
    os.utime(loop.source, (1, 1))
    loop.believed = 0.0
    _list(loop, me)
    opened = _open(loop, me)
    assert not opened.cache_dir
    assert not opened.keep_cache


def test_a_listing_is_used_no_longer_than_it_is_believed(
    loop: Loopback, me: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(loop.source, (1, 1))
    now = 1000.0
    monkeypatch.setattr("xloop.nodes.monotonic", lambda: now)
    _list(loop, me)
    now += 52.0
    assert _open(loop, me).keep_cache
    now += 1.0
    assert not _open(loop, me).keep_cache


def test_only_what_is_believed_is_remembered(
    loop: Loopback, me: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("xloop.nodes.monotonic", lambda: now)
    _list(loop, me)
    root = dict(loop._told)
    assert list(root) == [ROOT_INO]
    os.mkdir(os.path.join(loop.source, "d"))
    entry = loop.lookup(me, ROOT_INO, b"d")
    now += 60.0
    opened = loop.opendir(me, entry.ino, 0)
    list(loop.readdirplus(me, entry.ino, opened.handle, 0))
    loop.releasedir(entry.ino, opened.handle)
    assert list(loop._told) == [entry.ino]
