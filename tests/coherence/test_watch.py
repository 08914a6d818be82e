# SPDX-License-Identifier: MIT
"""cache=coherent where not everything can be watched, or not any more: what is known goes, and nothing is wrong for ever."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from coherence.conftest import Place, eventually
from coherence.storm import believe, differences, flood
from xloop import Loopback
from xloop.host import Descriptor, host, linux_watch
from xloop.nodes import Node
from xloop.types import ROOT_INO, Caller, Ino
from xloop.watch.directories import DirectoryWatch
from xloop.watch.fanotify import FanotifyDirectoryWatch, FanotifyWatch
from xloop.watch.inotify import InotifyWatch

pytestmark = pytest.mark.mount

ROOT = os.geteuid() == 0
Places = Callable[..., Place]

#: The whole file system where that can be had, and one directory at a time.
ALL = pytest.mark.parametrize("watched", ["file system", "directories", "inotify"])
#: What is not watched is believed for so long.
SHORT = {"attr_timeout": 0.5, "entry_timeout": 0.5, "negative_timeout": 0.5}


def by(watched: str) -> dict[str, object]:
    """Return the fields of a place."""
    if watched == "inotify" or (ROOT and watched == "directories"):
        return {"watched": watched, "passthrough": False}
    return {}  # the best that there is


def prepare(top: Path) -> None:
    (top / "dir").mkdir()
    (top / "dir" / "below").touch()
    (top / "file").write_text("content")
    (top / "other").write_text("content")
    (top / "moves").touch()


def change(top: Path) -> None:
    """Change what is told in every way: attributes, data, names that come, go and move, and ones that were missing."""
    (top / "dir" / "f").touch()
    (top / "dir" / "below").unlink()
    (top / "file").chmod(0o600)
    (top / "other").write_text("CONTENT")
    (top / "moves").rename(top / "dir" / "g")


# -- an overflow ------------------------------------------------------------------------


@ALL
def test_changes_that_went_unheard_show(place: Places, watched: str) -> None:
    p = place(**by(watched))
    prepare(p.source)
    assert eventually(lambda: not differences(p.source, p.point))
    # Until all is known, and what was told of making it is past.
    assert eventually(lambda: p.counted(lambda: believe(p.point)).keys() <= {"OPENDIR"})
    assert p.status()["cache"]["everything dropped"] == 0
    flood(p.source, p.pid, 1, last=lambda: change(p.source))
    assert eventually(lambda: p.status()["cache"]["everything dropped"] > 0)
    assert p.status()["cache"]["overflows"] > 0
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)
    assert p.status()["cache"]["lost"] == ""
    # And it goes on from there.
    believe(p.point)
    (p.source / "file").chmod(0o640)
    (p.source / "new").touch()
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)


# -- the watch is lost ------------------------------------------------------------------


@ALL
def test_without_a_watch_the_timeouts_hold(place: Places, watched: str) -> None:
    p = place(**by(watched), **SHORT)
    prepare(p.source)
    assert eventually(lambda: not differences(p.source, p.point))
    believe(p.point)
    p.lose_the_watch()
    change(p.source)  # the first of which is what it fails to read
    assert eventually(lambda: p.status()["cache"]["lost"] != "")
    assert eventually(lambda: p.status()["cache"]["everything dropped"] > 0)
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)
    # What is read now is believed for the timeouts, and no longer.
    believe(p.point)
    (p.source / "file").chmod(0o640)
    (p.source / "new").touch()
    (p.source / "other").unlink()
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)


# -- what happens to a file by another name ---------------------------------------------

BY_DIRECTORY = pytest.mark.parametrize("watched", ["directories", "inotify"])


def _attributes(path: Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_size, found.st_nlink, found.st_mode


def _is_believed(place: Place, name: str) -> bool:
    return place.counted(lambda: os.lstat(place.point / name)) == {}


@BY_DIRECTORY
@pytest.mark.parametrize("where", ["outside", "in a directory that nobody knows"])
def test_a_file_that_got_another_name_elsewhere_is_right_after_a_time(
    place: Places, watched: str, where: str
) -> None:
    p = place(**by(watched), untold=1)
    file = p.source / "file"
    file.write_text("content")
    elsewhere = p.source.parent if where == "outside" else p.source / "unknown"
    elsewhere.mkdir(exist_ok=True)
    os.utime(file, (10**9, 10**9))
    assert eventually(lambda: _attributes(p.point / "file") == _attributes(file))
    assert eventually(lambda: _is_believed(p, "file"))
    os.link(file, elsewhere / "other")
    with open(elsewhere / "other", "a") as other:
        other.write("more")
    (elsewhere / "other").chmod(0o600)
    assert eventually(lambda: _attributes(p.point / "file") == _attributes(file))
    assert (p.point / "file").read_text() == "contentmore"


@BY_DIRECTORY
@pytest.mark.parametrize("how", ["link", "no name at first"])
def test_who_goes_on_writing_when_the_name_is_gone_is_heard(
    place: Places, watched: str, how: str
) -> None:
    """The event tells the name by which the file was opened: the other one, and the file by that, is in the same directory."""
    p = place(**by(watched))
    file = p.source / "file"
    if how == "link":
        fd = os.open(p.source / "gone", os.O_CREAT | os.O_RDWR, 0o644)
        os.link(p.source / "gone", file)
        os.unlink(p.source / "gone")
    else:
        try:
            fd = os.open(p.source, os.O_TMPFILE | os.O_RDWR, 0o644)
        except OSError as exc:
            pytest.skip(f"no file without a name: {exc}")
        here = os.open(p.source, os.O_PATH)
        # Only with a directory of the second name does os.link() say that symbolic links are followed.
        os.link(f"/proc/self/fd/{fd}", "file", dst_dir_fd=here, follow_symlinks=True)
        os.close(here)
    try:
        os.write(fd, b"content")
        # Not open on the mount: what is gets looked at anyway.
        for text in (" and", " more"):
            assert eventually(lambda: _attributes(p.point / "file") == _attributes(file))
            assert eventually(lambda: _is_believed(p, "file"))
            os.write(fd, text.encode())
            assert eventually(lambda: _attributes(p.point / "file") == _attributes(file))
        os.fchmod(fd, 0o600)
        assert eventually(lambda: _attributes(p.point / "file") == _attributes(file))
        assert (p.point / "file").read_text() == "content and more"
    finally:
        os.close(fd)
    assert p.status()["cache"]["overflows"] == 0


# -- directories that are not watched any more ------------------------------------------


def _watches(place: Place) -> tuple[int, int]:
    """Return the number of watches, by the status and by what the system says."""
    counted = 0
    for info in Path(f"/proc/{place.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            text = info.read_text()
            counted += _in_the_system(text)
    return int(place.status()["cache"]["watches"]), counted


def _in_the_system(fdinfo: str) -> int:
    return sum(line.startswith(("inotify wd:", "fanotify ino:")) for line in fdinfo.splitlines())


@BY_DIRECTORY
def test_a_directory_that_is_removed_takes_its_watch_along(place: Places, watched: str) -> None:
    p = place(**by(watched))
    for number in range(5):
        (p.source / f"d{number}").mkdir()
        (p.source / f"d{number}" / "file").touch()
    believe(p.point)
    assert _watches(p) == (6, 6)
    for number in range(4):
        shutil.rmtree(p.source / f"d{number}")
    # They go once nobody holds the directories any more, here and in the kernel.
    assert eventually(lambda: _watches(p) == (2, 2)), _watches(p)
    # One that is made under the same name is another one, and watched.
    (p.source / "d0").mkdir()
    assert eventually(lambda: os.listdir(p.point / "d0") == [])
    (p.source / "d0" / "f").touch()
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)
    assert _watches(p) == (3, 3)


class Unheard:
    """A watch of *source* that nobody reads, and what is known there."""

    def __init__(self, source: Path, means: type[DirectoryWatch] = InotifyWatch) -> None:
        self._operations = Loopback(str(source))
        self._operations.init()
        self.nodes = self._operations.nodes
        watchable = host.watchable(self.nodes.ref(self.nodes.root))
        self.watch: DirectoryWatch
        try:
            if means is InotifyWatch:
                self.watch = InotifyWatch(self.nodes, watchable, list, "nobody asked")
            else:
                self.watch = FanotifyDirectoryWatch(self.nodes, watchable, (), list, "as before")
        except OSError as exc:
            self._operations.destroy()
            pytest.skip(f"not to be had: {exc}")

    def know(self, *names: bytes) -> list[Ino]:
        caller = Caller(os.getuid(), os.getgid(), os.getpid())
        return [self._operations.lookup(caller, ROOT_INO, name).ino for name in names]

    def forget(self, *known: Ino) -> None:
        self._operations.batch_forget([(ino, 1) for ino in known])

    def counted(self) -> tuple[object, int]:
        """Return the number of watches, by the status and by what the system says."""
        told = self.watch.status()["watches"]
        return told, _in_the_system(Path(f"/proc/self/fdinfo/{self.watch._source:d}").read_text())

    def __enter__(self) -> Unheard:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.close()
        self._operations.destroy()


MEANS = pytest.mark.parametrize("means", [FanotifyDirectoryWatch, InotifyWatch])


@MEANS
def test_what_is_forgotten_is_watched_no_more(tmp_path: Path, means: type[DirectoryWatch]) -> None:
    names = [b"d%d" % number for number in range(20)]
    for name in names:
        (tmp_path / os.fsdecode(name)).mkdir()
    with Unheard(tmp_path, means) as there:
        known = there.know(*names)
        for ino in known:
            there.watch.before(ino)
        assert there.counted() == (21, 21)
        for name in names[:5]:
            (tmp_path / os.fsdecode(name)).rmdir()
        there.forget(*known[:10])
        assert there.counted() == (11, 11)
        # The same without anybody who asks.
        for _ in range(500):
            (tmp_path / "fresh").mkdir()
            (fresh,) = there.know(b"fresh")
            there.watch.before(fresh)
            (tmp_path / "fresh").rmdir()
            there.forget(fresh)
        assert len(there.watch._watched) < 100
        assert there.counted() == (11, 11)
        there.forget(*known[10:])


@MEANS
def test_a_directory_that_is_known_again_keeps_its_watch(
    tmp_path: Path, means: type[DirectoryWatch]
) -> None:
    """Whoever made it known before means nothing any more, and takes nothing along when room is made."""
    names = [b"d%d" % number for number in range(8)]
    for name in names:
        (tmp_path / os.fsdecode(name)).mkdir()
    with Unheard(tmp_path, means) as there:
        (before,) = there.know(names[0])
        there.watch.before(before)
        there.forget(before)
        known = there.know(*names)
        there.watch._most = len(known)
        for ino in (*known[1:-2], known[0], *known[-2:]):
            there.watch.before(ino)
        told, counted = there.counted()
        assert told == counted
        assert there.watch.names_hold(there.watch.before(known[0]), known[0])
        subprocess.run(["touch", tmp_path / "d0" / "new"], check=True)
        assert known[0] in {change.directory for change in there.watch._read()}
        there.forget(*known)


def test_who_is_forgotten_is_not_opened_by_the_table_again(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with Unheard(tmp_path, FanotifyDirectoryWatch) as there:
        (before,) = there.know(b"dir")
        node = there.nodes[before]
        there.watch.before(before)
        there.forget(before)
        (known,) = there.know(b"dir")  # by another node, with the same number
        there.nodes[known].fd = None  # as where descriptors are few
        with there.watch._lock:
            there.watch._make_room()
        assert node.fd is None
        assert there.counted() == (1, 1)
        there.forget(known)


def test_what_moved_in_a_circle_is_not_looked_for_for_ever(tmp_path: Path) -> None:
    with Unheard(tmp_path, FanotifyDirectoryWatch) as there:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        known = there.know(b"a", b"b")
        a, b = (there.nodes[ino] for ino in known)
        there.watch.before(known[0])
        there.forget(*known)
        a.parent, b.parent = b, a
        assert there.watch.status()["watches"] == 1


def test_a_file_that_takes_anothers_place_makes_nobody_suspect_the_rest(tmp_path: Path) -> None:
    """What was written by a name that was there is told by what became of the name; else all that is known is."""
    for name in ("file", "other"):
        (tmp_path / name).touch()
    with Unheard(tmp_path) as there:
        watch, known = there.watch, there.know(b"file", b"other")
        with open(tmp_path / "fresh", "w") as fresh:
            fresh.write("content")
        os.rename(tmp_path / "fresh", tmp_path / "file")
        assert watch._read()
        assert watch._look() == []
        with open(tmp_path / "temporary", "w") as temporary:
            os.unlink(tmp_path / "temporary")
            temporary.write("content")
        assert watch._read()
        assert {change.target for change in watch._look()} == set(known)
        assert watch._look() == []
        there.forget(*known)


def test_watches_whose_end_went_unheard_are_not_counted_on(tmp_path: Path) -> None:
    """Nobody reads here, and so nothing is heard but that there was too much of it."""
    for name in ("stays", "goes"):
        (tmp_path / name).mkdir()
    with Unheard(tmp_path) as there:
        nodes, watch = there.nodes, there.watch
        stays, goes = there.know(b"stays", b"goes")
        tokens = {ino: watch.before(ino) for ino in (stays, goes)}
        assert all(watch.names_hold(token, ino) for ino, token in tokens.items())
        assert watch.status()["watches"] == 3
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for number in range(limit):
            (tmp_path / "stays" / f"f{number % 2}").touch()
        # The end of a watch as an unmounted file system brings it about: the node is known as before.
        linux_watch.remove_watch(watch._source, watch._watched[nodes[goes]])
        while watch._read():
            pass
        assert watch.status()["overflows"] == 1
        assert watch.status()["watches"] == 2
        assert watch.names_hold(watch._sequence, stays)
        assert not watch.names_hold(watch._sequence, goes)
        there.forget(stays, goes)


@pytest.mark.skipif(not ROOT, reason="only root may mount there")
def test_a_file_system_that_is_unmounted_takes_its_watches_along(place: Places) -> None:
    p = place(**by("inotify"))
    (p.source / "dir").mkdir()
    (p.source / "dir" / "below").touch()
    subprocess.run(["mount", "-t", "tmpfs", "none", p.source / "dir"], check=True)
    try:
        (p.source / "dir" / "on top").mkdir()
        (p.source / "dir" / "on top" / "file").touch()
        assert eventually(lambda: os.listdir(p.point / "dir") == ["on top"])
        believe(p.point)
        assert _watches(p) == (3, 3)
        dropped = p.status()["cache"]["everything dropped"]
    finally:
        subprocess.run(["umount", "-l", p.source / "dir"], check=True)
    assert eventually(lambda: p.status()["cache"]["everything dropped"] > dropped)
    assert eventually(lambda: os.listdir(p.point / "dir") == ["below"])
    assert eventually(lambda: not differences(p.source, p.point)), differences(p.source, p.point)
    # The root, and the directory that was mounted over.
    assert eventually(lambda: _watches(p) == (2, 2)), _watches(p)
    (p.source / "dir" / "below").unlink()
    assert eventually(lambda: os.listdir(p.point / "dir") == [])


# -- further file systems ---------------------------------------------------------------


def test_what_passes_does_not_make_a_file_system_refused_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the system's answers only those count that are about the file system."""
    answers: list[int] = []

    def mark(_group: int, ref: int, _mask: int) -> None:
        number = answers.pop(0)
        if number:
            raise OSError(number, os.strerror(number))

    # Whether or not this user may have it.
    monkeypatch.setattr(linux_watch, "fanotify", lambda **_: linux_watch.inotify())
    monkeypatch.setattr(linux_watch, "mark_file_system", mark)
    with Unheard(tmp_path) as there:
        watchable = host.watchable(there.nodes.ref(there.nodes.root))
        answers.append(0)
        try:
            watch = FanotifyWatch(there.nodes, watchable, (), list)
        except OSError as exc:
            pytest.skip(f"not to be had: {exc}")
        dev = there.nodes.root_dev
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOENT):
            dev += 1
            answers.append(number)
            assert not watch._covers(dev, ROOT_INO)
            assert watch.status()["refused"] == []
            answers.append(0)
            assert watch._covers(dev, ROOT_INO)
        devices = watch.status()["devices"]
        answers.append(errno.EXDEV)
        for _ in range(2):  # asked once
            assert not watch._covers(dev + 1, ROOT_INO)
        assert watch.status()["refused"] == [os.strerror(errno.EXDEV)]
        assert watch.status()["devices"] == devices
        watch.close()


# -- what is open -----------------------------------------------------------------------


def test_what_is_opened_during_a_look_is_looked_at(tmp_path: Path) -> None:
    with Unheard(tmp_path) as there:
        watch = there.watch
        watch.opened()

        def opens_one_more() -> list[tuple[Node, Descriptor]]:
            watch.opened()
            return []

        watch._open_files = opens_one_more
        watch._look()
        assert watch._looking
        watch._open_files = list
        watch._look()
        assert not watch._looking


# -- too few watches --------------------------------------------------------------------


def test_the_oldest_directories_make_room(tmp_path: Path) -> None:
    """In a user namespace of its own, which may have a limit of its own."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, __file__, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare:" in done.stderr:
        pytest.skip(f"no user namespace: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all right"


LIMIT = 8
DIRECTORIES = 20


def main() -> None:
    """Be the one who has few watches."""
    Path("/proc/sys/user/max_inotify_watches").write_text(str(LIMIT))
    p = Place(Path(sys.argv[1]), watched="inotify", **SHORT)
    try:
        for number in range(DIRECTORIES):
            (p.source / f"d{number}").mkdir()
            (p.source / f"d{number}" / "file").touch(0o644)
        for number in range(DIRECTORIES):
            os.lstat(p.point / f"d{number}" / "file")
            assert not (p.point / f"d{number}" / "missing").exists()
            watches, counted = _watches(p)
            assert watches == counted, (watches, counted)
            assert watches <= LIMIT, watches
        told = p.status()["cache"]
        assert told["means"] == "inotify", told
        assert told["most watches"] == LIMIT, told
        assert told["dropped"] >= DIRECTORIES - LIMIT, told
        assert told["lost"] == "", told

        def stale(number: int) -> set[str]:
            top = p.point / f"d{number}"
            wrong = set()
            if stat.S_IMODE(os.lstat(top / "file").st_mode) != 0o600:
                wrong.add("attributes")
            if not (top / "missing").exists():
                wrong.add("a name")
            return wrong

        # The last one is watched; the first is not any more, and shows after the timeouts: once more looked at each.
        for number in (0, DIRECTORIES - 1):
            (p.source / f"d{number}" / "file").chmod(0o600)
            (p.source / f"d{number}" / "missing").touch()
            assert eventually(lambda number=number: not stale(number)), (number, stale(number))
        assert not differences(p.source, p.point)
    finally:
        p.end()
    print("all right")


if __name__ == "__main__":
    main()
