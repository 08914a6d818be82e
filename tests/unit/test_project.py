# SPDX-License-Identifier: MIT
"""House rules that no other tool checks: where the system is asked, and how a source file begins."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("xloop", "backends", "tests", "benchmarks", "ci")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).rglob("*.py")
)
SHIPPED = [path for path in SOURCES if path.startswith(("xloop/", "backends/"))]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("**/*.sh"))

#: The only files that may ask which system this is; the others ask xloop.host for what they need.
ASK_THE_SYSTEM = ("xloop/host/", "xloop/registry.py")
SYSTEM_QUESTIONS = {"sys.platform", "os.name", "platform.system", "platform.uname"}

MOST_LINES = 600
#: Longer, and why that is better than two files.
LONG = {
    "backends/xloop_backends/devfuse/handlers.py": "one method an opcode, and nothing else",
    "xloop/host/linux.py": "one function a system call, and nothing else",
}


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_bytes(), path)


def system_questions(tree: ast.Module) -> list[str]:
    """Return where *tree* asks for the system, ``assert not TYPE_CHECKING or sys.platform`` aside.

    That assertion tells a type checker for which system a file is meant; it asks nothing.
    """
    told = {
        id(node)
        for statement in tree.body
        if isinstance(statement, ast.Assert)
        and ast.unparse(statement).startswith("assert not TYPE_CHECKING or sys.platform ")
        for node in ast.walk(statement)
    }
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in SYSTEM_QUESTIONS
        and id(node) not in told
    ]


def test_there_are_sources() -> None:
    assert "xloop/ops.py" in SHIPPED
    assert "ci/linux.sh" in SCRIPTS


@pytest.mark.parametrize("path", [p for p in SHIPPED if not p.startswith(ASK_THE_SYSTEM)])
def test_the_system_is_asked_in_one_place(path: str) -> None:
    assert system_questions(parsed(path)) == []


@pytest.mark.parametrize("path", SOURCES)
def test_a_source_file_says_what_it_is(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    if not text:
        assert path.endswith("/__init__.py")
        return
    head = text.split("\n", 2)
    assert "# SPDX-License-Identifier: MIT" in head[:2]
    assert ast.get_docstring(parsed(path)), "no docstring"


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS])
def test_a_source_file_is_ascii(path: str) -> None:
    (ROOT / path).read_bytes().decode("ascii")


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in LONG])
def test_a_source_file_is_short_enough_to_read(path: str) -> None:
    lines = (ROOT / path).read_bytes().count(b"\n")
    assert lines <= MOST_LINES, "split it: one file, one subject"


@pytest.mark.parametrize("path", SCRIPTS)
def test_a_script_says_what_it_is(path: str) -> None:
    lines = (ROOT / path).read_text(encoding="ascii").split("\n")
    assert lines[0].startswith("#!/")
    assert lines[1] == "# SPDX-License-Identifier: MIT"
    assert lines[2].startswith("# ")
