# SPDX-License-Identifier: MIT
"""``xloop mount``: check what was asked, then serve it in the background or here.

Owns the command's words and the order of its steps.  Does not own the checks
(:mod:`xloop.preflight`), the options (:mod:`xloop.options`), what has a name (:mod:`xloop.cli.named`) nor
the process in the background (:mod:`xloop.cli.background`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace as changed
from typing import TYPE_CHECKING, NamedTuple

import click

from xloop.cli import complain
from xloop.cli.progress import Progress
from xloop.cli.proposals import backends, files, logs, option_words, to_mount
from xloop.errors import BackendUnavailable, MountError, OptionError, XloopError
from xloop.options import TABLE, MountOptions, parse_options
from xloop.registry import AUTO

if TYPE_CHECKING:
    from xloop.logs import Log
    from xloop.server import LayerFactory

__all__ = ["mount"]


class _MountCommand(click.Command):
    """Lists the words of -o after the command's own options, and knows them where they lack it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            word = exc.option_name.lstrip("-")
            word = "ro" if word == "r" else word  # as mount(8) has it
            if not any(word == option.key or word in option.words for option in TABLE):
                raise
            ctx.fail(
                f"no such option {exc.option_name!r}; mount options are written after -o: -o {word}"
            )

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
  xloop mount music                     what config.toml names so (docs/config.md)
  xloop mount --all                     all that it names, but what is mounted already
  xloop umount ~/view                   end it

\b
The mount is there when the command returns with status 0.  Otherwise stderr says why
not, nothing is left mounted, and the status is 1, or 2 if the command was not understood.
With --all one that fails does not keep the others from being mounted.
"""


@click.command(cls=_MountCommand, epilog=_EPILOG)
@click.argument("what", metavar="SOURCE MOUNTPOINT | NAME", nargs=-1, shell_complete=to_mount)
@click.option(
    "-o",
    "--options",
    "words",
    multiple=True,
    metavar="OPTION[,...]",
    shell_complete=option_words,
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
    "--replace",
    is_flag=True,
    help="First take away a mount of xloop at MOUNTPOINT that is dead, or that nobody uses.",
)
@click.option(
    "--backend",
    metavar="NAME",
    shell_complete=backends,
    help="How to mount. A backend that is named is used or refused, never replaced. [default: auto]",
)
@click.option("-a", "--all", "every", is_flag=True, help="Mount everything that has a name.")
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    shell_complete=files,
    help="Where names are looked up. [default: config.toml in the user's configuration, see below]",
)
@click.option(
    "--log",
    "log_text",
    metavar="WHERE",
    shell_complete=logs,
    help="Where the server writes what happens: stderr (with -f), file (one in your state directory), "
    "journald, syslog, or the path of a file. [default: warnings to stderr, with -f]",
)
@click.option(
    "--debug", is_flag=True, help="Write every request to the log: who, what, the result, the time."
)
@click.option("-v", "--verbose", count=True, help="Tell what was mounted and how; -vv: everything.")
def mount(
    what: tuple[str, ...],
    words: tuple[str, ...],
    foreground: bool,
    on_top: bool,
    replace: bool,
    backend: str | None,
    every: bool,
    config_path: str | None,
    log_text: str | None,
    debug: bool,
    verbose: int,
) -> None:
    """Show the directory SOURCE at the directory MOUNTPOINT, or what is to be mounted by NAME.

    What is done at MOUNTPOINT is done in SOURCE, and the other way round. The command returns
    when the mount answers; a process in the background serves it until `xloop umount MOUNTPOINT`.

    NAME is one of config.toml, ~/.config/xloop/config.toml on Linux, which holds a source, a mountpoint and
    options for it; options of the command are added to those.
    """
    if on_top and replace:
        raise click.UsageError("--on-top and --replace contradict each other: give one of them")
    if len(what) > 2 and words and words[-1].endswith(","):
        raise click.UsageError(
            f"'-o {words[-1]}' ends with a comma: options are one word, without blanks, as in -o ro,noexec"
        )
    log = _log_of(log_text, foreground=foreground, debug=debug, verbose=verbose)
    how = _How(foreground, on_top, replace, verbose, log, debug, Progress())
    options = parsed(words)
    if not every and len(what) == 2:
        if config_path is not None:
            raise click.UsageError("--config is for a NAME or --all, not for SOURCE MOUNTPOINT")
        source, mountpoint = what
        _mount(source, mountpoint, options, backend or AUTO, how)
        return
    from xloop.cli import named  # here: who gives paths needs no file of names

    if every:
        if what:
            raise click.UsageError(
                "--all mounts everything that has a name, and takes no other words"
            )
        if foreground:
            raise click.UsageError("--all and --foreground: one process serves one mount")
        chosen = list(named.everything(config_path))
    else:
        chosen = [named.find(what, config_path)]
    failed = []
    for number, item in enumerate(chosen, 1):
        try:
            options = parse_options([*item.options, *words])
            _mount(
                item.source,
                item.mountpoint,
                options,
                backend or item.backend,
                how._replace(
                    skip_mounted=every, which=f"{number} of {len(chosen)}: " if every else ""
                ),
            )
        except XloopError as exc:
            if not every:
                raise
            complain(type(exc)(f"{item.name!r}: {exc.why}", exc.fix))
            failed.append(item.name)
    if failed:
        click.echo(
            f"xloop: {len(failed)} of {len(chosen)} could not be mounted: {', '.join(failed)}",
            err=True,
        )
        sys.exit(1)


class _How(NamedTuple):
    foreground: bool
    on_top: bool
    replace: bool
    verbose: int
    log: Log | None
    debug: bool
    progress: Progress
    skip_mounted: bool = False  #: what is there already is in order
    which: str = ""  #: of several mounts


def _mount(source: str, mountpoint: str, options: MountOptions, backend: str, how: _How) -> None:
    # From here on imports cost time that a person waits; before, a mistake is told at once.
    from xloop.preflight import check_mountpoint, check_source, make_room
    from xloop.registry import choose

    with how.progress.during(f"{how.which}looking at {source!r} and {mountpoint!r}"):
        source_path = check_source(source)
        if options.fsname is None:
            options = changed(options, fsname=source_path)
        path = None
        if not how.skip_mounted or not _is_mounted(mountpoint, options):
            path = check_mountpoint(
                mountpoint, on_top=how.on_top, replace=options.subtype if how.replace else None
            )
    if path is None:
        if how.verbose:
            click.echo(f"xloop: {source_path!r} is mounted at {mountpoint!r} already", err=True)
        return
    passed_over: list[BackendUnavailable] = []
    chosen = choose(backend, passed_over=passed_over)
    if how.verbose:
        _tell_choice(backend, chosen.name, passed_over)
    chosen.check_options(options)
    if how.log is not None:
        _check_log(how.log, path)
    layers: tuple[LayerFactory, ...] = ()
    if how.debug:
        from xloop.layers import Trace

        layers = (Trace,)
    if how.replace:
        with how.progress.during(f"{how.which}making room at {path!r}"):
            made = make_room(path, options.subtype, source_path)
        for said in made:
            click.echo(f"xloop: {said}", err=True)
    if how.foreground:
        from xloop.host import process
        from xloop.host.notify import notify
        from xloop.logs import start
        from xloop.server import build, collect_rarely
        from xloop.serving import Service

        process.unblock()
        process.hold(process.STATUS)  # until the service listens to it
        reopen = start(how.log) if how.log is not None else None
        collect_rarely()
        operations = build(source_path, layers, path, options)
        os.chdir("/")  # a mount may be wanted, or the source be moved, where we stand
        if process.has_terminal():
            reopen = None  # its end is told by the same signal, and ends the mount
        service = Service(
            operations,
            path,
            options,
            chosen,
            ending=lambda: notify("STOPPING=1"),
            reopen=reopen,
        )

        def ready() -> None:
            notify("READY=1", f"STATUS={source_path} is mounted at {path} by {chosen.name}")
            _tell(how.verbose, source_path, path, chosen.name, service.status())

        service.run(ready)
    else:
        from xloop.cli.background import serve_in_background

        waiting = how.progress.during(f"{how.which}mounting {source_path!r} at {path!r}")
        status = serve_in_background(source_path, path, options, chosen, layers, how.log, waiting)
        _tell(how.verbose, source_path, path, chosen.name, status)


def _is_mounted(mountpoint: str, options: MountOptions) -> bool:
    """Tell whether *mountpoint* shows already what it is to show, and answers."""
    from xloop import mounts

    table = mounts.read_table()
    path = mounts.locate(mountpoint, table)
    entry = mounts.mount_at(table, path)
    return (
        entry is not None
        and (entry.fstype, entry.source) == (f"fuse.{options.subtype}", options.fsname)
        and mounts.health(path) is mounts.Health.ANSWERS
    )


def parsed(words: tuple[str, ...]) -> MountOptions:
    try:
        return parse_options(words)
    except OptionError as exc:
        raise click.UsageError(str(exc)) from None


def _log_of(text: str | None, *, foreground: bool, debug: bool, verbose: int) -> Log | None:
    """Return where the log goes; None: as Python does it, warnings to stderr."""
    if debug and not foreground and text is None:
        raise click.UsageError(
            "--debug: a server in the background has no stderr: add --foreground, or --log FILE"
        )
    if text is None and not debug and verbose < 2:
        return None
    import logging

    from xloop.logs import parse

    try:
        log = parse(text or "stderr")
    except OptionError as exc:
        raise click.UsageError(str(exc)) from None
    if log.kind == "stderr" and text is not None and not foreground:
        raise click.UsageError(
            "--log stderr is for --foreground: a server in the background has no stderr"
        )
    return log._replace(level=logging.DEBUG if debug or verbose > 1 else logging.INFO)


def _check_log(log: Log, mountpoint: str) -> None:
    if log.kind == "file":
        from xloop import mounts

        path = mounts.locate(log.path, mounts.read_table())
        if path.startswith(mountpoint.rstrip(os.sep) + os.sep):
            raise MountError(
                f"log {log.path!r} lies below the mountpoint: the server would wait for itself",
                "write it somewhere else",
            )


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
