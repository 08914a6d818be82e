# SPDX-License-Identifier: MIT
"""``xloop umount``: take mounts of xloop away.

Owns the command's words.  Does not own the unmounting: :func:`xloop.unmounting.umount`.
"""

from __future__ import annotations

import os
import sys

import click

from xloop.cli import complain
from xloop.cli.progress import Progress
from xloop.cli.proposals import mounted
from xloop.errors import BusyError, XloopError

__all__ = ["umount"]

_EPILOG = """\b
Examples:
  xloop umount ~/view               fails if something in ~/view is in use, and says by whom
  xloop umount --timeout 30 ~/view  ... if it still is after half a minute
  xloop umount --lazy ~/view        out of the way now; what is in use stays usable until closed
  xloop umount --force ~/view       gone now; whoever uses it gets errors
  xloop umount --all                all that you have mounted with xloop
"""


@click.command(epilog=_EPILOG)
@click.argument("mountpoints", metavar="MOUNTPOINT...", nargs=-1, shell_complete=mounted)
@click.option("-a", "--all", "everything", is_flag=True, help="All mounts of this user.")
@click.option(
    "-l",
    "-z",
    "--lazy",
    is_flag=True,
    help="Detach: nobody can enter any more, who is inside can finish.",
)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Cut off whoever uses it: they get errors. What was written stays.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for a mount that is in use. Default: not at all.",
)
@click.option(
    "--subtype",
    default="xloop",
    show_default=True,
    metavar="NAME",
    help="For a mount that was made with -o subtype=NAME.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say what was unmounted.")
def umount(
    mountpoints: tuple[str, ...],
    everything: bool,
    lazy: bool,
    force: bool,
    timeout: float,
    subtype: str,
    verbose: bool,
) -> None:
    """Unmount what xloop has mounted at each MOUNTPOINT.

    Returns when the mount is gone, and so is the process that served it. Also cleans away a dead
    mount, one whose server was killed ("Transport endpoint is not connected"). Mounts that are not
    xloop's are refused.
    """
    if everything and mountpoints:
        raise click.UsageError("--all unmounts all mounts of this user, and takes no other words")
    if not everything and not mountpoints:
        raise click.UsageError("give the MOUNTPOINTs to unmount, or --all")
    if lazy and (force or timeout):
        raise click.UsageError(
            "--lazy waits for nobody: it goes with neither --force nor --timeout"
        )
    from xloop import mounts, unmounting  # here: --help needs none of it

    if everything:
        paths = [entry.mountpoint for entry in unmounting.mine(subtype)]
        if not paths and verbose:
            click.echo("xloop: this user has mounted nothing", err=True)
    else:
        paths = [mounts.absolute(mountpoint) for mountpoint in mountpoints]
    os.chdir("/")  # else this very process may be what keeps a mount busy
    failed = []
    progress = Progress()
    for number, mountpoint in enumerate(paths, 1):
        which = f"{number} of {len(paths)}: " if len(paths) > 1 else ""

        def waiting(busy: BusyError, which: str = which) -> None:
            progress.say(which + busy.why)

        try:
            with progress.during(f"{which}unmounting {mountpoint!r}"):
                said = unmounting.umount(
                    mountpoint,
                    lazy=lazy,
                    force=force,
                    timeout=timeout,
                    subtype=subtype,
                    waiting=waiting,
                )
        except XloopError as exc:
            complain(exc)
            failed.append(mountpoint)
        else:
            if verbose or "was dead" in said or "still served" in said:
                click.echo(f"xloop: {said}", err=True)
    if len(failed) > 1 or (failed and len(paths) > 1):
        click.echo(f"xloop: {len(failed)} of {len(paths)} could not be unmounted", err=True)
    sys.exit(1 if failed else 0)
