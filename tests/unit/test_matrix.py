# SPDX-License-Identifier: MIT
"""tests/README.md says what is tested where, and it is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from xloop.ops import Op

TESTS = Path(__file__).parent.parent
README = (TESTS / "README.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below *heading*, without its first two lines."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


OPERATIONS = {row[0].strip("`"): row for row in _rows("Operations")}
TRAPS = _rows("Traps")


def _files(text: str) -> list[str]:
    return re.findall(r"`((?:contract|unit|mount|real)/test_\w+\.py)", text)


def test_every_operation_is_in_the_matrix_in_the_order_of_the_table() -> None:
    assert list(OPERATIONS) == [op.value for op in Op]


@pytest.mark.parametrize("op", Op, ids=lambda op: op.value)
def test_an_operation_has_a_test_file_or_a_reason(op: Op) -> None:
    _, where, why = OPERATIONS[op.value]
    files = _files(where)
    for name in files:
        assert (TESTS / name).is_file()
    assert files or len(why) > 20, "neither a test nor a reason"


def test_every_contract_test_file_is_in_the_matrix() -> None:
    named = set(_files(README))
    there = {f"contract/{path.name}" for path in (TESTS / "contract").glob("test_*.py")}
    assert there <= named


def test_the_tests_that_are_named_exist() -> None:
    for name, function in re.findall(r"`((?:contract|unit)/test_\w+\.py)::(\w+)`", README):
        assert function in _functions(TESTS / name), f"{name} has no {function}"


def test_every_trap_has_a_test_or_a_reason() -> None:
    numbers = [row[0] for row in TRAPS]
    assert numbers == sorted(numbers, key=int)
    for number, _, where in TRAPS:
        named = re.findall(r"`(?:contract|unit|mount|real)/test_\w+\.py", where)
        assert named or len(where) > 20, f"trap {number} has neither"
