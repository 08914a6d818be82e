# SPDX-License-Identifier: MIT
"""tests/known_differences.toml: every entry belongs to a test, and says why."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
ENTRIES = tomllib.loads((TESTS / "known_differences.toml").read_text()).get("difference", [])
KEYS = {"test", "subject", "why", "case", "user", "source", "run"}


def _subjects() -> set[str]:
    """Return the names of the subjects that tests/conftest.py defines."""
    tree = ast.parse((TESTS / "conftest.py").read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id == "Subject"
        and isinstance(call.args[0], ast.Constant)
    }


def test_the_subjects_are_found() -> None:
    assert {"native", "inprocess", "devfuse"} <= _subjects()


@pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda e: f"{e['subject']}-{e['test']}-{e.get('case')}"
)
def test_an_entry_belongs_to_a_test_and_says_why(entry: dict[str, str]) -> None:
    assert set(entry) <= KEYS
    path, _, function = entry["test"].partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert entry["subject"] in _subjects() - {"native"}
    assert len(entry["why"]) > 20
    assert entry.get("user", "root") in ("root", "user")


def test_no_entry_is_there_twice() -> None:
    keys = [tuple(entry.get(key, "") for key in sorted(KEYS - {"why"})) for entry in ENTRIES]
    assert len(keys) == len(set(keys))
