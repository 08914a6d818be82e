# SPDX-License-Identifier: MIT
"""The file of named mounts: where it is, what may stand in it, and what is wrong with it.

Owns the keys, their types, and a line number for every mistake.  Does not own the words of
``options`` (:mod:`xloop.options`), nor whether a source is there: that is asked when it is mounted
(:mod:`xloop.preflight`), for a file may name what is not plugged in today.

TOML is read by :mod:`tomllib` alone.  It tells no positions, but it can be asked for them: a statement
ends where what has been read since the last one is valid TOML, for no statement can be cut at a line's
end and stay valid.  So nothing here knows how TOML quotes a key or a string.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

from xloop.errors import BackendUnavailable, ConfigError, MountError, OptionError
from xloop.host import mounttable, trust
from xloop.mounts import command
from xloop.options import nearest, parse_options
from xloop.registry import AUTO, check_name

__all__ = ["NamedMount", "default_path", "load", "parse"]

_KEYS: Final = ("source", "mountpoint", "options", "backend")

#: A name stands alone on a command line: it is no option, no path, and needs no quotes.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

#: Bigger is no list of mounts, but the wrong file.
_MOST_BYTES: Final = 1 << 18


class NamedMount(NamedTuple):
    """One ``[mounts.NAME]``."""

    name: str
    source: str  #: an absolute path
    mountpoint: str  #: an absolute path; on Windows whatever can be a mount point
    options: tuple[str, ...]  #: each as for -o
    backend: str


def default_path() -> str:
    """Return where the file of this user is looked for."""
    import platformdirs  # here: with --config nobody needs to know

    return os.path.join(platformdirs.user_config_dir("xloop", False), "config.toml")


def load(path: str) -> dict[str, NamedMount]:
    """Return the mounts that the file *path* names, in its order.

    ConfigError: it cannot be read, somebody else can change it, or it has mistakes; then all of them
    are told.  Who may change the file decides what is shown where, and with whose rights.
    """
    try:
        with open(path, "rb") as file:
            who, remedy = trust.changeable_by_others(os.fstat(file.fileno()))
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path!r} that would name mounts",
            "docs/config.md says what stands in one; --config FILE takes another",
        ) from None
    except OSError as exc:
        raise ConfigError(f"{path!r} cannot be read: {exc.strerror}") from exc
    if who:
        raise ConfigError(
            f"{path!r} is not used: {who} may change it, and with it what your rights show where",
            f"look through it, and then: {command(*remedy[1:], path, program=remedy[0])}",
        )
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path!r} is longer than 256 KiB: that is no list of mounts")
    return parse(data, path)


def parse(data: bytes, path: str) -> dict[str, NamedMount]:
    """Return the mounts that *data* names, in its order; *path* is for the ConfigError."""
    try:
        text = data.decode("utf-8-sig")  # editors on Windows put a mark in front
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise _refused(path, [_Mistake(line, "this is not UTF-8", "")]) from None
    text = text.replace("\r\n", "\n")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _refused(path, [_of_syntax(str(exc), text)]) from None
    except RecursionError:
        raise ConfigError(f"{path!r} cannot be read: it is nested too deeply") from None
    reader = _Reader(_Places(text))
    found = reader.read(document)
    if reader.mistakes:
        raise _refused(path, sorted(reader.mistakes))
    return found


class _Mistake(NamedTuple):
    line: int
    why: str
    fix: str


def _refused(path: str, mistakes: list[_Mistake]) -> ConfigError:
    first, *others = mistakes
    more = [f"line {line}: {why}" + (f" ({fix})" if fix else "") for line, why, fix in others]
    return ConfigError(
        f"{path!r}, line {first.line}: {first.why}", "\n".join([*filter(None, [first.fix]), *more])
    )


def _of_syntax(said: str, text: str) -> _Mistake:
    """Return what tomllib said, with the line apart from the words."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", said, re.DOTALL)
    if found is None:  # "(at end of document)"
        return _Mistake(text.rstrip("\n").count("\n") + 1, f"not TOML: {said}", "")
    return _Mistake(int(found[2]), f"not TOML: {found[1]}, in column {found[3]}", "")


class _Reader:
    """Makes mounts of a TOML document, and notes every mistake in it."""

    def __init__(self, places: _Places) -> None:
        self.mistakes: list[_Mistake] = []
        self._places = places

    def read(self, document: dict[str, Any]) -> dict[str, NamedMount]:
        self._check_keys(document, (), ("mounts",))
        found: dict[str, NamedMount] = {}
        for name, table in self._table(document.get("mounts", {}), ("mounts",)).items():
            mount = self._mount(name, table)
            if mount is not None:
                found[name] = mount
        self._check_mountpoints(found)
        return found

    def _mount(self, name: str, table: object) -> NamedMount | None:
        at = ("mounts", name)
        if not _NAME.fullmatch(name):
            self._wrong(
                at,
                f"{name!r} cannot be the name of a mount",
                "a name has letters, digits, '.', '_' and '-', and does not begin with '.' or '-'",
            )
        before = len(self.mistakes)
        keys = self._table(table, at)
        if len(self.mistakes) > before:
            return None
        self._check_keys(keys, at, _KEYS)
        for key in ("source", "mountpoint"):
            if key not in keys:
                self._wrong(at, f"{_shown(at)} has no {key}", f'write: {key} = "/..."')
        mount = NamedMount(
            name,
            self._path(keys, at, "source"),
            self._path(keys, at, "mountpoint"),
            self._options(keys, at),
            self._backend(keys, at),
        )
        return mount if len(self.mistakes) == before else None

    def _path(self, keys: dict[str, Any], at: _Path, key: str) -> str:
        text = self._string(keys, at, key, "")
        if not text:
            if text == keys.get(key):
                self._wrong((*at, key), f"{key} is empty")
            return ""
        if "\0" in text:
            self._wrong((*at, key), f"{key}: a NUL byte ends a path for the kernel")
            return ""
        path = os.path.expanduser(text)
        if key == "mountpoint" and not mounttable.COVERS_DIRECTORIES:
            return path  # a drive, a name in the network: asked when it is mounted
        if path.startswith("~"):
            self._wrong((*at, key), f"{key} {text!r}: there is no home directory of that user")
        elif not os.path.isabs(path):
            self._wrong(
                (*at, key),
                f"{key} {text!r} is relative, and this file does not say to what",
                "write it from / or ~ on",
            )
        return path

    def _options(self, keys: dict[str, Any], at: _Path) -> tuple[str, ...]:
        at = (*at, "options")
        given = keys.get("options", [])
        strings = [given] if isinstance(given, str) else given
        if not isinstance(strings, list) or not all(isinstance(word, str) for word in strings):
            self._wrong(
                at,
                f"options is {_kind(given)}, not a string or an array of strings",
                'as for -o: options = "ro,noexec"',
            )
            return ()
        before = len(self.mistakes)
        for index, string in enumerate(strings):
            self._try_options([string], at, index if strings is given else None)
        if len(self.mistakes) == before:  # each is in order: are they together?
            self._try_options(strings, at)
        return tuple(strings)

    def _try_options(self, strings: list[str], at: _Path, index: int | None = None) -> None:
        try:
            parse_options(strings)
        except OptionError as exc:
            self.mistakes.append(_Mistake(self._places.line(at, index), exc.why, exc.fix))

    def _backend(self, keys: dict[str, Any], at: _Path) -> str:
        name = self._string(keys, at, "backend", AUTO)
        try:
            check_name(name)
        except BackendUnavailable as exc:
            self._wrong((*at, "backend"), exc.why, exc.fix)
        return name

    def _check_mountpoints(self, found: dict[str, NamedMount]) -> None:
        """Note what is mounted where another mount is.  By their names: no file system is asked."""
        seen: dict[str, NamedMount] = {}
        for mount in found.values():
            at = ("mounts", mount.name, "mountpoint")
            try:
                place = _place(mount.mountpoint)
            except MountError as exc:
                self._wrong(at, exc.why, exc.fix)
                continue
            if place in seen and place != "*":
                other = seen[place]
                line = self._places.line(("mounts", other.name, "mountpoint"))
                self._wrong(
                    at,
                    f"mountpoint {mount.mountpoint!r} is that of {other.name!r} too, line {line}",
                )
            seen.setdefault(place, mount)

    def _check_keys(self, table: dict[str, Any], at: _Path, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                where = f" in {_shown(at)}" if at else ""
                self._wrong(
                    (*at, key),
                    f"unknown key {key!r}{where}{nearest(key, known)}",
                    f"known here: {', '.join(known)}",
                )

    def _table(self, value: object, at: _Path) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._wrong(at, f"{'.'.join(at)} is {_kind(value)}, not a table", "write: [mounts.NAME]")
        return {}

    def _string(self, keys: dict[str, Any], at: _Path, key: str, default: str) -> str:
        value = keys.get(key, default)
        if isinstance(value, str):
            return value
        self._wrong((*at, key), f"{key} is {_kind(value)}, not a string")
        return default

    def _wrong(self, at: _Path, why: str, fix: str = "") -> None:
        self.mistakes.append(_Mistake(self._places.line(at), why, fix))


def _place(mountpoint: str) -> str:
    if mounttable.COVERS_DIRECTORIES:
        return os.path.normpath("/" + mountpoint.lstrip("/"))  # "//x" is "/x" here
    return mountpoint if mountpoint == "*" else mounttable.normal(mountpoint).lower()


def _shown(at: _Path) -> str:
    return f"[{'.'.join(at)}]"


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    kinds |= {list: "an array", dict: "a table"}
    return kinds.get(type(value), "a date or time")


#: The keys that lead to a value, from the top of the document.
_Path = tuple[str, ...]


class _Statement(NamedTuple):
    """One header, or one key with its value."""

    line: int  #: its first
    text: str
    path: _Path  #: of a header, and of what it is the header of; of a key, with its header's before it
    depth: int  #: how many keys of the path come from the header before it


class _Places:
    """On which line of a valid document something stands.  Looked for when there is a mistake."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _found(self) -> dict[_Path, _Statement]:
        found: dict[_Path, _Statement] = {}
        for statement, paths in _statements(self._text):
            for path in paths:
                found.setdefault(path, statement)
        return found

    def line(self, path: _Path, index: int | None = None) -> int:
        """Return the line of the key *path*, or of its element *index* where it is an array."""
        statement = self._found.get(path)
        if statement is None:
            return 1
        if index is None:
            return statement.line
        lines = statement.text.split("\n")
        for count in range(1, len(lines)):
            # Closed by hand, what stands up to here is an array of its first elements.
            value = _parsed("\n".join(lines[:count]) + "\n]")
            for key in path[statement.depth :]:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, list) and len(value) > index:
                return statement.line + count - 1
        # In the last line of the array, which is the statement's unless that is an inline table.
        return statement.line + (len(lines) - 1 if path == statement.path else 0)


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _statements(text: str) -> Iterator[tuple[_Statement, list[_Path]]]:
    """Yield the statements of a valid document, each with all the paths that it brings."""
    header: _Path = ()
    chunk: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        chunk.append(line)
        read = _parsed("\n".join(chunk))
        if read is None:
            continue  # a string or an array goes on in the next line
        first, chunk_text, chunk = number - len(chunk) + 1, "\n".join(chunk), []
        if not read:
            continue  # blank, or a comment
        paths = list(_paths(read))
        path = _only(read)
        if chunk_text.lstrip().startswith("["):
            header = path
            yield _Statement(first, chunk_text, header, 0), paths
        else:
            depth = len(header)
            yield (
                _Statement(first, chunk_text, header + path, depth),
                [header + path for path in paths],
            )


def _paths(value: Any) -> Iterator[_Path]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            for path in _paths(inner):
                yield (key, *path)


def _only(value: Any) -> _Path:
    """Return the path down to where there is no single key any more."""
    path: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        path.append(key)
    return tuple(path)
