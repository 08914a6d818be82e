# SPDX-License-Identifier: MIT
"""Write the manual page, man/xloop.1, from what ``--help`` is made of: manpage.py [--check].

Owns the form of the page: roff, with the macros of man(7).  Does not own a word that ``--help`` has.  The page
is committed, so that a package can be built without running anything; a test runs --check.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from xloop import __version__
from xloop.cli import commands
from xloop.options import TABLE

PAGE = Path(__file__).parents[1] / "man" / "xloop.1"

#: What no command says of itself: it holds for all of them.
TAIL = r"""
.SH EXIT STATUS
.TP
.B 0
It is done.
.TP
.B 1
It could not be done; standard error says why, and where there is one the way
out.
.TP
.B 2
The command was not understood.
.SH FILES
.TP
.I \(ti/.config/xloop/config.toml
Mounts that have a name, for
.B xloop mount
.I NAME
and
.BR "xloop mount \-\-all" .
.TP
.I \(ti/.local/state/xloop/log/xloop.log
The log, with
.BR "\-\-log file" .
.SH SIGNALS
A server unmounts on SIGINT and SIGTERM; if the mount is busy it is detached,
and served until its last user is gone or a second signal cuts it off.
The log then says who uses it.
SIGHUP has the log opened again, or, in the foreground, unmounts.
SIGUSR1 writes to the log what
.B xloop status
prints.
.SH SEE ALSO
.BR mount (8),
.BR umount (8),
.BR fusermount3 (1),
.BR findmnt (8),
.BR fuse (4)
"""


def page() -> str:
    """Return the manual page."""
    program = commands()
    context = click.Context(program, info_name="xloop")
    found = {name: _command(program, context, name) for name in program.list_commands(context)}
    lines = [
        '.\\" Made by ci/manpage.py: change what --help says, and run it again.',
        f'.TH XLOOP 1 "" "xloop {__version__}" "User Commands"',
        ".SH NAME",
        f"xloop \\- {_escaped(_first_lower((program.help or '').rstrip('.')))}",
        ".SH SYNOPSIS",
    ]
    for name, command in found.items():
        lines += [".SY xloop", f".B {_escaped(name)}", *_synopsis(command), ".YS"]
    lines += [".SH DESCRIPTION", *_text(program.help or "")]
    lines += [*_text(program.epilog or "", follows=True), ".PP"]
    lines += ["Every command explains itself with", ".BR \\-\\-help ."]
    lines += [".SH COMMANDS"]
    for name, command in found.items():
        lines += [f".SS xloop {_escaped(name)}", *_text(command.help or "")]
        for param in command.params:
            if isinstance(param, click.Option):
                lines += [".TP", _names(param), *_text(_help(param))]
        lines += _text(command.epilog or "", follows=True)
    lines += [".SH MOUNT OPTIONS", "Words for"]
    lines += [".B \\-o", "of", '.BR "xloop mount" :', "of several the first is the default."]
    for option in TABLE:
        lines += [".TP", _bold(option.spelled()), *_text(option.help)]
    return "\n".join(lines) + TAIL


def _command(program: click.Group, context: click.Context, name: str) -> click.Command:
    command = program.get_command(context, name)
    assert command is not None
    return command


def _synopsis(command: click.Command) -> list[str]:
    lines = [".RI [ OPTIONS ]"]
    for param in command.params:
        if isinstance(param, click.Argument):
            shown = _metavar(param)
            lines.append(
                f".I {_escaped(shown)}"
                if param.required or "|" in shown
                else f".RI [ {_escaped(shown)} ]"
            )
    return lines


def _metavar(param: click.Parameter) -> str:
    if param.metavar:
        return param.metavar
    if isinstance(param.type, click.Choice):
        return "|".join(param.type.choices)
    assert isinstance(param, click.Argument), (
        f"{param.opts}: an option with a value needs a metavar"
    )
    return (param.name or "").upper()


def _names(option: click.Option) -> str:
    """Return how an option is written: its names bold, what it takes in italics."""
    names = ", ".join(
        f"\\fB{_escaped(name)}\\fR" for name in [*option.opts, *option.secondary_opts]
    )
    if option.is_flag or option.count:
        return names
    return f"{names} \\fI{_escaped(_metavar(option))}\\fR"


def _help(option: click.Option) -> str:
    return (
        f"{option.help} [default: {option.default}]" if option.show_default else option.help or ""
    )


def _text(text: str, follows: bool = False) -> Iterator[str]:
    """Yield paragraphs as click has them: a "\\b" alone in a line keeps the line ends of what follows."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if not paragraph.strip():
            continue
        if number or follows:
            yield ".PP"
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            yield from [".nf", *(_line(_styled(line)) for line in lines[1:]), ".fi"]
        else:
            text = _styled(" ".join(paragraph.split()))
            wrapped = textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False)
            yield from map(_line, wrapped)


def _styled(text: str) -> str:
    """Return *text* with what stands in `backticks` bold."""
    parts = text.split("`")
    return "".join(_bold(part) if index % 2 else _escaped(part) for index, part in enumerate(parts))


def _line(text: str) -> str:
    """Return a line of text that roff takes for no command."""
    return f"\\&{text}" if text.startswith(".") else text


def _bold(text: str) -> str:
    return f"\\fB{_escaped(text)}\\fR"


def _escaped(text: str) -> str:
    """Return *text* as itself: roff takes some characters for others, or for commands."""
    special = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", "'": "\\(aq", "`": "\\(ga"}
    return "".join(special.get(char, char) for char in text)


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def main(words: list[str]) -> int:
    """Write the page; with --check return 1 if that would change it."""
    made = page()
    if words == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="ascii") == made:
            return 0
        sys.stderr.write("man/xloop.1 is not what --help says: python ci/manpage.py\n")
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(made, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
