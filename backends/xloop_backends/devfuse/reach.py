# SPDX-License-Identifier: MIT
"""Reaching the mount that this process serves, for :mod:`.relay`: its root and its directories.

Owns :class:`Reach`.  Does not own what is done there.

It is reached by a mount like it that is nowhere in the tree: an open file on the mount itself would keep everybody from
unmounting it.  Nothing that somebody has mounted inside is there.  Root makes one for a moment, others keep one
(:mod:`.aside`).

**Where it is** root asks the table of mounts when the path leads to it no more: a directory above it may have got another
name, or it was moved.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from xloop.changes import Watch
from xloop.host import Descriptor, linux_trees, linux_watch, mounttable
from xloop.types import ROOT_INO, Entry, Ino

from .aside import Aside
from .play import Play

__all__ = ["GoneError", "Reach", "StrangerError"]

_O_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

#: How the kernel's FUSE packs a handle: halves of the number, generation.
_HANDLE = struct.Struct("=III")
_HANDLE_KIND = 0x81

#: Directories that are kept open meanwhile.
_DIRECTORIES = 64

#: No program makes such a name.  What follows it nobody knows: else somebody could ask for it before, and the kernel would
#: believe for a while that nothing has it.
_ELSEWHERE = b"\xff.xloop: elsewhere\xff"

#: For want of something that may be there again in a moment.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN})
#: By the file system: its connection is over.
_OVER = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV})
#: By a server that looks for a name in the source.
_NO_SUCH_NAME = frozenset({errno.ENOENT, errno.EINVAL, errno.EILSEQ})


class GoneError(Exception):
    """The mount is not there any more, or another one covers it."""


class StrangerError(Exception):
    """The server does not know this thread."""


class Reach:
    def __init__(
        self, play: Play, watch: Watch, mountpoint: str, device: int, aside: Aside | None
    ) -> None:
        """*device*: st_dev of what is mounted at *mountpoint*.  *aside*: None for who may make one at any time."""
        self._play = play
        self._watch = watch
        self._path = os.fsencode(mountpoint)
        self._device = device
        self._aside = aside
        self._root: Descriptor | None = None
        self._directories: dict[Ino, Descriptor] = {}
        self._elsewhere: tuple[Ino, Descriptor] | None = None
        self._hidden = _ELSEWHERE + os.urandom(16).hex().encode()

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Have the mount at hand meanwhile.

        GoneError: it is not there.  StrangerError: nothing can be done there, now or later.  OSError: not now, for want of
        descriptors or memory mostly.
        """
        self._root = self._another()
        try:
            self._prove()
            yield
        finally:
            self._directories.clear()
            self._root = self._elsewhere = None

    def _another(self) -> Descriptor:
        if self._aside is not None:
            root = self._aside.root
            if root is None or not self._is_root(root):
                raise GoneError("it is mounted nowhere any more")
            return root
        for path in self._paths():
            try:
                root = linux_trees.clone_mount(path)
            except OSError as exc:
                if exc.errno in _PASSING:
                    raise
                continue
            if self._is_root(root):
                self._path = path
                return root
        raise GoneError("it is not mounted any more, or another mount covers it")

    def _paths(self) -> Iterator[bytes]:
        """Return where the mount may be: where it was the last time, and where the table has it by now."""
        yield self._path
        number = mounttable.device_of(self._device)
        yield from (os.fsencode(at.mountpoint) for at in mounttable.read() if at.device == number)

    def _is_root(self, fd: Descriptor) -> bool:
        """Whether *fd* is the root of this file system, and not of another, nor of a part of it."""
        try:
            if os.fstat(fd).st_dev != self._device:
                return False
        except OSError as exc:
            if exc.errno in _PASSING:
                raise
            return False
        return _number_of(fd) == ROOT_INO

    def close(self) -> None:
        if self._aside is not None:
            self._aside.close()

    @property
    def root(self) -> Descriptor:
        assert self._root is not None
        return self._root

    @property
    def elsewhere(self) -> tuple[Ino, Descriptor]:
        """A directory that nobody sees, and a descriptor of it."""
        assert self._elsewhere is not None
        return self._elsewhere

    def _prove(self) -> None:
        """See that the server knows this thread: else it would do what it is asked for.

        It shows a directory here, under a name that nobody else finds.
        """
        entry = self._play.phantom(directory=True)
        self._play.begin({(ROOT_INO, self._hidden): lambda: entry})
        try:
            fd = Descriptor(os.open(self._hidden, _O_PATH | os.O_DIRECTORY, dir_fd=self.root))
        except OSError as exc:
            if exc.errno in _OVER:
                raise GoneError("its connection is over") from exc
            if exc.errno in _NO_SUCH_NAME and not self._play.was_asked(ROOT_INO, self._hidden):
                raise StrangerError(
                    "the kernel does not call this thread by its number (another pid namespace than that of the mount)"
                ) from exc
            raise
        finally:
            self._play.end()
        self._elsewhere = entry.ino, fd

    def directory(self, ino: Ino) -> Descriptor:
        """Return a descriptor of a directory on the mount.  OSError: the kernel does not know it."""
        if ino == ROOT_INO:
            return self.root
        fd = self._directories.pop(ino, None)
        if fd is None:
            try:
                fd = self.open(ino)
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE) or not self._directories:
                    raise
                self._directories.clear()
                fd = self.open(ino)
            if len(self._directories) >= _DIRECTORIES:
                del self._directories[next(iter(self._directories))]
        self._directories[ino] = fd
        return fd

    def let_go(self, ino: Ino) -> None:
        """Hold on to the directory *ino* no longer: whoever watches it waits for that."""
        self._directories.pop(ino, None)

    def open(self, ino: Ino) -> Descriptor:
        """Return a reference to *ino*.  OSError: the kernel does not know it."""
        handle = linux_watch.Handle(_HANDLE_KIND, _HANDLE.pack(ino >> 32, ino & 0xFFFFFFFF, 0))
        try:
            return linux_trees.open_handle(self.root, handle, os.O_PATH)
        except OSError:
            # Not everybody may.  And somebody may watch what the kernel knows by no name any more.
            return self._walk(ino)

    def _walk(self, ino: Ino) -> Descriptor:
        """Go to *ino* by names: those by which the kernel was last told of it and what leads there.

        They may lead in a circle: some were told before two directories changed places, and others after.
        """
        names: dict[Ino, tuple[Ino, bytes]] = {}
        at = ino
        while at != ROOT_INO:
            found = self._watch.name_of(at)
            if found is None or at in names:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            names[at] = found
            at = found[0]
        fd = self.root
        for at, (directory, name) in reversed(names.items()):
            fd = self._step(fd, at, directory, name)
        if _number_of(fd) != ino:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fd

    def _step(self, fd: Descriptor, at: Ino, directory: Ino, name: bytes) -> Descriptor:
        self._play.begin({(directory, name): lambda: self.recalled(at)})
        try:
            return self.named(name, fd)
        finally:
            self._play.end()

    def named(self, name: bytes, at: int) -> Descriptor:
        """Return a reference to what has *name* in the directory *at*."""
        return Descriptor(os.open(name, _O_PATH, dir_fd=at))

    def recalled(self, ino: Ino) -> Entry | None:
        """Return what *ino* is, as something that has a name.  Lookup count: +1."""
        entry = self._watch.recall(ino)
        if entry is not None and not entry.attr.nlink:
            return entry._replace(attr=entry.attr._replace(nlink=1))
        return entry


def _number_of(fd: int) -> int:
    """Return the number by which the kernel knows what *fd* refers to, on a file system of its FUSE; 0 elsewhere."""
    handle = linux_watch.file_handle(fd)
    if handle.kind != _HANDLE_KIND or len(handle.data) != _HANDLE.size:
        return 0
    high, low, _generation = _HANDLE.unpack(handle.data)
    return int(high << 32 | low)
