# SPDX-License-Identifier: MIT
"""Who may remove and rename what, in sticky directories and in others."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from rights.support import ALICE, BOB, STAFF, TEAM
from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need

PEOPLE = {
    "owner of the file": (ALICE, STAFF, ()),
    "owner of the directory": (BOB, STAFF, ()),
    "in the file's group": (3000, TEAM, ()),
    "stranger": (3000, 3000, ()),
}


@pytest.fixture(autouse=True)
def _others(need: Need) -> None:
    need.root("several users remove things")


def outcome(tree: Tree, method: str, *args: object) -> str:
    try:
        getattr(tree, method)(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o1770])
def test_removing_and_renaming_is_for_who_may_natively(pair: Pair, mode: int) -> None:
    def attempt(tree: Tree) -> dict[tuple[str, str], str]:
        found = {}
        for who, identity in PEOPLE.items():
            somebody = tree.as_user(*identity)
            top = who.encode()
            tree.mkdir(top)
            for name in (b"a", b"b", b"c", b"d", b"e"):
                tree.make(top + b"/" + name, b"", 0o666)
                tree.chown(top + b"/" + name, ALICE, TEAM)
            tree.mkdir(top + b"/sub", 0o777)
            tree.chown(top + b"/sub", ALICE, TEAM)
            somebody_s = top + b"/mine"
            tree.make(somebody_s)
            tree.chown(somebody_s, *identity[:2])
            tree.chown(top, BOB, TEAM)
            tree.chmod(top, mode)
            calls: list[tuple[str, *tuple[object, ...]]] = [
                ("unlink", top + b"/a"),
                ("rename", top + b"/b", top + b"/x"),
                ("rename", somebody_s, top + b"/c"),  # over what is somebody else's
                ("rename", top + b"/d", top + b"/e", 2),
                ("link", top + b"/d", top + b"/y"),
                ("rmdir", top + b"/sub"),
                ("make", top + b"/new"),
            ]
            for call in calls:
                found[who, call[0] + repr(call[1:])] = outcome(somebody, *call)
        return found

    assert pair.same(attempt)


def test_renaming_into_a_sticky_directory_asks_there_too(pair: Pair) -> None:
    def attempt(tree: Tree) -> list[str]:
        for name, mode in ((b"from", 0o777), (b"to", 0o1777)):
            tree.mkdir(name)
            tree.chmod(name, mode)
        tree.make(b"to/taken")
        tree.make(b"from/f")
        tree.chown(b"from/f", ALICE, STAFF)
        alice = tree.as_user(ALICE, STAFF)
        return [
            outcome(alice, "rename", b"from/f", b"to/taken"),
            outcome(alice, "rename", b"from/f", b"to/free"),
            outcome(tree.as_user(BOB, STAFF), "rename", b"to/free", b"from/f"),
        ]

    assert pair.same(attempt) == ["EPERM", "done", "EPERM"]


def test_a_directory_of_somebody_else_does_not_change_its_parent(pair: Pair) -> None:
    """Moving a directory rewrites its "..", and so needs the right to write it."""

    def attempt(tree: Tree) -> list[str]:
        for name in (b"from", b"to"):
            tree.mkdir(name)
            tree.chmod(name, 0o777)
        tree.mkdir(b"from/d", 0o755)
        somebody = tree.as_user(BOB, STAFF)
        return [
            outcome(somebody, "rename", b"from/d", b"from/e"),
            outcome(somebody, "rename", b"from/e", b"to/d"),
        ]

    assert pair.same(attempt) == ["done", "EACCES"]
