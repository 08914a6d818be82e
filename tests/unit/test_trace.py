# SPDX-License-Identifier: MIT
"""The lines of ``--debug``: every operation has one, it is readable, and what is secret is not in it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xloop.layers import Trace
from xloop.layers.trace import _PARAMETERS
from xloop.ops import Op, Operations
from xloop.types import (
    NOW,
    ROOT_INO,
    Attr,
    Caller,
    DirEntry,
    Entry,
    HandleId,
    Ino,
    LockRange,
    Opened,
    SetAttr,
    StatFs,
)

ME = Caller(uid=1000, gid=100, pid=812, label=(b"security.x", b"SECRET"))
FILE = Attr.make(stat.S_IFREG | 0o644, uid=1, gid=2, size=12)
SECRET = b"SECRET"

#: A value for each parameter there is.  One that is added gets its line here, and in xloop.layers.trace if
#: its bytes may be shown.
GIVEN: dict[str, Any] = {
    "command": 0x5401, "data": SECRET, "datasync": True, "events": 1, "flags": 0, "forgets": iter([(Ino(2), 1)]),
    "handle": HandleId(7), "handle_in": HandleId(7), "handle_out": HandleId(8), "ino": Ino(2), "ino_in": Ino(2),
    "ino_out": Ino(3), "length": 10, "lock": LockRange(fcntl.F_WRLCK, 0, 9), "lock_owner": 255, "mask": 4,
    "mode": 0, "name": b"NAME", "newname": b"NEW", "newparent": ROOT_INO, "nlookup": 1, "offset": 0,
    "offset_in": 0, "offset_out": 0, "operation": fcntl.LOCK_EX, "out_size": 0, "own": (), "owner": 1, "parent": ROOT_INO,
    "rdev": 0, "size": 4096, "target": b"TARGET", "umask": 0, "value": memoryview(SECRET), "whence": os.SEEK_HOLE,
    "changes": SetAttr(size=1),
}  # fmt: skip


class Answering(Operations):
    """Answers each operation with what the test has put into :attr:`answer`."""

    answer: Any = None


def _answers(op: Op) -> Callable[..., Any]:
    def method(self: Answering, *args: object, **kwargs: object) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        if op is Op.BATCH_FORGET:
            assert list(args[0]) == [(2, 1)]  # type: ignore[call-overload]  # not used up by who looked at it before
        return self.answer

    return method


for _op in Op:
    setattr(Answering, _op.value, _answers(_op))


@pytest.fixture
def inner() -> Answering:
    return Answering()


@pytest.fixture
def traced(inner: Answering, caplog: pytest.LogCaptureFixture) -> Trace:
    caplog.set_level(logging.DEBUG, "xloop")
    return Trace(inner)


def call(traced: Trace, op: Op, **more: Any) -> Any:
    arguments = {name: GIVEN[name] for name in _PARAMETERS[op]} | more
    if op is Op.BATCH_FORGET:
        arguments["forgets"] = iter([(Ino(2), 1)])
    asked = (
        []
        if op.value in ("init", "destroy", "watch") or "forget" in op.value or "release" in op.value
        else [ME]
    )
    result = getattr(traced, op.value)(*asked, *arguments.values())
    return list(result) if isinstance(result, Iterator) else result


def line(caplog: pytest.LogCaptureFixture) -> str:
    """Return the last line, without what is another one each time."""
    return re.sub(r", \d+ us\)$|\(\d+ us\)$", ")", caplog.messages[-1]).removesuffix(" )")


@pytest.mark.parametrize("op", Op, ids=lambda op: op.value)
def test_every_operation_has_a_line_without_a_secret(
    op: Op, inner: Answering, traced: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    # Whatever it may answer one day: what is not known for a name is not shown.
    naming = op in (Op.READLINK, Op.SPELLING, Op.LISTXATTR)
    for answer in (SECRET, memoryview(SECRET), [SECRET], (1, SECRET), {"x": SECRET}, None):
        inner.answer = answer
        caplog.clear()
        assert call(traced, op) == answer
        (said,) = caplog.messages
        assert said.startswith(op.value)
        assert " -> " in said
        assert naming or "SECRET" not in said


def test_an_operation_that_nobody_knows_yet_shows_no_bytes(
    traced: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    traced.write(ME, Ino(2), HandleId(1), 0, SECRET, cached=True, kill_suidgid=False)
    assert (
        line(caplog)
        == "write #2 handle=1 offset=0 data=6 bytes cached -> ok (pid 812, uid 1000, gid 100)"
    )
    assert SECRET.decode() not in caplog.text


W = "(pid 812, uid 1000, gid 100)"
AT = "-rw-r--r-- 1:2 12 bytes"


@pytest.mark.parametrize(
    ("op", "more", "answer", "expected"),
    [
        (Op.LOOKUP, {}, Entry(Ino(5), FILE), f"lookup '/NAME' -> #5 {AT} {W}"),
        (Op.LOOKUP, {"name": b"a\n'\xff"}, Entry(Ino(5), FILE), f"lookup \"/a\\n'\\udcff\" -> #5 {AT} {W}"),
        (Op.LOOKUP, {"parent": Ino(9)}, OSError(errno.ENOENT, ""), f"lookup #9'/NAME' -> ENOENT {W}"),
        (Op.GETATTR, {"handle": None}, FILE, f"getattr #2 -> {AT} {W}"),
        (Op.GETATTR, {"ino": ROOT_INO}, ValueError("SECRET"), f"getattr '/' handle=7 -> a bug: ValueError {W}"),
        (Op.SETATTR, {"handle": None, "changes": SetAttr(mode=0o640, size=3, mtime=NOW, kill_suidgid=True)}, FILE, f"setattr #2 kill_suidgid mode=0640 mtime=now size=3 -> {AT} {W}"),
        (Op.SETATTR, {"handle": None, "changes": SetAttr()}, FILE, f"setattr #2 nothing -> {AT} {W}"),
        (Op.ACCESS, {"mask": os.R_OK | os.X_OK}, None, f"access #2 R_OK|X_OK -> ok {W}"),
        (Op.ACCESS, {"mask": os.F_OK}, None, f"access #2 F_OK -> ok {W}"),
        (Op.READLINK, {}, b"/etc", f"readlink #2 -> '/etc' {W}"),
        (Op.SYMLINK, {}, Entry(Ino(5), FILE), f"symlink '/NAME' target='TARGET' -> #5 {AT} {W}"),
        (Op.MKDIR, {"mode": 0o755, "umask": 0o22}, Entry(Ino(5), FILE), f"mkdir '/NAME' mode=0755 umask=022 -> #5 {AT} {W}"),
        (Op.RENAME, {"flags": 3}, None, f"rename '/NAME' '/NEW' RENAME_NOREPLACE|RENAME_EXCHANGE -> ok {W}"),
        (Op.RENAME, {"flags": 8}, None, f"rename '/NAME' '/NEW' 0x8 -> ok {W}"),
        (Op.LINK, {}, Entry(Ino(2), FILE), f"link #2 '/NEW' -> #2 {AT} {W}"),
        (Op.OPEN, {"flags": os.O_RDWR | os.O_TRUNC | os.O_NONBLOCK | 0x8000}, Opened(HandleId(3), fd=9), f"open #2 O_RDWR|O_NONBLOCK|O_TRUNC -> handle 3 {W}"),
        (Op.OPEN, {"flags": os.O_SYNC | os.O_DIRECTORY | 3 | 1 << 29}, Opened(HandleId(3)), f"open #2 O_ACCMODE|O_SYNC|O_DIRECTORY|0x20000000 -> handle 3 {W}"),
        (Op.OPENDIR, {}, Opened(HandleId(3)), f"opendir #2 O_RDONLY -> handle 3 {W}"),
        (Op.CREATE, {"flags": os.O_EXCL | os.O_WRONLY, "mode": 0o100644}, (Entry(Ino(5), FILE), Opened(HandleId(3))), f"create '/NAME' O_WRONLY|O_EXCL mode=0100644 umask=00 -> #5 {AT}, handle 3 {W}"),
        (Op.TMPFILE, {"flags": os.O_TMPFILE | os.O_RDWR}, (Entry(Ino(5), FILE), Opened(HandleId(3))), f"tmpfile '/' O_RDWR|O_TMPFILE mode=00 umask=00 -> #5 {AT}, handle 3 {W}"),
        (Op.READ, {}, memoryview(SECRET), f"read #2 handle=7 offset=0 size=4096 -> 6 bytes {W}"),
        (Op.RELEASE, {}, None, "release #2 handle=7 -> ok"),
        (Op.FALLOCATE, {"mode": 3}, None, f"fallocate #2 handle=7 KEEP_SIZE|PUNCH_HOLE offset=0 length=10 -> ok {W}"),
        (Op.LSEEK, {}, 12, f"lseek #2 handle=7 offset=0 SEEK_HOLE -> 12 {W}"),
        (Op.COPY_FILE_RANGE, {}, 10, f"copy_file_range #2 handle_in=7 offset_in=0 #3 handle_out=8 offset_out=0 length=10 flags=0 -> 10 {W}"),
        (Op.IOCTL, {}, SECRET, f"ioctl #2 handle=7 command=0x5401 data=6 bytes out_size=0 -> 6 bytes {W}"),
        (Op.GETXATTR, {"name": b"user.x"}, SECRET, f"getxattr #2 name='user.x' -> 6 bytes {W}"),
        (Op.SETXATTR, {"name": b"user.x"}, None, f"setxattr #2 name='user.x' value=6 bytes flags=0 -> ok {W}"),
        (Op.LISTXATTR, {}, [b"user.x", b"user.y"], f"listxattr #2 -> ['user.x', 'user.y'] {W}"),
        (Op.GETLK, {}, LockRange(fcntl.F_RDLCK, 5, 2**63 - 1, 99), f"getlk #2 handle=7 owner=0x1 F_WRLCK 0-9 -> F_RDLCK 5- of pid 99 {W}"),
        (Op.FLOCK, {"operation": fcntl.LOCK_EX | fcntl.LOCK_NB}, None, f"flock #2 handle=7 LOCK_EX|LOCK_NB -> ok {W}"),
        (Op.STATFS, {}, StatFs(100, 50, 40, 9, 8, 4096, 255, 512), f"statfs #2 -> 40 of 100 blocks of 512 are free {W}"),
        (Op.BATCH_FORGET, {}, None, "batch_forget #2 nlookup=1 -> ok"),
        (Op.READDIR, {}, iter([DirEntry(b"x", 1, 4, 1)] * 3), f"readdir #2 handle=7 offset=0 -> 3 names {W}"),
    ],
)  # fmt: skip
def test_a_line_is_readable(
    op: Op,
    more: dict[str, Any],
    answer: Any,
    expected: str,
    inner: Answering,
    traced: Trace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner.answer = answer
    if isinstance(answer, BaseException):
        with pytest.raises(type(answer)):
            call(traced, op, **more)
    else:
        call(traced, op, **more)
    assert line(caplog) == expected


def test_a_listing_that_fails_half_way_says_so(
    inner: Answering, traced: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> Iterator[DirEntry]:
        yield DirEntry(b"x", 1, 4, 1)
        raise OSError(errno.EIO, "")

    inner.answer = failing()
    with pytest.raises(OSError, match="5"):
        call(traced, Op.READDIR)
    assert line(caplog) == f"readdir #2 handle=7 offset=0 -> 1 names, then EIO {W}"


def test_paths_follow_what_is_looked_up_renamed_and_forgotten(
    inner: Answering, traced: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    def shown(ino: int) -> str:
        inner.answer = FILE
        traced.getattr(ME, Ino(ino), None)
        return line(caplog).split()[1]

    def look(parent: int, name: bytes, ino: int) -> None:
        inner.answer = Entry(Ino(ino), FILE)
        traced.lookup(ME, Ino(parent), name)

    look(1, b"dir", 10)
    look(10, b"file", 11)
    assert shown(11) == "'/dir/file'"
    inner.answer = iter(
        [(DirEntry(b"other", 1, 4, 1), Entry(Ino(12), FILE)), (DirEntry(b".", 1, 4, 1), None)]
    )
    assert len(list(traced.readdirplus(ME, Ino(10), HandleId(1), 0))) == 2
    assert shown(12) == "'/dir/other'"
    inner.answer = None
    traced.rename(ME, Ino(1), b"dir", Ino(1), b"moved", 0)
    assert shown(11) == "'/moved/file'"
    inner.answer = None
    traced.rename(ME, Ino(10), b"file", Ino(10), b"other", 2)
    assert (shown(11), shown(12)) == ("'/moved/other'", "'/moved/file'")
    look(10, b"other", 11)
    inner.answer = None
    traced.forget(Ino(11), 1)
    assert shown(11) == "'/moved/other'"
    inner.answer = None
    traced.forget(Ino(11), 1)
    assert shown(11) == "#11"
    traced.batch_forget(iter([(Ino(2), 1)]))
    look(1, b"a", 20)
    look(20, b"b", 21)
    look(21, b"a", 20)  # moved behind the mount, while it was looked at
    assert shown(20).startswith("#")


def test_nothing_is_made_up_while_nobody_listens(
    inner: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xloop")
    inner.answer = listing = iter([])
    assert Trace(inner).readdir(ME, Ino(2), HandleId(1), 0) is listing
    assert caplog.messages == []
