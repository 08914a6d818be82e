# SPDX-License-Identifier: MIT


"""The birth time: statx."""

from __future__ import annotations

from xloop.testing import LONG_AGO, Pair, Tree


def test_birth_time_is_the_one_of_the_source(mnt: Tree, src: Tree) -> None:
    for name, make in ((b"file", src.make), (b"dir", src.mkdir)):
        make(name)
        assert mnt.btime(name) == src.btime(name)


def test_birth_time_is_known_where_the_source_knows_it(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.btime(b"f") is None)


def test_birth_time_never_moves(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    born = pair.each(lambda t: t.btime(b"f"))
    pair.same(lambda t: t.append(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o600))
    pair.same(lambda t: t.utime(b"f", LONG_AGO, LONG_AGO))
    pair.same(lambda t: t.rename(b"f", b"g"))
    assert pair.same(lambda t: t.btime(b"g") == born[t])
