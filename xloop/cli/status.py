# SPDX-License-Identifier: MIT
"""``xloop status``: what the server of a mount tells.

Owns the command's words and the form in which the answer is printed.  Does not own the answer: a backend's
``Session.status()``, and :class:`xloop.serving.Service`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from xloop.cli.proposals import mounted

__all__ = ["lines", "status"]

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

    answer = listing.status(mountpoint)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for line in lines(answer):
        click.echo(line)


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the *answer* of a server to ``status``, for people."""
    from xloop.cli.words import moment, shown, user

    session = dict(answer["session"])
    session.pop("backend", None)  # said already
    yield f"{shown(answer['source'])} at {shown(answer['mountpoint'])}"
    yield f"  backend: {answer['backend']}, type {answer['fstype']}"
    yield f"  options: {shown(answer['options']) or 'none but the defaults'}"
    yield f"  since: {moment(answer['since'])}"
    yield f"  served by: process {answer['pid']} of user {user(answer['owner'])}"
    if not answer["mounted"]:
        yield "  detached: served until its last user is gone"
    yield f"  layers: {', '.join(answer['layers'])}"
    yield from _section("process", answer["process"])
    yield from _section("believed without asking, seconds", answer["caches"])
    yield from _section("file system", answer["file_system"])
    requests = session.pop("requests", {})
    latencies = session.pop("latencies", {})
    features = {name: session.pop(name, {}) for name in ("granted", "refused")}
    yield from _section("session", session)
    for name, what in features.items():
        yield from _section(name, what)
    yield from _requests(requests, latencies)


def _section(name: str, what: Mapping[str, Any]) -> Iterator[str]:
    from xloop.cli.words import shown

    if not what:
        return
    yield f"{name}:"
    for key, value in what.items():
        text = str(value)
        if isinstance(value, Mapping):
            text = ", ".join(f"{part} {number}" for part, number in value.items()) or "none"
        yield f"  {shown(key)}: {shown(text)}"


def _requests(
    requests: Mapping[str, int], latencies: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    from xloop.cli.words import span, table

    if not requests:
        return
    columns = ("mean", "median", "99%", "most")
    yield f"requests: {sum(requests.values())}"
    rows: list[tuple[str, ...]] = [("", "number", *columns)]
    for name, number in sorted(requests.items(), key=lambda item: -item[1]):
        times = latencies.get(name)
        spans = [span(times[column]) if times else "-" for column in columns]
        rows.append((name, str(number), *spans))
    for line in table(rows):
        yield f"  {line}"
