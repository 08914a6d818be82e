# SPDX-License-Identifier: MIT
"""POSIX ACLs on a mount are enforced, not just stored, and mode and mask stay one thing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from rights.support import ACCESS, ALICE, BOB, DEFAULT, OTHERS, STAFF, TEAM, acl
from xloop.testing import Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need, Wait

#: Who they are, and what of read, write and execute the ACL below leaves them.
PEOPLE = {
    "owner": (ALICE, STAFF, ()),
    "named user": (BOB, STAFF, ()),
    "named user in the named group": (BOB, STAFF, (TEAM,)),
    "in the owning group": (3000, OTHERS, ()),
    "in the named group": (3000, 3000, (TEAM,)),
    "in both groups": (3000, OTHERS, (TEAM,)),
    "stranger": (3000, 3000, ()),
}


@pytest.fixture(autouse=True)
def _acls(need: Need) -> None:
    need.root("several users are needed")
    need.source("POSIX ACLs", lambda t: t.setxattr(b".", ACCESS, acl(7, 5, 5)))


def allowed(tree: Tree, path: bytes) -> dict[str, list[bool]]:
    """Return who may open *path* for reading, and for writing, and what access(2) says."""
    found = {}
    for who, identity in PEOPLE.items():
        somebody = tree.as_user(*identity)
        answers = []
        calls: list[Callable[[Tree], object]] = [
            lambda t: t.close(t.open(path, os.O_RDONLY)),
            lambda t: t.close(t.open(path, os.O_WRONLY)),
            lambda t: t.access(path, os.R_OK),
            lambda t: t.access(path, os.W_OK),
            lambda t: t.access(path, os.X_OK),
        ]
        for call in calls:
            try:
                call(somebody)
                answers.append(True)
            except PermissionError:
                answers.append(False)
        found[who] = answers
    return found


def made(tree: Tree, rights: bytes) -> None:
    tree.make(b"f", b"data")
    tree.chown(b"f", ALICE, OTHERS)
    tree.chmod(b"f", 0o640)
    tree.setxattr(b"f", ACCESS, rights)


@pytest.mark.parametrize("mask", [7, 4, 0])
@pytest.mark.parametrize("group", [6, 0])
def test_every_entry_counts(pair: Pair, mask: int, group: int) -> None:
    rights = acl(6, group, 4, users=[(BOB, 6)], groups=[(TEAM, 5)], mask=mask)
    pair.same(lambda t: made(t, rights))
    found = pair.same(lambda t: allowed(t, b"f"))
    assert found["owner"][0]
    # With a mask of 0 Linux does not look at the ACL, and "others" counts for the named user.
    assert found["named user"][0]
    assert found["named user"][1] == bool(mask & 2)


def test_mode_and_mask_are_one(pair: Pair) -> None:
    pair.same(lambda t: made(t, acl(6, 4, 0, users=[(BOB, 7)], mask=7)))
    assert oct(pair.same(lambda t: t.facts(b"f")).mode) == "0o670"
    pair.same(lambda t: t.chmod(b"f", 0o640))
    wanted = acl(6, 4, 0, users=[(BOB, 7)], mask=4)
    assert pair.same(lambda t: t.getxattr(b"f", ACCESS)) == wanted
    pair.same(lambda t: t.chmod(b"f", 0o604))
    pair.same(lambda t: t.getxattr(b"f", ACCESS))
    pair.same(lambda t: allowed(t, b"f"))
    pair.same(lambda t: t.setxattr(b"f", ACCESS, acl(7, 4, 1, users=[(BOB, 7)], mask=3)))
    assert oct(pair.same(lambda t: t.facts(b"f")).mode) == "0o731"
    # Through an open descriptor too.
    pair.same(lambda t: t.with_fd(b"f", os.O_RDWR, lambda fd: t.fchmod(fd, 0o650)))
    pair.same(lambda t: t.getxattr(b"f", ACCESS))


def test_an_acl_of_three_entries_is_a_mode(pair: Pair) -> None:
    pair.same(lambda t: made(t, acl(6, 5, 4)))
    assert oct(pair.same(lambda t: t.facts(b"f")).mode) == "0o654"
    assert pair.same(lambda t: t.listxattr(b"f")) == []
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", ACCESS))


def test_an_acl_that_is_taken_away_leaves_the_mode(pair: Pair) -> None:
    pair.same(lambda t: made(t, acl(6, 4, 0, users=[(BOB, 7)], mask=7)))
    pair.same(lambda t: t.removexattr(b"f", ACCESS))
    pair.same(lambda t: t.facts(b"f"))
    pair.same(lambda t: allowed(t, b"f"))
    pair.fails(errno.ENODATA, lambda t: t.getxattr(b"f", ACCESS))
    pair.either(lambda t: t.removexattr(b"f", ACCESS))


@pytest.mark.parametrize("who", ["root", "owner", "named user", "stranger"])
def test_only_the_owner_changes_an_acl(pair: Pair, who: str) -> None:
    pair.same(lambda t: made(t, acl(6, 4, 0, users=[(BOB, 7)], mask=7)))
    somebody = pair.each(lambda t: t if who == "root" else t.as_user(*PEOPLE[who]))
    pair.either(lambda t: somebody[t].setxattr(b"f", ACCESS, acl(7, 7, 7)))
    pair.either(lambda t: somebody[t].removexattr(b"f", ACCESS))
    pair.same(lambda t: (t.facts(b"f"), t.listxattr(b"f"), allowed(t, b"f")))


@pytest.mark.parametrize("member", [True, False], ids=["member", "stranger to the group"])
@pytest.mark.parametrize("extended", [True, False])
def test_setting_an_acl_clears_the_group_bit_for_who_is_not_in_the_group(
    pair: Pair, member: bool, extended: bool
) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", ALICE, TEAM))
    pair.same(lambda t: t.chmod(b"f", 0o2755))
    owner = pair.each(lambda t: t.as_user(ALICE, STAFF, (TEAM,) if member else ()))
    rights = acl(7, 5, 5, users=[(BOB, 7)], mask=7) if extended else acl(7, 7, 5)
    pair.same(lambda t: owner[t].setxattr(b"f", ACCESS, rights))
    assert bool(pair.same(lambda t: t.facts(b"f")).mode & stat.S_ISGID) == member


def test_root_keeps_the_group_bit_when_setting_an_acl(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.chown(b"f", ALICE, TEAM))
    pair.same(lambda t: t.chmod(b"f", 0o6755))
    pair.same(lambda t: t.setxattr(b"f", ACCESS, acl(7, 5, 5, users=[(BOB, 7)], mask=7)))
    assert oct(pair.same(lambda t: t.facts(b"f")).mode) == "0o6775"


def test_a_default_acl_is_for_directories(pair: Pair) -> None:
    rights = acl(7, 5, 0, users=[(BOB, 6)], mask=7)
    pair.same(lambda t: t.make(b"f"))
    pair.either(lambda t: t.setxattr(b"f", DEFAULT, rights))
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.setxattr(b"d", DEFAULT, rights))
    pair.same(lambda t: t.mkdir(b"d/sub", 0o700))
    pair.same(lambda t: t.make(b"d/sub/f", b"", 0o600))
    for name in (b"d", b"d/sub", b"d/sub/f"):
        pair.same(lambda t: (t.facts(name), sorted(t.listxattr(name))))
    pair.same(lambda t: (t.getxattr(b"d/sub", DEFAULT), t.getxattr(b"d/sub/f", ACCESS)))
    pair.same(lambda t: t.removexattr(b"d", DEFAULT))
    pair.same(lambda t: t.make(b"d/plain", b"", 0o600))
    assert pair.same(lambda t: t.listxattr(b"d/plain")) == []


@pytest.mark.parametrize(
    "value",
    [b"", b"\2\0\0\0", b"\1\0\0\0", acl(7, 7, 7)[:-1], acl(6, 4, 0, users=[(BOB, 7)])],
    ids=["nothing", "no entries", "another version", "cut off", "no mask"],
)
def test_what_is_no_acl_is_refused(pair: Pair, value: bytes) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.either(lambda t: t.setxattr(b"f", ACCESS, value))
    pair.same(lambda t: (t.facts(b"f"), t.listxattr(b"f")))


def test_an_acl_stays_with_the_file(pair: Pair) -> None:
    rights = acl(6, 4, 0, users=[(BOB, 6)], mask=6)
    pair.same(lambda t: made(t, rights))
    pair.same(lambda t: t.rename(b"f", b"g"))
    pair.same(lambda t: t.link(b"g", b"h"))
    assert pair.same(lambda t: t.getxattr(b"h", ACCESS)) == rights
    pair.same(lambda t: t.chown(b"g", BOB, TEAM))
    assert pair.same(lambda t: t.getxattr(b"h", ACCESS)) == rights
    pair.same(lambda t: allowed(t, b"h"))


def test_an_acl_of_a_directory_opens_and_closes_it(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"data", 0o666))
    pair.same(lambda t: t.setxattr(b"d", ACCESS, acl(7, 0, 5, users=[(BOB, 0)], mask=7)))
    bob = pair.each(lambda t: t.as_user(BOB, STAFF))
    stranger = pair.each(lambda t: t.as_user(3000, 3000))
    pair.fails(errno.EACCES, lambda t: bob[t].content(b"d/f"))
    pair.fails(errno.EACCES, lambda t: bob[t].listdir(b"d"))
    assert pair.same(lambda t: stranger[t].content(b"d/f")) == b"data"
    pair.fails(errno.EACCES, lambda t: stranger[t].make(b"d/g"))
    pair.same(lambda t: t.setxattr(b"d", ACCESS, acl(7, 0, 5, users=[(BOB, 7)], mask=7)))
    pair.same(lambda t: bob[t].make(b"d/g"))


def test_an_acl_that_changes_on_the_source_is_followed(
    mnt: Tree, src: Tree, eventually: Wait
) -> None:
    mnt.make(b"f", b"data")
    mnt.chmod(b"f", 0o600)
    bob = mnt.as_user(BOB, STAFF)
    with pytest.raises(PermissionError):
        bob.content(b"f")
    src.setxattr(b"f", ACCESS, acl(6, 0, 0, users=[(BOB, 4)], mask=4))
    assert eventually(lambda: bob.content(b"f") == b"data")
    src.setxattr(b"f", ACCESS, acl(6, 0, 0, users=[(BOB, 0)], mask=4))

    def refused() -> bool:
        try:
            bob.content(b"f")
        except PermissionError:
            return True
        return False

    assert eventually(refused)
