# SPDX-License-Identifier: MIT
"""An Operations that keeps books on another: :class:`Ledger`.

Owns the count of every lookup, handle and call, and what the contract says about any single
answer.  Does not own what an operation is for.  Put it between a file system and whoever calls
it: a tree without a kernel, or an adapter.

A promise that the file system broke is a :class:`ContractBroken`, and its traceback points at the call.
"""

from __future__ import annotations

import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from xloop.ops import Op, Operations
from xloop.types import ROOT_INO, Attr, Entry, HandleId, Ino, Opened

__all__ = ["ContractBroken", "Ledger"]

_OPENS = {Op.OPEN, Op.CREATE, Op.TMPFILE, Op.OPENDIR}
_RELEASES = {Op.RELEASE, Op.RELEASEDIR}


class ContractBroken(AssertionError):
    """A file system did what the contract in xloop.ops rules out."""


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ContractBroken(what)


class Ledger(Operations):
    """Passes every call on to *inner*, and writes it down."""

    def __init__(self, inner: Operations) -> None:
        self.inner = inner
        #: How often each operation was called.
        self.calls: Counter[Op] = Counter()
        #: What is owed in forgets, for each number that somebody knows.
        self.lookups: Counter[Ino] = Counter()
        #: The number and the opening operation of each handle that is not yet released.
        self.handles: dict[HandleId, tuple[Ino, Op]] = {}
        self._types: dict[Ino, int] = {ROOT_INO: stat.S_IFDIR}
        self._lock = threading.Lock()
        for op in Op:
            setattr(self, op.value, self._booked(op))

    def check_balanced(self) -> None:
        """Raise unless everything was forgotten and released."""
        owed = {ino: count for ino, count in self.lookups.items() if count}
        _demand(not owed, f"looked up and never forgotten: {owed}")
        _demand(not self.handles, f"opened and never released: {self.handles}")

    # -- what is written down -------------------------------------------------------------

    def _booked(self, op: Op) -> Callable[..., Any]:
        call = getattr(self.inner, op.value)
        specials: dict[Op, Callable[..., Any]] = {
            Op.FORGET: self._forget,
            Op.BATCH_FORGET: self._batch_forget,
            Op.READDIR: self._readdir,
            Op.READDIRPLUS: self._readdirplus,
        }
        special = specials.get(op)

        def booked(*args: Any, **kwargs: Any) -> Any:
            self.calls[op] += 1
            if special is not None:
                return special(call, *args, **kwargs)
            self._check_known(op, args)
            if op in _RELEASES:
                # Before the call: while it runs the number may be given out again.
                self._released(op, *args)
            answer = call(*args, **kwargs)
            self._answered(op, args, answer)
            return answer

        booked.__name__ = op.value
        return booked

    def _check_known(self, op: Op, args: tuple[Any, ...]) -> None:
        """The caller's side of the contract: a number is used only while it is owed or open."""
        if op in (Op.INIT, Op.DESTROY):
            return
        ino = args[0] if op in _RELEASES else args[1]
        with self._lock:
            known = ino == ROOT_INO or self.lookups[ino] > 0
            known = known or any(ino == opened for opened, _ in self.handles.values())
        if not known:
            raise RuntimeError(f"{op.value} for {ino}, which the caller does not know")

    def _answered(self, op: Op, args: tuple[Any, ...], answer: Any) -> None:
        if op in (Op.CREATE, Op.TMPFILE):
            entry, opened = answer
            self._looked_up(op, entry)
            self._opened(op, entry.ino, opened)
        elif isinstance(answer, Entry):
            self._looked_up(op, answer)
            if op is Op.LINK:
                _demand(answer.ino == args[1], f"link of {args[1]} answered with {answer.ino}")
        elif op in _OPENS:
            self._opened(op, args[1], answer)
        elif isinstance(answer, Attr):
            self._check_attr(op, args[1], answer)

    def _looked_up(self, op: Op, entry: Entry) -> None:
        with self._lock:
            self.lookups[entry.ino] += 1
        _demand(entry.ino > 0, f"{op.value} gave out the number {entry.ino}")
        self._check_attr(op, entry.ino, entry.attr)

    def _check_attr(self, op: Op, ino: Ino, attr: Attr) -> None:
        # Each of these makes the kernel answer EIO for the node ever after.
        kind = stat.S_IFMT(attr.mode)
        known = self._types.setdefault(ino, kind)
        _demand(kind == known, f"{op.value}: the type of {ino} went from {known:o} to {kind:o}")
        _demand(kind != 0, f"{op.value}: {ino} has no type")
        _demand(0 <= attr.size < 1 << 63, f"{op.value}: {ino} has the size {attr.size}")
        nanoseconds = attr.atime_nsec, attr.mtime_nsec, attr.ctime_nsec
        _demand(all(0 <= n < 10**9 for n in nanoseconds), f"{op.value}: {ino} has a bad time")

    def _opened(self, op: Op, ino: Ino, opened: Opened) -> None:
        with self._lock:
            taken = opened.handle in self.handles
            self.handles[opened.handle] = ino, op
        _demand(not taken, f"{op.value} gave out the handle {opened.handle}, which is still open")

    def _released(self, op: Op, ino: Ino, handle: HandleId) -> None:
        with self._lock:
            opened = self.handles.pop(handle, None)
        if opened is None or opened[0] != ino:
            raise RuntimeError(f"{op.value} of {ino}, {handle}, which is {opened}")

    def _forget(self, call: Callable[..., None], ino: Ino, nlookup: int) -> None:
        self._take_back(ino, nlookup)
        call(ino, nlookup)

    def _batch_forget(self, call: Callable[..., None], forgets: Iterable[tuple[Ino, int]]) -> None:
        forgets = list(forgets)
        for ino, nlookup in forgets:
            self._take_back(ino, nlookup)
        call(forgets)

    def _take_back(self, ino: Ino, nlookup: int) -> None:
        with self._lock:
            owed = self.lookups[ino]
            if nlookup > owed:
                raise RuntimeError(f"forget of {nlookup} for {ino}, which is owed {owed}")
            self.lookups[ino] -= nlookup
            if not self.lookups[ino]:
                del self.lookups[ino]
                self._types.pop(ino, None)

    def _readdir(self, call: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
        self._check_known(Op.READDIR, args)
        yield from call(*args)

    def _readdirplus(self, call: Callable[..., Iterator[Any]], *args: Any) -> Iterator[Any]:
        self._check_known(Op.READDIRPLUS, args)
        for name, entry in call(*args):
            if entry is not None:
                dots = name.name in (b".", b"..")
                _demand(not dots, "readdirplus looked up '.' or '..'")
                self._looked_up(Op.READDIRPLUS, entry)
                same = name.ino == entry.attr.ino
                _demand(same, f"d_ino of {name.name!r} is {name.ino}, st_ino {entry.attr.ino}")
                kind = stat.S_IFMT(entry.attr.mode) >> 12
                _demand(name.type in (0, kind), f"d_type of {name.name!r} is {name.type}")
            yield name, entry
