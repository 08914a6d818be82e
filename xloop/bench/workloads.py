# SPDX-License-Identifier: MIT
"""The rows of whole programs at work, and what they work on.

Owns the programs' commands, and the archive, the repository and the C sources that are made for
them.  Does not own single operations: :mod:`xloop.bench.rows`.

What they work on is made by the benchmark, the same each time and on each machine, and lies
beside the subjects, where reading it costs all of them the same.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from xloop.bench.rows import WORKLOADS, Row, Sizes, Timed, operations

if TYPE_CHECKING:
    import tarfile

__all__ = ["MATERIAL", "all_rows", "make_material"]

#: The environment variable that tells a process which does rows where :func:`make_material` has
#: put what they need.
MATERIAL = "XLOOP_BENCH_MATERIAL"

_ARCHIVE = "tree.tar"
_REPOSITORY = "repository"

#: Files in a directory of the tree and of the repository.
_IN_ONE = 50
#: C files of the program.
_UNITS = 4
_FIND = ["find", "tree", "-ls"]
#: One `git status` is too short to be measured.
_STATUSES = 5


def _material(name: str) -> str:
    return os.path.join(os.environ[MATERIAL], name)


def _run(words: Sequence[str], cwd: str) -> None:
    """Run a program to its end, silently; RuntimeError says what it said if it fails."""
    done = subprocess.run(
        words,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise RuntimeError(
            # Its first words: the last are often no more than that something was wrong.
            f"{words[0]} ended with status {done.returncode}" + "".join(f": {s}" for s in said[:1])
        )


#: git does not look at what a user has set up.
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_AUTHOR_NAME": "xloop bench",
    "GIT_AUTHOR_EMAIL": "bench@xloop.invalid",
    "GIT_COMMITTER_NAME": "xloop bench",
    "GIT_COMMITTER_EMAIL": "bench@xloop.invalid",
}


def _environment() -> dict[str, str]:
    """Return the environment without what would change the work that is measured."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") and name != "TAR_OPTIONS"
    }
    return {**inherited, "LC_ALL": "C", "CCACHE_DISABLE": "1", **_GIT}


# -- what they work on -------------------------------------------------------------------------


def make_material(where: Path, rows: Sequence[Row], sizes: Sizes) -> None:
    """Make in the directory *where* what *rows* need."""
    programs = {program for row in rows for program in row.programs}
    if "tar" in programs:
        _make_archive(where / _ARCHIVE, sizes)
    if "git" in programs:
        _make_repository(where / _REPOSITORY, sizes)


def _contents(count: int) -> list[tuple[str, bytes]]:
    """Return the relative paths and contents of *count* files, a few KiB each as sources have."""
    rng = Random(2)
    text = rng.randbytes(16384).hex().encode()
    found = []
    for number in range(count):
        directory = number // _IN_ONE
        size = min(int(rng.lognormvariate(7.5, 1.0)), len(text))
        path = f"d{directory // 10:03}/e{directory % 10}/file{number % _IN_ONE:02}.txt"
        found.append((path, b"%d\n" % number + text[:size]))
    return found


def _make_archive(path: Path, sizes: Sizes) -> None:
    import tarfile  # here: the other rows need none of it

    with tarfile.open(path, "w") as archive:
        known: set[str] = set()
        for name, content in _contents(sizes.tree):
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                directory = "tree/" + "/".join(parts[:depth])
                if directory not in known:
                    known.add(directory)
                    archive.addfile(_member(directory, tarfile.DIRTYPE, 0o755))
            member = _member(f"tree/{name}", tarfile.REGTYPE, 0o644)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    import tarfile

    member = tarfile.TarInfo(name)
    # Of whoever runs it: another owner would cost root a chown that other users do not do.
    member.type, member.mode = kind, mode
    if hasattr(os, "getuid"):
        member.uid = os.getuid()
    if hasattr(os, "getgid"):
        member.gid = os.getgid()
    member.mtime = 1_000_000_000
    return member


def _make_repository(top: Path, sizes: Sizes) -> None:
    for name, content in _contents(sizes.repository):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    for words in (
        ["git", "init", "-q", "."],
        ["git", "add", "."],
        ["git", "commit", "-q", "-m", "all"],
        ["git", "repack", "-a", "-d", "-q"],
    ):
        _run(words, os.fspath(top))


def _write_sources(top: Path, sizes: Sizes) -> None:
    """A program of few C files that include many small headers."""
    include = top / "include"
    include.mkdir(parents=True)
    for number in range(sizes.headers):
        (include / f"part{number}.h").write_text(
            f"#ifndef PART{number}\n#define PART{number}\n"
            f"struct part{number} {{ int number; struct part{number} *next; }};\n"
            f"static inline int number_of_part{number}(const struct part{number} *part)\n"
            f"{{ return part ? part->number : {number}; }}\n#endif\n"
        )
    includes = "".join(f'#include "part{number}.h"\n' for number in range(sizes.headers))
    for unit in range(_UNITS):
        body = "".join(f" + number_of_part{number}(0)" for number in range(0, sizes.headers, 10))
        (top / f"unit{unit}.c").write_text(
            f"{includes}int unit{unit}(void) {{ return 0{body}; }}\n"
        )
    calls = "".join(f"int unit{unit}(void);\n" for unit in range(_UNITS))
    total = " + ".join(f"unit{unit}()" for unit in range(_UNITS))
    (top / "main.c").write_text(f"{calls}int main(void) {{ return ({total}) < 0; }}\n")


# -- the rows ----------------------------------------------------------------------------------


def _program(*words: str) -> Callable[[str, Sizes, Timed], None]:
    def do(top: str, sizes: Sizes, timed: Timed) -> None:
        with timed(1):
            _run(words, top)

    return do


def _untar(top: str, sizes: Sizes, timed: Timed) -> None:
    archive = _material(_ARCHIVE)
    Path(archive).read_bytes()  # into memory, for all alike
    with timed(1):
        _run(["tar", "-x", "-f", archive], top)


def _find_again(top: str, sizes: Sizes, timed: Timed) -> None:
    """Right after another one of the same tree, whatever else has happened since the last."""
    _run(_FIND, top)
    with timed(1):
        _run(_FIND, top)


def _git_status(top: str, sizes: Sizes, timed: Timed) -> None:
    copy = f"{top}/{_REPOSITORY}"
    shutil.copytree(_material(_REPOSITORY), copy)
    # git compares what it noted about a file with stat(2): on a copy all of it differs, and the
    # first status reads every file and notes it anew.
    _run(["git", "status", "--porcelain"], copy)
    with timed(_STATUSES):
        for _ in range(_STATUSES):
            _run(["git", "status", "--porcelain"], copy)


def _compile(top: str, sizes: Sizes, timed: Timed) -> None:
    sources = Path(top, "sources")
    _write_sources(sources, sizes)
    units = ["main.c", *(f"unit{unit}.c" for unit in range(_UNITS))]
    with timed(1):
        for unit in units:
            _run(["gcc", "-pipe", "-Iinclude", "-c", unit], os.fspath(sources))
        objects = [unit.replace(".c", ".o") for unit in units]
        _run(["gcc", "-o", "program", *objects], os.fspath(sources))


def _work(
    name: str,
    title: str,
    do: Callable[[str, Sizes, Timed], None],
    *programs: str,
    needs: tuple[str, ...] = (),
    fresh: bool = False,
) -> Row:
    return Row(name, title, WORKLOADS, "s", do, needs, programs, fresh)


#: In the order in which they are done.
_ROWS = (
    _work("untar", "untar of a tree", _untar, "tar"),
    _work(
        "find-cold",
        "find -ls, just mounted",
        _program(*_FIND),
        "find",
        "tar",
        needs=("untar",),
        fresh=True,
    ),
    _work("find-warm", "find -ls, again", _find_again, "find", "tar", needs=("untar",)),
    _work("rm", "rm -r of the tree", _program("rm", "-r", "tree"), "rm", "tar", needs=("untar",)),
    _work("git-status", "git status", _git_status, "git"),
    _work("compile", "compile of C files", _compile, "gcc"),
)


def all_rows() -> Mapping[str, Row]:
    """Return every row by name, in the order in which they are done."""
    return {**operations(), **{row.name: row for row in _ROWS}}
