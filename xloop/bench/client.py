# SPDX-License-Identifier: MIT
"""A process that does rows: ``python -m xloop.bench.client``.

Owns its end of the conversation and the clock.  Does not own the rows, nor which one is next
(:mod:`xloop.bench.crew`).

In a process of its own, because whoever waits for a file system that hangs can do nothing else,
not even end; the benchmark itself never touches a mount, and so can always clean up.

A line of JSON each way.  It is told ``{"do": ROW, "top": DIRECTORY}`` and says ``{"ready": true}``
when what is to be measured comes next, begins at the line ``go``, and says ``{"begin": SECONDS,
"end": SECONDS, "amount": NUMBER}``, or ``{"error": TEXT}`` at any point.  It ends at the end of
its input, and so with whoever started it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from types import TracebackType

from xloop.bench.rows import FULL, Sizes
from xloop.bench.workloads import all_rows

__all__ = ["main"]


def _say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Timed:
    """``with timed(amount)``: waits for the word, then measures."""

    begin = end = 0.0
    amount = 0.0

    def __call__(self, amount: float) -> _Timed:
        self.amount = amount
        return self

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()
        _say(ready=True)
        if not sys.stdin.readline():
            raise SystemExit
        # Of the whole system: what the clients of one row tell is compared.
        self.begin = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end = time.monotonic()
        gc.enable()


def _do(what: str, top: str, sizes: Sizes) -> None:
    if what == "begin":
        os.makedirs(top)
        _say(done=True)
    elif what == "end":
        shutil.rmtree(top)
        _say(done=True)
    else:
        timed = _Timed()
        all_rows()[what].do(top, sizes, timed)
        _say(begin=timed.begin, end=timed.end, amount=timed.amount)


def main() -> None:
    """Do what the lines of stdin say, to their end."""
    sizes = replace(FULL, **json.loads(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            _do(asked["do"], asked["top"], sizes)
        except (OSError, RuntimeError, shutil.Error) as exc:
            _say(
                error=f"{type(exc).__name__}: {exc}"
                if not isinstance(exc, RuntimeError)
                else str(exc)
            )


if __name__ == "__main__":
    main()
