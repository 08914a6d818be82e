# SPDX-License-Identifier: MIT
"""One step on one side: :func:`perform`.

Owns what each call of :mod:`differential.steps` does and what of its result can be compared: no times, no
inode numbers, no descriptors.  Does not own the comparison.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from differential.sides import NotHere, Side
from differential.steps import Step
from xloop.testing import Name, Tree, facts
from xloop.testing.tree import SEEK_DATA, SEEK_HOLE
from xloop.types import TimeOrNow

__all__ = ["perform"]

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_PERIOD = bytes(range(251)) * 400


def pattern(fill: int, size: int) -> bytes:
    """Return *size* bytes of which any few tell where they come from."""
    start = fill % 251
    return _PERIOD[start : start + size]


def perform(side: Side, step: Step) -> Any:
    """Do *step* on *side*, and return what both sides must agree on.

    Raises OSError as the call does, and NotHere where the step has nothing to act on.
    """
    return _CALLS[step.call](side, step.who, *step.args)


# -- opening --------------------------------------------------------------------------------


def _open(s: Side, who: str, slot: int, path: bytes, flags: int, mode: int, umask: int) -> None:
    # A FIFO without the other end would be waited for.
    fd = s.tree(who, umask).open(s.path(path), flags | os.O_NONBLOCK, mode)
    s.keep(who, slot, fd)


def _open_passive(s: Side, who: str, slot: int, path: bytes, flags: int) -> None:
    _open(s, who, slot, path, flags, 0, 0)


def _dup(s: Side, who: str, slot: int, to: int) -> None:
    s.keep(who, to, s.tree(who).dup(s.fd(who, slot)))


def _close(s: Side, who: str, slot: int) -> None:
    s.fd(who, slot)
    s.drop(who, slot)


def _link_fd(s: Side, who: str, slot: int, path: bytes) -> None:
    if not stat.S_ISREG(s.tree(who).fstat(s.fd(who, slot)).st_mode):
        raise NotHere("no file")
    s.tree(who).link_fd(s.fd(who, slot), s.path(path))


# -- data -----------------------------------------------------------------------------------


def _read(s: Side, who: str, slot: int, size: int) -> bytes:
    return s.tree(who).read(s.fd(who, slot), size)


def _write(s: Side, who: str, slot: int, fill: int, size: int) -> int:
    return s.tree(who).write(s.fd(who, slot), pattern(fill, size))


def _pread(s: Side, who: str, slot: int, size: int, offset: int) -> bytes:
    return s.tree(who).pread(s.fd(who, slot), size, offset)


def _pwrite(s: Side, who: str, slot: int, fill: int, size: int, offset: int) -> int:
    return s.tree(who).pwrite(s.fd(who, slot), pattern(fill, size), offset)


def _lseek(s: Side, who: str, slot: int, offset: int, whence: int) -> int:
    tree, fd = s.tree(who), s.fd(who, slot)
    if stat.S_ISDIR(tree.fstat(fd).st_mode) and (whence != os.SEEK_SET or offset):
        raise NotHere("positions in a directory are its own affair")
    if whence in (SEEK_DATA, SEEK_HOLE) and stat.S_ISREG(tree.fstat(fd).st_mode):
        # Where data ends may depend on what is on the disk already.
        tree.fsync(fd)
    return tree.lseek(fd, offset, whence)


def _fsync(s: Side, who: str, slot: int, datasync: bool) -> None:
    tree, fd = s.tree(who), s.fd(who, slot)
    (tree.fdatasync if datasync else tree.fsync)(fd)


def _fallocate(s: Side, who: str, slot: int, mode: int, offset: int, length: int) -> None:
    s.tree(who).fallocate(s.fd(who, slot), mode, offset, length)


def _copy(
    s: Side, who: str, slot: int, at_in: int | None, to: int, at_out: int | None, length: int
) -> int:
    fds = s.fd(who, slot), s.fd(who, to)
    return s.tree(who).copy_file_range(fds[0], at_in, fds[1], at_out, length)


def _mmap(s: Side, who: str, slot: int, fill: int, offset: int, size: int) -> bytes:
    """Read and write a mapping, as far as there is a file behind it."""

    def change(mapping: Any) -> bytes:
        start = offset % len(mapping)
        before = bytes(mapping[start : start + 50])
        data = pattern(fill, min(size, len(mapping) - start))
        mapping[start : start + len(data)] = data
        return before

    return s.mapped(who, s.fd(who, slot), change)  # type: ignore[no-any-return]


def _inode_flags(s: Side, who: str, slot: int, value: int | None) -> int:
    tree, fd = s.tree(who), s.fd(who, slot)
    kind = stat.S_IFMT(tree.fstat(fd).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise NotHere("no inode of this file system behind it")
    (flags,) = struct.unpack("l", tree.ioctl(fd, _GETFLAGS, bytes(8)))
    if value is not None:
        tree.ioctl(fd, _SETFLAGS, struct.pack("l", flags & ~0x40 | value))
    return int(flags)


def _content(s: Side, who: str, path: bytes) -> bytes:
    tree = s.tree(who)
    kind = stat.S_IFMT(s.me.stat(s.path(path)).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise NotHere("reading it would wait, or never end")
    return tree.content(s.path(path))


def _written(s: Side, who: str, path: bytes, data: bytes, flags: int, mode: int, umask: int) -> int:
    tree = s.tree(who, umask)
    write: Callable[[int], int] = lambda fd: tree.write(fd, data)  # noqa: E731
    return tree.with_fd(s.path(path), os.O_WRONLY | os.O_NONBLOCK | flags, write, mode)


def _make(s: Side, who: str, path: bytes, fill: int, size: int, mode: int, umask: int) -> int:
    return _written(s, who, path, pattern(fill, size), os.O_CREAT | os.O_TRUNC, mode, umask)


def _append(s: Side, who: str, path: bytes, fill: int, size: int) -> int:
    return _written(s, who, path, pattern(fill, size), os.O_APPEND, 0, 0o022)


# -- directories ----------------------------------------------------------------------------


def _names_from(tree: Tree, fd: int, size: int) -> list[Name]:
    names: list[Name] = []
    while some := tree.getdents(fd, size):
        names += some
    return names


def _listed(s: Side, names: list[Name], path: bytes | None) -> list[Any]:
    """Return name, type and whether d_ino is the st_ino, sorted; no name may come twice."""
    listed: list[Any] = []
    for name in names:
        same: bool | str = True
        if path is not None and name.name not in (b".", b".."):
            with contextlib.suppress(OSError):
                same = s.me.lstat(s.path(path + b"/" + name.name)).st_ino == name.ino
        listed.append((name.name, name.type, same))
    return sorted(listed)


def _names(s: Side, who: str, path: bytes, size: int) -> list[Any]:
    flags = os.O_RDONLY | os.O_DIRECTORY
    tree = s.tree(who)
    names = tree.with_fd(s.path(path), flags, lambda fd: _names_from(tree, fd, size))
    return _listed(s, names, path)


def _names_of_slot(s: Side, who: str, slot: int) -> list[Any]:
    tree, fd = s.tree(who), s.fd(who, slot)
    if not stat.S_ISDIR(tree.fstat(fd).st_mode):
        raise NotHere("no directory")
    tree.lseek(fd, 0, os.SEEK_SET)
    return _listed(s, _names_from(tree, fd, 4096), None)


def _seekdir(
    s: Side, who: str, path: bytes, size: int, first: int, back: int, change: bytes
) -> list[str]:
    """Read a part, change something, go back to a cookie, read on: every name exactly once.

    The order is the file system's affair, so what is returned is what went wrong, and which names
    there were.
    """
    tree = s.tree(who)
    fd = tree.open(s.path(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = {name.name for name in _names_from(tree, fd, 4096)}
        tree.lseek(fd, 0, os.SEEK_SET)
        read: list[Name] = []
        while len(read) < first and (some := tree.getdents(fd, size)):
            read += some
        if change:
            _toggle(tree, s.path(path + b"/" + change))
        kept = read[: max(len(read) - back, 0)]
        if len(kept) < len(read):
            tree.lseek(fd, kept[-1].offset if kept else 0, os.SEEK_SET)
        kept += _names_from(tree, fd, size)
        tree.lseek(fd, 0, os.SEEK_SET)
        after = {name.name for name in _names_from(tree, fd, 4096)}
    finally:
        tree.close(fd)
    seen = Counter(name.name for name in kept)
    wrong = [f"{name!r} {seen[name]} times" for name in before & after if seen[name] != 1]
    wrong += [f"{name!r} from nowhere" for name in seen if name not in before | after]
    return [*sorted(wrong), f"{sorted(before)} then {sorted(after)}"]


def _toggle(tree: Tree, path: bytes) -> None:
    """Remove the file *path*, or make it."""
    with contextlib.suppress(OSError):
        try:
            tree.unlink(path)
        except FileNotFoundError:
            tree.make(path)


# -- attributes -----------------------------------------------------------------------------


def _stat(s: Side, who: str, path: bytes, follow: bool) -> tuple[Any, ...]:
    tree = s.tree(who)
    return facts((tree.stat if follow else tree.lstat)(s.path(path)))


def _on_path(method: str) -> Callable[..., Any]:
    """Return a call whose first argument is a path, and whose result is compared as it is."""

    def call(s: Side, who: str, path: bytes, *args: Any) -> Any:
        return getattr(s.tree(who), method)(s.path(path), *args)

    return call


def _on_slot(method: str) -> Callable[..., Any]:
    def call(s: Side, who: str, slot: int, *args: Any) -> Any:
        return getattr(s.tree(who), method)(s.fd(who, slot), *args)

    return call


def _spare_top(s: Side, st: os.stat_result) -> None:
    """Leave the mode of the top alone where that decides who gets there at all."""
    spared = not s.world.has_kernel or os.geteuid() != 0
    if spared and st.st_ino == s.me.lstat(s.path(b".")).st_ino:
        raise NotHere(
            "nobody shall be locked out of everything, and the kernel asks nobody for '.'"
        )


def _chmod(s: Side, who: str, path: bytes, mode: int) -> None:
    _spare_top(s, s.me.stat(s.path(path)))
    s.tree(who).chmod(s.path(path), mode)


def _lchmod(s: Side, who: str, path: bytes, mode: int) -> None:
    _spare_top(s, s.me.lstat(s.path(path)))
    s.tree(who).lchmod(s.path(path), mode)


def _fchmod(s: Side, who: str, slot: int, mode: int) -> None:
    _spare_top(s, s.owner((who == "proc", slot)).fstat(s.fd(who, slot)))
    s.tree(who).fchmod(s.fd(who, slot), mode)


def _utime(
    s: Side, who: str, path: bytes, atime: TimeOrNow | None, mtime: TimeOrNow | None, follow: bool
) -> None:
    s.tree(who).utime(s.path(path), atime, mtime, follow)


def _statvfs(s: Side, who: str, path: bytes) -> tuple[int, ...]:
    fs = s.tree(who).statvfs(s.path(path))
    # What is free changes all the time, and the flags are the mount's own.
    return fs.f_bsize, fs.f_frsize, fs.f_blocks, fs.f_namemax


def _masked(method: str) -> Callable[..., Any]:
    """Return a call that makes *path*, and whose last argument is the umask."""

    def call(s: Side, who: str, path: bytes, *args: Any) -> Any:
        return getattr(s.tree(who, args[-1]), method)(s.path(path), *args[:-1])

    return call


def _mknod(s: Side, who: str, path: bytes, node: tuple[int, int], mode: int, umask: int) -> None:
    kind, rdev = node
    s.tree(who, umask).mknod(s.path(path), kind | mode, rdev)


def _link(s: Side, who: str, old: bytes, new: bytes, follow: bool) -> None:
    s.tree(who).link(s.path(old), s.path(new), follow)


def _symlink(s: Side, who: str, target: bytes, path: bytes) -> None:
    s.tree(who).symlink(target, s.path(path))


def _rename(s: Side, who: str, old: bytes, new: bytes, flags: int) -> None:
    s.tree(who).rename(s.path(old), s.path(new), flags)


def _setxattr(
    s: Side, who: str, path: bytes, pair: tuple[bytes, bytes], flags: int, follow: bool
) -> None:
    if pair[0] == b"system.posix_acl_access":
        _spare_top(s, (s.me.stat if follow else s.me.lstat)(s.path(path)))
    s.tree(who).setxattr(s.path(path), *pair, flags, follow)


def _fsetxattr(s: Side, who: str, slot: int, pair: tuple[bytes, bytes], flags: int) -> None:
    if pair[0] == b"system.posix_acl_access":
        _spare_top(s, s.owner((who == "proc", slot)).fstat(s.fd(who, slot)))
    s.tree(who).fsetxattr(s.fd(who, slot), *pair, flags)


def _listxattr(s: Side, who: str, path: bytes, follow: bool) -> list[bytes]:
    return sorted(s.tree(who).listxattr(s.path(path), follow))


# -- locks ----------------------------------------------------------------------------------


def _lockable(s: Side, who: str, slot: int) -> int:
    fd = s.fd(who, slot)
    if not stat.S_ISREG(s.tree(who).fstat(fd).st_mode):
        # And who looks at a directory (compare.Run) drops the record locks that the process has there.
        raise NotHere("locks on anything but files a kernel keeps to itself")
    return fd


def _flock(s: Side, who: str, slot: int, operation: int) -> None:
    s.tree(who).flock(_lockable(s, who, slot), operation)


def _setlk(s: Side, who: str, slot: int, kind: int, start: int, length: int, ofd: bool) -> None:
    try:
        s.tree(who).setlk(_lockable(s, who, slot), kind, start, length, False, ofd)
    except OSError as error:
        # POSIX allows both for the same thing.
        if error.errno == errno.EACCES:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        raise


def _getlk(s: Side, who: str, slot: int, kind: int, start: int, length: int, ofd: bool) -> Any:
    return s.tree(who).getlk(_lockable(s, who, slot), kind, start, length, ofd)


_CALLS: dict[str, Callable[..., Any]] = {
    "open": _open,
    "open_passive": _open_passive,
    "tmpfile": lambda s, who, slot, path, flags, mode, umask: _open(
        s, who, slot, path, flags | os.O_TMPFILE, mode, umask
    ),
    "link_fd": _link_fd,
    "close": _close,
    "dup": _dup,
    "read": _read,
    "write": _write,
    "pread": _pread,
    "pwrite": _pwrite,
    "lseek": _lseek,
    "fsync": _fsync,
    "fallocate": _fallocate,
    "shift": _fallocate,
    "copy_file_range": _copy,
    "mmap": _mmap,
    "inode_flags": _inode_flags,
    "content": _content,
    "make": _make,
    "append": _append,
    "names": _names,
    "names_of_slot": _names_of_slot,
    "seekdir": _seekdir,
    "stat": _stat,
    "access": _on_path("access"),
    "chmod": _chmod,
    "lchmod": _lchmod,
    "fchmod": _fchmod,
    "chown": _on_path("chown"),
    "lchown": _on_path("lchown"),
    "fchown": _on_slot("fchown"),
    "utime": _utime,
    "futime": _on_slot("futime"),
    "truncate": _on_path("truncate"),
    "ftruncate": _on_slot("ftruncate"),
    "statvfs": _statvfs,
    "link": _link,
    "symlink": _symlink,
    "readlink": _on_path("readlink"),
    "mkdir": _masked("mkdir"),
    "mknod": _mknod,
    "unlink": _on_path("unlink"),
    "rmdir": _on_path("rmdir"),
    "rename": _rename,
    "getxattr": _on_path("getxattr"),
    "setxattr": _setxattr,
    "listxattr": _listxattr,
    "removexattr": _on_path("removexattr"),
    "fsetxattr": _fsetxattr,
    "fgetxattr": _on_slot("fgetxattr"),
    "fremovexattr": _on_slot("fremovexattr"),
    "flock": _flock,
    "setlk": _setlk,
    "getlk": _getlk,
}
