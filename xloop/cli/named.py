# SPDX-License-Identifier: MIT
"""What a single word after ``xloop mount`` means: a name from the file of named mounts.

Owns the words for one that means nothing.  Does not own the file: :mod:`xloop.config`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from xloop import config, mounts
from xloop.config import NamedMount
from xloop.options import nearest

__all__ = ["everything", "find"]


def everything(path: str | None) -> list[NamedMount]:
    """Return all mounts of the file *path*, or of the one that is the user's."""
    return list(config.load(path or config.default_path()).values())


def find(words: Sequence[str], path: str | None) -> NamedMount:
    """Return the mount whose name *words* are, if they are one word and it is a name."""
    if not words:
        raise click.UsageError("give SOURCE MOUNTPOINT, or the NAME of a mount, or --all")
    if len(words) > 2:
        raise click.UsageError(
            f"too many words: SOURCE MOUNTPOINT are two, a NAME is one, and {words[2]!r} is a third"
        )
    (name,) = words[:1]
    if name in (".", "..") or any(mark in name for mark in (os.sep, os.altsep) if mark):
        raise _no_mountpoint(name, "path")
    file = path or config.default_path()
    if path is None and not os.path.lexists(file):
        if _is_directory(name):
            raise _no_mountpoint(name, "directory")
        raise click.UsageError(
            f"nothing is named {name!r}: there is no {file!r}, which would name mounts (docs/config.md)"
        )
    found = config.load(file)
    if name in found:
        return found[name]
    if _is_directory(name):
        raise _no_mountpoint(name, "directory")
    raise click.UsageError(
        f"no mount is named {name!r} in {file!r}{nearest(name, found)}"
        + (f" (there are: {', '.join(found)})" if found else " (it names none)")
    )


def _is_directory(name: str) -> bool:
    """Tell whether *name* is a directory here, without asking a mount that may hang."""
    table = mounts.read_table()
    path = mounts.locate(name, table)
    return mounts.mount_at(table, path) is not None or os.path.isdir(path)


def _no_mountpoint(source: str, kind: str) -> click.UsageError:
    show = mounts.command("mount", source)
    return click.UsageError(f"{source!r} is a {kind}: where shall it be shown? {show} MOUNTPOINT")
