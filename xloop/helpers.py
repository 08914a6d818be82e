# SPDX-License-Identifier: MIT
"""Installing what mount(8) looks for: /sbin/mount.xloop and /sbin/mount.fuse.xloop.

Owns the two files, and the question whether root may run what they start.  Does not own what they do:
:mod:`xloop.cli.mount_helper`.

One is a script of two lines with the path of this very Python, the other a link to it.  The script starts
Python isolated (-I): neither variables of whoever calls mount(8) nor packages in a home directory have a
say in what runs there.  No umount.xloop: umount(8) does all that there is to do, for users too.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from xloop.errors import XloopError
from xloop.host import process
from xloop.host.mountflags import CALLS_HELPERS

__all__ = ["HELPERS", "changeable", "install", "out_of_reach", "remove", "script"]

#: The script, and the link to it.
HELPERS: Final = ("mount.xloop", "mount.fuse.xloop")

_MARK: Final = "# Written by `xloop install-helpers`, removed by `xloop install-helpers --remove`."

#: What the script's Python loads xloop from.
_FOUND: Final = (
    "import json, sys, xloop, xloop_backends, click; "
    "print(json.dumps([xloop.__file__, xloop_backends.__file__, click.__file__, *sys.path]))"
)


def script(interpreter: str) -> str:
    """Return the text of the helper that starts the Python *interpreter*."""
    return (
        f"#!/bin/sh\n{_MARK}\n"
        f'exec {shlex.quote(interpreter)} -I -m xloop.cli.mount_helper "$0" "$@"\n'
    )


def install(root: str = "/") -> list[str]:
    """Write the helpers into *root*/sbin, in place of older ones, and return their paths.

    Raises XloopError where a file of somebody else's is in the way, the directory cannot be written, or
    others than root could change what root would run there.
    """
    if not CALLS_HELPERS:
        raise XloopError("helpers for mount(8) exist on Linux only")
    interpreter = process.interpreter()
    if problem := changeable():
        raise XloopError(f"root would run what others can change: {problem}", _ELSEWHERE)
    directory = _directory(root)
    paths = [os.path.join(directory, name) for name in HELPERS]
    for path in paths:
        _check_ours(path)
    fresh = f"{paths[0]}.new"
    try:
        os.makedirs(directory, exist_ok=True)
        # Renamed into place: mount(8) may call it at this moment.
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.chmod(fresh, 0o755)  # whatever the umask is
            file.write(script(interpreter))
        os.replace(fresh, paths[0])
        os.symlink(HELPERS[0], fresh)
        os.replace(fresh, paths[1])
    except OSError as exc:
        raise _denied(directory, exc) from exc
    return paths


def remove(root: str = "/") -> list[str]:
    """Remove the helpers from *root*/sbin, and return the paths of those that were there."""
    directory = _directory(root)
    removed = []
    for name in reversed(HELPERS):  # the link first: it is known by what it leads to
        path = os.path.join(directory, name)
        if not os.path.lexists(path):
            continue
        _check_ours(path)
        try:
            os.unlink(path)
        except OSError as exc:
            raise _denied(directory, exc) from exc
        removed.append(path)
    return removed


def _directory(root: str) -> str:
    """Return where helpers belong; in a tree that is prepared for another machine, never outside of it."""
    top = os.path.realpath(root)
    directory = os.path.realpath(os.path.join(top, "sbin"))
    if os.path.commonpath([top, directory]) != top:
        raise XloopError(
            f"{os.path.join(root, 'sbin')!r} leads out of {root!r}, to {directory!r}",
            "make that link a relative one",
        )
    return directory


def _check_ours(path: str) -> None:
    """Make sure that what is at *path*, if anything, was written by install()."""
    try:
        if os.path.islink(path) and os.readlink(path) == HELPERS[0]:
            return
        with open(path, encoding="utf-8", errors="replace") as file:
            if _MARK in file.read(1024):
                return
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _denied(path, exc) from exc
    raise XloopError(
        f"{path!r} was not written by xloop install-helpers",
        "it belongs to somebody else: look what it is, and move it out of the way",
    )


def _denied(path: str, exc: OSError) -> XloopError:
    fix = "run this as root" if isinstance(exc, PermissionError) else ""
    return XloopError(f"{path!r} cannot be written: {exc.strerror}", fix)


def _what_runs() -> list[str]:
    """Return the files and directories from which the helpers would run."""
    interpreter = process.interpreter()
    found = subprocess.run(
        [interpreter, "-I", "-c", _FOUND], capture_output=True, text=True, check=False, cwd="/"
    )
    if found.returncode:
        raise XloopError(
            f"{interpreter!r} does not find xloop by itself: {found.stderr.strip()[-200:]}",
            _ELSEWHERE,
        )
    paths = [interpreter, os.path.realpath(interpreter), *json.loads(found.stdout)]
    return list(dict.fromkeys(os.path.abspath(path) for path in paths))


def out_of_reach() -> str:
    """Return the directory for which other users than root cannot run the helpers; nothing if they can.

    Then lines of fstab with ``user`` or ``users`` work for root only.
    """
    for path in _what_runs():
        for above in _upwards(os.path.dirname(path)):
            with suppress(FileNotFoundError):
                if not os.stat(above).st_mode & stat.S_IXOTH:
                    return above
    return ""


_ELSEWHERE: Final = (
    "install xloop for everybody, for example in /opt/xloop, and call it from there:\n"
    "    sudo python3 -m venv /opt/xloop && sudo /opt/xloop/bin/pip install .\n"
    "    sudo /opt/xloop/bin/xloop install-helpers"
)


def changeable(paths: list[str] | None = None) -> str:
    """Return why others than root can put something else at one of *paths*; nothing if they cannot.

    *paths*: what the helpers would run, if nothing else is said.
    """
    return next(filter(None, map(_problem, _what_runs() if paths is None else paths)), "")


def _problem(path: str) -> str:
    for here in _upwards(path):
        try:
            found = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            continue  # sys.path names what need not be there (python311.zip): its place counts
        if found.st_uid != 0:
            return f"{here!r} belongs to user {found.st_uid}"
        # In a sticky directory only the owner of an entry can replace it.
        writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if writable and not stat.S_ISLNK(found.st_mode) and not found.st_mode & stat.S_ISVTX:
            return f"{here!r} can be written by its group or by everybody"
    return ""


def _upwards(path: str) -> Iterator[str]:
    """Yield *path* and all directories above it."""
    while True:
        yield path
        if path == os.path.dirname(path):
            return
        path = os.path.dirname(path)
