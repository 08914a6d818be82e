# SPDX-License-Identifier: MIT
"""``xloop install-helpers``: let mount(8) and /etc/fstab know xloop.

Owns the command's words.  Does not own the files: :mod:`xloop.helpers`.
"""

from __future__ import annotations

import click

from xloop.cli.proposals import directories

__all__ = ["install_helpers"]

_EPILOG = """\b
Examples:
  sudo /opt/xloop/bin/xloop install-helpers   mount -t xloop and lines of fstab work from now on
  mount -t xloop -o ro /srv/data /mnt
  xloop install-helpers --root "$DESTDIR"     for a package or an image

\b
xloop itself must be installed where only root can change it.  docs/fstab.md has the rest.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--root",
    default="/",
    metavar="DIR",
    shell_complete=directories,
    help="Write into DIR/sbin: a tree that becomes the root of a machine, with xloop at the same place as here.",
)
@click.option("--remove", is_flag=True, help="Remove the helpers.")
def install_helpers(root: str, remove: bool) -> None:
    """Install /sbin/mount.xloop and /sbin/mount.fuse.xloop, which mount(8) calls for these types."""
    from xloop import helpers  # here: --help needs none of it

    paths = helpers.remove(root) if remove else helpers.install(root)
    for path in paths:
        click.echo(f"{'removed' if remove else 'installed'} {path}")
    if remove and not paths:
        click.echo("there were none")
    if not remove and (closed := helpers.out_of_reach()):
        click.echo(
            f"xloop: other users may not enter {closed!r}, so only root can use the helpers:"
            " `user` in fstab will not work",
            err=True,
        )
