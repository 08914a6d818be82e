# SPDX-License-Identifier: MIT
"""The program behind /sbin/mount.xloop and /sbin/mount.fuse.xloop, which mount(8) calls.

Owns its arguments, its exit statuses, which are those of mount(8), and the order of its steps.  Does not
own what the options of mount(8) mean (:mod:`xloop.fstab`), nor how the two get to /sbin
(:mod:`xloop.helpers`).

mount(8) is set-user-ID root, but calls a helper as the user who called it (``exec_helper`` in
libmount/src/context_mount.c of util-linux drops its rights first).  So the mount is the user's, made by
fusermount3 like any other of theirs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Final, NoReturn

import click

from xloop.cli import complain
from xloop.errors import MountError, OptionError, SourceMissing, XloopError
from xloop.fstab import Wanted, path_of, understand
from xloop.registry import AUTO

__all__ = ["main"]

# mount(8), EXIT STATUS
_DONE: Final = 0
_USAGE: Final = 1
_BUG: Final = 4
_INTERRUPTED: Final = 8
_FAILED: Final = 32

_EPILOG = """\b
Called by mount(8):
  mount -t xloop -o ro /srv/data /mnt
  mount -t fuse.xloop 'xloop#/srv/data' /mnt
and for lines of /etc/fstab:
  /srv/data  /mnt  xloop  ro,allow_other,nofail  0  0

`xloop install-helpers` installs it, `xloop mount --help` lists xloop's own options,
and docs/fstab.md says what becomes of those of mount(8).
"""


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.argument("spec")
@click.argument("mountpoint")
@click.option("-s", "sloppy", is_flag=True, help="Ignore options that are unknown or refused.")
@click.option("-f", "fake", is_flag=True, help="Check everything, and do not mount.")
@click.option("-n", "no_mtab", is_flag=True, help="Write no /etc/mtab: none is ever written.")
@click.option("-v", "verbose", is_flag=True, help="Tell what is done.")
@click.option("-N", "namespace", metavar="FILE", help="Mount in this mount namespace. Root only.")
@click.option("-t", "fstype", default="xloop", metavar="TYPE", help="xloop, fuse.xloop or fuse.")
@click.option("-o", "strings", multiple=True, metavar="OPTION[,...]", help="Mount options.")
def _helper(
    spec: str,
    mountpoint: str,
    sloppy: bool,
    fake: bool,
    no_mtab: bool,
    verbose: bool,
    namespace: str | None,
    fstype: str,
    strings: tuple[str, ...],
) -> int:
    """Show the directory SPEC at MOUNTPOINT; SPEC may be written xloop#SPEC."""
    if fstype not in ("xloop", "fuse.xloop", "fuse"):
        raise OptionError(
            f"the type {fstype!r} is none that xloop mounts",
            "write xloop or fuse.xloop; for another name in mount tables: -o subtype=NAME",
        )
    wanted = understand(list(strings), sloppy=sloppy)
    if verbose and wanted.ignored:
        click.echo(f"xloop: ignored: {', '.join(wanted.ignored)}", err=True)
    if namespace is not None:
        _enter(namespace)
    if wanted.remount:
        from xloop.remounting import remount  # here: the other way round is the usual one

        remount(mountpoint, wanted, fake=fake)
        return _DONE
    try:
        return _mount(spec, mountpoint, wanted, fake=fake, verbose=verbose)
    except SourceMissing as exc:
        if not wanted.nofail:
            raise
        if verbose:
            click.echo(f"xloop: {exc.why}, and nofail was asked for: not mounted", err=True)
        return _DONE


def _mount(spec: str, mountpoint: str, wanted: Wanted, *, fake: bool, verbose: bool) -> int:
    from xloop.preflight import check_mountpoint, check_source
    from xloop.registry import choose

    source = check_source(path_of(spec))
    path = check_mountpoint(mountpoint, on_top=False)
    backend = choose(wanted.backend or AUTO)
    backend.check_options(wanted.options)
    options = wanted.options
    if options.fsname is None:
        # As it is written in fstab: by it mount -a knows what it has mounted already.
        options = replace(options, fsname=spec)
    if not fake:
        from xloop.cli.background import serve_in_background

        serve_in_background(source, path, options, backend)
    if verbose:
        done = "could be mounted" if fake else "is mounted"
        click.echo(f"xloop: {source!r} {done} at {path!r} by {backend.name}", err=True)
    return _DONE


def _enter(namespace: str) -> None:
    """Go to another mount namespace: there may be no Python in it, so have first what is needed there."""
    import codecs
    import pkgutil
    from importlib import import_module

    import xloop.cli.background
    import xloop.loopback
    import xloop.preflight
    import xloop.remounting  # noqa: F401  # as the others: it is to be there
    from xloop.host import process
    from xloop.registry import bundled, load

    codecs.lookup("ascii")  # a module, found by name when it is first needed
    for name in bundled():
        try:
            package = import_module(type(load(name)).__module__)
            for found in pkgutil.iter_modules(getattr(package, "__path__", [])):
                import_module(f"{package.__name__}.{found.name}")
        except (XloopError, ImportError):  # who is to mount there will say so
            continue
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    try:
        process.enter_mounts(path)
    except OSError as exc:
        raise MountError(
            f"the mount namespace {namespace!r} cannot be entered: {exc.strerror}",
            "that takes root, and the path of a namespace's file, or the id of a process in it",
        ) from exc
    for needed in ("/proc/self/mountinfo", os.devnull):
        if not os.path.exists(needed):
            raise MountError(
                f"in the mount namespace {namespace!r} there is no {needed}",
                "a mount needs /proc, /dev/null and /dev/fuse there",
            )


def run(program: str, args: list[str]) -> int:
    """Do what mount(8) asks of the helper *program* by *args*; return the exit status."""
    try:
        status: int = _helper.main(args, prog_name=program, standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return _USAGE
    except OptionError as exc:
        complain(exc)
        return _USAGE
    except XloopError as exc:
        complain(exc)
        return _FAILED
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Exception:  # noqa: BLE001  # with its traceback, and the status that says whose fault it is
        import traceback

        traceback.print_exc()
        return _BUG
    return status


def main() -> NoReturn:
    """Run as the helper whose path is the first argument, and exit."""
    from xloop.host import process

    process.keep_standard_descriptors()
    program, *args = sys.argv[1:] or ["mount.xloop"]
    sys.exit(run(os.path.basename(program), args))


if __name__ == "__main__":
    main()
