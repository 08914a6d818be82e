# SPDX-License-Identifier: MIT
"""What is measured: the plain directory, xloop, and other programs that show a directory.

Owns mounting each of them and its certain end, and the table of the programs that are known.
Does not own what is done on them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xloop import mounts
from xloop.errors import MountError, OptionError, UnmountError
from xloop.host.mounttable import MountEntry
from xloop.options import MountOptions, nearest, parse_options
from xloop.registry import AUTO

if TYPE_CHECKING:
    from xloop.mounting import Mount

__all__ = [
    "KNOWN",
    "NATIVE",
    "Native",
    "Peer",
    "Program",
    "Subject",
    "Xloop",
    "check_backends",
    "check_names",
    "found_programs",
    "parse_against",
    "parse_variant",
    "sweep",
]

NATIVE = "native"

#: Seconds for a program to mount.
PATIENCE = 20.0
#: Seconds for a program to end when its mount is gone, and then when it is told to.
FAREWELL = 3.0


class Subject(ABC):
    """Something that shows the source directory."""

    kind: str
    #: The mount; None while there is none, and for the plain directory always.
    entry: MountEntry | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        #: Where it shows the source.
        self.path = Path()

    @abstractmethod
    def mount(self, source: Path, mountpoint: Path) -> None:
        """Show *source* at the empty directory *mountpoint*; XloopError says why not."""

    @abstractmethod
    def unmount(self) -> None:
        """Undo that, whatever state it is in."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a reader of the figures has to know about it."""

    def abort(self) -> None:
        """Let everything that waits for this file system fail, so that those who wait can end."""
        if self.entry is None:
            return
        # fusectl: belongs to whoever has mounted.  It may not be mounted: then the end of the
        # server, which is told by the mountpoint among its arguments, is the end of the rest.
        with suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{self.entry.device[1]}/abort").write_text("1")
        for pid in _servers(self.entry.mountpoint):
            with suppress(OSError):
                os.kill(pid, 9)  # SIGKILL has no name on Windows


def _servers(mountpoint: str) -> list[int]:
    """Return the processes that have *mountpoint*, which nobody else knows, among their arguments."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(mountpoint) in (proc / "cmdline").read_bytes():
                found.append(int(proc.name))
    return found


class Native(Subject):
    """The plain directory."""

    kind = "native"

    def __init__(self) -> None:
        super().__init__(NATIVE)

    def mount(self, source: Path, mountpoint: Path) -> None:
        self.path = source

    def unmount(self) -> None:
        self.path = Path()

    def facts(self) -> dict[str, Any]:
        return {}


class Xloop(Subject):
    """This file system, with some options and some backend."""

    kind = "xloop"

    def __init__(self, name: str, words: Sequence[str], backend: str = AUTO) -> None:
        super().__init__(name)
        self.words = tuple(words)
        self.options: MountOptions = parse_options(self.words)
        self.backend = backend
        self._mount: Mount | None = None

    def mount(self, source: Path, mountpoint: Path) -> None:
        from xloop.mounting import mount  # here: what only checks the options needs none of it

        self.path = mountpoint
        self._mount = mount(source, mountpoint, options=self.options, backend=self.backend)
        self.backend = self._mount.backend
        self.entry = mounts.mount_at(mounts.read_table(), os.fspath(mountpoint))

    def unmount(self) -> None:
        if self._mount is None:
            return
        try:
            self._mount.unmount()
        except UnmountError:
            self.abort()
            self._mount.unmount(lazy=True)
        self._mount = self.entry = None

    def facts(self) -> dict[str, Any]:
        from xloop import __version__

        return {"version": __version__, "backend": self.backend, "options": ",".join(self.words)}


@dataclass(frozen=True, slots=True)
class Program:
    """Another program, and how it is called."""

    name: str
    #: With {source}, {mountpoint} and the timeouts that xloop has: {attr}, {entry}, {negative}.
    command: str
    version: tuple[str, ...] = ()
    #: Taken if it is in the PATH.  False: only when it is named, for its file name says too little.
    looked_for: bool = True
    remark: str = ""


#: In the foreground where they can be, so that their end is certain; with xloop's cache timeouts
#: where they can be told.
KNOWN = (
    Program(
        "bindfs",
        # As xloop, for its owner alone: others may enter where /etc/fuse.conf allows it only.
        "bindfs -f --multithreaded --no-allow-other -o attr_timeout={attr},entry_timeout={entry},"
        "negative_timeout={negative} {source} {mountpoint}",
        ("--version",),
    ),
    Program(
        "mergerfs",
        # Without minfreespace it refuses to create on what has less than 4 GiB left.
        "mergerfs -f -o cache.attr={attr:.0f},cache.entry={entry:.0f},"
        "cache.negative_entry={negative:.0f},minfreespace=0 {source} {mountpoint}",
        ("--version",),
    ),
    Program(
        "passthrough_hp",
        "passthrough_hp --foreground {source} {mountpoint}",
        ("--version",),
        remark="its cache timeouts are a day and cannot be set: it is asked less often",
    ),
    Program(
        "passthrough_ll",
        "passthrough_ll -f -o source={source},timeout={attr} {mountpoint}",
        ("--version",),
    ),
    Program(
        "go-fuse",
        "loopback {mountpoint} {source}",
        looked_for=False,
        remark="its cache timeouts are its own",
    ),
)


class Peer(Subject):
    """Another program's mount."""

    kind = "peer"

    def __init__(self, program: Program, options: MountOptions) -> None:
        super().__init__(program.name)
        self.program = program
        self._timeouts = {
            "attr": options.attr_timeout,
            "entry": options.entry_timeout,
            "negative": options.negative_timeout,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._version: str | None = None

    def words(self, source: str, mountpoint: str) -> list[str]:
        # Split before the paths are put in: they may hold blanks.
        return [
            word.format(source=source, mountpoint=mountpoint, **self._timeouts)
            for word in shlex.split(self.program.command)
        ]

    def mount(self, source: Path, mountpoint: Path) -> None:
        self.path = mountpoint
        words = self.words(os.fspath(source), os.fspath(mountpoint))
        before = mounts.read_table()
        # A file and no pipe: nobody reads it as long as all is well.
        said = mountpoint.with_name(f"{mountpoint.name}.said")
        try:
            with said.open("wb") as output:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    start_new_session=True,
                )
            self.entry = self._wait(mountpoint, before)
        except OSError as exc:
            raise MountError(f"{self.name}: {words[0]} cannot be run: {exc.strerror}") from exc
        except BaseException as exc:
            self.unmount()
            if isinstance(exc, MountError):
                raise MountError(f"{self.name}: {exc.why}", _last_words(said)) from None
            raise

    def _wait(self, mountpoint: Path, before: Sequence[MountEntry]) -> MountEntry:
        """Return the new mount.  By the mount table: the path would hang if the mount does."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            status = self._process.poll()
            entry = mounts.mount_at(mounts.read_table(), os.fspath(mountpoint))
            if entry is not None and entry not in before:
                break
            # It may serve from the background: then status 0 says that it has mounted.
            if status is not None:
                raise MountError(f"ended with status {status}, and nothing is mounted")
            if time.monotonic() > deadline:
                raise MountError(f"has not mounted in {PATIENCE:.0f} seconds")
            time.sleep(0.01)
        self.entry = entry
        health = mounts.health(os.fspath(mountpoint))
        if health is not mounts.Health.ANSWERS:
            raise MountError(f"was mounted, but: {health.value}")
        return entry

    def unmount(self) -> None:
        patience = 0.0
        if self.entry is not None:
            _take_away(self, self.entry)
            self.entry = None
            patience = FAREWELL  # it ends by itself, having nothing to serve
        if self._process is not None:
            _see_the_end(self._process, patience)
            self._process = None

    def facts(self) -> dict[str, Any]:
        facts = {
            "version": self.version(),
            "command": shlex.join(self.words("SOURCE", "MOUNTPOINT")),
        }
        return facts | ({"remark": self.program.remark} if self.program.remark else {})

    def version(self) -> str:
        """Return the first line of what it says about its version; empty if it does not."""
        if self._version is None and self.program.version:
            self._version = _first_line([self.words("", "")[0], *self.program.version])
        return self._version or ""


def _see_the_end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Wait for the end of *process*, and after *patience* seconds bring it about."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
        return
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(FAREWELL)
        return
    process.kill()
    process.wait()


def _take_away(subject: Subject, entry: MountEntry) -> None:
    try:
        mounts.take_away(entry.mountpoint, expected=entry)
    except UnmountError:
        subject.abort()
        mounts.take_away(entry.mountpoint, lazy=True, expected=entry)


def _first_line(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    # libfuse tells of its helper too, before or after what is asked for.
    own = [line.strip() for line in lines if not line.startswith("fusermount")]
    return own[0] if own and not done.returncode else ""


def _last_words(said: Path, most: int = 3) -> str:
    with suppress(OSError):
        text = said.read_bytes()[-4096:].decode("utf-8", "backslashreplace")
        return "\n".join([line for line in text.splitlines() if line.strip()][-most:])
    return ""


def sweep(top: Path) -> list[str]:
    """Take away every mount below *top*, and return those that stay all the same.

    For what was mounted in the moment in which a signal ended the mounting.
    """
    below = os.fspath(top) + "/"
    for entry in reversed(mounts.read_table()):
        if entry.mountpoint.startswith(below):
            with suppress(UnmountError):
                mounts.take_away(entry.mountpoint, lazy=True)
    return [e.mountpoint for e in mounts.read_table() if e.mountpoint.startswith(below)]


# -- what the command line says ----------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def _check_name(name: str, option: str) -> str:
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{option}: {name!r} cannot be a name",
            "a name has letters, digits, '.', '_', '+' and '-'",
        )
    return name


def found_programs() -> list[Program]:
    """Return the known programs that are in the PATH."""
    return [p for p in KNOWN if p.looked_for and shutil.which(p.command.split()[0])]


def parse_against(text: str) -> Program:
    """Return the program that ``--against`` means: NAME, or NAME=COMMAND; OptionError."""
    name, equals, command = text.partition("=")
    if equals:
        return _of_ones_own(_check_name(name.strip(), "--against"), command)
    known = {program.name: program for program in KNOWN}
    if name not in known:
        raise OptionError(
            f"--against: there is no {name!r}{nearest(name, known)}",
            f"known are {', '.join(known)}; of anything else give the command: "
            "--against 'NAME=COMMAND {source} {mountpoint}'",
        )
    program = known[name]
    file = program.command.split()[0]
    if shutil.which(file) is None:
        raise OptionError(
            f"--against: {name} is not installed: there is no {file} in the PATH",
            f"where it is elsewhere: --against '{name}=/path/to/{program.command}'"
            if "{attr" not in program.command
            else "install it, or leave it out",
        )
    return program


def _of_ones_own(name: str, command: str) -> Program:
    fix = "give it as: --against 'NAME=COMMAND {source} {mountpoint}'"
    try:
        words = shlex.split(command)
        for word in words:
            word.format(source="", mountpoint="", attr=1.0, entry=1.0, negative=0.0)
    except (ValueError, KeyError, IndexError) as exc:
        raise OptionError(f"--against: the command of {name!r} is malformed: {exc}", fix) from None
    missing = [field for field in ("{source}", "{mountpoint}") if field not in command]
    if missing:
        raise OptionError(f"--against: the command of {name!r} lacks {' and '.join(missing)}", fix)
    if shutil.which(words[0]) is None:
        raise OptionError(f"--against: {name}: there is no program {words[0]!r}")
    return Program(name, command)


def parse_variant(text: str, words: Sequence[str], backend: str) -> Xloop:
    """Return the xloop that ``--variant 'NAME=[-o OPTION[,...]] [--backend NAME]'`` means.

    Its options come after *words*, those of all.  OptionError.
    """
    name, equals, given = text.partition("=")
    fix = "give it as: --variant 'NAME=-o OPTION[,...] --backend NAME'"
    if not equals:
        raise OptionError(f"--variant: {text!r} has no '='", fix)
    own = list(words)
    try:
        rest = iter(shlex.split(given))
    except ValueError as exc:
        raise OptionError(f"--variant: {name!r} is malformed: {exc}", fix) from None
    for word in rest:
        value = next(rest, None)
        if word not in ("-o", "--backend") or value is None:
            raise OptionError(f"--variant: {name!r}: {word!r} is not understood", fix)
        if word == "-o":
            own.append(value)
        else:
            backend = value
    return Xloop(_check_name(name.strip(), "--variant"), own, backend)


def check_names(subjects: Sequence[Subject]) -> None:
    """OptionError if two are called the same: figures must not be taken for another's."""
    seen = {NATIVE}
    for subject in subjects:
        if subject.name in seen:
            raise OptionError(
                f"there are two subjects called {subject.name!r}", "name one otherwise"
            )
        seen.add(subject.name)


def check_backends(subjects: Sequence[Subject]) -> None:
    """Raise the reason for which an xloop cannot be mounted at all, before anything is made."""
    from xloop.registry import choose

    for subject in subjects:
        if isinstance(subject, Xloop):
            choose(subject.backend).check_options(subject.options)
