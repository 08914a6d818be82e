# SPDX-License-Identifier: MIT
"""``xloop umount``: take mounts of xloop away.

Owns the command's words.  Does not own the unmounting: :func:`xloop.mounts.umount`.
"""

from __future__ import annotations

import os
import sys

import click

from xloop.cli import complain
from xloop.errors import UnmountError

__all__ = ["umount"]

_EPILOG = """\b
Examples:
  xloop umount ~/view         fails if something in ~/view is in use, and says by whom
  xloop umount --lazy ~/view  out of the way now; what is in use stays usable until closed
"""


@click.command(epilog=_EPILOG)
@click.argument("mountpoints", metavar="MOUNTPOINT...", nargs=-1, required=True)
@click.option(
    "-l",
    "-z",
    "--lazy",
    is_flag=True,
    help="Detach: nobody can enter any more, who is inside can finish.",
)
@click.option(
    "--subtype",
    default="xloop",
    show_default=True,
    metavar="NAME",
    help="For a mount that was made with -o subtype=NAME.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say what was unmounted.")
def umount(mountpoints: tuple[str, ...], lazy: bool, subtype: str, verbose: bool) -> None:
    """Unmount what xloop has mounted at each MOUNTPOINT.

    Also cleans away a dead mount, one whose server was killed ("Transport endpoint is not
    connected"). Mounts that are not xloop's are refused.
    """
    from xloop import mounts  # here: --help needs none of it

    failed = False
    paths = [mounts.absolute(mountpoint) for mountpoint in mountpoints]
    os.chdir("/")  # else this very process may be what keeps a mount busy
    for mountpoint in paths:
        try:
            said = mounts.umount(mountpoint, lazy=lazy, subtype=subtype)
        except UnmountError as exc:
            complain(exc)
            failed = True
        else:
            if verbose or "was dead" in said:
                click.echo(f"xloop: {said}", err=True)
    sys.exit(1 if failed else 0)
