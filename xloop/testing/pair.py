# SPDX-License-Identifier: MIT
"""Two trees that must behave alike: :class:`Pair`.

Owns the comparison of results and errors.  Does not own the trees, and does not know pytest: a
difference is an AssertionError.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from xloop.testing.tree import Tree

__all__ = ["Each", "Pair"]

R = TypeVar("R")


class Each(Generic[R]):
    """One value for each tree: their own descriptors, for example."""

    def __init__(self, values: list[tuple[Tree, R]]) -> None:
        self._values = values

    def __getitem__(self, tree: Tree) -> R:
        for known, value in self._values:
            if known is tree:
                return value
        raise KeyError(tree)


class _Failed:
    def __init__(self, error: OSError) -> None:
        self.error = error

    def __repr__(self) -> str:
        number = self.error.errno or 0
        return f"{errnos.errorcode.get(number, number)} ({self.error.strerror})"


class Pair:
    """*mnt*, which is tested, and *ref*, which is right."""

    def __init__(self, mnt: Tree, ref: Tree) -> None:
        self.mnt = mnt
        self.ref = ref

    def each(self, call: Callable[[Tree], R]) -> Each[R]:
        """Return what *call* gives on each tree, not compared; it must succeed or fail on both."""
        mine, theirs = self._run(call)
        return Each([(self.mnt, mine), (self.ref, theirs)])

    def same(self, call: Callable[[Tree], R]) -> R:
        """Do *call* on both, and return the result, or raise the error, that they must share."""
        mine, theirs = self._run(call)
        assert mine == theirs, f"mnt: {mine!r}\nref: {theirs!r}"
        return mine

    def fails(self, errno: int, call: Callable[[Tree], Any]) -> None:
        """Demand that *call* fails with *errno* on both."""
        mine, theirs = self._attempt(self.mnt, call), self._attempt(self.ref, call)
        wanted = errnos.errorcode[errno]
        for name, got in (("mnt", mine), ("ref", theirs)):
            failed = isinstance(got, _Failed) and got.error.errno == errno
            assert failed, f"{name}: {got!r} instead of {wanted} (mnt: {mine!r}, ref: {theirs!r})"

    def either(self, call: Callable[[Tree], Any]) -> Any:
        """Do *call*, which the file system below may refuse, on both.

        Return the result that they must share, or the OSError whose number they must share.
        """
        try:
            return self.same(call)
        except OSError as error:
            return error

    @staticmethod
    def _attempt(tree: Tree, call: Callable[[Tree], Any]) -> Any:
        try:
            return call(tree)
        except OSError as error:
            return _Failed(error)

    def _run(self, call: Callable[[Tree], R]) -> tuple[R, R]:
        mine, theirs = self._attempt(self.mnt, call), self._attempt(self.ref, call)
        if isinstance(mine, _Failed) or isinstance(theirs, _Failed):
            numbers = [getattr(getattr(x, "error", None), "errno", None) for x in (mine, theirs)]
            assert numbers[0] == numbers[1], f"mnt: {mine!r}\nref: {theirs!r}"
            raise mine.error
        return mine, theirs
