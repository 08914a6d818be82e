# SPDX-License-Identifier: MIT
"""The trees and the comparison of two."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xloop.testing import NativeTree, Pair, Tree
from xloop.testing.actor import Elsewhere, calls
from xloop.testing.inprocess import InProcessTree
from xloop.testing.remote import RemoteTree


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[tuple[Tree, Tree]]:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(NativeTree(tmp_path / name))
    yield made[0], made[1]
    for tree in made:
        tree.shut()


@pytest.mark.parametrize("kind", [NativeTree, InProcessTree, Elsewhere, RemoteTree])
def test_a_tree_makes_every_call(kind: type[Tree]) -> None:
    missing = [name for name in calls() if getattr(kind, name) is getattr(Tree, name)]
    assert not missing
    assert len(calls()) > 50


def test_same_returns_what_both_return(trees: tuple[Tree, Tree]) -> None:
    pair = Pair(*trees)
    pair.same(lambda t: t.make(b"f", b"data"))
    assert pair.same(lambda t: t.content(b"f")) == b"data"


def test_same_raises_what_both_raise(trees: tuple[Tree, Tree]) -> None:
    with pytest.raises(FileNotFoundError):
        Pair(*trees).same(lambda t: t.lstat(b"f"))
    error = Pair(*trees).either(lambda t: t.lstat(b"f"))
    assert isinstance(error, FileNotFoundError)


def test_a_difference_of_values_fails(trees: tuple[Tree, Tree]) -> None:
    trees[0].make(b"f", b"one")
    trees[1].make(b"f", b"two")
    with pytest.raises(AssertionError, match="mnt: b'one'\nref: b'two'"):
        Pair(*trees).same(lambda t: t.content(b"f"))


def test_a_difference_of_errors_fails(trees: tuple[Tree, Tree]) -> None:
    trees[0].make(b"f")
    trees[1].mkdir(b"f")
    with pytest.raises(AssertionError, match="ENOTDIR"):
        Pair(*trees).same(lambda t: t.rmdir(b"f"))
    with pytest.raises(AssertionError, match="ENOTDIR"):
        Pair(*trees).either(lambda t: t.listdir(b"f"))


def test_fails_wants_that_error_of_both(trees: tuple[Tree, Tree]) -> None:
    pair = Pair(*trees)
    pair.fails(errno.ENOENT, lambda t: t.lstat(b"f"))
    with pytest.raises(AssertionError, match="instead of EEXIST"):
        pair.fails(errno.EEXIST, lambda t: t.lstat(b"f"))
    trees[0].make(b"f")
    with pytest.raises(AssertionError, match=r"mnt: .* instead of ENOENT"):
        pair.fails(errno.ENOENT, lambda t: t.lstat(b"f"))


def test_a_tree_closes_what_was_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tree = NativeTree(tmp_path)
    tree.mkdir(b"d")
    tree.at(b"d").make(b"f")
    tree.open(b"d/f", os.O_RDONLY)
    tree.shut()
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_process_is_another_process(trees: tuple[Tree, Tree]) -> None:
    tree = trees[0]
    tree.make(b"f", b"data")
    other = tree.process()
    assert other.content(b"f") == b"data"
    assert other.facts(b"f") == tree.facts(b"f")
    with pytest.raises(FileNotFoundError):
        other.lstat(b"nothing")
    fd = tree.open(b"f", os.O_RDWR)
    tree.setlk(fd, 1)
    assert other.getlk(other.open(b"f", os.O_RDWR), 1).type == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can be somebody else")
def test_another_user_is_another_user_and_we_stay_ourselves(trees: tuple[Tree, Tree]) -> None:
    tree = trees[0]
    tree.chmod(b".", 0o777)
    other = tree.as_user(1001, 1002, (5,), umask=0o077)
    other.make(b"f", b"data", 0o666)
    assert tree.facts(b"f")[1:5] == (0o600, 1, 1001, 1002)
    tree.make(b"g", b"data", 0o666)
    assert tree.facts(b"g")[1:5] == (0o644, 1, os.geteuid(), os.getegid())


def test_moved_tells_which_times_moved(trees: tuple[Tree, Tree]) -> None:
    tree = trees[0]
    tree.make(b"f")
    assert tree.moved(b"f", lambda: tree.append(b"f", b"data")) == ["mtime", "ctime"]
    assert tree.moved(b"f", lambda: tree.chmod(b"f", 0o600)) == ["ctime"]
    assert tree.moved(b"f", lambda: tree.lstat(b"f")) == []


def test_the_kit_needs_no_pytest_and_asks_for_no_system() -> None:
    code = "import sys, xloop.testing; assert not {'pytest', 'xloop.host'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_snapshot_shows_links_contents_and_attributes(trees: tuple[Tree, Tree]) -> None:
    for tree in trees:
        tree.mkdir(b"d")
        tree.make(b"d/a", b"data")
        tree.link(b"d/a", b"b")
        tree.symlink(b"d/a", b"l")
    pair = Pair(*trees)
    assert set(pair.same(lambda t: t.snapshot())) == {b"", b"d", b"d/a", b"b", b"l"}
    trees[1].unlink(b"b")
    trees[1].make(b"b", b"data")
    with pytest.raises(AssertionError):
        pair.same(lambda t: t.snapshot())
