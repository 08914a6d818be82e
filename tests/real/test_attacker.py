# SPDX-License-Identifier: MIT
"""Nobody gets out of the source, however its directories and files are swapped for links meanwhile.

A swapper works on the source while several attackers work through the mount, or on a Loopback in
this process.  Escapes are counted: what was read, what was changed, what could be named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import xloop
from real import attack
from real.conftest import Show
from real.inprocess_attack import Attacker, Naive
from real.support import clean_environment

PROGRAM = Path(attack.__file__)

#: Nothing waits in an attack: who is not done this long after its end hangs.
PATIENCE = 60.0


class Outcome(NamedTuple):
    """What came of an attack."""

    swaps: int
    attempts: Counter[str]
    errors: Counter[str]
    escapes: list[str]

    def assert_it_was_one(self) -> None:
        """Fail unless there was a race at all: attempts that hit, and attempts that met a link."""
        assert self.swaps > 100, self
        assert self.attempts["read"] > 0, self
        assert sum(self.errors.values()) > 0, self


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=clean_environment())


def finish(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """Return what *process* reports at its end."""
    try:
        out, _ = process.communicate(timeout=seconds + PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs in a system call: {process.args!r}")
    assert process.returncode == 0
    return dict(json.loads(out))


def attack_directory(shown: Path, source: str, outside: str, seconds: float) -> Outcome:
    """Attack what is *shown* by two processes while a third swaps in *source*."""
    before = attack.fingerprint(outside)
    swapper = start("swap", source, seconds)
    attackers = [start("attempt", shown, seconds, outside) for _ in range(2)]
    try:
        reports = [finish(process, seconds) for process in attackers]
        swaps = int(finish(swapper, seconds)["swaps"])
    finally:
        for process in (swapper, *attackers):
            process.kill()
            process.wait()
    escapes = [escape for report in reports for escape in report["escapes"]]
    if attack.fingerprint(outside) != before:
        escapes.append("something changed outside")
    attempts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for report in reports:
        attempts.update(report["attempts"])
        errors.update(report["errors"])
    return Outcome(swaps, attempts, errors, escapes)


def attack_operations(
    operations: xloop.Operations, source: str, outside: str, seconds: float
) -> Outcome:
    """Attack *operations* by three threads while a process swaps in *source*."""
    before = attack.fingerprint(outside)
    witness = attack.Witness(outside)
    swapper = start("swap", source, seconds)
    attackers = [Attacker(operations, witness, seed) for seed in range(3)]
    threads = [
        threading.Thread(target=attacker.run, args=(seconds,), daemon=True)
        for attacker in attackers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + PATIENCE)
        assert not thread.is_alive(), "an attacker hangs in an operation"
    swapper.terminate()
    swaps = int(finish(swapper, seconds)["swaps"])
    if attack.fingerprint(outside) != before:
        witness.escapes.append("something changed outside")
    return Outcome(swaps, witness.attempts, witness.errors, witness.escapes)


@pytest.fixture
def field(work: Path) -> tuple[str, str]:
    """The source, and the outside that must stay untouched."""
    return attack.build(str(work / "attack"))


@pytest.mark.timeout(900)
def test_nobody_gets_out_through_a_mount(
    show: Show, field: tuple[str, str], attack_seconds: float, subject: str
) -> None:
    if subject == "native":
        pytest.skip("a directory itself lets everybody out: see the next test")
    source, outside = field
    # No caching by the kernel: every component of every path is asked for.
    shown = show(Path(source), entry_timeout=0.0, attr_timeout=0.0)
    outcome = attack_directory(shown.mnt, source, outside, attack_seconds)
    assert outcome.escapes == []
    outcome.assert_it_was_one()


def test_the_attack_gets_out_of_a_plain_directory(field: tuple[str, str]) -> None:
    """Shows that the attack works: on the source itself, links are followed."""
    source, outside = field
    outcome = attack_directory(Path(source), source, outside, 1.0)
    assert "something changed outside" in outcome.escapes
    assert len(outcome.escapes) > 10, "what was read and named there too"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("descriptors", [16, None], ids=["few-descriptors", "many-descriptors"])
def test_nobody_gets_out_of_a_loopback(
    field: tuple[str, str], attack_seconds: float, descriptors: int | None
) -> None:
    source, outside = field
    loopback = xloop.Loopback(source, descriptors=descriptors)
    loopback.init()
    outcome = attack_operations(loopback, source, outside, attack_seconds)
    assert outcome.escapes == []
    outcome.assert_it_was_one()
    assert len(loopback.nodes) == 1, "nodes that nobody knows any more"
    loopback.destroy()


def test_the_attack_gets_out_of_a_file_system_that_opens_paths(field: tuple[str, str]) -> None:
    """Shows that the attack in this process works."""
    source, outside = field
    outcome = attack_operations(Naive(source), source, outside, 20.0)
    assert outcome.escapes, outcome


def test_a_link_to_the_outside_is_shown_and_not_followed(
    show: Show, field: tuple[str, str]
) -> None:
    source, _ = field
    os.symlink("../outside", os.path.join(source, "out"))
    mnt = show(Path(source)).mnt
    assert os.readlink(mnt / "out") == "../outside"
    with pytest.raises(NotADirectoryError):
        os.open(mnt / "out", os.O_DIRECTORY | os.O_NOFOLLOW)
