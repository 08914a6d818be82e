# SPDX-License-Identifier: MIT


"""Asking for rights: access."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need


def test_access_of_what_is_there_and_what_is_not(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    pair.same(lambda t: t.access(b"f", os.F_OK))
    for path, number in (
        (b"nothing", errno.ENOENT),
        (b"dangling", errno.ENOENT),
        (b"f/x", errno.ENOTDIR),
    ):
        pair.fails(number, lambda t: t.access(path, os.F_OK))
    pair.fails(errno.EINVAL, lambda t: t.access(b"f", 64))


@pytest.mark.parametrize("mode", [0, 0o111, 0o222, 0o444, 0o640, 0o751])
def test_access_for_whoever_runs_the_tests(pair: Pair, mode: int) -> None:
    # Root may read and write everything, and execute what anybody may execute.
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    for name in (b"f", b"d"):
        pair.same(lambda t: t.chmod(name, mode))
        for mask in range(8):
            pair.either(lambda t: t.access(name, mask))
        pair.same(lambda t: t.chmod(name, 0o755))


@pytest.mark.parametrize("bits", range(8))
def test_access_asks_the_class_that_fits(pair: Pair, need: Need, bits: int) -> None:
    need.root("somebody else has to ask")
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", 1001, 1002))
    classes = {
        6: pair.each(lambda t: t.as_user(1001, 9999)),
        3: pair.each(lambda t: t.as_user(9999, 9999, (1002,))),
        0: pair.each(lambda t: t.as_user(9999, 9999)),
    }
    for shift, who in classes.items():
        pair.same(lambda t: t.chmod(b"f", 0o777 & ~(7 << shift) | bits << shift))
        for mask in range(1, 8):
            got = pair.either(lambda t: who[t].access(b"f", mask))
            assert (got is None) == (bits & mask == mask)


def test_access_through_a_directory_that_may_not_be_searched(pair: Pair, need: Need) -> None:
    need.root("somebody else has to ask")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f"))
    pair.same(lambda t: t.chmod(b"d", 0o600))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].access(b"d/f", os.F_OK))


def test_access_moves_no_time(pair: Pair) -> None:
    def ask(t: Tree) -> None:
        t.access(b"f", os.R_OK | os.W_OK)

    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.age(b"f"))
    assert pair.same(lambda t: t.moved(b"f", lambda: ask(t))) == []
