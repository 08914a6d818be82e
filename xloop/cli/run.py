# SPDX-License-Identifier: MIT
"""``xloop run``: a command that sees a mount which nobody else sees.

Owns the command's words.  Does not own what happens then: :func:`xloop.running.run`.
"""

from __future__ import annotations

import sys

import click

from xloop.cli import complain
from xloop.cli.mount import parsed
from xloop.cli.proposals import backends, directories, option_words
from xloop.registry import AUTO

__all__ = ["run"]

_EPILOG = """\b
Examples:
  xloop run -o ro project -- make check    build in a view of project that cannot be changed
  xloop run -o ro . --at . -- make check   ... at the path that project has
  xloop run data --at /srv/data -- ./serve show data at /srv/data, to ./serve alone
  xloop run ~/src -- sh -c 'ls "$XLOOP_VIEW"'

\b
This process becomes COMMAND: signals, job control and the exit status are COMMAND's own. The
mount is seen by it and what it starts, and goes with the last of them. If COMMAND cannot be run,
nothing is left, and the status is 1 (no mount), 2 (not understood), 126 or 127 (as a shell's).
"""


class _RunCommand(click.Command):
    """Keeps what comes after "--" for the command that is run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, command = args, []
        if "--" in args:
            at = args.index("--")
            own, command = args[:at], args[at + 1 :]
        # A shell that completes a line asks before it is there.
        if not command and not ctx.resilient_parsing and not set(ctx.help_option_names) & set(own):
            ctx.fail("there is no command to run: write it after '--', as in SOURCE -- ls -l")
        ctx.meta[__name__] = command
        return super().parse_args(ctx, own)


@click.command(cls=_RunCommand, epilog=_EPILOG)
@click.argument("source", metavar="SOURCE -- COMMAND...", shell_complete=directories)
@click.option(
    "--at",
    metavar="DIR",
    shell_complete=directories,
    help="Show SOURCE at the directory DIR, and start COMMAND where you are. Default: a new place,"
    " where COMMAND starts.",
)
@click.option(
    "-o",
    "--options",
    "words",
    multiple=True,
    metavar="OPTION[,...]",
    shell_complete=option_words,
    help="Mount options, as for `xloop mount`. May be repeated.",
)
@click.option(
    "--backend",
    default=AUTO,
    show_default=True,
    metavar="NAME",
    shell_complete=backends,
    help="How to mount. A backend that is named is used or refused, never replaced.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell what is shown where.")
@click.pass_context
def run(
    ctx: click.Context,
    source: str,
    at: str | None,
    words: tuple[str, ...],
    backend: str,
    verbose: bool,
) -> None:
    """Run COMMAND with a view of the directory SOURCE that only COMMAND sees.

    The environment variable XLOOP_VIEW tells it where. Whoever is not root needs a kernel that
    lets users make user namespaces, and nothing else.
    """
    options = parsed(words)
    from xloop import running  # here: --help, and a mistake above, need none of it

    try:
        running.run(
            ctx.meta[__name__],
            source,
            at=at,
            options=options,
            backend=backend,
            tell=_tell if verbose else lambda *_: None,
        )
    except running.CommandError as exc:
        complain(exc)
        sys.exit(exc.status)


def _tell(source: str, place: str, backend: str) -> None:
    click.echo(f"xloop: {source!r} is shown at {place!r} by {backend}", err=True)
