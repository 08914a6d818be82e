# SPDX-License-Identifier: MIT
"""What a command tells a person at a terminal while it waits.

Owns the line: when it is there, how it looks, and that nothing of it is left.  Does not own what is waited for.

Nothing at all is written but to a terminal: what reads a pipe or a file wants results.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xloop.host import process

__all__ = ["Progress"]

#: For as long a person does not wonder; after that, so long is one line there.
_SECOND = 1.0


class Progress:
    """One line on standard error, as soon as the command has taken longer than a second."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._text = ""
        self._drawn = 0  #: columns

    @contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Tell, while the block runs, that *text* is being done.  Afterwards the line is gone, and the thread that draws it."""
        self.say(text)
        if not _is_terminal():
            yield
            return
        over = threading.Event()
        thread = threading.Thread(
            target=self._draw, args=(over,), name="xloop-progress", daemon=True
        )
        # The kernel might choose this thread for a signal, and leave the main one asleep.
        with process.blocked():
            thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def say(self, text: str) -> None:
        """Tell from now on that *text* is being done."""
        self._text = text

    def _draw(self, over: threading.Event) -> None:
        """Draw once a second until it is over, and then leave nothing."""
        pause = max(0.0, _SECOND - self._passed())
        while not over.wait(pause):
            self._write(f"xloop: {self._passed():.0f} s: {self._text}")
            pause = _SECOND - self._passed() % _SECOND
        if self._drawn:
            self._write("")

    def _passed(self) -> float:
        return time.monotonic() - self._began

    def _write(self, text: str) -> None:
        from xloop.words import cut, shown, width

        with suppress(OSError, ValueError):  # the terminal is gone, and it is for others to notice
            terminal = sys.stderr.fileno()
            if not process.in_foreground(terminal):
                return
            text = cut(shown(text), (os.get_terminal_size(terminal).columns or 80) - 1)
            columns = width(text)
            # Spaces and no escape sequence: there are terminals that know none.
            sys.stderr.write(f"\r{text}{' ' * (self._drawn - columns)}" + ("" if text else "\r"))
            sys.stderr.flush()
            self._drawn = columns


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False
