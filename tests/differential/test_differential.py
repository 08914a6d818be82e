# SPDX-License-Identifier: MIT
"""The differential test: nobody finds a difference between a directory and what a subject shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from differential.conftest import Staged
from differential.driver import Found, drive, replay
from differential.steps import PRELUDE, parse, render
from differential.subjects import Subject


def test_random_operations_show_no_difference(
    subject: Subject, staged: Staged, steps: int, seed: int, replayed: Path | None
) -> None:
    with staged(subject) as stage:
        if replayed is not None:
            replay(subject, stage, parse(replayed.read_text()))
            return
        print(f"seed {seed}")
        try:
            outcome = drive(subject, stage, steps, seed)
        except Found as found:
            # Where it was raised says nothing.
            pytest.fail(str(found), pytrace=False)
    rate = outcome.steps / outcome.seconds
    print(f"{outcome.steps} steps in {outcome.sequences} sequences, {rate:.0f} steps/s")
    for why, times in outcome.excused.items():
        print(f"{times} x {why}")


def test_a_printed_sequence_can_be_read_again() -> None:
    assert parse(f"# a comment\n{render(list(PRELUDE))}") == list(PRELUDE)
