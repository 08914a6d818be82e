# SPDX-License-Identifier: MIT
"""The options of the differential test, and where it takes place.  Owns no test.

pytest tests/differential                                       a few thousand steps
pytest tests/differential --steps 200000 --differential-subject devfuse
pytest tests/differential --replay FILE                         a sequence that was printed
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from differential.subjects import ROOT, SUBJECTS, Stage, Subject, Unavailable, stage

Staged = Callable[..., AbstractContextManager[Stage]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("differential", "random operations (tests/differential)")
    group.addoption("--steps", type=int, default=None, help="for all subjects together: 12000")
    group.addoption("--seed", type=int, default=None, help="of the sequences: another each time")
    group.addoption("--replay", metavar="FILE", default=None, help="run the steps in FILE only")
    group.addoption(
        "--differential-subject",
        action="append",
        metavar="NAME",
        choices=[subject.name for subject in SUBJECTS],
        help="test this subject only; may be repeated",
    )


def option(config: pytest.Config, name: str, default: Any) -> Any:
    """Return an option of this directory: its default where pytest was pointed elsewhere."""
    value = config.getoption(name, None)
    return default if value is None else value


def chosen(config: pytest.Config) -> list[Subject]:
    wanted = option(config, "--differential-subject", None)
    kind = "root" if ROOT else "user"
    return [
        subject
        for subject in SUBJECTS
        if subject.only in (None, kind) and (not wanted or subject.name in wanted)
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        params = [pytest.param(subject, id=subject.name) for subject in chosen(metafunc.config)]
        metafunc.parametrize("subject", params)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    steps = option(config, "--steps", 12000)
    for item in items:
        if item.path.parent == Path(__file__).parent:
            # A hang is noticed where it happens, by the mount's own watch.
            item.add_marker(pytest.mark.timeout(240 + steps // 20))


@pytest.fixture
def steps(subject: Subject, request: pytest.FixtureRequest) -> int:
    """How many steps the subject is due."""
    every = int(option(request.config, "--steps", 12000))
    return math.ceil(every * subject.weight / sum(s.weight for s in chosen(request.config)))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(option(request.config, "--seed", random.getrandbits(31)))


@pytest.fixture
def replayed(request: pytest.FixtureRequest) -> Path | None:
    found = option(request.config, "--replay", None)
    return None if found is None else Path(found)


@pytest.fixture
def place(base: Path, request: pytest.FixtureRequest) -> Path:
    """A directory of this test's own."""
    path = base / f"differential-{abs(hash(request.node.nodeid)):x}"
    path.mkdir()
    path.chmod(0o755)
    return path


@pytest.fixture
def staged(place: Path, request: pytest.FixtureRequest) -> Staged:
    """Return what shows a subject, or skips the test because it cannot be had."""

    @contextlib.contextmanager
    def show(subject: Subject, **kwargs: Any) -> Iterator[Stage]:
        with contextlib.ExitStack() as stack:
            try:
                shown = stack.enter_context(stage(subject, place, **kwargs))
            except Unavailable as why:
                if request.config.getoption("--require-mount"):
                    pytest.fail(str(why))
                pytest.skip(str(why))
            yield shown

    return show
