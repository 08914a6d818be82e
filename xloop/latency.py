# SPDX-License-Identifier: MIT
"""How many requests there were and how long they take: :class:`Latencies`, :class:`Calls`.

Owns the arithmetic, and which requests are timed.  Does not own the requests: the loop of a backend times
them, and notes what it has seen; where a library calls back, :class:`Calls` does that.

Only one request in :data:`EVERY` of a thread is timed, so that the others do not pay for it.  That number is a prime:
a program that repeats itself, say lookup, open, read, close, would else have the same of the four
timed for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, ParamSpec, TypeVar

__all__ = ["EVERY", "Calls", "Latencies"]

P = ParamSpec("P")
R = TypeVar("R")

#: One request in so many is timed.
EVERY = 31

#: Buckets of a histogram: the last one holds what took 2**39 ns, nine minutes, or longer.
_BUCKETS = 40


class Latencies:
    """How long requests of each kind took; a kind is a small number.

    Threads share it without a lock: two that note the same kind at the same moment may lose one of
    the two, which a sample can afford.
    """

    def __init__(self, kinds: int) -> None:
        self._total = [0] * kinds
        self._most = [0] * kinds
        self._histograms: list[list[int] | None] = [None] * kinds

    def add_kind(self) -> int:
        """Return the number of one kind more."""
        self._total.append(0)
        self._most.append(0)
        self._histograms.append(None)
        return len(self._total) - 1

    def note(self, kind: int, nanoseconds: int) -> None:
        """Note that a request of *kind* took so long.  One that is out of range is nobody's."""
        if not 0 <= kind < len(self._total):
            return
        histogram = self._histograms[kind]
        if histogram is None:
            histogram = self._histograms[kind] = [0] * _BUCKETS
        histogram[min(nanoseconds.bit_length(), _BUCKETS - 1)] += 1
        self._total[kind] += nanoseconds
        if nanoseconds > self._most[kind]:
            self._most[kind] = nanoseconds

    def status(self, name: Callable[[int], str]) -> dict[str, dict[str, float]]:
        """Return, for each kind that was timed, how many were, and seconds: mean, median, 99 %, most.

        Median and 99 % are upper bounds, no more than twice too high: they come from a histogram of powers of 2.
        """
        found = {}
        for kind, histogram in enumerate(self._histograms):
            if histogram is None or not (timed := sum(histogram)):
                continue
            most = self._most[kind]
            found[name(kind)] = {
                "timed": timed,
                "mean": self._total[kind] / timed / 1e9,
                "median": min(_quantile(histogram, timed, 0.5), most) / 1e9,
                "99%": min(_quantile(histogram, timed, 0.99), most) / 1e9,
                "most": most / 1e9,
            }
        return found


def _quantile(histogram: list[int], timed: int, share: float) -> int:
    """Return a number of nanoseconds that *share* of the requests did not exceed."""
    below = 0
    for bits, count in enumerate(histogram):
        below += count
        if below >= timed * share:
            return 1 << bits
    return 1 << _BUCKETS


class Calls:
    """The calls of the functions of a table, counted and timed."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._counts: list[int] = []
        self._latencies = Latencies(0)

    def counted(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """Return *function*, which is called *name*, so that its calls are counted."""
        kind = self._latencies.add_kind()
        self._names.append(name)
        self._counts.append(0)
        counts, note = self._counts, self._latencies.note

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            counts[kind] = number = counts[kind] + 1
            if number % EVERY:
                return function(*args, **kwargs)
            begin = perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                note(kind, perf_counter_ns() - begin)

        return call

    def status(self) -> dict[str, Any]:
        """Return ``requests``, how many there were by name, and ``latencies`` in seconds."""
        named = zip(self._names, self._counts, strict=True)
        return {
            "requests": {name: count for name, count in named if count},
            "latencies": self._latencies.status(self._names.__getitem__),
        }
