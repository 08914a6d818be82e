# SPDX-License-Identifier: MIT
"""docs/semantics.md promises what is tested: every test that it names is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("\n## Traps\n")[2].splitlines()
    if line.startswith("|")
][2:]


@functools.cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_bytes())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: str(part))
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert (ROOT / path).is_file()
    assert name in functions(ROOT / path)


def test_there_are_traps() -> None:
    assert len(ROWS) > 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_a_trap_has_a_test_or_a_reason(row: list[str]) -> None:
    assert len(row) == 2
    named = re.findall(r"`tests/[\w/]+\.py::\w+`", row[1])
    # A sentence: more than what is left between two names.
    assert named or len(row[1].split()) > 5


def test_every_test_that_is_named_is_named_in_full() -> None:
    spelled = re.findall(r"test_\w+\.py\S*", PAGE)
    assert len(spelled) == len(re.findall(r"`tests/[\w/]+\.py::\w+`", PAGE))
