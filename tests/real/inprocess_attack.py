# SPDX-License-Identifier: MIT
"""The symlink attack on an Operations without any kernel: every call, from several threads.

Owns the walk that a kernel would make and the attempts.  How the source is swapped and how an escape
is recognized is in attack.py.  Also owns :class:`Naive`, the file system that must be caught.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from functools import partial

from real.attack import COLD, MARK, Witness
from xloop import Operations
from xloop.types import NOW, ROOT_INO, Attr, Caller, Entry, HandleId, Ino, Opened, SetAttr

_MARK = MARK.encode()


class Naive(Operations):
    """Opens paths, as many do: the attack must get out of it."""

    def __init__(self, source: str) -> None:
        self.paths: dict[int, str] = {ROOT_INO: source}
        self.numbers: dict[str, int] = {source: ROOT_INO}
        self.lock = threading.Lock()

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        path = os.path.join(self.paths[parent], os.fsdecode(name))
        st = os.lstat(path)
        with self.lock:
            ino = self.numbers.setdefault(path, len(self.paths) + 1)
            self.paths[ino] = path
        return Entry(Ino(ino), Attr.make(st.st_mode, ino=st.st_ino))

    def forget(self, ino: Ino, nlookup: int) -> None:
        pass

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        return Opened(HandleId(os.open(self.paths[ino], flags)))

    def read(self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int) -> bytes:
        return os.pread(handle, size, offset)

    def release(self, ino: Ino, handle: HandleId) -> None:
        os.close(handle)


class Attacker:
    """One thread that walks to a/b/secret again and again, and does something there."""

    def __init__(self, operations: Operations, witness: Witness, seed: int) -> None:
        self.fs, self.see, self.rng = operations, witness, random.Random(seed)
        self.me = Caller(os.getuid(), os.getgid(), os.getpid(), tuple(os.getgroups()))
        self.own = f"own{seed}".encode()
        #: What is known and not yet forgotten: as a kernel does, numbers are kept and used later.
        self.held: list[Entry] = []

    def run(self, seconds: float) -> None:
        ways = [(n, getattr(self, n)) for n in sorted(dir(self)) if n.startswith("try_")]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.see.escapes:
            for _ in range(20):
                name, way = self.rng.choice(ways)
                self.see.attempt(name[4:], way)
            self.see.attempt("cold", self.cold)
            if len(self.held) > 200:
                self.forget(150)
        self.forget(len(self.held))

    def forget(self, count: int) -> None:
        """Forget some of what is known; never in the middle of an attempt, which may be using it."""
        self.rng.shuffle(self.held)
        dropped, self.held = self.held[:count], self.held[count:]
        self.fs.batch_forget([(entry.ino, 1) for entry in dropped])

    def find(self, parent: Ino, name: bytes) -> Entry:
        entry = self.fs.lookup(self.me, parent, name)
        self.held.append(entry)
        self.see.ino(f"lookup {os.fsdecode(name)}", entry.attr.ino)
        return entry

    def walk(self, *names: bytes) -> Ino:
        """Return the number of a directory, as a kernel finds it: it follows no link for us."""
        ino = ROOT_INO
        for name in names:
            entry = self.find(ino, name)
            if not stat.S_ISDIR(entry.attr.mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            ino = entry.ino
        return ino

    def b(self) -> Ino:
        """Return a/b: found now, or found earlier and kept."""
        kept = [entry.ino for entry in self.held if stat.S_ISDIR(entry.attr.mode)]
        if kept and self.rng.random() < 0.3:
            return self.rng.choice(kept)
        return self.walk(b"a", b"b")

    def secret(self) -> Ino:
        kept = [entry.ino for entry in self.held if stat.S_ISREG(entry.attr.mode)]
        if kept and self.rng.random() < 0.3:
            return self.rng.choice(kept)
        entry = self.find(self.b(), b"secret")
        if not stat.S_ISREG(entry.attr.mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return entry.ino

    def cold(self) -> None:
        self.find(self.walk(b"cold%d" % self.rng.randrange(COLD), b"b"), b"secret")

    def with_open(self, flags: int) -> None:
        ino = self.secret()
        opened = self.fs.open(self.me, ino, flags | os.O_NONBLOCK)
        try:
            if opened.fd is not None:
                self.see.ino("open", os.fstat(opened.fd).st_ino)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self.fs.write(self.me, ino, opened.handle, 0, b"inside")
            if flags & os.O_ACCMODE != os.O_WRONLY:
                self.see.data("read", bytes(self.fs.read(self.me, ino, opened.handle, 0, 100)))
        finally:
            self.fs.release(ino, opened.handle)

    def try_read(self) -> None:
        self.with_open(os.O_RDONLY)

    def try_write(self) -> None:
        self.with_open(os.O_WRONLY)

    def try_truncate(self) -> None:
        self.with_open(os.O_RDWR | os.O_TRUNC)

    def try_size(self) -> None:
        self.fs.setattr(self.me, self.secret(), SetAttr(size=6), None)

    def try_mode(self) -> None:
        self.fs.setattr(self.me, self.secret(), SetAttr(mode=0o640), None)

    def try_owner(self) -> None:
        changes = SetAttr(uid=self.me.uid, gid=self.me.gid)
        self.fs.setattr(self.me, self.secret(), changes, None)

    def try_times(self) -> None:
        self.fs.setattr(self.me, self.secret(), SetAttr(atime=NOW, mtime=1), None)

    def try_attributes(self) -> None:
        self.see.ino("getattr", self.fs.getattr(self.me, self.secret(), None).ino)
        self.see.ino("getattr", self.fs.getattr(self.me, self.b(), None).ino)

    def try_xattrs(self) -> None:
        ino = self.secret()
        self.fs.setxattr(self.me, ino, b"user.canary", b"inside", 0)
        self.see.data("getxattr", self.fs.getxattr(self.me, ino, b"user.canary"))
        self.fs.removexattr(self.me, ino, b"user.canary")

    def try_xattr_of_directory(self) -> None:
        self.see.data("getxattr", self.fs.getxattr(self.me, self.b(), b"user.canary"))

    def try_list(self) -> None:
        ino = self.b()
        opened = self.fs.opendir(self.me, ino, os.O_RDONLY)
        try:
            for found in self.fs.readdir(self.me, ino, opened.handle, 0):
                self.see.ino("readdir", found.ino)
                self.see.names("readdir", [os.fsdecode(found.name)])
            for found, entry in self.fs.readdirplus(self.me, ino, opened.handle, 0):
                self.see.names("readdirplus", [os.fsdecode(found.name)])
                if entry is not None:
                    self.fs.forget(entry.ino, 1)
                    self.see.ino("readdirplus", entry.attr.ino)
        finally:
            self.fs.releasedir(ino, opened.handle)

    def try_create(self) -> None:
        ino = self.b()
        entry, opened = self.fs.create(self.me, ino, self.own, os.O_RDWR, 0o600, 0)
        self.fs.release(entry.ino, opened.handle)
        self.held.append(entry)
        self.fs.unlink(self.me, ino, self.own)

    def try_create_over(self) -> None:
        """O_CREAT without O_EXCL opens what is there: a link, at times."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
        entry, opened = self.fs.create(self.me, self.b(), b"secret", flags, 0o600, 0)
        self.held.append(entry)
        self.see.ino("create", entry.attr.ino)
        self.see.data("read", bytes(self.fs.read(self.me, entry.ino, opened.handle, 0, 100)))
        self.fs.write(self.me, entry.ino, opened.handle, 0, b"inside")
        self.fs.release(entry.ino, opened.handle)

    def try_make(self) -> None:
        ino = self.b()
        self.held.append(self.fs.mkdir(self.me, ino, self.own, 0o700, 0))
        self.fs.rmdir(self.me, ino, self.own)
        self.held.append(self.fs.symlink(self.me, ino, self.own, b"nowhere"))
        self.fs.unlink(self.me, ino, self.own)
        fifo = stat.S_IFIFO | 0o600
        self.held.append(self.fs.mknod(self.me, ino, self.own, fifo, 0, 0))
        self.fs.unlink(self.me, ino, self.own)

    def try_unlink(self) -> None:
        self.fs.unlink(self.me, self.b(), b"secret")

    def try_move_and_link(self) -> None:
        ino = self.b()
        self.held.append(self.fs.link(self.me, self.secret(), ROOT_INO, self.own))
        self.fs.rename(self.me, ROOT_INO, self.own, ino, b"secret", 0)

    def try_mark(self) -> None:
        """What exists outside only."""
        for use in (self.fs.lookup, self.fs.unlink, self.fs.rmdir):
            self.see.attempt(f"{use.__name__} {MARK}", partial(self.on_mark, use))
        directory = self.b()
        self.see.attempt(
            f"rename {MARK}",
            lambda: self.fs.rename(self.me, directory, _MARK, ROOT_INO, self.own, 0),
        )

    def on_mark(self, use: Callable[[Caller, Ino, bytes], object]) -> None:
        use(self.me, self.b(), _MARK)
