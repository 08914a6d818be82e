# SPDX-License-Identifier: MIT
"""Who is let into a mount, and by whose rights they are judged there."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rights.support import ALICE, BOB, STAFF, TEAM
from xloop.testing import NativeTree, Pair, Tree

if TYPE_CHECKING:
    from rights.conftest import Show, ShowAs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: several users enter")

#: A user with a name: fusermount3 mounts for no other.
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def source(work: Path) -> Path:
    """A directory with things that not everybody may touch, and a twin of it."""
    for top in (work / "source", work / "twin"):
        top.mkdir()
        top.chmod(0o755)
        for name, mode, uid in (
            ("public", 0o644, 0),
            ("secret", 0o600, 0),
            ("mine", 0o600, NOBODY),
            ("sealed", 0o000, NOBODY),
            ("writable", 0o666, 0),
        ):
            (top / name).write_bytes(b"data")
            os.chown(top / name, uid, uid)
            (top / name).chmod(mode)
        for name, mode, uid in (("vault", 0o700, 0), ("home", 0o700, NOBODY), ("open", 0o777, 0)):
            (top / name).mkdir()
            (top / name / "f").write_bytes(b"data")
            os.chown(top / name, uid, uid)
            (top / name).chmod(mode)
        os.symlink("secret", top / "link")
    return work / "source"


@pytest.fixture
def trees() -> Iterator[list[Tree]]:
    """What is put in here is shut at the end."""
    made: list[Tree] = []
    yield made
    for tree in made:
        tree.shut()


def enters(tree: Tree) -> bool:
    try:
        return tree.content(b"public") == b"data"
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        return False


def who_enters(tree: Tree, owner: int) -> dict[str, bool]:
    return {
        "root": enters(tree),
        "owner": enters(tree.as_user(owner, owner)),
        "owner with another group": enters(tree.as_user(owner, STAFF)),
        "somebody": enters(tree.as_user(BOB, STAFF)),
        "somebody in root's group": enters(tree.as_user(BOB, 0)),
    }


def test_a_mount_is_its_owners_alone(source: Path, show_as: ShowAs, trees: list[Tree]) -> None:
    tree = NativeTree(str(show_as(source, NOBODY, helper=True)))
    trees.append(tree)
    entered = who_enters(tree, NOBODY)
    # Not even root: a file system of a user could keep root waiting for ever.
    assert [who for who, yes in entered.items() if yes] == ["owner"]


def test_a_mount_of_root_is_roots_alone(source: Path, show: Show, trees: list[Tree]) -> None:
    tree = NativeTree(str(show(source)))
    trees.append(tree)
    assert [who for who, yes in who_enters(tree, NOBODY).items() if yes] == ["root"]


def test_allow_root_lets_root_in_and_nobody_else(
    source: Path, show_as: ShowAs, trees: list[Tree]
) -> None:
    tree = NativeTree(str(show_as(source, ALICE, helper=False, allow_root=True)))
    trees.append(tree)
    others = {who: yes for who, yes in who_enters(tree, ALICE).items() if "owner" not in who}
    assert others == {"root": True, "somebody": False, "somebody in root's group": False}
    assert enters(tree.as_user(ALICE, ALICE))
    # Nothing else opens the door: not a directory, not a name, not a file system's numbers.
    bob = tree.as_user(BOB, STAFF)
    for call in (
        lambda: bob.listdir(b"."),
        lambda: bob.lstat(b"nothing"),
        lambda: bob.make(b"open/new"),
        lambda: bob.statvfs(b"."),
    ):
        with pytest.raises(PermissionError):
            call()
    assert not (source / "open" / "new").exists()


def test_what_was_opened_may_be_used_by_who_was_given_it(
    source: Path, show_as: ShowAs, trees: list[Tree]
) -> None:
    """A descriptor is a right of its own: to hand it over is its owner's decision."""
    tree = NativeTree(str(show_as(source, ALICE, helper=False, allow_root=True)))
    trees.append(tree)
    fd = tree.as_user(ALICE, ALICE).open(b"writable", os.O_RDWR)
    bob = tree.as_user(BOB, STAFF)
    assert bob.pread(fd, 10, 0) == b"data"
    assert bob.pwrite(fd, b"D", 0) == 1


def test_allow_other_lets_everybody_in(source: Path, show: Show, trees: list[Tree]) -> None:
    tree = NativeTree(str(show(source, allow_other=True)))
    trees.append(tree)
    assert all(who_enters(tree, NOBODY).values())


def attempts(tree: Tree) -> dict[str, object]:
    """Return what comes of all that one might try in the source above."""
    calls: dict[str, Callable[[], object]] = {
        "read public": lambda: tree.content(b"public"),
        "read secret": lambda: tree.content(b"secret"),
        "read through the link": lambda: tree.content(b"link"),
        "read mine": lambda: tree.content(b"mine"),
        "read sealed": lambda: tree.content(b"sealed"),
        "write public": lambda: tree.append(b"public", b"x"),
        "write writable": lambda: tree.append(b"writable", b"x"),
        "list vault": lambda: tree.listdir(b"vault"),
        "enter vault": lambda: tree.content(b"vault/f"),
        "look into vault": lambda: tree.lstat(b"vault/f").st_size,
        "list home": lambda: tree.listdir(b"home"),
        "enter home": lambda: tree.content(b"home/f"),
        "make": lambda: tree.make(b"new"),
        "make in open": lambda: tree.make(b"open/new"),
        "make in vault": lambda: tree.mkdir(b"vault/new"),
        "remove": lambda: tree.unlink(b"public"),
        "remove in open": lambda: tree.unlink(b"open/f"),
        "chmod": lambda: tree.chmod(b"public", 0o666),
        "chmod mine": lambda: tree.chmod(b"mine", 0o640),
        "chown mine": lambda: tree.chown(b"mine", BOB, -1),
        "touch public": lambda: tree.utime(b"public", None, 5),
        "touch mine": lambda: tree.utime(b"mine", None, 5),
        "truncate secret": lambda: tree.truncate(b"secret", 0),
        "access secret": lambda: tree.access(b"secret", os.R_OK),
        "access mine": lambda: tree.access(b"mine", os.R_OK | os.W_OK),
        "access to execute": lambda: tree.access(b"mine", os.X_OK),
        "attribute": lambda: tree.setxattr(b"mine", b"user.x", b"y"),
        "attribute of public": lambda: tree.setxattr(b"public", b"user.x", b"y"),
        "link secret": lambda: tree.link(b"secret", b"open/secret"),
        "rename": lambda: tree.rename(b"open/new", b"home/new"),
        "device": lambda: tree.mknod(b"open/dev", 0o020666, os.makedev(1, 3)),
        "fifo": lambda: tree.mknod(b"open/fifo", 0o010666),
    }
    found: dict[str, object] = {}
    for what, call in calls.items():
        try:
            found[what] = call()
        except OSError as error:
            found[what] = errno.errorcode[error.errno or 0]
    return found


def test_rights_of_a_users_own_mount_are_the_sources(
    source: Path, show_as: ShowAs, trees: list[Tree]
) -> None:
    trees += [
        NativeTree(str(show_as(source, NOBODY, helper=True))),
        NativeTree(str(source.parent / "twin")),
    ]
    # Root's view of the source is not to be compared with, so both trees are the owner's.
    mnt, ref = (tree.as_user(NOBODY, NOBODY) for tree in trees)
    found = Pair(mnt, ref).same(attempts)
    assert found["read secret"] == found["list vault"] == found["make"] == "EACCES"
    assert found["read mine"] == b"data"
    assert found["read sealed"] == "EACCES"


def test_what_a_user_makes_in_an_own_mount_is_the_users(
    source: Path, show_as: ShowAs, trees: list[Tree]
) -> None:
    trees += [
        NativeTree(str(show_as(source, NOBODY, helper=True))),
        NativeTree(str(source.parent / "twin")),
    ]
    mnt, ref = (tree.as_user(NOBODY, NOBODY, umask=0o027) for tree in trees)
    pair = Pair(mnt, ref)
    pair.same(lambda t: t.make(b"open/f2", b"x", 0o666))
    pair.same(lambda t: t.mkdir(b"open/d", 0o777))
    made = pair.same(lambda t: (t.facts(b"open/f2"), t.facts(b"open/d")))
    assert made[0][:6] == (0o100000, 0o640, 1, NOBODY, NOBODY, 1)


@pytest.mark.parametrize("who", ["root", "nobody", "somebody"])
def test_rights_are_the_sources_where_the_source_checks(
    source: Path, show: Show, trees: list[Tree], who: str
) -> None:
    """default_permissions off, and everybody let in: the server asks the source as its caller."""
    point = show(source, allow_other=True, default_permissions=False)
    # TEAM has no part in it: a group too many.
    identity = {
        "root": (0, 0, ()),
        "nobody": (NOBODY, NOBODY, (TEAM,)),
        "somebody": (BOB, STAFF, ()),
    }
    trees += [NativeTree(str(point)), NativeTree(str(source.parent / "twin"))]
    mnt, ref = (tree.as_user(*identity[who]) for tree in trees)
    Pair(mnt, ref).same(attempts)
