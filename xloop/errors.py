# SPDX-License-Identifier: MIT
"""How xloop says that something went wrong.

Owns the exceptions that people see, and :func:`errno_of`, the one place where an exception
becomes an error number.  Does not own when they are raised.

Two kinds, never mixed:

* an operation of a mounted file system fails with OSError and an errno, for a program;
* mounting, unmounting and the command line fail with an XloopError, for a person: *why*
  names the thing, *fix* the way out.
"""

from __future__ import annotations

import errno
import logging

__all__ = [
    "BackendUnavailable",
    "BusyError",
    "ConfigError",
    "MountError",
    "OptionError",
    "SourceMissing",
    "UnmountError",
    "XloopError",
    "errno_of",
]

_log = logging.getLogger("xloop")


class XloopError(Exception):
    """Something a person must hear about.  ``str()`` is *why*, then *fix* where there is one."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why, fix)
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.why}\n{self.fix}" if self.fix else self.why


class MountError(XloopError):
    """The mount did not come about.  Nothing is left mounted."""


class SourceMissing(MountError):
    """The source does not exist."""


class OptionError(MountError):
    """An option is unknown, malformed, in conflict with another, or not to be had here."""


class BackendUnavailable(MountError):
    """The backend cannot be used on this machine, or not by this user."""


class ConfigError(XloopError):
    """A file of named mounts is missing, not to be trusted, or has mistakes.  Nothing of it is used."""


class UnmountError(XloopError):
    """The mount is still there."""


class BusyError(UnmountError):
    """The mount is still there, because somebody uses it."""

    def __init__(self, why: str, fix: str = "", *, answers: bool = True) -> None:
        super().__init__(why, fix)
        self.answers = answers  #: whether its server does, as far as is known


def errno_of(exc: BaseException) -> int:
    """Return the error number under which *exc* is reported to the program that asked.

    An exception that is no OSError is a bug: it is logged with its traceback and becomes EIO.
    Never ENOSYS, which the kernel takes as "do not ask again for the life of this mount", and
    never EINVAL, which blames the caller.
    """
    if isinstance(exc, OSError) and exc.errno:
        return exc.errno
    if isinstance(exc, MemoryError):
        return errno.ENOMEM
    _log.error("unexpected %s in an operation", type(exc).__name__, exc_info=exc)
    return errno.EIO
