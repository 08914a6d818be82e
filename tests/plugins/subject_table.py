# SPDX-License-Identifier: MIT
"""A pytest plugin: what became of the tests of each subject, as a table at the end of a run.

Owns the counting.  Does not own what a subject is: any object with a ``name``, or a text, that a test
has for its parameter ``under_test`` or ``subject``.  ci/linux.sh finds the rows by the heading.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

HEADING = "subjects"
#: As they are printed.  A known difference is a test that is expected to fail there, and does.
COLUMNS = ("passed", "failed", "known", "skipped")
_PARAMETERS = ("under_test", "subject")


def subject_of(item: pytest.Item) -> str | None:
    """Return the name of the subject that *item* tests, None if it is about none."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for name in _PARAMETERS:
        if name in parameters:
            return str(getattr(parameters[name], "name", parameters[name]))
    return None


def column_of(report: pytest.TestReport) -> str | None:
    """Return where a test is counted for the *report* of one of its three phases; None: not for this."""
    if report.failed:
        return "failed"
    if report.skipped:
        return "known" if hasattr(report, "wasxfail") else "skipped"
    return "passed" if report.when == "call" else None


class SubjectTable:
    """Counts as the reports come in."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str, str]] = {}
        self._seconds: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report: Any = yield
        if (name := subject_of(item)) is not None:
            self.count(name, report)
        return report

    def count(self, name: str, report: pytest.TestReport) -> None:
        self._seconds[name] += report.duration
        outcomes = self._outcomes.setdefault(name, {})
        column = column_of(report)
        # A test that passed, and left something behind, has failed.
        if column is not None and outcomes.get(report.nodeid) != "failed":
            outcomes[report.nodeid] = column

    def lines(self) -> list[str]:
        """Return the table, without its heading; empty if no test was about a subject."""
        if not self._outcomes:
            return []
        who = "root" if os.geteuid() == 0 else "user"
        rows = [("subject", "by", *COLUMNS, "seconds")]
        for name, outcomes in self._outcomes.items():
            counts = Counter(outcomes.values())
            cells = [str(counts[column]) for column in COLUMNS]
            rows.append((name, who, *cells, f"{self._seconds[name]:.0f}"))
        return [
            f"{row[0]:19}{row[1]:6}" + "".join(f"{cell:>9}" for cell in row[2:]) for row in rows
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if lines := self.lines():
            terminalreporter.section(HEADING)
            for line in lines:
                terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SubjectTable(), "subject-table-of-this-run")
