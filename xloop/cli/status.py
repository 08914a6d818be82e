# SPDX-License-Identifier: MIT
"""``xloop status``: what the server of a mount tells.

Owns the command's words.  Does not own the answer, nor the form in which it is printed: :mod:`xloop.status`.
"""

from __future__ import annotations

import json

import click

from xloop.cli.proposals import mounted

__all__ = ["status"]

_EPILOG = """\b
Examples:
  xloop status ~/view
  xloop status --json ~/view | jq .session.requests

\b
Times of requests are of a sample, one in 31, from the moment that the server has read the request
until it has answered. Median and 99 % are upper bounds: at most twice too high.
"""


@click.command(epilog=_EPILOG)
@click.argument("mountpoint", shell_complete=mounted)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def status(mountpoint: str, as_json: bool) -> None:
    """Tell about the mount at MOUNTPOINT what its server knows.

    What was asked of the kernel, what it has granted, what was refused and why; what the server holds; and
    how many requests there were of each kind, and how long they took.
    """
    from xloop import listing  # here: --help needs none of it
    from xloop.status import lines

    answer = listing.status(mountpoint)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for line in lines(answer):
        click.echo(line)
