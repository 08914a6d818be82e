# SPDX-License-Identifier: MIT
"""Sequence after sequence until enough steps are done: :func:`drive`, :func:`replay`.

Owns the directories of a sequence and the report of a difference.  Does not own what is compared.

Hypothesis draws the sequences.  Of one run of it we want no more than two: the first is the simplest,
the second is drawn, and what would follow are five slightly changed copies of that for each new
one.  What shows a difference is shrunk here, after its choices are resolved: a step that is
taken away then leaves the others what they are, and that takes seconds instead of minutes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

from differential.compare import Difference, Run
from differential.sides import Side
from differential.steps import Step, render, sequences
from differential.subjects import Stage, Subject
from xloop.testing import Tree

__all__ = ["Found", "Outcome", "drive", "replay"]

_EXAMPLES = 2
_SHRINK_SECONDS = 60
_numbers = itertools.count(1)


class Found(AssertionError):
    """A difference, with what leads to it."""

    def __init__(self, steps: list[Step], what: str, note: str) -> None:
        self.steps = steps
        super().__init__(
            f"{what}\n\n# {note}; to run it again:\n"
            f"# pytest tests/differential --replay FILE, with this in FILE:\n{render(steps)}"
        )


class Outcome(NamedTuple):
    """What was done."""

    steps: int
    sequences: int
    seconds: float
    excused: dict[str, int]


class _Session:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.known = stage.known
        self.steps = 0
        self.sequences = 0
        self.exact_times = _exact_times(stage)
        #: The last sequence that showed a difference, and how it did.
        self.found: tuple[list[Step], Exception] | None = None

    def run(self, steps: list[Step]) -> None:
        """Run one sequence in fresh directories.  Raises whatever it shows."""
        stage = self.stage
        stage.beat()
        top = b"s%d" % next(_numbers)
        for world in (stage.src, stage.ref):
            world.tree("me", 0).mkdir(top, 0o777)
        sides = [world.side(top) for world in (stage.mnt, stage.ref, stage.src)]
        run = Run(*sides, self.known, self.exact_times)
        try:
            run.take(steps)
            self._close(sides)
            stage.mnt.end()
        except Exception as error:
            self.found = run.steps, error
            raise
        finally:
            self.steps += run.taken
            self.sequences += 1
            self._clean(sides, top)

    @staticmethod
    def _close(sides: list[Side]) -> None:
        errors: list[str] = []
        for side in sides:
            try:
                side.shut()
                errors.append("closed")
            except OSError as error:
                errors.append(str(error))
        if errors[0] != errors[1]:
            raise Difference(f"closing: mount {errors[0]}, twin {errors[1]}")

    def _clean(self, sides: list[Side], top: bytes) -> None:
        for side in sides:
            while side.slots:  # left by an error
                try:
                    side.shut()
                except OSError:
                    continue
        with contextlib.suppress(Exception):
            self.stage.mnt.end()  # what is wrong with it now comes from what was found
        # Through the mount, so that its kernel and its server hear of it.
        for world in (
            self.stage.mnt if sides[0].world.has_kernel else self.stage.src,
            self.stage.ref,
        ):
            wipe(world.tree("me", 0), top)


def wipe(tree: Tree, path: bytes) -> None:
    """Remove *path* and all below it, whatever the modes."""
    if not stat.S_ISDIR(tree.lstat(path).st_mode):
        tree.unlink(path)
        return
    tree.chmod(path, 0o700)
    for name in tree.listdir(path):
        wipe(tree, os.path.join(path, name))
    tree.rmdir(path)


def _exact_times(stage: Stage) -> bool:
    """Tell whether the source gives two changes two times, as long as somebody looks between them."""
    tree = stage.ref.tree("me", 0)
    tree.make(b"ticks")
    seen = set()
    for mode in [0o600, 0o640] * 20:
        tree.chmod(b"ticks", mode)
        seen.add(tree.lstat(b"ticks").st_ctime_ns)
    tree.unlink(b"ticks")
    return len(seen) == 40


def _fails(session: _Session, steps: list[Step]) -> bool:
    try:
        session.run(steps)
    except Exception:  # noqa: BLE001  (whatever it is, somebody will have to look at it)
        return True
    return False


def _shrunk(session: _Session, steps: list[Step]) -> list[Step]:
    """Return the shortest part of *steps* that fails still, as far as it is found in time."""
    deadline = time.monotonic() + _SHRINK_SECONDS
    size = len(steps) // 2
    while size:
        at = len(steps) - size
        while at > -size and time.monotonic() < deadline:
            fewer = steps[: max(at, 0)] + steps[at + size :]
            if _fails(session, fewer):
                steps = fewer
            at -= size
        size //= 2
    return steps


def drive(subject: Subject, stage: Stage, steps: int, seed: int, *, shrink: bool = True) -> Outcome:
    """Run random sequences of at least *steps* steps; Found for the first difference."""
    session = _Session(stage)
    strategy = sequences(subject.players, stage.known.allows)
    start = time.monotonic()
    for turn in itertools.count():
        test: Any = given(strategy)(lambda drawn: session.run(drawn))
        test = settings(
            max_examples=_EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )(test)
        test = hypothesis.seed(f"{seed}-{turn}")(test)
        try:
            test()
        except Exception:
            if session.found is None:
                raise
            break
        if session.steps >= steps:
            elapsed = time.monotonic() - start
            return Outcome(session.steps, session.sequences, elapsed, stage.known.used)
    assert session.found is not None
    note = f"seed {seed}, after {session.steps} steps"
    taken, why = session.found
    if not any(_fails(session, taken) for _ in range(3)):
        note += "; it does not happen every time"
    elif shrink:
        taken = _shrunk(session, taken)
        _fails(session, taken)
        why = session.found[1]
    raise Found(taken, f"{subject.name}: {type(why).__name__}: {why}", note) from why


def replay(subject: Subject, stage: Stage, steps: list[Step]) -> None:
    """Run *steps* as they stand."""
    session = _Session(stage)
    try:
        session.run(steps)
    except Exception as error:
        raise Found(steps, f"{subject.name}: {error}", "replayed") from error
