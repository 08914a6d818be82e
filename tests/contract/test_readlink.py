# SPDX-License-Identifier: MIT


"""Reading symbolic links: readlink."""

from __future__ import annotations

import errno
import stat

from xloop.testing import Pair


def test_readlink_of_anything_else_is_einval(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.mknod(b"fifo", stat.S_IFIFO | 0o644))
    for name in (b"f", b"d", b"fifo", b"."):
        pair.fails(errno.EINVAL, lambda t: t.readlink(name))
    pair.fails(errno.ENOENT, lambda t: t.readlink(b"nothing"))


def test_readlink_gives_the_new_text_after_a_replacement(pair: Pair) -> None:
    # The text is cached for as long as a node lives, and no longer.
    for i in range(5):
        pair.same(lambda t: t.symlink(b"target %d" % i, b"new"))
        pair.same(lambda t: t.rename(b"new", b"l"))
        assert pair.same(lambda t: t.readlink(b"l")) == b"target %d" % i


def test_readlink_with_a_slash_looks_at_the_target(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.symlink(b"d", b"l"))
    pair.fails(errno.EINVAL, lambda t: t.readlink(b"l/"))
    assert pair.same(lambda t: t.readlink(b"l")) == b"d"
