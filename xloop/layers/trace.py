# SPDX-License-Identifier: MIT
"""The layer that tells of every operation: :class:`Trace`, what ``--debug`` puts around a file system.

Owns how an operation looks in one line, and what must never be in it: what files and extended
attributes contain.  Bytes are shown only where this module knows them for a name, so that an operation
that is added one day tells too little, and never too much.  Does not own where the line goes
(:mod:`xloop.logs`).

Symbolic links' texts are shown: they are paths, as the names are.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from xloop.layers.base import Layer
from xloop.ops import Op, Operations
from xloop.types import (
    ROOT_INO,
    Attr,
    Caller,
    DirEntry,
    Entry,
    Ino,
    LockRange,
    Opened,
    SetAttr,
    StatFs,
)

__all__ = ["Trace"]

_R = TypeVar("_R")

_log = logging.getLogger("xloop.trace")


class Trace(Layer):
    """Shows :attr:`inner`, and logs each operation to ``xloop.trace`` at DEBUG, when it is done::

        open '/dir/file' O_RDWR|O_TRUNC -> handle 4 (pid 812, uid 1000, gid 1000, 43 us)
        lookup '/dir/other' -> ENOENT (pid 812, uid 1000, gid 1000, 21 us)

    Paths are made of the names under which files were looked up last; what has been renamed or removed
    behind the mount still shows the old one.  A file whose name is not known is ``#`` and its number.
    Of a listing the time is that until its reader had enough of it.
    """

    def __init__(self, inner: Operations) -> None:
        super().__init__(inner)
        self._names = _Names()

    def around(self, op: Op, caller: Caller | None, call: partial[_R]) -> _R:
        if not _log.isEnabledFor(logging.DEBUG):
            return call()
        if op is Op.BATCH_FORGET:  # what can be walked through once shall not be used up here
            call = partial(call.func, list(call.args[0]))
        given = call.args if caller is None else call.args[1:]
        arguments = dict(zip(_PARAMETERS[op], given, strict=False)) | call.keywords
        said = f"{op.value}{self._shown(op, arguments)}"
        begin = time.perf_counter_ns()
        try:
            result: Any = call()
        except BaseException as exc:
            _tell(said, _failure(exc), caller, begin)
            raise
        if isinstance(result, Iterator):
            return self._listed(said, arguments, result, caller, begin)  # type: ignore[return-value]
        self._learn(op, arguments, result)
        _tell(said, _result(op, result), caller, begin)
        return result  # type: ignore[no-any-return]

    def _listed(
        self,
        said: str,
        arguments: Mapping[str, Any],
        found: Iterator[Any],
        caller: Caller | None,
        begin: int,
    ) -> Iterator[Any]:
        count = 0
        outcome = ""
        try:
            for item in found:
                count += 1
                if isinstance(item, tuple) and isinstance(item[-1], Entry):
                    self._names.add(item[-1].ino, arguments["ino"], item[0].name)
                yield item
        except GeneratorExit:
            raise
        except BaseException as exc:
            outcome = f", then {_failure(exc)}"
            raise
        finally:
            _tell(said, f"{count} names{outcome}", caller, begin)

    def _shown(self, op: Op, arguments: Mapping[str, Any]) -> str:
        words = []
        for name, value in arguments.items():
            if name in _NAMED and _NAMED[name] in arguments:
                words.append(self._names.path(value, arguments[_NAMED[name]]))
            elif name in _INODES:
                words.append(self._names.path(value))
            elif name in _NAMED.values() and _DIRECTORIES[name] in arguments:
                pass  # it stands in the path
            elif name == "forgets":
                words += [f"{self._names.path(ino)} nlookup={count}" for ino, count in value]
            elif isinstance(value, SetAttr):
                words.append(_changes(value))
            elif value is True:
                words.append(name)
            elif value is not None and value is not False:
                words.append(_argument(op, name, value))
        return "".join(f" {word}" for word in words if word)

    def _learn(self, op: Op, arguments: Mapping[str, Any], result: object) -> None:
        """Keep up with the names: after what has been done."""
        if op is Op.FORGET:
            self._names.forget(arguments["ino"], arguments["nlookup"])
        elif op is Op.BATCH_FORGET:
            for ino, nlookup in arguments["forgets"]:
                self._names.forget(ino, nlookup)
        elif op is Op.RENAME:
            self._names.rename(
                (arguments["parent"], arguments["name"]),
                (arguments["newparent"], arguments["newname"]),
                exchange=bool(arguments["flags"] & 2),
            )
        entry = result[0] if type(result) is tuple and result else result
        if isinstance(entry, Entry):
            for directory, name in _NAMED.items():
                if directory in arguments and name in arguments:
                    self._names.add(entry.ino, arguments[directory], arguments[name])
                    return
            self._names.add(entry.ino, None, b"")  # tmpfile: it has none


class _Names:
    """Under which name each known node was seen last, from the entries that went by."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Ino, tuple[Ino | None, bytes]] = {}
        self._counts: dict[Ino, int] = {}

    def add(self, ino: Ino, parent: Ino | None, name: bytes) -> None:
        with self._lock:
            self._counts[ino] = self._counts.get(ino, 0) + 1
            self._places[ino] = (parent, name)

    def forget(self, ino: Ino, nlookup: int) -> None:
        with self._lock:
            count = self._counts.get(ino, 0) - nlookup
            if count > 0:
                self._counts[ino] = count
            else:
                self._counts.pop(ino, None)
                self._places.pop(ino, None)

    def rename(self, old: tuple[Ino, bytes], new: tuple[Ino, bytes], *, exchange: bool) -> None:
        with self._lock:
            # All of them: a second index would have to be kept for this alone.
            for ino, place in self._places.items():
                if place == old:
                    self._places[ino] = new
                elif place == new and exchange:
                    self._places[ino] = old

    def path(self, ino: Ino, *names: bytes) -> str:
        """Return the path of *names* below *ino*, in quotes; from the nearest known node on."""
        below = list(names)
        with self._lock:
            # Known directories may lie in a circle here, if one was moved behind the mount.
            for _ in range(len(self._places) + 1):
                place = self._places.get(ino)
                if ino == ROOT_INO or place is None or place[0] is None:
                    break
                below.insert(0, place[1])
                ino = place[0]
        path = os.fsdecode(b"/".join([b"", *below]))
        if ino == ROOT_INO:
            return repr(path or "/")
        return f"#{ino}{repr(path) if path else ''}"


def _parameters(op: Op) -> tuple[str, ...]:
    """Return what *op* takes after the caller, in order."""
    code = getattr(Operations, op.value).__code__
    names = code.co_varnames[1 : code.co_argcount]
    return tuple(name for name in names if name != "caller")


_PARAMETERS: Final = {op: _parameters(op) for op in Op}

#: Parameters that are a directory, and those that are a name in it.
_NAMED: Final = {"parent": "name", "newparent": "newname"}
_DIRECTORIES: Final = {name: directory for directory, name in _NAMED.items()}

#: Parameters that are a node.
_INODES: Final = frozenset({"ino", "parent", "ino_in", "ino_out"})

#: Parameters and results whose bytes are names or paths, and no contents.
_NAMES: Final = frozenset({"name", "newname", "target"})
_NAMING: Final = frozenset({Op.READLINK, Op.SPELLING, Op.LISTXATTR})


def _tell(said: str, outcome: str, caller: Caller | None, begin: int) -> None:
    spent = (time.perf_counter_ns() - begin) // 1000
    who = "" if caller is None else f"pid {caller.pid}, uid {caller.uid}, gid {caller.gid}, "
    _log.debug("%s -> %s (%s%d us)", said, outcome, who, spent)


def _failure(exc: BaseException) -> str:
    number = exc.errno if isinstance(exc, OSError) else None
    return errno.errorcode.get(number, str(number)) if number else f"a bug: {type(exc).__name__}"


def _argument(op: Op, name: str, value: object) -> str:
    if isinstance(value, LockRange):
        return _lock(value)
    if isinstance(value, bytes | bytearray | memoryview):
        if name in _NAMES:
            return f"{name}={os.fsdecode(bytes(value))!r}"
        return f"{name}={_amount(value)}"
    if not isinstance(value, int):
        return f"{name}={type(value).__name__}"
    if name == "flags" and op is Op.RENAME:
        return _bits(value, _RENAME)
    if name == "flags" and op in _OPENING:
        return _open_flags(value)
    if name == "mode" and op is Op.FALLOCATE:
        return _bits(value, _FALLOCATE)
    if name in ("mode", "umask"):
        return f"{name}=0{value:o}"
    if name == "mask":
        return _bits(value, {"R_OK": os.R_OK, "W_OK": os.W_OK, "X_OK": os.X_OK}) or "F_OK"
    if name == "operation":
        return _bits(value, _FLOCK)
    if name == "whence":
        return _WHENCE.get(value, f"whence={value}")
    if name in ("command", "owner", "lock_owner", "events", "rdev"):
        return f"{name}={value:#x}"
    return f"{name}={value}"


def _result(op: Op, result: object) -> str:
    if result is None:
        return "ok"
    if isinstance(result, Entry):
        return f"#{result.ino} {_attributes(result.attr)}"
    if isinstance(result, Attr):
        return _attributes(result)
    if isinstance(result, Opened):
        return f"handle {result.handle}"
    if isinstance(result, LockRange):
        return _lock(result)
    if isinstance(result, StatFs):
        return f"{result.bavail} of {result.blocks} blocks of {result.frsize} are free"
    if isinstance(result, DirEntry):
        return repr(os.fsdecode(result.name))
    if isinstance(result, bytes | bytearray | memoryview):
        return repr(os.fsdecode(bytes(result))) if op in _NAMING else _amount(result)
    if isinstance(result, int):
        return str(result)
    if type(result) is tuple:
        return ", ".join(_result(op, part) for part in result)
    if isinstance(result, list):
        return "[" + ", ".join(_result(op, part) for part in result) + "]"
    return type(result).__name__


def _attributes(attr: Attr) -> str:
    return f"{stat.filemode(attr.mode)} {attr.uid}:{attr.gid} {attr.size} bytes"


def _changes(changes: SetAttr) -> str:
    words = []
    for name in SetAttr.__slots__:
        value = getattr(changes, name)
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            octal = name == "mode"
            words.append(
                f"{name}=0{value:o}" if octal else f"{name}={getattr(value, 'value', value)}"
            )
    return " ".join(words) or "nothing"


def _lock(lock: LockRange) -> str:
    kind = _LOCKS.get(lock.type, str(lock.type))
    end = "" if lock.end == 2**63 - 1 else str(lock.end)
    return f"{kind} {lock.start}-{end}" + (f" of pid {lock.pid}" if lock.pid else "")


def _amount(data: bytes | bytearray | memoryview) -> str:
    return f"{memoryview(data).nbytes} bytes"


def _open_flags(flags: int) -> str:
    return "|".join(filter(None, [_ACCESS[flags & 3], _bits(flags & ~3, _OPEN)]))


def _bits(value: int, names: Mapping[str, int]) -> str:
    """Return the names of the bits of *value*, and what has none as a number."""
    words = []
    for name, bits in names.items():
        if value & bits == bits:
            words.append(name)
            value &= ~bits
    if names is _OPEN:
        value &= ~_LARGEFILE
    return "|".join([*words, *([f"{value:#x}"] if value else [])])


def _named(module: Any, prefix: str) -> dict[str, int]:
    """Return the numbers of *module* whose names begin so, those of several bits first: O_SYNC, O_DSYNC."""
    found = {name: getattr(module, name) for name in dir(module) if name.startswith(prefix)}
    return dict(sorted(found.items(), key=lambda item: (-item[1].bit_count(), item[0])))


_OPENING: Final = frozenset({Op.OPEN, Op.CREATE, Op.TMPFILE, Op.OPENDIR})
_ACCESS: Final = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")
#: Without second names.
_OPEN: Final = {
    name: bits
    for name, bits in _named(os, "O_").items()
    if bits & ~3 and name not in ("O_NDELAY", "O_FSYNC", "O_RSYNC")
}
#: O_LARGEFILE as one architecture or another has it.  Every 64-bit program sets it, and Python knows no number.
_LARGEFILE: Final = 0x8000 | 0x10000 | 0x20000
_WHENCE: Final = {bits: name for name, bits in _named(os, "SEEK_").items()}
#: renameat2(2) and fallocate(2): the contract has their numbers on every system.
_RENAME: Final = {"RENAME_NOREPLACE": 1, "RENAME_EXCHANGE": 2, "RENAME_WHITEOUT": 4}
_FALLOCATE: Final = {
    "KEEP_SIZE": 0x01,
    "PUNCH_HOLE": 0x02,
    "NO_HIDE_STALE": 0x04,
    "COLLAPSE_RANGE": 0x08,
    "ZERO_RANGE": 0x10,
    "INSERT_RANGE": 0x20,
    "UNSHARE_RANGE": 0x40,
}

try:
    import fcntl
except ImportError:  # Windows: nobody asks for a lock there
    _FLOCK: dict[str, int] = {}
    _LOCKS: dict[int, str] = {}
else:
    _FLOCK = {
        name: bits
        for name, bits in _named(fcntl, "LOCK_").items()
        if name[5:] in ("SH", "EX", "NB", "UN")
    }
    _LOCKS = {getattr(fcntl, name): name for name in ("F_RDLCK", "F_WRLCK", "F_UNLCK")}
