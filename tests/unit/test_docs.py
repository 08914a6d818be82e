# SPDX-License-Identifier: MIT
"""The documents against the code: tables are complete, links lead somewhere, examples compile."""

from __future__ import annotations

import collections
import errno
import os
import re
import textwrap
from pathlib import Path

import pytest

import xloop
from xloop.fstab import GENERIC
from xloop.ops import Op
from xloop.options import TABLE, MountOptions
from xloop.registry import bundled

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def cells(page: str, column: int) -> set[str]:
    """Return what stands in backticks in a column of the tables of *page*, their heads aside."""
    rows = [line for line in text_of(page).splitlines() if re.match(r"\| `(?!-o)", line)]
    split = [re.split(r"(?<!\\)\|", row) for row in rows]
    return {
        cell.replace("\\|", "|") for row in split for cell in re.findall("`([^`]+)`", row[column])
    }


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def test_every_operation_has_its_line() -> None:
    assert cells("docs/operations.md", 1) == {op.value for op in Op}


def test_every_option_has_its_line() -> None:
    words = {word for option in TABLE for word in option.words}
    words |= {f"{option.key}={option.metavar}" for option in TABLE if option.key}
    assert cells("docs/options.md", 1) == words
    assert cells("docs/options.md", 2) == set(MountOptions.__dataclass_fields__)


def test_every_option_of_mount_has_its_line() -> None:
    lines = text_of("docs/fstab.md").splitlines()
    for row in GENERIC:
        words = ", ".join(f"`{word}`" for word in row.words)
        assert f"| {words} | {row.fate.value} | {row.why} |" in lines
    assert cells("docs/fstab.md", 1) == {word for row in GENERIC for word in row.words}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", text_of(page)):
        if not target.startswith("https://"):
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_examples_compile(page: str) -> None:
    for block in python_blocks(page):
        compile(textwrap.dedent(block), page, "exec")


def test_every_backend_has_its_line() -> None:
    rows = [line for line in text_of("README.md").splitlines() if line.startswith("| Linux")]
    for name in bundled():
        assert any(name.rstrip("23") in row for row in rows), name


def test_the_readme_calls_the_script_that_continuous_integration_calls() -> None:
    commands = re.findall(r"^```sh\n(.*?)^```$", text_of("README.md"), re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert f"\n{commands[1].strip()} || status=1\n" in text_of(".ci/run")
    assert f"run: {commands[1]}" in text_of(".github/workflows/ci.yml")


def test_the_examples_of_a_subclass_and_a_layer_do_what_they_say(tmp_path: Path) -> None:
    names: dict[str, object] = {
        "xloop": xloop,
        "errno": errno,
        "os": os,
        "collections": collections,
    }
    for block in python_blocks("docs/library.md"):
        if block.startswith("class "):
            exec(block, names)
    (tmp_path / "file").touch()
    no_delete, counting = names["NoDelete"], names["Counting"]
    assert isinstance(no_delete, type)
    assert isinstance(counting, type)
    layer = counting(no_delete(tmp_path))
    me = xloop.Caller(os.getuid(), os.getgid(), os.getpid())
    entry = layer.lookup(me, xloop.ROOT_INO, b"file")
    with pytest.raises(PermissionError):
        layer.unlink(me, xloop.ROOT_INO, b"file")
    layer.forget(entry.ino, 1)
    layer.destroy()
    assert (tmp_path / "file").exists()
    assert layer.counts == {Op.LOOKUP: 1, Op.UNLINK: 1, Op.FORGET: 1, Op.DESTROY: 1}
