# SPDX-License-Identifier: MIT
"""How things are written for people: tables, times, names.

Owns the form.  Does not own what is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["cut", "moment", "shown", "span", "table", "user", "width"]


def shown(text: str) -> str:
    """Return *text* such that it cannot move the cursor or break a line: as repr() where it could."""
    return text if text.isprintable() else ascii(text)


def width(text: str) -> int:
    """Return how many columns of a terminal the printable *text* takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, columns: int) -> str:
    """Return as much of the printable *text* as *columns* have room for."""
    if width(text) <= columns:
        return text
    fits = text[: max(columns - 3, 0)]
    while width(fits) > columns - 3 and fits:
        fits = fits[:-1]
    return f"{fits}..."[: max(columns, 0)]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield *rows* as lines, with columns as wide as what is in them."""
    printable = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    for row in printable:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def moment(seconds: float) -> str:
    """Return a point of time, in seconds since the epoch, in local time."""
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def span(seconds: float) -> str:
    """Return a short time, in the unit that suits it."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def user(number: int) -> str:
    """Return the name of the user *number*, or the number where it has none."""
    from xloop.host import process

    return process.user_name(number) or str(number)
