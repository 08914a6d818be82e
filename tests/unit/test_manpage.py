# SPDX-License-Identifier: MIT
"""The manual page says what ``--help`` says, and is roff that renders without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from xloop import options
from xloop.cli import commands

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "man" / "xloop.1"


def rendered() -> str:
    """Return the page as a person reads it, each run of blanks as one."""
    program = next((words for words in ROFF if shutil.which(words[0])), None)
    if program is None:
        pytest.skip("neither mandoc nor groff is installed")
    done = subprocess.run([*program, PAGE], capture_output=True, text=True, check=True)
    plain = re.sub(r".\x08|\x1b\[[\d;]*m", "", done.stdout)  # bold is printed twice
    return " ".join(plain.split())


ROFF = (["mandoc", "-Tascii"], ["groff", "-man", "-Tascii", "-rHY=0", "-P-c"])


def test_it_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "ci" / "manpage.py", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_it_has_every_command_option_and_word() -> None:
    text = rendered()
    program = commands()
    context = click.Context(program)
    for name in program.list_commands(context):
        assert f"xloop {name} [OPTIONS]" in text
        command = program.get_command(context, name)
        assert command is not None
        for param in command.params:
            if isinstance(param, click.Option):
                assert ", ".join(param.opts) in text
                assert " ".join((param.help or "").replace("`", "").split()) in text
    for option in options.TABLE:
        assert f"{option.spelled()} {option.help}" in text
    assert " xloop mount -o ro,noexec data view ... read-only" in text


@pytest.mark.parametrize(
    "lint",
    [["mandoc", "-Tlint", "-Wwarning"], ["groff", "-man", "-Tutf8", "-ww", "-z"]],
    ids=["mandoc", "groff"],
)
def test_it_has_no_mistakes(lint: list[str]) -> None:
    if shutil.which(lint[0]) is None:
        pytest.skip(f"{lint[0]} is not installed")
    done = subprocess.run([*lint, PAGE], capture_output=True, text=True)
    said = (done.stdout + done.stderr).splitlines()
    # It has no date: the page would differ each day, or lie.
    assert [line for line in said if 'missing date, using ""' not in line] == []
