# SPDX-License-Identifier: MIT
"""The layers, without a mount: how calls find their way, and that read-only lets no change through."""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest

from xloop.layers import Layer, ReadOnly, readonly
from xloop.ops import Mutates, Op, Operations
from xloop.types import ROOT_INO, Attr, Caller, DirEntry, Entry, HandleId, Ino, Opened

R = TypeVar("R")

ME = Caller(uid=1000, gid=1000, pid=1)
HANDLE = HandleId(7)
FILE = Ino(2)
UNASKED = {"init", "destroy", "watch", "forget", "batch_forget", "release", "releasedir"}

MODES = {
    b"file": stat.S_IFREG | 0o644,
    b"dir": stat.S_IFDIR | 0o755,
    b"link": stat.S_IFLNK | 0o777,
    b"fifo": stat.S_IFIFO | 0o644,
}
NAMES = list(MODES)

#: Every operation that a layer could meet, with or without a row in the table.
METHODS = sorted(
    name
    for name, member in vars(Operations).items()
    if callable(member) and not name.startswith("_")
)
#: What a file system tells of itself.
FACTS = sorted(
    name for name in vars(Operations) if not name.startswith("_") and name not in METHODS
)


class Recorder(Operations):
    """Answers every operation with its own name and arguments, and keeps them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "calls":
            return super().__getattribute__(name)

        def record(*args: object, **kwargs: object) -> object:
            call = (name, args, kwargs)
            self.calls.append(call)
            return call

        return record


class Files(Operations):
    """A root directory that holds one object of each type; counts lookups, notes opens."""

    def __init__(self) -> None:
        self.lookups = 0
        self.opened: list[int] = []
        self.ioctls: list[int] = []

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        if name not in MODES:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.lookups += 1
        ino = Ino(2 + NAMES.index(name))
        return Entry(ino, self.getattr(caller, ino, None))

    def forget(self, ino: Ino, nlookup: int) -> None:
        self.lookups -= nlookup

    def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
        return Attr.make(MODES[NAMES[ino - 2]], ino=ino)

    def access(self, caller: Caller, ino: Ino, mask: int) -> None:
        pass

    def open(self, caller: Caller, ino: Ino, flags: int, *, kill_suidgid: bool = False) -> Opened:
        self.opened.append(flags)
        return Opened(HANDLE, fd=99)

    def ioctl(
        self, caller: Caller, ino: Ino, handle: HandleId, command: int, data: bytes, out_size: int
    ) -> bytes:
        self.ioctls.append(command)
        return b"answer"


def errno_raised(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as exc:
        return exc.errno
    return None


# -- a plain layer ----------------------------------------------------------------------


@pytest.mark.parametrize("op", Op)
def test_a_plain_layer_costs_nothing(op: Op) -> None:
    class Plain(Layer):
        pass

    inner = Operations()
    bound = getattr(Plain(inner), op.value)
    assert bound.__self__ is inner
    assert bound.__func__ is getattr(Operations, op.value)


@pytest.mark.parametrize("op", Op)
def test_a_stack_of_plain_layers_costs_nothing_either(op: Op) -> None:
    first = Layer(Operations())
    assert getattr(Layer(Layer(first)), op.value) is getattr(first, op.value)


@pytest.mark.parametrize("op", Op)
def test_what_a_layer_leaves_alone_costs_nothing(op: Op) -> None:
    class OnlyUnlink(Layer):
        def unlink(self, caller: Caller, parent: Ino, name: bytes) -> None:
            raise AssertionError

    inner = Operations()
    layer = OnlyUnlink(inner)
    owner = layer if op is Op.UNLINK else inner
    assert getattr(layer, op.value).__self__ is owner


@pytest.mark.parametrize("op", Op)
def test_super_of_an_overridden_operation_is_the_wrapped_one(op: Op) -> None:
    inner = Recorder()
    assert getattr(super(ReadOnly, ReadOnly(inner)), op.value)(ME, 1, x=2) == (
        op.value,
        (ME, 1),
        {"x": 2},
    )


@pytest.mark.parametrize("fact", FACTS)
def test_a_layer_tells_what_the_wrapped_file_system_tells_of_itself(fact: str) -> None:
    told = object()
    inner = Operations()
    setattr(inner, fact, told)
    assert getattr(ReadOnly(inner), fact) is told


def test_an_overridden_operation_reaches_the_wrapped_one() -> None:
    class Shifted(Layer):
        def read(
            self, caller: Caller, ino: Ino, handle: HandleId, offset: int, size: int
        ) -> bytes | memoryview:
            return super().read(caller, ino, handle, offset + 1, size)

    inner = Recorder()
    Layer(Shifted(inner)).read(ME, FILE, HANDLE, 10, 20)
    assert inner.calls == [("read", (ME, FILE, HANDLE, 11, 20), {})]


def test_an_override_of_getattr_is_not_bypassed_by_statx() -> None:
    class Secret(Layer):
        def getattr(self, caller: Caller, ino: Ino, handle: HandleId | None) -> Attr:
            return super().getattr(caller, ino, handle)._replace(uid=65534)

    assert Secret(Files()).statx(ME, FILE, None).uid == 65534


def test_an_override_of_forget_is_not_bypassed_by_batch_forget() -> None:
    class Counting(Layer):
        forgotten = 0

        def forget(self, ino: Ino, nlookup: int) -> None:
            self.forgotten += nlookup
            super().forget(ino, nlookup)

    inner = Files()
    layer = Counting(inner)
    layer.batch_forget([(FILE, 2), (Ino(3), 1)])
    assert layer.forgotten == 3
    assert inner.lookups == -3


@pytest.mark.parametrize("overridden", [Op.READDIR, Op.LOOKUP])
def test_an_override_of_names_is_not_bypassed_by_readdirplus(overridden: Op) -> None:
    entry = DirEntry(b"name", 2, 0, 1)

    class Names(Operations):
        def readdir(
            self, caller: Caller, ino: Ino, handle: HandleId, offset: int
        ) -> Iterator[DirEntry]:
            yield entry

    override = Names.readdir if overridden is Op.READDIR else Operations.lookup
    layer = type("Override", (Layer,), {overridden.value: override})(Names())
    assert list(layer.readdirplus(ME, ROOT_INO, HANDLE, 0)) == [(entry, None)]


# -- around -----------------------------------------------------------------------------


class Around(Layer):
    def __init__(self, inner: Operations) -> None:
        super().__init__(inner)
        self.seen: list[tuple[Op, Caller | None, tuple[object, ...]]] = []

    def around(self, op: Op, caller: Caller | None, call: partial[R]) -> R:
        self.seen.append((op, caller, call.args))
        return call()


@pytest.mark.parametrize("op", Op)
def test_every_operation_goes_through_around(op: Op) -> None:
    inner = Recorder()
    layer = Around(inner)
    args = (1, 2) if op.value in UNASKED else (ME, 1, 2)
    answer = getattr(layer, op.value)(*args, extra=3)
    assert answer == (op.value, args, {"extra": 3})
    assert inner.calls == [answer]
    assert layer.seen == [(op, None if op.value in UNASKED else ME, args)]


def test_around_surrounds_an_operation_overridden_in_the_same_layer() -> None:
    class Both(Around):
        def readlink(self, caller: Caller, ino: Ino) -> bytes:
            return b"mine"

    layer = Both(Operations())
    assert layer.readlink(ME, FILE) == b"mine"
    assert layer.seen == [(Op.READLINK, ME, (ME, FILE))]


def test_around_may_refuse_without_calling() -> None:
    class NoNames(Layer):
        def around(self, op: Op, caller: Caller | None, call: partial[R]) -> R:
            if op.mutates is not Mutates.NO:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            return call()

    inner = Recorder()
    with pytest.raises(PermissionError):
        NoNames(inner).rmdir(ME, ROOT_INO, b"dir")
    assert inner.calls == []


# -- read-only --------------------------------------------------------------------------

#: BY_FLAGS: what each of them is told to make a change, and what not to.
BY_FLAGS = {
    Op.OPEN: ((ME, FILE, os.O_WRONLY), (ME, FILE, os.O_RDONLY)),
    Op.IOCTL: ((ME, FILE, HANDLE, 0x40086602, b"", 8), (ME, FILE, HANDLE, 0x80086601, b"", 8)),
}

#: Makes a name: the arguments after the caller, for a name that is to be filled in.
MAKES_A_NAME: dict[Op, Callable[[bytes], tuple[object, ...]]] = {
    Op.MKDIR: lambda name: (ROOT_INO, name, 0o755, 0),
    Op.MKNOD: lambda name: (ROOT_INO, name, stat.S_IFREG | 0o644, 0, 0),
    Op.SYMLINK: lambda name: (ROOT_INO, name, b"target"),
    Op.LINK: lambda name: (FILE, ROOT_INO, name),
    Op.CREATE: lambda name: (ROOT_INO, name, os.O_CREAT | os.O_EXCL, 0o644, 0),
}


HARMLESS = [op for op in Op if op.mutates is Mutates.NO and op is not Op.ACCESS]
CHANGING = [op for op in Op if op.mutates is Mutates.YES and op not in MAKES_A_NAME]
DECIDED_BY_FLAGS = [op for op in Op if op.mutates is Mutates.BY_FLAGS]


def test_every_operation_has_a_row_and_is_tested_here() -> None:
    assert sorted(op.value for op in Op) == METHODS
    assert {*HARMLESS, *CHANGING, *BY_FLAGS, *MAKES_A_NAME, Op.ACCESS} == set(Op)


@pytest.mark.parametrize("op", CHANGING)
def test_readonly_refuses_what_changes_something(op: Op) -> None:
    inner = Recorder()
    call = partial(getattr(ReadOnly(inner), op.value), ME, FILE, b"x", flag=1)
    assert errno_raised(call) == errno.EROFS
    assert inner.calls == []


@pytest.mark.parametrize("op", MAKES_A_NAME)
def test_readonly_refuses_to_make_a_name(op: Op) -> None:
    call = partial(getattr(ReadOnly(Files()), op.value), ME, *MAKES_A_NAME[op](b"missing"))
    assert errno_raised(call) == errno.EROFS


@pytest.mark.parametrize("op", DECIDED_BY_FLAGS)
def test_readonly_decides_by_flags_where_the_table_says_so(op: Op) -> None:
    changing, harmless = BY_FLAGS[op]
    inner = Recorder()
    operation = getattr(ReadOnly(inner), op.value)
    assert errno_raised(partial(operation, *changing)) == errno.EROFS
    assert inner.calls == []
    operation(*harmless)
    assert [call[:2] for call in inner.calls] == [(op.value, harmless)]


def test_readonly_refuses_an_operation_without_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operations, "defragment", lambda self: None, raising=False)
    spec = importlib.util.spec_from_file_location("readonly_again", readonly.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert errno_raised(again.ReadOnly(Operations()).defragment) == errno.EROFS


@pytest.mark.parametrize("op", HARMLESS)
def test_readonly_costs_nothing_for_what_changes_nothing(op: Op) -> None:
    inner = Operations()
    assert getattr(ReadOnly(inner), op.value).__self__ is inner


@pytest.mark.parametrize(
    "flags",
    [os.O_WRONLY, os.O_RDWR, 3, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND],
    ids=["wronly", "rdwr", "accmode-3", "trunc", "append"],
)
def test_readonly_refuses_to_open_for_writing(flags: int) -> None:
    inner = Files()
    assert errno_raised(lambda: ReadOnly(inner).open(ME, FILE, flags)) == errno.EROFS
    assert inner.opened == []


def test_readonly_keeps_the_offer_of_passthrough() -> None:
    assert ReadOnly(Files()).open(ME, FILE, os.O_RDONLY).fd == 99


def test_readonly_create_opens_an_existing_file_for_reading() -> None:
    inner = Files()
    entry, opened = ReadOnly(inner).create(ME, ROOT_INO, b"file", os.O_CREAT, 0o644, 0)
    assert (entry.ino, opened.handle) == (FILE, HANDLE)
    assert inner.opened == [os.O_RDONLY]
    assert inner.lookups == 1


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        (b"missing", os.O_CREAT, errno.EROFS),
        (b"missing", os.O_CREAT | os.O_EXCL, errno.EROFS),
        (b"file", os.O_CREAT | os.O_EXCL, errno.EEXIST),
        (b"file", os.O_CREAT | os.O_WRONLY, errno.EROFS),
        (b"file", os.O_CREAT | os.O_TRUNC, errno.EROFS),
        (b"dir", os.O_CREAT, errno.EISDIR),
        (b"link", os.O_CREAT, errno.ELOOP),
    ],
)
def test_readonly_create_fails_as_on_a_read_only_mount(
    name: bytes, flags: int, expected: int
) -> None:
    inner = Files()
    layer = ReadOnly(inner)
    assert errno_raised(lambda: layer.create(ME, ROOT_INO, name, flags, 0o644, 0)) == expected
    assert inner.opened == []
    assert inner.lookups == 0, "the entry that nobody got was not forgotten"


@pytest.mark.parametrize("op", MAKES_A_NAME)
def test_readonly_says_that_a_name_exists(op: Op) -> None:
    inner = Files()
    call = partial(getattr(ReadOnly(inner), op.value), ME, *MAKES_A_NAME[op](b"dir"))
    assert errno_raised(call) == errno.EEXIST
    assert inner.lookups == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"file", errno.EROFS),
        (b"dir", errno.EROFS),
        (b"link", errno.EROFS),
        (b"fifo", None),  # what is written to a FIFO changes no file system
    ],
)
def test_readonly_access_denies_writing(name: bytes, expected: int | None) -> None:
    layer = ReadOnly(Files())
    ino = layer.lookup(ME, ROOT_INO, name).ino
    assert errno_raised(lambda: layer.access(ME, ino, os.W_OK)) == expected
    assert errno_raised(lambda: layer.access(ME, ino, os.R_OK | os.W_OK)) == expected
    assert errno_raised(lambda: layer.access(ME, ino, os.R_OK | os.X_OK)) is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (0x80086601, None),  # FS_IOC_GETFLAGS
        (0x801C581F, None),  # FS_IOC_FSGETXATTR
        (0x80087601, None),  # FS_IOC_GETVERSION
        (0x40086602, errno.EROFS),  # FS_IOC_SETFLAGS
        (0x401C5820, errno.EROFS),  # FS_IOC_FSSETXATTR
        (0x5401, errno.ENOTTY),  # TCGETS, as isatty() asks
        (0xDEADBEEF, errno.ENOTTY),
    ],
)
def test_readonly_passes_on_known_harmless_ioctls_only(command: int, expected: int | None) -> None:
    inner = Files()
    layer = ReadOnly(inner)
    assert errno_raised(lambda: layer.ioctl(ME, FILE, HANDLE, command, b"", 64)) == expected
    assert inner.ioctls == ([] if expected else [command])


def test_a_subclass_of_readonly_is_read_only_too() -> None:
    class Audited(ReadOnly):
        def unlink(self, caller: Caller, parent: Ino, name: bytes) -> None:
            super().unlink(caller, parent, name)

    inner = Recorder()
    layer = Audited(inner)
    assert errno_raised(lambda: layer.unlink(ME, ROOT_INO, b"x")) == errno.EROFS
    assert errno_raised(lambda: layer.rmdir(ME, ROOT_INO, b"x")) == errno.EROFS
    assert inner.calls == []
