# SPDX-License-Identifier: MIT
"""A real mount on this system, whichever it is: what is done on one side is there on the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import xloop

from .conftest import WINDOWS, wanted

pytestmark = pytest.mark.mount

Pair = tuple[Path, Path]
MIB = 1 << 20
FUSE_T = os.environ.get("XLOOP_TEST_BACKEND") == "fuse-t"


def test_what_is_written_is_in_the_source(pair: Pair) -> None:
    view, source = pair
    (view / "f").write_bytes(b"hello")
    assert (source / "f").read_bytes() == b"hello"
    with (view / "f").open("ab") as file:
        file.write(b" world")
    assert (source / "f").read_bytes() == b"hello world"
    with (view / "f").open("r+b") as file:
        file.seek(6)
        file.write(b"W")
        file.truncate(8)
    assert (source / "f").read_bytes() == b"hello Wo"


def test_what_is_in_the_source_is_read(pair: Pair) -> None:
    view, source = pair
    content = os.urandom(5 * MIB + 7)
    (source / "f").write_bytes(content)
    assert (view / "f").read_bytes() == content
    assert (view / "f").stat().st_size == len(content)
    with (view / "f").open("rb") as file:
        file.seek(3 * MIB + 1)
        assert file.read(100) == content[3 * MIB + 1 :][:100]


def test_a_large_file_is_copied_both_ways(pair: Pair) -> None:
    view, source = pair
    content = os.urandom(MIB) * 32
    (source / "in").write_bytes(content)
    shutil.copyfile(view / "in", view / "out")
    assert (source / "out").read_bytes() == content


def test_a_directory_of_many_names_is_listed_once_each(pair: Pair) -> None:
    view, source = pair
    names = {f"name-{number:04}" for number in range(1500)}
    for name in names:
        (source / name).touch()
    listed = os.listdir(view)
    assert len(listed) == len(names)
    assert set(listed) == names


def test_directories_are_made_and_removed(pair: Pair) -> None:
    view, source = pair
    (view / "a/b/c").mkdir(parents=True)
    assert (source / "a/b/c").is_dir()
    with pytest.raises(OSError, match=r"(?i)not empty"):
        (view / "a/b").rmdir()
    (view / "a/b/c").rmdir()
    assert not (source / "a/b/c").exists()


def test_renaming_moves_and_replaces(pair: Pair) -> None:
    view, source = pair
    (view / "d").mkdir()
    (view / "f").write_bytes(b"one")
    os.rename(view / "f", view / "d/g")
    assert (source / "d/g").read_bytes() == b"one"
    (view / "h").write_bytes(b"two")
    os.replace(view / "h", view / "d/g")
    assert (source / "d/g").read_bytes() == b"two"
    assert os.listdir(source) == ["d"]


def test_a_missing_name_is_missing(pair: Pair) -> None:
    view, _ = pair
    for use in (os.stat, os.listdir, os.unlink, os.rmdir):
        with pytest.raises(FileNotFoundError):
            use(view / "missing")
    assert not (view / "missing").exists()


def test_exclusive_creation_is_exclusive(pair: Pair) -> None:
    view, source = pair
    (source / "f").touch()
    with pytest.raises(FileExistsError):
        (view / "f").open("x")


@pytest.mark.skipif(WINDOWS, reason="an open file cannot be removed by Python on Windows")
def test_a_removed_file_that_is_open_goes_on(pair: Pair) -> None:
    view, source = pair
    with (view / "f").open("w+b") as file:
        file.write(b"data")
        file.flush()
        os.unlink(view / "f")
        assert not (source / "f").exists()
        file.write(b" and more")
        file.seek(0)
        assert file.read() == b"data and more"
        if not FUSE_T:  # NFS keeps a name of its own until the last close
            assert os.listdir(source) == []


@pytest.mark.skipif(WINDOWS, reason="making links takes a privilege on Windows")
def test_links_are_links(pair: Pair) -> None:
    view, source = pair
    (view / "f").write_bytes(b"data")
    os.symlink("f", view / "s")
    assert os.readlink(source / "s") == os.readlink(view / "s") == "f"
    assert (view / "s").read_bytes() == b"data"
    os.link(view / "f", view / "h")
    assert (source / "h").stat().st_nlink == 2
    assert (source / "h").stat().st_ino == (source / "f").stat().st_ino


def test_times_are_set(pair: Pair) -> None:
    view, source = pair
    (view / "f").touch()
    os.utime(view / "f", ns=(1_000_000_000_000_000_100, 1_100_000_000_000_000_200))
    shown, real = os.stat(view / "f"), os.stat(source / "f")
    assert (shown.st_atime_ns, shown.st_mtime_ns) == (real.st_atime_ns, real.st_mtime_ns)
    assert real.st_mtime_ns // 1000 == 1_100_000_000_000_000_200 // 1000


@pytest.mark.skipif(WINDOWS, reason="Windows has no permission bits")
def test_modes_are_set(pair: Pair) -> None:
    view, source = pair
    (view / "f").touch()
    for mode in (0o600, 0o644, 0o755):
        os.chmod(view / "f", mode)
        assert (source / "f").stat().st_mode & 0o7777 == mode
        assert (view / "f").stat().st_mode & 0o7777 == mode


def test_names_of_other_scripts(pair: Pair) -> None:
    view, source = pair
    names = ["\N{GREEK SMALL LETTER ALPHA}", "\N{CJK UNIFIED IDEOGRAPH-6587}", "a b", "A-Z_0.9~"]
    for name in names:
        (view / name).write_text(name, encoding="utf-8")
        assert (source / name).read_text(encoding="utf-8") == name
    assert sorted(os.listdir(view)) == sorted(names)


def test_free_space_is_the_source_s(pair: Pair) -> None:
    view, source = pair
    shown, real = shutil.disk_usage(view), shutil.disk_usage(source)
    assert abs(shown.total - real.total) <= 4 * MIB


def test_many_threads_at_once(pair: Pair) -> None:
    view, source = pair
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                path = view / f"{number}-{turn}"
                path.write_bytes(bytes([number]) * 5000)
                assert path.read_bytes() == bytes([number]) * 5000
                if turn % 2:
                    path.unlink()
        except BaseException as exc:  # noqa: BLE001  # raised below
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(os.listdir(source)) == 80


def test_a_tree_is_copied_faithfully(pair: Pair) -> None:
    view, source = pair
    package = Path(json.__file__).parent
    shutil.copytree(package, view / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.glob("*.py"):
        assert (source / "copy" / path.name).read_bytes() == path.read_bytes()
    shutil.rmtree(view / "copy")
    assert os.listdir(source) == []


def test_a_read_only_mount_refuses_changes(tmp_path: Path) -> None:
    backend = wanted()
    source, point = tmp_path / "source", tmp_path / "view"
    source.mkdir()
    (source / "f").write_bytes(b"data")
    if not WINDOWS:
        point.mkdir()
    with xloop.mount(str(source), str(point), backend=backend, read_only=True):
        assert (point / "f").read_bytes() == b"data"
        for change in (
            lambda: (point / "g").touch(),
            lambda: (point / "f").unlink(),
            lambda: (point / "f").write_bytes(b""),
            lambda: (point / "d").mkdir(),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is looked at
                change()
            assert caught.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    assert (source / "f").read_bytes() == b"data"
    assert os.listdir(source) == ["f"]


#: As on macOS: the server of `xloop mount` is executed, for a fork could not go on.
_EXECUTING = """
import sys
from xloop.host import process
process.CAN_GO_ON_AS_FORK = False
from xloop.cli import main
main()
"""


@pytest.mark.parametrize("start", [["-m", "xloop"], ["-c", _EXECUTING]], ids=["usual", "executing"])
def test_the_command_line_mounts_and_unmounts(tmp_path: Path, start: list[str]) -> None:
    backend = wanted()
    source, point = tmp_path / "source", tmp_path / "view"
    source.mkdir()
    (source / "f").write_bytes(b"data")
    if not WINDOWS:
        point.mkdir()
    xloop_command = [sys.executable, "-m", "xloop"]
    mount = [sys.executable, *start, "mount", "--backend", backend, str(source), str(point)]
    made = subprocess.run(mount, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    try:
        assert (point / "f").read_bytes() == b"data"
    finally:
        ended = subprocess.run(
            [*xloop_command, "umount", str(point)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert not (point / "f").exists()


def test_doctor_says_that_it_can_mount() -> None:
    wanted()
    done = subprocess.run(
        [sys.executable, "-m", "xloop", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # What else may be wrong on this machine (a dead mount of somebody else) is not the matter.
    assert done.returncode in (0, 1), done.stdout
    report = json.loads(done.stdout)
    used = [found for found in report["findings"] if found["name"] == report["uses"]]
    assert [found["ok"] for found in used if found["kind"] == "backend"] == [True], done.stdout
