# SPDX-License-Identifier: MIT
"""The processes that do the rows, one or many at once, and those that keep the CPUs busy.

Owns starting them, what is said to them, and their certain end.  Does not own what they do:
:mod:`xloop.bench.client`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from xloop.bench.rows import Sizes
from xloop.bench.workloads import MATERIAL
from xloop.errors import XloopError

__all__ = ["Burners", "Crew", "Failure", "Measured", "cpus"]

#: Seconds for one row; what takes longer hangs.
PATIENCE = 600.0


class Measured(NamedTuple):
    """What one row took, on all clients together."""

    seconds: float  #: from the first one's beginning to the last one's end
    amount: float  #: operations, bytes, or runs: of all

    @property
    def cost(self) -> float:
        """Return the seconds for one of what the amount counts: less is better."""
        return self.seconds / self.amount


class Failure(Exception):
    """A row could not be done on a subject; str() says what a client said."""


def cpus() -> int:
    """Return on how many CPUs this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Crew:
    """So many clients, which do the same at the same time, each in a directory of its own."""

    def __init__(self, count: int, sizes: Sizes, material: Path) -> None:
        """*material*: where :func:`xloop.bench.workloads.make_material` was told to make it."""
        self.count = count
        self._material = material
        self._clients: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._clients.append(self._started(sizes))
        except BaseException:
            self.close()
            raise

    def _started(self, sizes: Sizes) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "xloop.bench.client", json.dumps(asdict(sizes))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            # xloop is found where this process has found it.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                MATERIAL: os.fspath(self._material),
            },
            # Ctrl-C is for the benchmark; and its programs can be ended together with it.
            start_new_session=True,
        )

    def tell(self, what: str, tops: Sequence[str]) -> None:
        """Let each client do what needs no measuring."""
        self._ask(what, tops)
        self._answers(what)

    def measure(self, row: str, tops: Sequence[str]) -> Measured:
        """Let each client do *row* in its directory; Failure if one could not."""
        self._ask(row, tops)
        # All are ready before the first one begins.
        self._answers(row)
        for client in self._clients:
            self._write(client, b"go\n")
        answers = self._answers(row)
        seconds = max(a["end"] for a in answers) - min(a["begin"] for a in answers)
        return Measured(seconds, sum(a["amount"] for a in answers))

    def _ask(self, what: str, tops: Sequence[str]) -> None:
        for client, top in zip(self._clients, tops, strict=True):
            self._write(client, json.dumps({"do": what, "top": top}).encode() + b"\n")

    @staticmethod
    def _write(client: subprocess.Popen[bytes], line: bytes) -> None:
        assert client.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: the next answer will be missing
            client.stdin.write(line)

    def _answers(self, what: str) -> list[dict[str, float]]:
        """Return what each says next; Failure if one says that it could not.

        Then the others may be waiting for the word still: they are told to go on, and what they
        say is not heard.
        """
        answers = [self._answer(client, what) for client in self._clients]
        errors = [str(answer["error"]) for answer in answers if "error" in answer]
        if errors:
            for client, answer in zip(self._clients, answers, strict=True):
                if "ready" in answer:
                    self._write(client, b"go\n")
                    self._answer(client, what)
            raise Failure(errors[0])
        return answers

    @staticmethod
    def _answer(client: subprocess.Popen[bytes], what: str) -> dict[str, float]:
        assert client.stdout is not None
        if not select.select([client.stdout], [], [], PATIENCE)[0]:
            raise XloopError(f"{what!r} has not ended after {PATIENCE:.0f} seconds: it hangs")
        line = client.stdout.readline()
        if not line:
            raise XloopError(f"the process that did {what!r} has ended with {client.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self, patience: float = 5.0) -> bool:
        """End the clients and the programs that they run; False if one is stuck in a mount."""
        for client in self._clients:
            _end(client)
        try:
            for client in self._clients:
                client.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        for client in self._clients:
            for pipe in (client.stdin, client.stdout):
                if pipe is not None:
                    pipe.close()
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and what it has started, which is of its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, 9)
            else:
                process.kill()


#: Ends by itself with whoever started it, however that ends.
_BURN = """
import os
while os.getppid() == {parent}:
    for _ in range(1_000_000):
        continue
"""


class Burners:
    """One process for each CPU that keeps it busy, at the priority of the benchmark itself."""

    def __init__(self, count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-I", "-S", "-c", _BURN.format(parent=os.getpid())],
                        stdin=subprocess.DEVNULL,
                        cwd="/",
                        start_new_session=True,
                    )
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for process in self._processes:
            _end(process)
        for process in self._processes:
            process.wait()
