# SPDX-License-Identifier: MIT
"""overlayfs below a mount, with its copies on the first write, and on top of one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from xloop.testing import NativeTree, Pair, Tree

if TYPE_CHECKING:
    from sources.conftest import Lab, Show

DATA = b"from below " * 1000


@pytest.fixture(params=["auto", "served"])
def pair(request: pytest.FixtureRequest, lab: Lab, show: Show) -> Iterator[Pair]:
    """Two directories of one overlay, each with files that were never written to."""
    lower = lab.directory("lower")
    for top in ("source", "twin"):
        for name in ("", "d", "d/deep"):
            (lower / top / name).mkdir(exist_ok=True)
        for name in ("f", "g", "d/h", "d/deep/i"):
            (lower / top / name).write_bytes(DATA)
        os.symlink("f", lower / top / "link")
    overlay = lab.overlay(lower)
    passthrough = None if request.param == "auto" else False
    point = show(overlay / "source", passthrough=passthrough)
    trees: list[Tree] = [NativeTree(str(point)), NativeTree(str(overlay / "twin"))]
    yield Pair(*trees)
    for tree in trees:
        tree.shut()


def test_a_file_that_is_open_is_copied_up(pair: Pair) -> None:
    """Who has it open for reading goes on with the old one, as natively on an overlay."""

    def work(tree: Tree) -> list[object]:
        reader = tree.open(b"f", os.O_RDONLY)
        found: list[object] = [tree.pread(reader, 10, 0)]
        writer = tree.open(b"f", os.O_RDWR)
        tree.pwrite(writer, b"NEW", 0)
        found += [tree.pread(writer, 10, 0), tree.content(b"f")[:10], tree.lstat(b"f").st_size]
        tree.close(writer)
        tree.append(b"f", b"more")
        found += [tree.content(b"f")[-10:], tree.lstat(b"f").st_size]
        tree.close(reader)
        return found

    assert pair.same(work)


@pytest.mark.parametrize("change", ["chmod", "chown", "utime", "setxattr", "truncate", "link"])
def test_every_change_copies_up_and_the_file_stays_known(pair: Pair, change: str) -> None:
    arguments: dict[str, tuple[object, ...]] = {
        "chmod": (0o600,),
        "chown": (12, 34),
        "utime": (10**9, 10**9),
        "setxattr": (b"trusted.x", b"y"),
        "truncate": (5,),
        "link": (b"another",),
    }

    def work(tree: Tree) -> list[object]:
        reader = tree.open(b"g", os.O_RDONLY)
        directory = tree.at(b"d")
        getattr(tree, change)(b"g", *arguments[change])
        if change != "link":
            getattr(tree, change)(b"d/h", *arguments[change])
        found: list[object] = [tree.facts(b"g"), tree.facts(b"d/h"), directory.facts(b"h")]
        found += [
            tree.content(b"g"),
            tree.fstat(reader).st_size,
            tree.listdir(),
            tree.listdir(b"d"),
        ]
        tree.rename(b"d/h", b"d/deep/h")
        tree.unlink(b"g")
        found += [tree.listdir(b"d/deep"), tree.exists(b"g"), len(tree.pread(reader, 10**6, 0))]
        tree.close(reader)
        return found

    pair.same(work)


def test_directories_are_renamed_or_not_as_natively(pair: Pair) -> None:
    """A directory from below is renamed by a copy (EXDEV), unless the overlay can redirect."""
    pair.either(lambda t: t.rename(b"d", b"e"))
    pair.same(lambda t: t.mkdir(b"new"))
    pair.same(lambda t: t.rename(b"new", b"newer"))
    pair.same(lambda t: t.listdir())


def test_what_is_removed_stays_removed(pair: Pair) -> None:
    def work(tree: Tree) -> list[object]:
        fd = tree.open(b"d/deep/i", os.O_RDONLY)
        tree.unlink(b"d/deep/i")
        tree.rmdir(b"d/deep")
        tree.mkdir(b"d/deep")
        return [tree.listdir(b"d/deep"), tree.pread(fd, 5, 0), tree.listdir(b"d")]

    pair.same(work)


def test_the_whole_tree_is_the_overlays(pair: Pair) -> None:
    pair.same(lambda t: t.append(b"f", b"x"))
    # The link count of a directory tells whether it is merged, and follows within the timeout.
    pair.same(
        lambda t: {name: (f[0]._replace(nlink=0), f[1:3]) for name, f in t.snapshot().items()}
    )


def test_a_mount_is_the_lower_layer_of_an_overlay(lab: Lab, show: Show) -> None:
    """For containers: an image that is a mount, and changes that go elsewhere."""
    source = lab.directory("source")
    (source / "d").mkdir()
    for name in ("f", "d/g"):
        (source / name).write_bytes(DATA)
    (source / "f").chmod(0o755)
    top = lab.overlay(show(source))
    assert (top / "f").read_bytes() == DATA
    with open(top / "f", "ab") as file:
        file.write(b"more")
    (top / "d" / "g").unlink()
    os.rename(top / "f", top / "moved")
    assert (top / "moved").read_bytes() == DATA + b"more"
    assert sorted(os.listdir(top)) == ["d", "moved"]
    assert os.listdir(top / "d") == []
    run = subprocess.run(["find", top, "-ls"], capture_output=True, check=True)
    assert run.stderr == b""
    # And below nothing has changed.
    assert (source / "f").read_bytes() == (source / "d" / "g").read_bytes() == DATA
    assert sorted(os.listdir(source)) == ["d", "f"]
    lab.end()  # the overlay first: it keeps the mount busy


def test_a_mount_takes_the_changes_of_an_overlay_or_the_kernel_refuses(
    lab: Lab, show: Show
) -> None:
    """As the upper layer.  Kernels differ in whether they want a file system in user space there."""
    point = show(lab.directory("source"))
    lower = lab.directory("lower")
    (lower / "d").mkdir()
    for name in ("f", "d/g"):
        (lower / name).write_bytes(DATA)
    for name in ("upper", "work"):
        (point / name).mkdir()
    dirs = f"lowerdir={lower},upperdir={point}/upper,workdir={point}/work"
    try:
        top = lab.mount("-t", "overlay", "-o", dirs, "overlay")
    except OSError as error:
        if "wrong fs type" not in str(error):
            raise
        return
    with open(top / "f", "ab") as file:
        file.write(b"more")
    (top / "d" / "g").unlink()
    os.rename(top / "f", top / "moved")
    (top / "new").write_bytes(b"new")
    assert (top / "moved").read_bytes() == DATA + b"more"
    assert sorted(os.listdir(top)) == ["d", "moved", "new"]
    assert os.listdir(top / "d") == []
    assert (point / "upper" / "new").read_bytes() == b"new"
    lab.end()
