# SPDX-License-Identifier: MIT
"""What may stand at a place of the command line, for a shell that completes it.

Owns the proposals: names, mountpoints, the words of -o.  Does not own how a shell asks for them
(:mod:`xloop.cli.completion`).  A proposal is no check: it must be quick, ask no mount anything, and
never fail, for there is nobody who could read why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xloop.errors import XloopError

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

__all__ = ["backends", "directories", "files", "logs", "mounted", "option_words", "to_mount"]


def directories(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose what the shell finds itself."""
    return [_item(incomplete, "dir")]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose what the shell finds itself."""
    return [_item(incomplete, "file")]


def to_mount(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose a name or a directory, and after that a directory."""
    given = ctx.params.get("what") or ()
    if len(given) > 1 or ctx.params.get("every"):
        return []
    names = [] if given else _names(ctx.params.get("config_path"))
    return [*_starting(incomplete, names), *directories(ctx, param, incomplete)]


def _names(path: str | None) -> Iterable[tuple[str, str]]:
    from xloop import config

    try:
        mounts = config.load(path or config.default_path())
    except XloopError:
        return []
    return [(mount.name, f"{mount.source} at {mount.mountpoint}") for mount in mounts.values()]


def mounted(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose where xloop has mounted something, in the form in which a path was begun."""
    from xloop import mounts

    try:
        here = os.getcwd()
    except OSError:  # it is gone
        return []
    subtype = ctx.params.get("subtype") or "xloop"
    typed = ctx.params.get("mountpoints") or ()
    given = {os.path.normpath(os.path.join(here, word)) for word in typed}
    begun, slash, _ = incomplete.rpartition("/")
    # "~/m" means what it means to the shell; "m" and "../m" what they mean here.
    place = os.path.normpath(os.path.join(here, os.path.expanduser(begun + slash)))
    prefix = place.rstrip("/") + "/"
    found = []
    for entry in mounts.read_table():
        if entry.fstype == f"fuse.{subtype}" and entry.mountpoint not in given:
            at = entry.mountpoint
            if incomplete and at.startswith(prefix):
                at = begun + slash + at.removeprefix(prefix)
            found.append((at, f"shows {entry.source}"))
    return _starting(incomplete, found)


def option_words(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Propose words for the last place of a comma list, or a value where it has one of a few."""
    from xloop.options import TABLE

    head, comma, last = incomplete.rpartition(",")
    key, equals, _ = last.partition("=")
    given = {word.partition("=")[0] for word in head.split(",")} - {""}
    found = []
    for option in TABLE:
        if equals:
            values = (
                option.metavar.split("|") if option.key == key and "|" in option.metavar else []
            )
            words = [f"{key}={value}" for value in values]
        elif given & {*option.words, option.key}:
            words = []
        else:
            words = [*option.words, *([f"{option.key}="] if option.key else [])]
        found += [(head + comma + word, option.help) for word in words]
    return _starting(incomplete, found)


def backends(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose what comes with xloop for this system."""
    from xloop.registry import AUTO, bundled

    return _starting(incomplete, [(name, "") for name in (AUTO, *bundled())])


def logs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose a word, or a file."""
    from xloop.logs import WORDS

    return [
        *_starting(incomplete, [(word, "") for word in WORDS]),
        *files(ctx, param, incomplete),
    ]


def _starting(begun: str, found: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    """Return what begins so.  What holds control characters can be typed by nobody, and is left out."""
    return [
        _item(word, "plain", explanation)
        for word, explanation in found
        if word.startswith(begun) and word.isprintable()
    ]


def _item(value: str, kind: str, explanation: str = "") -> CompletionItem:
    from click.shell_completion import CompletionItem  # here: only who completes pays for it

    return CompletionItem(value, kind, explanation or None)
