# SPDX-License-Identifier: MIT
"""A mount for one command: :func:`run`.

Owns the order of steps that ends with this process being the command, and the place where the view is if
nobody asked for another.  Does not own the namespaces (:mod:`xloop.host.namespaces`) nor the mount
while it lives (:class:`xloop.serving.Service`).

**This process becomes the command.**  So the terminal, signals, job control and the exit status are the
command's own, and there is nobody who could be killed between the two.

**The server stays outside** of the namespaces.  A mount namespace ends, with all that is mounted in it, when its last
process does, and a server inside of it would be one.  So this process mounts, hands the connection over,
and is not needed any more: the kernel takes the mount away when the command and all that it has started
are gone, however they went, and the server ends with that.  Until then the mount stays: a path never
begins to mean something else under a process that is still at work.

The server is no child of the command, which would be surprised by one that it did not start.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

from xloop import mounts
from xloop.backend import Availability, PrivateBackend, Session
from xloop.control import Line, failure
from xloop.errors import MountError, OptionError
from xloop.host import Descriptor, namespaces, process
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.preflight import check_mountpoint, check_source, confirm
from xloop.registry import AUTO, choose_private

__all__ = ["VARIABLE", "CommandError", "run"]

#: The environment variable that tells the command where the view is.
VARIABLE = "XLOOP_VIEW"


class CommandError(MountError):
    """The mount was made, and the command could not be started in it.  Nothing is left."""

    def __init__(self, command: str, exc: OSError) -> None:
        super().__init__(f"the command {command!r} cannot be run: {exc.strerror}")
        #: As a shell's: 127 where there is no such command, 126 where it cannot be executed.
        self.status = 127 if exc.errno == errno.ENOENT else 126


def run(
    command: Sequence[str],
    source: str,
    *,
    at: str | None = None,
    options: MountOptions | None = None,
    backend: str = AUTO,
    tell: Callable[[str, str, str], object] = lambda source, place, backend: None,
) -> NoReturn:
    """Become *command*, for which *source* is shown at the directory *at*, and for nobody else.

    Without *at*, it is shown at a place of its own, and the command starts in there.  *tell* is called with
    the source, where it is shown, and by which backend.

    To be called while this process has one thread.  MountError says why it cannot be, and nothing is left.
    """
    if not namespaces.SUPPORTED:
        raise MountError(
            "this system has no mount namespaces, and so no mounts for one command alone: Linux has",
            "mount for everybody: xloop mount, the command, xloop umount",
        )
    options = options or MountOptions()
    if options.auto_unmount:
        raise OptionError(
            "auto_unmount cannot be had for a mount of one command: nobody outside could take it away",
            "leave out auto_unmount: the mount goes with the command, dead or alive",
        )
    source_path = check_source(source)
    # On top of whatever is there: nobody else will see it.
    place = None if at is None else check_mountpoint(at, on_top=True)
    chosen = choose_private(backend)
    chosen.check_private(options)
    if options.fsname is None:
        options = replace(options, fsname=source_path)
    views = _views() if place is None else None
    here = _working_directory()
    private_users = not namespaces.may_mount()

    with process.blocked(process.STATUS):  # the server listens to it as soon as it can
        line = _start_server(source_path, place, options, chosen, squashed=private_users)
    _enter(private_users)
    if views is not None:
        place = _place_in(views, source_path)
    assert place is not None
    _mount(line, place, options, chosen)
    tell(source_path, place, chosen.name)
    environment = {**os.environ, VARIABLE: place}
    if at is None:
        here = environment["PWD"] = place
    try:
        # By its path, and again: what was mounted on top of it, or of a directory above, is to be seen.
        os.chdir(here)
    except OSError as exc:
        raise MountError(
            f"the working directory {here!r} is not there for the command: {exc.strerror}",
            f"{source!r} is shown in its place: start in a directory that both have",
        ) from exc
    _become(command, environment)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    process.restore_signals()
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as exc:
        raise CommandError(command[0], exc) from exc


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as exc:
        raise MountError(
            f"the working directory is gone: {exc.strerror}", "start in one that is there"
        ) from exc


def _enter(user: bool) -> None:
    try:
        namespaces.enter()
    except OSError as exc:
        found = namespaces.forbidden_by(user=user)
        if found is not None:
            name, value, allows = found
            why = f"{name} is {value}, which forbids it"
            fix = f"let root allow it: sysctl -w {name}={allows}"
        else:
            why = str(exc.strerror)
            fix = "in a container, give it the right: --cap-add SYS_ADMIN"
        raise MountError(
            f"a {'user' if user else 'mount'} namespace cannot be had here: {why}",
            f"{fix}\nor run it as root, or mount for everybody: xloop mount",
        ) from exc


# -- the place ------------------------------------------------------------------------------


def _views() -> str:
    """Return an empty directory of this user's, made if need be, that will be covered in the namespace.

    It is all that there ever is of a view's place outside.
    """
    user, _ = namespaces.identity()
    root = user == 0
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    # root's /run/user/0 goes when root logs out, and other users, which the command may become, cannot enter it.
    if os.path.isdir(given) and not (root and given.startswith("/run/user/")):
        runtime = os.path.abspath(given)
    elif root:
        runtime = "/run"
    else:
        import warnings

        import platformdirs  # here: hardly anybody is without a runtime directory

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fall back: it is as good for this
            runtime = platformdirs.user_runtime_dir()
    path = os.path.join(runtime, "xloop-views")
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(path, 0o755 if root else 0o700)
        found = os.lstat(path)
    except OSError as exc:
        raise _no_views(path, exc.strerror) from exc
    if not stat.S_ISDIR(found.st_mode):
        raise _no_views(path, "it is no directory")
    if found.st_uid != user:
        raise _no_views(path, f"it belongs to user {found.st_uid}")
    return os.path.realpath(path)


def _no_views(path: str, why: str | None) -> MountError:
    return MountError(
        f"there is no place for the view: {path!r} cannot be used: {why}",
        "choose one: --at DIR",
    )


def _place_in(views: str, source: str) -> str:
    """Return a new empty directory below *views*, named as *source* is, that is seen in here only."""
    try:
        around = mounts.mount_at(mounts.read_table(), views)
        if around is None or around.fstype != "tmpfs":  # else we run in a view already
            namespaces.mount("xloop", views, "tmpfs", namespaces.PLAIN, "mode=755")
        for number in itertools.count(1):
            own = os.path.join(views, str(number))
            try:
                os.mkdir(own, 0o755)
                break
            except FileExistsError:
                continue
        # Programs take a project's name from the directory that it is in.
        place = os.path.join(own, os.path.basename(source) or "root")
        os.mkdir(place, 0o755)
    except OSError as exc:
        raise _no_views(views, exc.strerror) from exc
    return place


# -- the mount ------------------------------------------------------------------------------


def _mount(line: Line, place: str, options: MountOptions, backend: PrivateBackend) -> None:
    """Mount at *place*, and return when the server at the other end of *line* answers for it."""
    before = mounts.read_table()
    connection = backend.attach(place, options)
    line.hand_over(connection)
    del connection  # as long as it is open here, nobody hears that the server has died
    said = line.hear()
    if said is None:
        raise MountError("the server process ended before the mount was ready")
    if said["say"] != "ready":
        raise failure(said)
    entry = confirm(place, before)
    line.say("mounted", device=entry.device, mountpoint=entry.mountpoint, fstype=entry.fstype)
    line.say("release")
    line.drop()


class _Adopting:
    """The backend as the server's side sees it: mounting is waiting for the mount."""

    def __init__(self, backend: PrivateBackend, line: Line) -> None:
        self.name = backend.name
        self._backend = backend
        self._line = line

    def probe(self) -> Availability:
        return self._backend.probe_private()

    def check_options(self, options: MountOptions) -> None:
        self._backend.check_private(options)

    def mount(self, operations: Operations, mountpoint: str, options: MountOptions) -> Session:
        connection = self._line.received()
        if connection is None:
            raise MountError("the process that mounts ended before it had mounted")
        return self._backend.adopt(Descriptor(connection), operations, mountpoint, options)


def _start_server(
    source: str,
    place: str | None,
    options: MountOptions,
    backend: PrivateBackend,
    *,
    squashed: bool,
) -> Line:
    """Start a server that waits for the mount, and return the line to it."""
    line, other = Line.pair()
    pid = process.fork()
    if pid:
        other.drop()
        process.wait(pid)
        return line
    status = 1
    try:
        process.leave_terminal()
        # Its parent ends at once: it is a child of whoever adopts orphans, and not of the command.
        if process.fork() == 0:
            line.drop()
            status = _serve(other, source, place, options, backend, squashed)
        else:
            status = 0
    finally:
        # Not sys.exit(): what the command line would do on its way out is for the first process to do.
        os._exit(status)


def _serve(
    line: Line,
    source: str,
    place: str | None,
    options: MountOptions,
    backend: PrivateBackend,
    squashed: bool,
) -> int:
    from xloop.layers import Squash
    from xloop.server import build, serve_asker

    process.close_others(line.fileno())
    user, group = namespaces.identity()
    layers = [partial(Squash, uid=user, gid=group)] if squashed else []
    return serve_asker(
        line,
        None,
        lambda: build(source, layers, None, options),
        f"the view of {source!r}" if place is None else place,
        options,
        _Adopting(backend, line),
        on_ready=process.silence,
        elsewhere=True,
    )
