# SPDX-License-Identifier: MIT
"""The command line.

Owns what all commands share: the list of them, how an error looks, and the exit status, which is
0 when done, 1 when it could not be done, 2 when the command was not understood.  Does not own
any command: each is a file, and is imported when it is called.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from xloop import __version__
from xloop.errors import XloopError
from xloop.host import process

__all__ = ["commands", "main"]

#: The commands, and the modules of their functions of the same name.
_COMMANDS = {
    "mount": "xloop.cli.mount",
    "umount": "xloop.cli.umount",
    "list": "xloop.cli.list",
    "status": "xloop.cli.status",
    "run": "xloop.cli.run",
    "doctor": "xloop.cli.doctor",
    "install-helpers": "xloop.cli.install_helpers",
    "bench": "xloop.cli.bench",
    "completion": "xloop.cli.completion",
}

_EXAMPLES = """\b
Examples:
  xloop mount /usr ~/view            show /usr at ~/view
  xloop mount -o ro project sandbox  ... and refuse every change
  xloop list                         what is mounted
  xloop umount ~/view                end it
  xloop run ~/src -- make            run a command with a view that only it sees
  xloop doctor                       say what is wrong here, and how to put it right
  xloop bench --quick                what a mount costs on this machine
  xloop completion bash              make the shell complete all this
"""


class _Commands(click.Group):
    """Imports a command when it is called, so that one does not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[cmd_name])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from xloop.options import nearest

            hint = nearest(args[0], _COMMANDS)
            if args[2:3] == ["-o"]:  # so mount.fuse(8) calls a file system that has no helper
                hint = "; mount(8) needs `xloop install-helpers`, and the type xloop or fuse.xloop"
            ctx.fail(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="xloop", message="%(prog)s %(version)s")
def _cli() -> None:
    """Show a directory at another place, through a file system in user space."""


def commands() -> click.Group:
    """Return the tree of commands, for what is made of it: the manual page."""
    return _cli


def main() -> NoReturn:
    """Run the command line and exit."""
    process.keep_standard_descriptors()
    if "_XLOOP_COMPLETE" in os.environ:
        # How bash asks, which is not how click thinks it does.
        import_module("xloop.cli.completion")
    try:
        # Not as click would on Windows: "*" is a mount point there, and means any free drive.
        _cli.main(prog_name="xloop", windows_expand_args=False)
    except XloopError as exc:
        complain(exc)
        sys.exit(1)
    except OSError as exc:
        if not _is_of_printing(exc):
            raise
        # Or the interpreter tries again at its end, and tells of it in words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        click.echo(f"xloop: stdout cannot be written to: {exc.strerror}", err=True)
        sys.exit(1)
    sys.exit(0)  # not reached: click exits by itself


def _is_of_printing(exc: OSError) -> bool:
    """Tell whether *exc* is of what takes the output, such as a disk that is full."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def complain(exc: XloopError) -> None:
    """Tell a person what went wrong, and then what to do about it."""
    click.echo(f"xloop: {exc.why}", err=True)
    for line in exc.fix.splitlines():
        click.echo(f"       {line}", err=True)
