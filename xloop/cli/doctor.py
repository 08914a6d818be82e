# SPDX-License-Identifier: MIT
"""``xloop doctor``: say what is wrong, and the command that puts it right.

Owns the command's words.  Does not own the findings: :mod:`xloop.doctor`.
"""

from __future__ import annotations

import json
import sys

import click

from xloop.cli.proposals import mounted

__all__ = ["doctor"]

_EPILOG = """\b
Examples:
  xloop doctor           this machine, and every mount that is dead or hangs
  xloop doctor ~/view    one mount: does it answer, who serves it, who uses it?

\b
The exit status is 0 if something can mount and nothing is wrong; of a MOUNTPOINT, if it is mounted and
answers.  It is 1 otherwise, and 2 if the command was not understood.  Whatever is wrong stands beside
the command that puts it right; a line that says of something else that it is missing is not wrong.
"""


@click.command(epilog=_EPILOG)
@click.argument("mountpoint", required=False, shell_complete=mounted)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def doctor(mountpoint: str | None, as_json: bool) -> None:
    """Say what is wrong with this machine and its mounts, or with MOUNTPOINT, and what to do about it.

    Nothing is changed, and nothing hangs, whatever is mounted.
    """
    from xloop.doctor import diagnose, gather, inspect  # here: --help needs none of it

    report = diagnose(gather() if mountpoint is None else inspect(mountpoint))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(0 if report.ok else 1)
