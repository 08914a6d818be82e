# SPDX-License-Identifier: MIT
"""``xloop doctor``: say what is missing, and the command that installs it.

Owns the command's words.  Does not own the findings: :mod:`xloop.doctor`.
"""

from __future__ import annotations

import json
import sys

import click

__all__ = ["doctor"]

_EPILOG = """\b
The exit status is 0 if some backend can mount, and 1 if none can.
"""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def doctor(as_json: bool) -> None:
    """Say which backends can mount here, and what to install for the others."""
    from xloop.doctor import diagnose, gather  # here: --help needs none of it

    report = diagnose(gather())
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(0 if report.ok else 1)
