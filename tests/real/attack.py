# SPDX-License-Identifier: MIT
"""The two programs of the symlink attack, and the tree that nobody may reach.

Owns the swapping on the source, the attempts through a mount, and how an escape is recognized.
Does not own a test.  Runs as a script, without xloop::

    python attack.py swap SOURCE SECONDS
    python attack.py attempt MOUNTPOINT SECONDS OUTSIDE

The layout is TOP/source/a/b/secret beside TOP/outside/b/secret, the canary.  Links are relative and
lead to it from where they are in the source; from where the same links are in a mount elsewhere they
lead nowhere.  So a program that uses the mount and follows them finds nothing: whoever sees the
canary has made the server follow.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

CANARY = b"CANARY: this is outside"
#: A name that only the outside has.  Wherever it is found or can be used, somebody got out.
MARK = "only-outside"
HOT = "a/b/secret"
#: Directories that are only looked at, so that a server with few descriptors drops those of a/b.
COLD = 48

RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(old_dir: int, old: str, new_dir: int, new: str) -> None:
    """Swap two names in one step."""
    result = _libc.renameat2(old_dir, old.encode(), new_dir, new.encode(), RENAME_EXCHANGE)
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def build(top: str) -> tuple[str, str]:
    """Make the source and the outside below *top*, and return their paths."""
    source, outside = os.path.join(top, "source"), os.path.join(top, "outside")
    os.makedirs(os.path.join(source, "a/b"))
    os.makedirs(os.path.join(outside, "b"))
    for number in range(COLD):
        os.makedirs(os.path.join(source, f"cold{number}/b"))
        write(os.path.join(source, f"cold{number}/b/secret"), b"inside")
    write(os.path.join(source, HOT), b"inside")
    for name in ("secret", MARK, "b/secret", f"b/{MARK}"):
        write(os.path.join(outside, name), CANARY)
        os.setxattr(os.path.join(outside, name), "user.canary", CANARY)
    os.setxattr(os.path.join(outside, "b"), "user.canary", CANARY)
    return source, outside


def write(path: str, data: bytes) -> None:
    """Write a new file; what is there is removed, which may be a link or a FIFO by now."""
    if os.path.lexists(path):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, data)
    os.close(fd)


def fingerprint(outside: str) -> list[tuple[object, ...]]:
    """Return everything about the outside that changes when anybody changes anything there."""
    found: list[tuple[object, ...]] = []
    for directory, dirs, files in os.walk(outside):
        for path in [directory, *(os.path.join(directory, name) for name in dirs + files)]:
            st = os.lstat(path)
            data = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
            numbers = (st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size)
            found.append((path, *numbers, st.st_mtime_ns, st.st_ctime_ns, data))
    return sorted(found, key=str)


def inodes(outside: str) -> set[int]:
    """Return the inode numbers of the outside."""
    found = set()
    for path, *_ in fingerprint(outside):
        with contextlib.suppress(FileNotFoundError):  # an attack that succeeds takes things away
            found.add(os.lstat(str(path)).st_ino)
    return found


# -- the one who swaps, on the source -----------------------------------------------------


class Swapper:
    """Puts links to the outside in the place of directories and files, and takes them away again.

    It holds its directories by descriptor: it must not be led outside itself.
    """

    def __init__(self, source: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.top = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        self.a = os.open("a", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.top)
        self.b = os.open("b", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.a)
        self.swaps = 0
        self.over = False
        os.symlink("../outside", ".a", dir_fd=self.top)
        # In a directory of its own: it lies as deep as the place where it will be used.
        os.mkdir(".links", dir_fd=self.top)
        self.links = os.open(".links", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.top)
        os.symlink("../../outside/b", "b", dir_fd=self.links)

    def run(self, seconds: float) -> None:
        ways: list[Callable[[], None]] = [
            self.exchange_top,
            self.exchange_directory,
            self.exchange_file,
            self.replace_directory,
            self.replace_file,
            self.rename_over_file,
            self.fifo,
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over:
            # The other side unlinks and renames too: whatever fails is put in order and repeated.
            with contextlib.suppress(OSError):
                self.repair()
                for _ in range(20):
                    self.rng.choice(ways)()
                    self.swaps += 1

    def stop(self, *_: object) -> None:
        self.over = True

    def pause(self) -> None:
        """Let the other side see it, mostly for no longer than a system call takes."""
        wait = self.rng.choice((0.0, 0.0, 0.0, 0.00002, 0.0001, 0.0005))
        if wait:
            time.sleep(wait)

    def repair(self) -> None:
        """Put everything back in its place, whatever was done to it."""
        self._put_back(self.top, "a", self.a, ("a.kept", ".a"))
        self._put_back(self.a, "b", self.b, ("b.kept",))
        if not stat.S_ISREG(self._mode(self.b, "secret")):
            self._write_secret(".new")
            self._clear(self.b, "secret")
            os.rename(".new", "secret", src_dir_fd=self.b, dst_dir_fd=self.b)
        for directory, name, target in (
            (self.top, ".a", "../outside"),
            (self.links, "b", "../../outside/b"),
        ):
            if not stat.S_ISLNK(self._mode(directory, name)):
                self._clear(directory, name)
                os.symlink(target, name, dir_fd=directory)

    def _put_back(self, parent: int, name: str, own: int, others: tuple[str, ...]) -> None:
        me = os.fstat(own).st_ino
        places = [(parent, name), *((parent, other) for other in others), (self.links, "b")]
        for directory, other in places:
            try:
                found = os.stat(other, dir_fd=directory, follow_symlinks=False).st_ino == me
            except OSError:
                continue
            if found and (directory, other) != (parent, name):
                if self._mode(parent, name):
                    exchange(directory, other, parent, name)
                else:
                    os.rename(other, name, src_dir_fd=directory, dst_dir_fd=parent)
            if found:
                return

    def _mode(self, directory: int, name: str) -> int:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return 0

    def _clear(self, directory: int, name: str) -> None:
        mode = self._mode(directory, name)
        if stat.S_ISDIR(mode):
            os.rmdir(name, dir_fd=directory)
        elif mode:
            os.unlink(name, dir_fd=directory)

    def _write_secret(self, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, 0o644, dir_fd=self.b)
        os.write(fd, b"inside")
        os.close(fd)

    def exchange_top(self) -> None:
        exchange(self.top, "a", self.top, ".a")
        self.pause()
        exchange(self.top, "a", self.top, ".a")

    def exchange_directory(self) -> None:
        exchange(self.a, "b", self.links, "b")
        self.pause()
        exchange(self.a, "b", self.links, "b")

    def exchange_file(self) -> None:
        self._link_secret(".link")
        exchange(self.b, ".link", self.b, "secret")
        self.pause()
        exchange(self.b, ".link", self.b, "secret")

    def _link_secret(self, name: str) -> None:
        if not stat.S_ISLNK(self._mode(self.b, name)):
            self._clear(self.b, name)
            os.symlink("../../../outside/b/secret", name, dir_fd=self.b)

    def replace_directory(self) -> None:
        os.rename("b", "b.kept", src_dir_fd=self.a, dst_dir_fd=self.a)
        self.pause()
        os.symlink("../../outside/b", "b", dir_fd=self.a)
        self.pause()
        os.unlink("b", dir_fd=self.a)
        os.rename("b.kept", "b", src_dir_fd=self.a, dst_dir_fd=self.a)

    def replace_file(self) -> None:
        os.unlink("secret", dir_fd=self.b)
        os.symlink("../../../outside/b/secret", "secret", dir_fd=self.b)
        self.pause()
        os.unlink("secret", dir_fd=self.b)
        self._write_secret("secret")

    def rename_over_file(self) -> None:
        self._link_secret(".over")
        os.rename(".over", "secret", src_dir_fd=self.b, dst_dir_fd=self.b)
        self.pause()
        self._write_secret(".new")
        os.rename(".new", "secret", src_dir_fd=self.b, dst_dir_fd=self.b)

    def fifo(self) -> None:
        """A server that opens what it finds, to look at it, waits here for ever."""
        os.unlink("secret", dir_fd=self.b)
        os.mkfifo("secret", 0o644, dir_fd=self.b)
        self.pause()
        os.unlink("secret", dir_fd=self.b)
        self._write_secret("secret")


# -- the one who tries, through the mount -------------------------------------------------


class Witness:
    """Counts what was tried, what succeeded, what was raced, and every escape."""

    def __init__(self, outside: str) -> None:
        self.inodes = inodes(outside)
        self.attempts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.escapes: list[str] = []

    def data(self, what: str, data: bytes) -> None:
        if CANARY in bytes(data):
            self.escapes.append(f"{what}: read the canary")

    def ino(self, what: str, ino: int) -> None:
        if ino in self.inodes:
            self.escapes.append(f"{what}: inode {ino} of the outside")

    def names(self, what: str, names: list[str]) -> None:
        if MARK in names:
            self.escapes.append(f"{what}: listed the outside")

    def attempt(self, what: str, call: Callable[[], object]) -> None:
        """Make one attempt; an error of the system is an answer too, and counted."""
        try:
            call()
        except OSError as error:
            self.errors[errno.errorcode.get(error.errno or 0, str(error.errno))] += 1
        else:
            self.attempts[what] += 1
            if MARK in what:
                self.escapes.append(f"{what} succeeded")

    def report(self) -> dict[str, Any]:
        return {
            "attempts": dict(self.attempts),
            "errors": dict(self.errors),
            "escapes": self.escapes[:20],
            "escaped": len(self.escapes),
        }


class Attempts:
    """Every way to reach something by path, below one directory."""

    def __init__(self, top: str, witness: Witness, seed: int) -> None:
        self.top, self.see, self.rng = top, witness, random.Random(seed)
        self.own = f"own{os.getpid()}"
        self.uid, self.gid = os.getuid(), os.getgid()

    def run(self, seconds: float) -> None:
        ways = [(n, getattr(self, n)) for n in sorted(dir(self)) if n.startswith("try_")]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(40):
                name, way = self.rng.choice(ways)
                self.see.attempt(name[4:], way)
            self.see.attempt("cold", self.cold)
            self.see.attempt(f"stat {MARK}", lambda: os.lstat(self.path(f"a/b/{MARK}")))
            self.see.attempt(f"unlink {MARK}", lambda: os.unlink(self.path(f"a/{MARK}")))
            self.see.attempt(f"rename {MARK}", self.steal)

    def path(self, name: str) -> str:
        return os.path.join(self.top, name)

    def cold(self) -> None:
        os.stat(self.path(f"cold{self.rng.randrange(COLD)}/b/secret"))

    def steal(self) -> None:
        os.rename(self.path(f"a/b/{MARK}"), self.path(self.own))

    def with_open(self, flags: int, use: Callable[[int], object]) -> None:
        fd = os.open(self.path(HOT), flags | os.O_NONBLOCK, 0o644)
        try:
            self.see.ino("open", os.fstat(fd).st_ino)
            use(fd)
        finally:
            os.close(fd)

    def try_read(self) -> None:
        self.with_open(os.O_RDONLY, lambda fd: self.see.data("read", os.read(fd, 100)))

    def try_read_nofollow(self) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW
        self.with_open(flags, lambda fd: self.see.data("read", os.read(fd, 100)))

    def try_write(self) -> None:
        self.with_open(os.O_WRONLY, lambda fd: os.write(fd, b"OVERWRITTEN"))

    def try_truncate_open(self) -> None:
        self.with_open(os.O_WRONLY | os.O_TRUNC, lambda fd: None)

    def try_append(self) -> None:
        self.with_open(os.O_RDWR | os.O_APPEND | os.O_CREAT, lambda fd: os.write(fd, b"+"))

    def try_create(self) -> None:
        name = self.path(f"a/b/{self.own}")
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(name)

    def try_tmpfile(self) -> None:
        fd = os.open(self.path("a/b"), os.O_RDWR | os.O_TMPFILE, 0o600)
        try:
            os.link(f"/proc/self/fd/{fd}", self.path(f"a/b/{self.own}.tmp"), follow_symlinks=True)
        finally:
            os.close(fd)
        os.unlink(self.path(f"a/b/{self.own}.tmp"))

    def try_truncate(self) -> None:
        os.truncate(self.path(HOT), self.rng.randrange(20))

    def try_mkdir(self) -> None:
        os.mkdir(self.path(f"a/b/{self.own}.d"))
        os.rmdir(self.path(f"a/b/{self.own}.d"))

    def try_symlink(self) -> None:
        os.symlink("x", self.path(f"a/b/{self.own}.l"))
        os.unlink(self.path(f"a/b/{self.own}.l"))

    def try_mknod(self) -> None:
        os.mkfifo(self.path(f"a/b/{self.own}.f"))
        os.unlink(self.path(f"a/b/{self.own}.f"))

    def try_unlink(self) -> None:
        os.unlink(self.path(HOT))

    def try_stat(self) -> None:
        self.see.ino("stat", os.stat(self.path(HOT)).st_ino)
        self.see.ino("lstat", os.lstat(self.path("a/b")).st_ino)

    def try_chmod(self) -> None:
        os.chmod(self.path(HOT), self.rng.choice((0o600, 0o644, 0o666)))

    def try_chown(self) -> None:
        os.chown(self.path(HOT), self.uid, self.gid)

    def try_lchown(self) -> None:
        os.chown(self.path("a/b"), self.uid, self.gid, follow_symlinks=False)

    def try_utime(self) -> None:
        os.utime(self.path(HOT), ns=(1, 1))

    def try_setxattr(self) -> None:
        os.setxattr(self.path(HOT), "user.canary", b"mine")

    def try_getxattr(self) -> None:
        self.see.data("getxattr", os.getxattr(self.path(HOT), "user.canary"))

    def try_getxattr_of_directory(self) -> None:
        self.see.data("getxattr", os.getxattr(self.path("a/b"), "user.canary"))

    def try_removexattr(self) -> None:
        os.removexattr(self.path(HOT), "user.canary")

    def try_listdir(self) -> None:
        for name in ("a", "a/b"):
            self.see.names("listdir", os.listdir(self.path(name)))

    def try_scandir(self) -> None:
        with os.scandir(self.path("a/b")) as entries:
            for entry in entries:
                self.see.ino("scandir", entry.inode())
                self.see.ino("scandir", entry.stat(follow_symlinks=False).st_ino)

    def try_rename_away(self) -> None:
        os.rename(self.path(HOT), self.path(self.own))

    def try_rename_over(self) -> None:
        write(self.path(self.own), b"inside")
        os.rename(self.path(self.own), self.path(HOT))

    def try_rename_in(self) -> None:
        write(self.path(self.own), b"inside")
        os.rename(self.path(self.own), self.path(f"a/b/{self.own}.r"))
        os.unlink(self.path(f"a/b/{self.own}.r"))

    def try_link_away(self) -> None:
        os.link(self.path(HOT), self.path(f"{self.own}.ln"), follow_symlinks=False)
        os.unlink(self.path(f"{self.own}.ln"))

    def try_link_in(self) -> None:
        write(self.path(self.own), b"inside")
        os.link(self.path(self.own), self.path(f"a/b/{self.own}.li"))
        os.unlink(self.path(f"a/b/{self.own}.li"))

    def try_directory_held_open(self) -> None:
        """The way that careful programs take: by descriptor, one component at a time."""
        flags = os.O_DIRECTORY | os.O_NOFOLLOW
        a = os.open(self.path("a"), flags | self.rng.choice((os.O_PATH, os.O_RDONLY)))
        try:
            b = os.open("b", flags, dir_fd=a)
            try:
                self.see.names("listdir", os.listdir(b))
                fd = os.open("secret", os.O_RDONLY | os.O_NONBLOCK, dir_fd=b)
                self.see.data("read", os.read(fd, 100))
                os.close(fd)
            finally:
                os.close(b)
        finally:
            os.close(a)

    def try_file_held_open(self) -> None:
        def use(fd: int) -> None:
            time.sleep(0.0002)
            os.fchmod(fd, 0o644)
            os.ftruncate(fd, 6)
            os.pwrite(fd, b"inside", 0)
            self.see.data("pread", os.pread(fd, 100, 0))

        self.with_open(os.O_RDWR, use)


def main(arguments: list[str]) -> None:
    what, top, seconds, *rest = arguments
    if what == "swap":
        swapper = Swapper(top, os.getpid())
        signal.signal(signal.SIGTERM, swapper.stop)
        swapper.run(float(seconds))
        # While Python ends, the handler is gone and the signal would kill.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(json.dumps({"swaps": swapper.swaps}))
    else:
        witness = Witness(rest[0])
        Attempts(top, witness, os.getpid()).run(float(seconds))
        print(json.dumps(witness.report()))


if __name__ == "__main__":
    main(sys.argv[1:])
