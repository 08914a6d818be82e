# SPDX-License-Identifier: MIT
"""Reaching the mount that this process serves, for :mod:`.relay`: its root and its directories.

Owns :class:`Reach`.  Does not own what is done there.

It is reached by a mount like it that is nowhere in the tree: an open file on the mount itself would keep everybody from
unmounting it.  Nothing that somebody has mounted inside is there.  Root makes one for a moment, others keep one
(:mod:`.aside`).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from xloop.changes import Watch
from xloop.host import Descriptor, linux_trees, linux_watch
from xloop.types import ROOT_INO, Entry, Ino

from .aside import Aside
from .play import Play

__all__ = ["GoneError", "Reach"]

_O_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

#: How the kernel's FUSE packs a handle: halves of the number, generation.
_HANDLE = struct.Struct("=III")
_HANDLE_KIND = 0x81

#: Directories that are kept open meanwhile.
_DIRECTORIES = 64

#: No program makes such a name.
_ELSEWHERE = b"\xff.xloop: elsewhere\xff"


class GoneError(Exception):
    """The mount is not there any more, or another one covers it."""


class Reach:
    def __init__(
        self, play: Play, watch: Watch, mountpoint: str, device: int, aside: Aside | None
    ) -> None:
        """*device*: st_dev of what is mounted at *mountpoint*.  *aside*: None for who may make one at any time."""
        self._play = play
        self._watch = watch
        self._mountpoint = os.fsencode(mountpoint)
        self._device = device
        self._aside = aside
        self._root: Descriptor | None = None
        self._directories: dict[Ino, Descriptor] = {}
        self._elsewhere: tuple[Ino, Descriptor] | None = None

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Have the mount at hand meanwhile.  GoneError: it is not there."""
        try:
            root = self._another()
            if os.fstat(root).st_dev != self._device:
                raise GoneError
        except OSError as exc:
            raise GoneError from exc
        self._root = root
        try:
            self._prove()
            yield
        finally:
            self._directories.clear()
            self._root = self._elsewhere = None

    def _another(self) -> Descriptor:
        if self._aside is None:
            return linux_trees.clone_mount(self._mountpoint)
        root = self._aside.root
        if root is None:
            raise GoneError
        return root

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
        self._play.begin({(ROOT_INO, _ELSEWHERE): lambda: entry})
        try:
            fd = Descriptor(os.open(_ELSEWHERE, _O_PATH | os.O_DIRECTORY, dir_fd=self.root))
        except OSError as exc:
            raise GoneError from exc
        finally:
            self._play.end()
        self._elsewhere = entry.ino, fd

    def directory(self, ino: Ino) -> Descriptor:
        """Return a descriptor of a directory on the mount.  OSError: the kernel does not know it."""
        if ino == ROOT_INO:
            return self.root
        fd = self._directories.pop(ino, None)
        if fd is None:
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
        _high, low, _generation = _HANDLE.unpack(linux_watch.file_handle(fd).data)
        if _high << 32 | low != ino:
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
