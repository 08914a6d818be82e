# SPDX-License-Identifier: MIT
"""Medians, quartiles, ratios and geometric means.

Owns the arithmetic, and nothing else: no clock, no file.

A ratio is made of two measurements of the same round, one made right after the other, and only
then is the median of all rounds taken: what the machine does meanwhile hits both and cancels
out, which it does not in the ratio of two medians.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Spread", "best", "geometric_mean", "ratios", "spread"]


class Spread(NamedTuple):
    """What several measurements of one thing come to."""

    median: float
    low: float  #: the first quartile; the least of all where there are less than four
    high: float  #: the third quartile; the most of all where there are less than four


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of *values*, which must not be empty.

    Quartiles are those of the values themselves (interpolated between the nearest two): with
    seven rounds the one that was disturbed lies outside of them.
    """
    ordered = sorted(values)
    if len(ordered) < 4:
        return Spread(median(ordered), ordered[0], ordered[-1])
    return Spread(median(ordered), _quantile(ordered, 0.25), _quantile(ordered, 0.75))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return how many times *values* are those of *reference*, round by round."""
    return [value / other for value, other in zip(values, reference, strict=True)]


def best(costs: Mapping[str, Sequence[float]]) -> str | None:
    """Return the name of the one with the least median; None where there is none."""
    return min(costs, key=lambda name: median(costs[name]), default=None)


def geometric_mean(values: Sequence[float]) -> float | None:
    """Return the geometric mean, the only one that is the same whichever side a ratio is seen from.

    None for no values at all.
    """
    if not values:
        return None
    return math.exp(math.fsum(map(math.log, values)) / len(values))
