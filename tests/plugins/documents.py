# SPDX-License-Identifier: MIT
"""The sessions printed in the documents: what is typed, and what is said to come out.

Owns reading them, running them in one shell, and comparing.  Does not own where: the tests give it a home.

A session is a block of type ``console``.  Its lines that begin with ``$ `` are commands, those with ``> `` go
on with one, all others are what the last command prints.  A command must succeed, or print what is shown;
where nothing is shown it may print anything.  In what is shown ``...`` stands for any text, alone in a line
for any lines, two blanks or more for any number, and the reader's home is ``/home/me``.  Comments of the page
say what no reader needs to see:

* ``<!-- before: COMMAND -->`` is run before the block below it;
* ``<!-- among others -->``: other lines may stand between those shown in the block below it: of a list of
  all mounts, to which others of the machine belong;
* ``<!-- run by: FILE -->``: that test runs the block below it, or all of the page if it is its first line.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HOME = "/home/me"
_END = "-- end of command, status "


@dataclass
class Command:
    """One command of a session, and what is shown of its output."""

    text: str
    line: int
    shown: list[str] = field(default_factory=list)
    #: Nobody sees it: it only prepares.
    hidden: bool = False


def run_by(page: Path) -> list[str]:
    """Return the tests that run what *page* leaves to others."""
    return re.findall(r"<!-- run by: (\S+) -->", page.read_text(encoding="utf-8"))


def commands(page: Path, by: str = "") -> Iterator[Command]:
    """Yield the commands of *page* that are left to the test *by*; or to none in particular."""
    lines = page.read_text(encoding="utf-8").splitlines()
    if lines[0].startswith("<!-- run by:"):
        return
    whose = ""
    inside = among = False
    last: Command | None = None
    for number, line in enumerate(lines, 1):
        if inside and line == "```":
            inside = among = False
            whose = ""
            if last is not None:
                yield last
            last = None
        elif inside and whose == by:
            if line.startswith("$ "):
                if last is not None:
                    yield last
                last = Command(line[2:], number, ["..."] if among else [])
            elif last is None:
                raise AssertionError(f"{page.name}:{number}: output without a command: {line}")
            elif line.startswith("> ") and not last.shown:
                last.text += "\n" + line[2:]
            else:
                last.shown += [line, "..."] if among else [line]
        elif line == "```console":
            inside = True
        elif found := re.fullmatch(r"<!-- before: (.*) -->", line):
            if whose == by:
                yield Command(found[1], number, hidden=True)
        elif line == "<!-- among others -->":
            among = True
        elif found := re.fullmatch(r"<!-- run by: (\S+) -->", line):
            whose = found[1]


def matches(shown: list[str], printed: list[str]) -> bool:
    """Tell whether *printed* is what is *shown*."""
    pattern = "".join(map(_pattern, shown))
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed)) is not None


def _pattern(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*?"
    parts = re.split(r"(\.\.\.| {2,})", line)
    # What was split at stands at every other place.
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = (".*?" if part == "..." else " +" for part in parts[1::2])
    return "".join(parts) + r"\n"


class Shell:
    """A shell that is told one command after the other."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self._home = str(home)
        self._process = subprocess.Popen(
            ["sh"],
            cwd=home,
            env={**env, "HOME": self._home, "LC_ALL": "C.UTF-8", "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, text: str) -> tuple[int, list[str]]:
        """Return the exit status of a command and the lines that it printed."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{{ {text}\n}} </dev/null\nprintf '\\n%s%s\\n' '{_END}' $?\n")
        stdin.flush()
        printed = []
        for line in stdout:
            if line.startswith(_END):
                break
            printed.append(line.rstrip("\n").replace(self._home, HOME))
        else:
            raise AssertionError(f"the shell has ended in: {text}")
        if printed[-1] == "":
            printed.pop()  # ours
        return int(line.removeprefix(_END)), printed

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
