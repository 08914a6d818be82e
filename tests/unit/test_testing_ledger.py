# SPDX-License-Identifier: MIT
"""The books on an Operations notice what is owed and what is promised."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

import pytest

from xloop.ops import Op, Operations
from xloop.testing import ContractBroken, InProcessTree, Ledger
from xloop.types import ROOT_INO, Attr, Caller, DirEntry, Entry, HandleId, Ino, Opened

ME = Caller(0, 0, 1)
ROOT = Attr.make(stat.S_IFDIR | 0o755, ino=1, nlink=2)
FILE = Attr.make(stat.S_IFREG | 0o644, ino=2, size=5)


class One(Operations):
    """A directory with the file "f" in it."""

    attr = FILE
    number = Ino(7)
    handle = HandleId(3)

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        if name != b"f":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return Entry(self.number, self.attr)

    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return ROOT if ino == ROOT_INO else self.attr

    def open(self, caller: Caller, ino: Ino, flags: int) -> Opened:
        return Opened(self.handle)

    def opendir(self, caller: Caller, ino: Ino, flags: int) -> Opened:
        return Opened(self.handle)

    def release(self, ino: Ino, handle: HandleId) -> None:
        pass

    def releasedir(self, ino: Ino, handle: HandleId) -> None:
        pass

    def flush(self, caller: Caller, ino: Ino, handle: HandleId, lock_owner: int) -> None:
        pass

    def read(self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int) -> bytes:
        return b"hello"[offset : offset + size]

    def link(self, caller: Caller, ino: Ino, newparent: Ino, newname: bytes) -> Entry:
        return Entry(Ino(ino + 1), self.attr)

    def readdirplus(
        self, caller: Caller, ino: Ino, handle: HandleId, offset: int
    ) -> Iterator[tuple[DirEntry, Entry | None]]:
        names = [
            (DirEntry(b".", 1, 4, 1), None),
            (DirEntry(b"f", 2, 8, 2), self.lookup(caller, ino, b"f")),
        ]
        yield from names[offset:]


def test_a_tree_forgets_and_releases_everything() -> None:
    tree = InProcessTree(One())
    assert tree.content(b"f") == b"hello"
    assert tree.facts(b"f").size == 5
    assert [name.name for name in tree.getdents(tree.open(b".", os.O_RDONLY))] == [b".", b"f"]
    tree.shut()
    tree.check_balanced()
    assert tree.ledger.calls[Op.READ] == 2
    assert tree.ledger.calls[Op.RELEASE] == tree.ledger.calls[Op.OPEN] == 1


def test_what_is_not_forgotten_is_noticed() -> None:
    ledger = Ledger(One())
    ledger.lookup(ME, ROOT_INO, b"f")
    ledger.lookup(ME, ROOT_INO, b"f")
    ledger.forget(Ino(7), 1)
    with pytest.raises(ContractBroken, match="never forgotten"):
        ledger.check_balanced()
    ledger.batch_forget([(Ino(7), 1)])
    ledger.check_balanced()


def test_what_is_not_released_is_noticed() -> None:
    ledger = Ledger(One())
    ledger.lookup(ME, ROOT_INO, b"f")
    ledger.open(ME, Ino(7), os.O_RDONLY)
    ledger.forget(Ino(7), 1)
    with pytest.raises(ContractBroken, match="never released"):
        ledger.check_balanced()
    ledger.release(Ino(7), HandleId(3))
    ledger.check_balanced()


def test_a_caller_that_forgets_too_much_is_noticed() -> None:
    ledger = Ledger(One())
    ledger.lookup(ME, ROOT_INO, b"f")
    with pytest.raises(RuntimeError, match="owed 1"):
        ledger.forget(Ino(7), 2)
    with pytest.raises(RuntimeError, match="does not know"):
        ledger.getattr(ME, Ino(8), None)


def test_a_handle_that_is_given_out_twice_is_noticed() -> None:
    ledger = Ledger(One())
    ledger.lookup(ME, ROOT_INO, b"f")
    ledger.open(ME, Ino(7), os.O_RDONLY)
    with pytest.raises(ContractBroken, match="still open"):
        ledger.open(ME, Ino(7), os.O_RDONLY)


def test_a_node_that_changes_its_type_is_noticed() -> None:
    one = One()
    ledger = Ledger(one)
    ledger.lookup(ME, ROOT_INO, b"f")
    one.attr = Attr.make(stat.S_IFDIR | 0o755, ino=2)
    with pytest.raises(ContractBroken, match="type"):
        ledger.getattr(ME, Ino(7), None)


def test_a_link_with_another_number_is_noticed() -> None:
    ledger = Ledger(One())
    ledger.lookup(ME, ROOT_INO, b"f")
    with pytest.raises(ContractBroken, match="answered with 8"):
        ledger.link(ME, Ino(7), ROOT_INO, b"g")


@pytest.mark.parametrize(
    "bad", [{"size": -1}, {"mode": 0o644}, {"mtime_nsec": 10**9}], ids=lambda b: next(iter(b))
)
def test_attributes_that_a_kernel_would_not_take_are_noticed(bad: dict[str, int]) -> None:
    one = One()
    one.attr = FILE._replace(**bad)
    with pytest.raises(ContractBroken):
        Ledger(one).lookup(ME, ROOT_INO, b"f")


def test_a_listing_that_contradicts_its_entries_is_noticed() -> None:
    one = One()
    one.attr = FILE._replace(ino=99)
    with pytest.raises(ContractBroken, match="d_ino"):
        list(Ledger(one).readdirplus(ME, ROOT_INO, HandleId(3), 0))
