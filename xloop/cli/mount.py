# SPDX-License-Identifier: MIT
"""``xloop mount``: check what was asked, then serve it in the background or here.

Owns the command's words and the order of its steps.  Does not own the checks
(:mod:`xloop.preflight`), the options (:mod:`xloop.options`) nor the process in the background
(:mod:`xloop.cli.background`).
"""

from __future__ import annotations

import os
from dataclasses import replace

import click

from xloop.errors import BackendUnavailable, OptionError
from xloop.options import TABLE, MountOptions, parse_options
from xloop.registry import AUTO

__all__ = ["mount"]


class _MountCommand(click.Command):
    """Lists the words of -o after the command's own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Mount options, for -o (the first of several words is the default)"):
            formatter.write_dl(
                [(option.spelled(), option.help) for option in TABLE], col_max=34, col_spacing=2
            )


_EPILOG = """\b
Examples:
  xloop mount /usr ~/view               show /usr at ~/view
  xloop mount -o ro,noexec data view    ... read-only, and nothing in it can be run
  xloop mount -o allow_other /srv /mnt  ... and other users may enter
  xloop mount -f -v data view           stay in the foreground and tell what happens
  xloop umount ~/view                   end it

\b
The mount is there when the command returns with status 0.  Otherwise stderr says why
not, nothing is left mounted, and the status is 1, or 2 if the command was not understood.
"""


@click.command(cls=_MountCommand, epilog=_EPILOG)
@click.argument("source")
@click.argument("mountpoint")
@click.option(
    "-o",
    "--options",
    "words",
    multiple=True,
    metavar="OPTION[,...]",
    help="Mount options, see below. May be repeated; of two that say the opposite, the later counts.",
)
@click.option(
    "-f", "--foreground", is_flag=True, help="Serve here, until unmounted or interrupted (Ctrl-C)."
)
@click.option(
    "--on-top",
    is_flag=True,
    help="Mount even if a user-space file system is mounted at MOUNTPOINT already.",
)
@click.option(
    "--backend",
    default=AUTO,
    show_default=True,
    metavar="NAME",
    help="How to mount. A backend that is named is used or refused, never replaced.",
)
@click.option("-v", "--verbose", count=True, help="Tell what was mounted and how; -vv: everything.")
def mount(
    source: str,
    mountpoint: str,
    words: tuple[str, ...],
    foreground: bool,
    on_top: bool,
    backend: str,
    verbose: int,
) -> None:
    """Show the directory SOURCE at the directory MOUNTPOINT.

    What is done at MOUNTPOINT is done in SOURCE, and the other way round. The command returns
    when the mount answers; a process in the background serves it until `xloop umount MOUNTPOINT`.
    """
    options = _parsed(words)
    # From here on imports cost time that a person waits; before, a mistake is told at once.
    from xloop.preflight import check_mountpoint, check_source
    from xloop.registry import choose

    source_path = check_source(source)
    path = check_mountpoint(mountpoint, on_top=on_top)
    passed_over: list[BackendUnavailable] = []
    chosen = choose(backend, passed_over=passed_over)
    if verbose:
        _tell_choice(backend, chosen.name, passed_over)
    chosen.check_options(options)
    if options.fsname is None:
        options = replace(options, fsname=source_path)
    if verbose:
        _log_to_stderr(verbose)
    if foreground:
        from xloop.host import process
        from xloop.host.notify import notify
        from xloop.server import build, collect_rarely
        from xloop.serving import Service

        process.unblock()
        collect_rarely()
        operations = build(source_path, (), path, options)
        os.chdir("/")  # a mount may be wanted, or the source be moved, where we stand
        service = Service(operations, path, options, chosen, ending=lambda: notify("STOPPING=1"))

        def ready() -> None:
            notify("READY=1", f"STATUS={source_path} is mounted at {path} by {chosen.name}")
            _tell(verbose, source_path, path, chosen.name, service.status())

        service.run(ready)
    else:
        from xloop.cli.background import serve_in_background

        status = serve_in_background(source_path, path, options, chosen)
        _tell(verbose, source_path, path, chosen.name, status)


def _parsed(words: tuple[str, ...]) -> MountOptions:
    try:
        return parse_options(words)
    except OptionError as exc:
        raise click.UsageError(str(exc)) from None


def _tell_choice(asked: str, chosen: str, passed_over: list[BackendUnavailable]) -> None:
    # Before the mount is tried: if that fails, this is half of the reason.
    if asked == AUTO:
        click.echo(f"xloop: backend '{chosen}' is the best that can mount here", err=True)
        for refusal in passed_over:
            click.echo(f"       {refusal.why}", err=True)
            if refusal.fix:
                click.echo(f"           {refusal.fix}", err=True)


def _tell(
    verbose: int, source: str, mountpoint: str, backend: str, status: dict[str, object]
) -> None:
    if verbose:
        click.echo(f"xloop: {source!r} is mounted at {mountpoint!r} by {backend}", err=True)
        for name, value in status.items():
            if isinstance(value, dict) and verbose > 1:
                click.echo(f"       {name}:", err=True)
                for key, what in value.items():
                    click.echo(f"           {key}: {what}", err=True)
            else:
                shown = ", ".join(map(str, value)) if isinstance(value, dict) else value
                click.echo(f"       {name}: {shown}", err=True)


def _log_to_stderr(verbose: int) -> None:
    import logging

    logging.basicConfig(
        level=logging.DEBUG if verbose > 1 else logging.INFO, format="%(name)s: %(message)s"
    )
