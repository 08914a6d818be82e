# SPDX-License-Identifier: MIT
"""tests/plugins: the table of subjects counts every test once, and where it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from subject_table import HEADING, SubjectTable


def _report(test: str, when: Any, outcome: Any, *, known: bool = False) -> pytest.TestReport:
    report = pytest.TestReport(test, ("f", 1, test), {}, outcome, None, when, duration=0.5)
    if known:
        report.wasxfail = "a reason"
    return report


def _counted(*reports: pytest.TestReport) -> list[str]:
    table = SubjectTable()
    for report in reports:
        table.count("devfuse", report)
    return table.lines()[1].split()


def test_each_test_is_in_one_column() -> None:
    name, _, *counts, seconds = _counted(
        _report("a", "setup", "passed"),
        _report("a", "call", "passed"),
        _report("a", "teardown", "passed"),
        _report("b", "call", "failed"),
        _report("c", "setup", "failed"),
        _report("d", "call", "skipped", known=True),
        _report("e", "setup", "skipped", known=True),  # known, and not even tried
        _report("f", "setup", "skipped"),
        _report("f", "teardown", "passed"),
    )
    assert name == "devfuse"
    assert counts == ["1", "2", "2", "1"]
    assert seconds == "4"


def test_a_test_that_passed_and_left_something_behind_has_failed() -> None:
    counts = _counted(_report("a", "call", "passed"), _report("a", "teardown", "failed"))
    assert counts[2:6] == ["0", "1", "0", "0"]
    counts = _counted(_report("a", "call", "failed"), _report("a", "teardown", "failed"))
    assert counts[2:6] == ["0", "1", "0", "0"]


def test_a_run_without_subjects_has_no_table() -> None:
    assert SubjectTable().lines() == []


def test_the_run_that_decides_prints_the_table(request: pytest.FixtureRequest) -> None:
    script = (request.config.rootpath / "ci" / "linux.sh").read_text()
    assert f"^=+ {HEADING} =+$" in script
