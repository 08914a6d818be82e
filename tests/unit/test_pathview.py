# SPDX-License-Identifier: MIT
"""PathView: what is looked up is forgotten, handles keep their node, and no path reaches a source."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xloop.loopback import Loopback
from xloop.ops import Op, Operations
from xloop.pathview import PathView
from xloop.testing import Ledger
from xloop.types import NOW, ROOT_INO, Caller, Entry, Ino, LockRange, SetAttr

ME = Caller(os.geteuid(), os.getegid(), os.getpid())
RW = os.O_RDWR


@pytest.fixture
def source(tmp_path: Path) -> Path:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"data")
    (deep / "other").write_bytes(b"other")
    (tmp_path / "link").symlink_to("a")
    return tmp_path


@pytest.fixture
def books(source: Path) -> Ledger:
    return Ledger(Loopback(str(source)))


@pytest.fixture
def view(books: Ledger) -> Iterator[PathView]:
    view = PathView(books)
    view.init()
    yield view
    books.check_balanced()
    view.destroy()


def fails(number: int, call: Callable[[], Any]) -> None:
    with pytest.raises(OSError, match=r"\S") as caught:
        call()
    assert caught.value.errno == number


# Every call that takes a path, on a path that is there.
CALLS: dict[str, Callable[[PathView], Any]] = {
    "getattr": lambda v: v.getattr(ME, b"/a/b/file"),
    "getattr of the root": lambda v: v.getattr(ME, b"/"),
    "getpath": lambda v: v.getpath(ME, b"/a/b/file"),
    "setattr": lambda v: v.setattr(ME, b"/a/b/file", SetAttr(mode=0o600, mtime=NOW)),
    "access": lambda v: v.access(ME, b"/a/b/file", os.R_OK),
    "readlink": lambda v: v.readlink(ME, b"/link"),
    "statfs": lambda v: v.statfs(ME, b"/a/b"),
    "statfs without a path": lambda v: v.statfs(ME, None),
    "symlink": lambda v: v.symlink(ME, b"/a/b/new", b"target"),
    "mknod": lambda v: v.mknod(ME, b"/a/b/new", stat.S_IFIFO | 0o600, 0, 0),
    "mkdir": lambda v: v.mkdir(ME, b"/a/b/new", 0o700, 0),
    "unlink": lambda v: v.unlink(ME, b"/a/b/file"),
    "rename": lambda v: v.rename(ME, b"/a/b/file", b"/a/new"),
    "exchange": lambda v: v.rename(ME, b"/a/b/file", b"/a/b/other", 2),
    "link": lambda v: v.link(ME, b"/a/b/file", b"/a/new"),
    "setxattr": lambda v: v.setxattr(ME, b"/a/b/file", b"user.x", b"1", 0),
    "listxattr": lambda v: v.listxattr(ME, b"/a/b/file"),
}

FAILURES: dict[str, tuple[int, Callable[[PathView], Any]]] = {
    "missing": (errno.ENOENT, lambda v: v.getattr(ME, b"/a/b/nothing")),
    "missing on the way": (errno.ENOENT, lambda v: v.getattr(ME, b"/a/nothing/file")),
    "file on the way": (errno.ENOTDIR, lambda v: v.getattr(ME, b"/a/b/file/x")),
    "symlink on the way": (errno.ENOTDIR, lambda v: v.getattr(ME, b"/link/b")),
    "exists": (errno.EEXIST, lambda v: v.mkdir(ME, b"/a/b/file", 0o700, 0)),
    "root cannot be made": (errno.EBUSY, lambda v: v.mkdir(ME, b"/", 0o700, 0)),
    "root cannot be removed": (errno.EBUSY, lambda v: v.rmdir(ME, b"/")),
    "not empty": (errno.ENOTEMPTY, lambda v: v.rmdir(ME, b"/a/b")),
    "unlink a directory": (errno.EISDIR, lambda v: v.unlink(ME, b"/a/b")),
    "rename onto missing": (errno.ENOENT, lambda v: v.rename(ME, b"/a/b/file", b"/x/y")),
    "no replace": (errno.EEXIST, lambda v: v.rename(ME, b"/a/b/file", b"/a/b/other", 1)),
    "link exists": (errno.EEXIST, lambda v: v.link(ME, b"/a/b/file", b"/a/b/other")),
    "open a directory": (errno.EISDIR, lambda v: v.open(ME, b"/a/b", os.O_RDONLY)),
    "opendir a file": (errno.ENOTDIR, lambda v: v.opendir(ME, b"/a/b/file", 0)),
    "exclusive": (
        errno.EEXIST,
        lambda v: v.create(ME, b"/a/b/file", RW | os.O_CREAT | os.O_EXCL, 0o600, 0),
    ),
    "readlink of a file": (errno.EINVAL, lambda v: v.readlink(ME, b"/a/b/file")),
    "no path and no handle": (errno.ENOENT, lambda v: v.getattr(ME, None)),
    "no path to change": (errno.ENOENT, lambda v: v.setattr(ME, None, SetAttr(size=0))),
    "xattr": (errno.ENODATA, lambda v: v.getxattr(ME, b"/a/b/file", b"user.none")),
    "removexattr": (errno.ENODATA, lambda v: v.removexattr(ME, b"/a/b/file", b"user.none")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_a_call_by_path_forgets_what_it_looked_up(
    call: Callable[[PathView], Any], view: PathView, books: Ledger
) -> None:
    call(view)
    books.check_balanced()


@pytest.mark.parametrize(("number", "call"), FAILURES.values(), ids=list(FAILURES))
def test_a_failing_call_forgets_what_it_looked_up(
    number: int, call: Callable[[PathView], Any], view: PathView, books: Ledger
) -> None:
    fails(number, lambda: call(view))
    books.check_balanced()


@pytest.mark.parametrize(
    "path",
    [b"/..", b"/a/..", b"/a/../..", b"/a/./b", b"/a//b", b"/a/", b"", b"a", b"a/b", b"//"],
)
def test_what_is_no_name_never_reaches_the_source(
    path: bytes, view: PathView, books: Ledger
) -> None:
    fails(errno.EINVAL, lambda: view.getattr(ME, path))
    fails(errno.EINVAL, lambda: view.opendir(ME, path, 0))
    assert not books.calls[Op.LOOKUP]


def test_names_are_bytes(view: PathView, source: Path) -> None:
    name = b"\xff\xfe\n\\ "
    view.mkdir(ME, b"/" + name, 0o755, 0)
    view.symlink(ME, b"/" + name + b"/\x80", b"\x81")
    assert view.readlink(ME, b"/" + name + b"/\x80") == b"\x81"
    assert name in os.listdir(os.fsencode(source))


class _Anycase(Loopback):
    """Finds names in any case; those on the source are lower case."""

    case_sensitive = False

    def spelling(self, caller: Caller, parent: Ino, name: bytes) -> bytes:
        self.lookup(caller, parent, name.lower())
        return name.lower()

    def lookup(self, caller: Caller, parent: Ino, name: bytes) -> Entry:
        return super().lookup(caller, parent, name.lower())


def test_getpath_spells_each_name_as_its_directory_does(source: Path) -> None:
    view = PathView(_Anycase(str(source)))
    assert view.getpath(ME, b"/A/b/FILE") == b"/a/b/file"
    assert view.getpath(ME, b"/") == b"/"
    fails(errno.ENOENT, lambda: view.getpath(ME, b"/A/missing"))


def test_getpath_where_case_tells_names_apart(view: PathView) -> None:
    assert view.getpath(ME, b"/a/b/file") == b"/a/b/file"
    fails(errno.ENOENT, lambda: view.getpath(ME, b"/A/b/file"))


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems do it otherwise")


@ON_LINUX
@pytest.mark.parametrize("changes", [SetAttr(flags=0x8000), SetAttr(crtime=0)])
def test_what_linux_lacks_is_refused_and_not_ignored(view: PathView, changes: SetAttr) -> None:
    assert not changes.nothing
    fails(errno.EOPNOTSUPP, lambda: view.setattr(ME, b"/a/b/file", changes))


class _Paths(Operations):
    """Notes what it is asked for."""

    def __init__(self, inner: Operations) -> None:
        self.names: list[bytes] = []
        for op in Op:
            setattr(self, op.value, getattr(inner, op.value))
        self._lookup = inner.lookup
        self.lookup = self._noted  # type: ignore[method-assign]

    def _noted(self, caller: Caller, parent: Any, name: bytes) -> Any:
        self.names.append(name)
        return self._lookup(caller, parent, name)


def test_a_source_sees_one_name_at_a_time(source: Path) -> None:
    ops = _Paths(Loopback(str(source)))
    PathView(ops).getattr(ME, b"/a/b/file")
    assert ops.names == [b"a", b"b", b"file"]


# -- handles --------------------------------------------------------------------------------


def test_a_handle_works_after_its_name_is_gone(view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.unlink(ME, b"/a/b/file")
    fails(errno.ENOENT, lambda: view.getattr(ME, b"/a/b/file"))
    assert view.read(ME, handle, 0, 10) == b"data"
    assert view.write(ME, handle, 4, b"!") == 1
    assert view.getattr(ME, None, handle).size == 5
    assert view.getattr(ME, b"/a/b/file", handle).nlink == 0
    assert view.setattr(ME, None, SetAttr(size=2, mode=0o640), handle).size == 2
    view.fsync(ME, handle, True)
    view.fallocate(ME, handle, 0, 0, 10)
    assert view.lseek(ME, handle, 0, os.SEEK_DATA) == 0
    view.flush(ME, handle, 1)
    view.release(handle)
    books.check_balanced()


def test_a_handle_follows_its_file_through_a_rename(view: PathView) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.rename(ME, b"/a/b/file", b"/moved")
    view.setattr(ME, b"/a/b/file", SetAttr(size=1), handle)
    assert view.getattr(ME, b"/moved").size == 1
    view.release(handle)


def test_a_created_file_is_known_until_release(view: PathView, books: Ledger) -> None:
    handle = view.create(ME, b"/a/new", RW | os.O_CREAT | os.O_EXCL, 0o640, 0o027).handle
    view.unlink(ME, b"/a/new")
    assert view.write(ME, handle, 0, b"abc") == 3
    assert view.read(ME, handle, 0, 9) == b"abc"
    view.release(handle)
    books.check_balanced()


def test_a_number_that_is_not_open_is_ebadf(view: PathView) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.release(handle)
    for call in (
        lambda: view.read(ME, handle, 0, 1),
        lambda: view.write(ME, handle, 0, b"x"),
        lambda: view.getattr(ME, b"/a/b/file", handle),
        lambda: view.flush(ME, handle, 0),
        lambda: view.release(handle),
        lambda: view.releasedir(handle),
        lambda: list(view.readdir(ME, handle, 0)),
    ):
        fails(errno.EBADF, call)


def test_a_release_that_fails_gives_the_count_back(view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    release = books.release

    def broken(ino: Any, handle: Any) -> None:
        release(ino, handle)
        raise OSError(errno.EIO, "no")

    books.release = broken  # type: ignore[method-assign]
    fails(errno.EIO, lambda: view.release(handle))
    books.check_balanced()


def test_locks_go_through_a_handle(view: PathView) -> None:
    import fcntl

    one = view.open(ME, b"/a/b/file", RW).handle
    two = view.open(ME, b"/a/b/file", RW).handle
    lock = LockRange(fcntl.F_WRLCK, 0, 9, ME.pid)
    view.setlk(ME, one, 1, lock, wait=False)
    fails(errno.EAGAIN, lambda: view.setlk(ME, two, 2, lock, wait=False))
    assert view.getlk(ME, two, 2, lock).type == fcntl.F_WRLCK
    view.flock(ME, one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fails(errno.EAGAIN, lambda: view.flock(ME, two, fcntl.LOCK_SH | fcntl.LOCK_NB))
    view.release(one)
    view.setlk(ME, two, 2, lock, wait=False)
    view.release(two)


def test_copying_between_two_handles(view: PathView) -> None:
    one = view.open(ME, b"/a/b/file", RW).handle
    two = view.open(ME, b"/a/b/other", RW).handle
    assert view.copy_file_range(ME, one, 0, two, 5, 4, 0) == 4
    assert view.read(ME, two, 0, 20) == b"otherdata"
    view.release(one)
    view.release(two)


# -- directories ----------------------------------------------------------------------------


def test_readdirplus_forgets_each_entry(view: PathView, books: Ledger) -> None:
    handle = view.opendir(ME, b"/a/b", 0).handle
    before = +books.lookups
    seen = {}
    for entry, attr in view.readdirplus(ME, handle, 0):
        seen[entry.name] = attr
    assert set(seen) == {b".", b"..", b"file", b"other"}
    assert seen[b"."] is None
    assert seen[b"file"] is not None
    assert seen[b"file"].size == 4
    assert +books.lookups == before
    view.releasedir(handle)


def test_readdirplus_that_is_broken_off_owes_nothing(view: PathView, books: Ledger) -> None:
    handle = view.opendir(ME, b"/a/b", 0).handle
    before = +books.lookups
    for entry, _ in view.readdirplus(ME, handle, 0):
        if entry.name == b"file":
            break
    assert +books.lookups == before
    view.releasedir(handle)


def test_readdir_goes_on_after_a_cookie(view: PathView) -> None:
    handle = view.opendir(ME, b"/a/b", 0).handle
    entries = list(view.readdir(ME, handle, 0))
    rest = list(view.readdir(ME, handle, entries[1].offset))
    assert [e.name for e in rest] == [e.name for e in entries[2:]]
    view.releasedir(handle)


def test_the_root_is_opened_and_never_forgotten(view: PathView, books: Ledger) -> None:
    handle = view.opendir(ME, b"/", 0).handle
    view.fsyncdir(ME, handle, False)
    view.releasedir(handle)
    assert ROOT_INO not in books.lookups
    assert stat.S_ISDIR(view.getattr(ME, b"/.").mode)


# -- nodes that are kept under an invented name ----------------------------------------------


def test_a_kept_node_answers_by_its_invented_name(view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.keep(ME, b"/a/b/file", b".hidden1")
    view.unlink(ME, b"/a/b/file")
    assert view.getattr(ME, b"/a/b/.hidden1").nlink == 0
    assert view.setattr(ME, b"/a/b/.hidden1", SetAttr(mode=0o600)).mode & 0o777 == 0o600
    view.rename(ME, b"/a/b", b"/a/c")  # its directory may go elsewhere
    assert view.getattr(ME, b"/a/c/.hidden1").size == 4
    assert view.is_kept(b"/a/c/.hidden1")
    assert not view.is_kept(b"/a/c/other")
    view.unlink(ME, b"/a/c/other")
    view.rmdir(ME, b"/a/c")  # for nothing is in it
    view.release(handle)
    assert not view.is_kept(b"/a/c/.hidden1")
    books.check_balanced()


def test_dropping_an_invented_name_leaves_the_handle_alone(view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.keep(ME, b"/a/b/file", b".hidden1")
    view.unlink(ME, b"/a/b/file")
    assert view.drop(b".hidden1")
    assert not view.drop(b".hidden1")
    fails(errno.ENOENT, lambda: view.getattr(ME, b"/a/b/.hidden1"))
    assert view.read(ME, handle, 0, 9) == b"data"
    view.release(handle)
    books.check_balanced()


@ON_LINUX  # elsewhere nothing opens a file that has no name
@pytest.mark.parametrize("first", ["drop", "release"])
def test_a_kept_node_can_be_opened_again(first: str, view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.keep(ME, b"/a/b/file", b".hidden1")
    view.unlink(ME, b"/a/b/file")
    again = view.open(ME, b"/a/b/.hidden1", os.O_RDONLY).handle
    view.release(handle)
    if first == "drop":
        view.drop(b".hidden1")
    assert view.read(ME, again, 0, 9) == b"data"
    assert view.getattr(ME, None, again).nlink == 0
    view.release(again)
    books.check_balanced()


def test_a_name_is_invented_once(view: PathView, books: Ledger) -> None:
    handle = view.open(ME, b"/a/b/file", RW).handle
    view.keep(ME, b"/a/b/file", b".hidden1")
    fails(errno.EEXIST, lambda: view.keep(ME, b"/a/b/other", b".hidden1"))
    fails(errno.EBUSY, lambda: view.keep(ME, b"/a/b/.hidden1", b".hidden2"))
    fails(errno.EBUSY, lambda: view.keep(ME, b"/", b".hidden2"))
    view.release(handle)
    books.check_balanced()


# -- threads --------------------------------------------------------------------------------


def test_many_threads_leave_nothing_behind(view: PathView, books: Ledger) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        mine = b"/a/b/own%d" % number
        try:
            for _ in range(50):
                handle = view.create(ME, mine, RW | os.O_CREAT, 0o600, 0).handle
                view.keep(ME, mine, b".hidden%d" % number)
                view.unlink(ME, mine)
                assert view.getattr(ME, b"/a/b/.hidden%d" % number).nlink == 0
                view.write(ME, handle, 0, b"x" * number)
                assert view.getattr(ME, None, handle).size == number
                view.release(handle)
                try:
                    view.getattr(ME, mine)
                except FileNotFoundError:
                    continue
                raise AssertionError("it is still there")
        except BaseException as exc:  # noqa: BLE001  # looked at below
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    books.check_balanced()


def test_an_unknown_operation_stays_enosys() -> None:
    view = PathView(Operations())
    fails(errno.ENOSYS, lambda: view.getattr(ME, b"/"))
    fails(errno.ENOSYS, lambda: view.getattr(ME, b"/x"))
