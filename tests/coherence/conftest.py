# SPDX-License-Identifier: MIT
"""For tests of coherent caches: a source, and a server that tells its status at any time.

Packages, by the names that Debian's apt-get install wants:
    findutils git

Owns no test.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from sources.conftest import lab, shared_lab  # noqa: F401  # fixtures, of the folder beside this one
from sources.served import Served

#: No measure of anything: what takes longer is never going to happen.
PATIENCE = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("coherence", "coherent caches (tests/coherence)")
    group.addoption("--storm-rounds", type=int, default=4, help="of random changes: 4")
    group.addoption(
        "--storm-seed", type=int, default=None, help="of the changes: another each time"
    )
    group.addoption("--coherence-files", type=int, default=2000, help="of the warm tree: 2000")


def eventually(holds: Callable[[], object]) -> bool:
    """Wait until *holds*; False when that never happens."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Place(Served):
    """A source and its mount.  What is not coherent is believed for ever: nothing is right by chance."""

    def __init__(self, top: Path, *, source: Path | None = None, **fields: object) -> None:
        """*source*: an empty directory that is there already."""
        self.source = source or top / "source"
        self.source.mkdir(exist_ok=True)
        (top / "mnt").mkdir()
        chosen = {
            "cache": "coherent",
            # What is relayed to watchers goes through the mount, and would be counted.
            "events": "off",
            "attr_timeout": 3600.0,
            "entry_timeout": 3600.0,
            "negative_timeout": 3600.0,
            # The kernel's word on who may search a directory: then it does not ask.
            "default_permissions": True,
            **fields,
        }
        super().__init__(self.source, top / "mnt", **chosen)

    def counted(self, call: Callable[[], object]) -> dict[str, int]:
        """Return the requests that *call* makes, but for those that nobody waits for."""
        before = self.status()["requests"]
        call()
        after = self.status()["requests"]
        quiet = ("FORGET", "BATCH_FORGET", "RELEASE", "RELEASEDIR", "INTERRUPT")
        return {
            name: number - before.get(name, 0)
            for name, number in after.items()
            if name not in quiet and number != before.get(name, 0)
        }


@pytest.fixture
def place(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def make(**fields: object) -> Place:
        made.append(Place(tmp_path_factory.mktemp("coherence"), **fields))
        return made[-1]

    yield make
    for one in made:
        one.end()
        assert not os.path.ismount(one.point)
