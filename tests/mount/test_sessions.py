# SPDX-License-Identifier: MIT
"""Every session that is printed in the documents, done as it is printed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from documents import Command, Shell, commands, matches, run_by  # tests/plugins

if TYPE_CHECKING:
    from tests.mount.conftest import Spot

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)

pytestmark = pytest.mark.mount


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(ROOT / page))])
def test_a_session_goes_as_it_is_printed(page: str, spot: Spot) -> None:
    home = spot.top / "home"
    home.mkdir()
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(spot.top / "run"),
        "TMPDIR": str(spot.top),
    }
    (spot.top / "run").mkdir(mode=0o700)
    shell = Shell(home, env)
    try:
        for command in commands(ROOT / page):
            status, printed = shell.run(command.text)
            where = f"{page}:{command.line}: $ {command.text}"
            said = "\n".join([where, f"status {status}", *printed])
            if command.shown:
                assert matches(command.shown, printed), said
            else:
                assert status == 0, said
    except AssertionError:
        spot.clean()  # what is left is not the matter
        raise
    finally:
        shell.end()
    assert spot.alone(), f"{page} leaves something mounted"


@pytest.mark.parametrize("page", PAGES)
def test_what_others_run_is_run(page: str) -> None:
    for test in run_by(ROOT / page):
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), test


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_printed_where_no_test_finds_it(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^ {4,}\$ .*", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b"], False),
        (["pid ... of me"], ["pid 17 of me"], True),
        (["pid ... of me"], ["pid 17 of you"], False),
        (["a.c"], ["abc"], False),
        (["a  b"], ["a     b"], True),
        (["a b"], ["a     b"], False),
    ],
)
def test_how_output_is_compared(shown: list[str], printed: list[str], same: bool) -> None:
    assert matches(shown, printed) is same


def test_how_a_page_is_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n<!-- before: mkdir x -->\n```console\n$ ls \\\n> -a\nx\n$ cd\n```\n"
        "<!-- run by: tests/other.py -->\n```console\n$ no\n```\n```sh\nno\n```\n"
        "```console\n$ yes\n```\n<!-- among others -->\n```console\n$ ls\ny\n```\n"
    )
    assert list(commands(page)) == [
        Command("mkdir x", 2, hidden=True),
        Command("ls \\\n-a", 4, ["x"]),
        Command("cd", 7),
        Command("yes", 17),
        Command("ls", 21, ["...", "y", "..."]),
    ]
    assert list(commands(page, by="tests/other.py")) == [Command("no", 11)]
    assert run_by(page) == ["tests/other.py"]
