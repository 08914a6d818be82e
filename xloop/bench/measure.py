# SPDX-License-Identifier: MIT
"""The run: which row is done on which subject, and when.

Owns the order of measurements, their alternation, and that nothing is left of them.  Does not own
the rows, the subjects, nor what the figures are made into (:mod:`xloop.bench.report`).

Every round does every row on every subject, one subject right after the other and in an order
that turns with each round and is reversed in every other: whatever else the machine does hits all
alike, and none always follows the same one.  The first round warms up and does not count; of
the programs only the native run is warmed up, for their files are the same for all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from xloop.bench import place as places
from xloop.bench.crew import Burners, Crew, Failure, Measured, cpus
from xloop.bench.rows import WORKLOADS, Row, Sizes
from xloop.bench.subjects import NATIVE, Native, Subject, sweep
from xloop.bench.workloads import all_rows, make_material
from xloop.errors import MountError, XloopError
from xloop.host import process

__all__ = ["Plan", "Progress", "Result", "Results", "run", "with_needs"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    place: places.Place
    subjects: Sequence[Subject]  #: without the plain directory
    rows: Sequence[Row]
    sizes: Sizes
    rounds: int
    work_rounds: int  #: of whole programs, which take longer
    clients: Sequence[int]
    busy: bool

    def rounds_of(self, group: str) -> int:
        return self.work_rounds if group == WORKLOADS else self.rounds


@dataclass(slots=True)
class Result:
    """What one row came to, done by so many clients at once."""

    row: Row
    clients: int
    #: By subject, round by round.
    values: dict[str, list[Measured]] = field(default_factory=dict)
    #: By subject: why it could not be done there.
    failures: dict[str, str] = field(default_factory=dict)

    def costs(self) -> dict[str, list[float]]:
        """Return seconds an operation, byte or run of the subjects that did all rounds."""
        return {
            name: [value.cost for value in values]
            for name, values in self.values.items()
            if name not in self.failures
        }


@dataclass(slots=True)
class Results:
    """All that was measured."""

    results: list[Result] = field(default_factory=list)
    #: Those that were measured, the plain directory first.
    subjects: list[Subject] = field(default_factory=list)
    #: By subject: why it was left out.
    left_out: dict[str, str] = field(default_factory=dict)
    load_before: float | None = None
    load_after: float | None = None


#: Seconds of rest before each measurement, in which what the one before has asked of the system is over.
#: xloop keeps idle CPUs awake for some milliseconds after a request, and whoever came next had the good of it.
_SETTLE = 0.1

#: Told what is being measured.
Progress = Callable[[str], object]


def run(plan: Plan, started: Callable[[int], Progress]) -> Results:
    """Measure.  Nothing is left, however it ends.

    *started* is called when all are mounted, with the number of measurements to come, and returns
    what is to be called at each of them.
    """
    results = Results(load_before=places.load())
    with _undisturbed_end() as end:
        top = places.make_directory(plan.place)
        end.callback(_remove, top)
        source = top / "source"
        for path in (source, top / "mounts", top / "material"):
            path.mkdir()
        make_material(top / "material", plan.rows, plan.sizes)
        mounted = _Mounted(source, top / "mounts")
        end.callback(mounted.close)
        for subject in [Native(), *plan.subjects]:
            try:
                mounted.add(subject)
            except XloopError as exc:
                if subject.kind != "peer":
                    raise
                results.left_out[subject.name] = str(exc).replace("\n", ": ", 1)
            else:
                results.subjects.append(subject)
        if plan.busy:
            burners = Burners(cpus())
            end.callback(burners.close)
        progress = started(_steps(plan, len(results.subjects)))
        for clients in plan.clients:
            crew = Crew(clients, plan.sizes.shared_by(clients), top / "material")
            end.callback(mounted.dismiss, crew)
            for group, rows in _groups(plan, clients).items():
                results.results += _Group(plan, group, rows, mounted, crew, progress).run()
            crew.close()
        results.load_after = places.load()
    return results


@contextmanager
def _undisturbed_end() -> Iterator[ExitStack]:
    """Yield a stack of what is to be done at the end, in which no signal disturbs it."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        with process.blocked():
            stack.close()


def _remove(top: Path) -> None:
    """Remove *top*, but never while something is mounted there that could hang us."""
    left = sweep(top)
    if left:
        raise MountError(
            f"{left[0]!r} is still mounted", f"unmount it, then remove {os.fspath(top)!r}"
        )
    shutil.rmtree(top)


def _steps(plan: Plan, subjects: int) -> int:
    return sum(
        len(rows) * subjects * plan.rounds_of(group)
        for clients in plan.clients
        for group, rows in _groups(plan, clients).items()
    )


def _groups(plan: Plan, clients: int) -> dict[str, list[Row]]:
    """Return the wanted rows by group; programs are not run by many clients at once."""
    groups: dict[str, list[Row]] = {}
    for row in plan.rows:
        if clients == 1 or row.group != WORKLOADS:
            groups.setdefault(row.group, []).append(row)
    return groups


class _Mounted:
    """The subjects, mounted; it unmounts them."""

    def __init__(self, source: Path, mountpoints: Path) -> None:
        self._source = source
        self._mountpoints = mountpoints
        self.subjects: list[Subject] = []

    def add(self, subject: Subject) -> None:
        self._mountpoint(subject).mkdir()
        subject.mount(self._source, self._mountpoint(subject))
        self.subjects.append(subject)

    def _mountpoint(self, subject: Subject) -> Path:
        return self._mountpoints / subject.name

    def again(self, subject: Subject) -> None:
        """Mount anew: nothing is in a cache of the mount or of its server afterwards."""
        subject.unmount()
        subject.mount(self._source, self._mountpoint(subject))

    def dismiss(self, crew: Crew) -> None:
        """End the clients, also those that wait for a mount that hangs."""
        if not crew.close():
            for subject in self.subjects:
                subject.abort()
            crew.close()

    def close(self) -> None:
        with ExitStack() as stack:  # each, whatever happens to the others
            for subject in self.subjects:
                stack.callback(subject.unmount)


class _Group:
    """The rows of one group: each works on what those before it have left."""

    def __init__(
        self,
        plan: Plan,
        group: str,
        rows: Sequence[Row],
        mounted: _Mounted,
        crew: Crew,
        progress: Progress,
    ) -> None:
        self._group = group
        self._wanted = {row.name for row in rows}
        self._mounted = mounted
        self._crew = crew
        self._sizes = plan.sizes
        self._rounds = plan.rounds_of(group)
        self._progress = progress
        self._rows = with_needs(rows)
        self._results = {row.name: Result(row, crew.count) for row in self._rows}
        #: By subject: why nothing more can be done on it.
        self._lost: dict[str, str] = {}

    def run(self) -> list[Result]:
        for number in range(self._rounds + 1):
            self._round(number)
        return [result for name, result in self._results.items() if name in self._wanted]

    def _round(self, number: int) -> None:
        order = self._order(number)
        for subject in order:
            self._tell("begin", subject, number)
        for row in self._rows:
            for subject in order:
                if number and row.name in self._wanted:
                    self._progress(f"{subject.name}: {row.title}")
                self._measure(row, subject, number)
        for subject in order:
            self._tell("end", subject, number)

    def _tell(self, what: str, subject: Subject, number: int) -> None:
        """Let the clients begin or end a round there."""
        name = subject.name
        if name in self._lost:
            return
        try:
            self._crew.tell(what, self._tops(subject, number))
        except Failure as exc:
            if name == NATIVE:
                raise XloopError(f"in {subject.path}: {exc}") from exc
            if what == "begin" or number < self._rounds:
                self._lose(name, str(exc))

    def _lose(self, name: str, why: str) -> None:
        """Do no more on a subject, and count no row of this group there.

        Not the end of the run: programs that keep a descriptor for every file, say, come far and
        then have none left, and minutes of measuring others would be lost.
        """
        self._lost[name] = why
        for result in self._results.values():
            result.failures.setdefault(name, why)

    def _order(self, number: int) -> list[Subject]:
        subjects = self._mounted.subjects
        if number == 0 and self._group == WORKLOADS:
            return [subject for subject in subjects if subject.name == NATIVE]
        turned = number % len(subjects)
        order = subjects[turned:] + subjects[:turned]
        return order[::-1] if number % 2 else order

    def _tops(self, subject: Subject, number: int) -> list[str]:
        top = f"{subject.path}/{self._group}-{self._crew.count}-{subject.name}-{number}"
        return [f"{top}/{client}" for client in range(self._crew.count)]

    def _measure(self, row: Row, subject: Subject, number: int) -> None:
        name, result = subject.name, self._results[row.name]
        for need in row.needs:
            if name in self._results[need].failures:
                result.failures[name] = self._results[need].failures[name]
        if name in result.failures:
            return
        if row.fresh:
            try:
                self._mounted.again(subject)
            except XloopError as exc:
                self._lose(name, str(exc).replace("\n", ": ", 1))
                return
        time.sleep(_SETTLE)
        try:
            measured = self._crew.measure(row.name, self._tops(subject, number))
        except Failure as exc:
            if name == NATIVE:
                raise XloopError(f"{row.title!r} cannot be done in {subject.path}: {exc}") from exc
            result.failures[name] = str(exc)
        except XloopError as exc:
            raise XloopError(f"on {name}: {exc.why}", exc.fix) from exc
        else:
            if number:  # the first round warms up
                result.values.setdefault(name, []).append(measured)


def with_needs(rows: Sequence[Row]) -> list[Row]:
    """Return *rows* and those that must be done for them, in the order in which they are done."""
    every = all_rows()
    names = {row.name for row in rows}
    ahead = list(names)
    while ahead:
        for name in every[ahead.pop()].needs:
            if name not in names:
                names.add(name)
                ahead.append(name)
    return [row for row in every.values() if row.name in names]
