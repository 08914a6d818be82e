# SPDX-License-Identifier: MIT
"""Whether somebody else can change a file that this user's commands are taken from.

Owns the question.  Does not own what is done about the answer: :mod:`xloop.config`.
"""

from __future__ import annotations

import os
import stat
import sys

__all__ = ["changeable_by_others"]


def changeable_by_others(found: os.stat_result) -> tuple[str, tuple[str, ...]]:
    """Return who else may write the file that *found* describes, and the command that changes it.

    The command lacks the path; nobody is "".  Root may write, always.  The bits of the group say what
    ACLs grant at most, so those count too.  Windows keeps other users out of a profile, by ACLs that
    are not read here.
    """
    if sys.platform == "win32":
        return "", ()
    if found.st_uid not in (0, os.geteuid()):
        return f"user {found.st_uid}, its owner,", ("chown", str(os.geteuid()))
    if found.st_mode & stat.S_IWOTH:
        return "everybody", ("chmod", "go-w")
    if found.st_mode & stat.S_IWGRP:
        return f"group {found.st_gid}", ("chmod", "go-w")
    return "", ()
