# SPDX-License-Identifier: MIT
"""``xloop list``: what is mounted.

Owns the command's words and the table that it prints.  Does not own what is in it: :mod:`xloop.listing`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from xloop.listing import Listed

__all__ = ["list"]

_EPILOG = """\b
Examples:
  xloop list                              a table
  xloop list --json | jq -r '.[].source'  for programs: null is what nobody tells

\b
STATE is "served", or
  "does not answer"  its server is there, and gives no answer
  "dead"             its server has ended, clean it away with `xloop umount`
  "detached"         out of the tree, and served until its last user is gone
  "elsewhere"        served, and mounted in another mount namespace
  "mounted"          it answers, but its server tells you nothing: it is another user's, or keeps no record
"""


@click.command(name="list", epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, for programs.")
def list(as_json: bool) -> None:  # noqa: A001  # the name of the command
    """Show what is mounted by xloop and how it is: your mounts in full, for root all users'."""
    from xloop.listing import listed  # here: --help needs none of it

    rows = listed()
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    if not rows:
        click.echo("nothing is mounted by xloop", err=True)
        return
    from xloop.words import table

    heads = (
        "SOURCE",
        "MOUNTPOINT",
        "STATE",
        "BACKEND",
        "OPTIONS",
        "SINCE",
        "REQUESTS",
        "PID",
        "OWNER",
    )
    for line in table([heads, *(_cells(row) for row in rows)]):
        click.echo(line)


def _cells(row: Listed) -> tuple[str, ...]:
    from xloop.words import moment, user  # here: for programs nothing is put into words

    return (
        row.source,
        row.mountpoint,
        row.state,
        row.backend or "?",
        "?" if row.options is None else row.options or "-",
        "?" if row.since is None else moment(row.since),
        "?" if row.served is None else str(row.served),
        "?" if row.pid is None else str(row.pid),
        "?" if row.owner is None else user(row.owner),
    )
