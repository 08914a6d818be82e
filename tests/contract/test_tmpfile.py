# SPDX-License-Identifier: MIT


"""Files without a name: tmpfile, which is O_TMPFILE."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

TMP = os.O_RDWR | os.O_TMPFILE


@pytest.fixture(autouse=True)
def _source_has_tmpfile(need: Need) -> None:
    need.source("O_TMPFILE", lambda t: t.close(t.open(b".", TMP, 0o600)))


def test_a_tmpfile_has_no_name(pair: Pair, src: Tree) -> None:
    fd = pair.each(lambda t: t.open(b".", TMP, 0o600))
    assert pair.same(lambda t: t.write(fd[t], b"data")) == 4
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"data"
    assert pair.same(lambda t: t.fstat(fd[t]).st_nlink) == 0
    assert pair.same(lambda t: t.listdir()) == []
    assert src.listdir() == []


def test_a_tmpfile_gets_a_name_by_link(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    fd = pair.each(lambda t: t.open(b".", TMP, 0o640))
    pair.same(lambda t: t.write(fd[t], b"data"))
    pair.same(lambda t: t.link_fd(fd[t], b"d/f"))
    assert pair.same(lambda t: t.content(b"d/f")) == b"data"
    assert pair.same(lambda t: t.facts(b"d/f"))[:3] == (stat.S_IFREG, 0o640, 1)
    pair.same(lambda t: t.write(fd[t], b"more"))
    assert pair.same(lambda t: t.content(b"d/f")) == b"datamore"
    assert pair.same(lambda t: t.fstat(fd[t]).st_ino == t.lstat(b"d/f").st_ino)


def test_a_tmpfile_with_o_excl_never_gets_a_name(pair: Pair) -> None:
    fd = pair.each(lambda t: t.open(b".", TMP | os.O_EXCL, 0o600))
    pair.fails(errno.ENOENT, lambda t: t.link_fd(fd[t], b"f"))


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
def test_a_tmpfile_has_the_mode_less_the_umask(pair: Pair, umask: int) -> None:
    pair.same(lambda t: setattr(t, "umask", umask))
    fd = pair.each(lambda t: t.open(b".", TMP, 0o776))
    # A descriptor's own tree masks only where O_CREAT is said.
    assert pair.same(lambda t: stat.S_IMODE(t.fstat(fd[t]).st_mode)) == 0o776 & ~umask


def test_a_tmpfile_is_made_in_a_directory_and_for_writing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.fails(errno.ENOTDIR, lambda t: t.open(b"f", TMP, 0o600))
    pair.fails(errno.ENOENT, lambda t: t.open(b"nothing", TMP, 0o600))
    pair.fails(errno.EINVAL, lambda t: t.open(b".", os.O_RDONLY | os.O_TMPFILE, 0o600))


def test_a_tmpfile_belongs_to_its_maker(pair: Pair, need: Need) -> None:
    need.root("somebody else has to make it")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o777))
    other = pair.each(lambda t: t.as_user(1001, 1002))
    fd = pair.each(lambda t: other[t].open(b"d", TMP, 0o600))
    assert pair.same(lambda t: (t.fstat(fd[t]).st_uid, t.fstat(fd[t]).st_gid)) == (1001, 1002)
    pair.fails(errno.EACCES, lambda t: other[t].open(b".", TMP, 0o600))
