# SPDX-License-Identifier: MIT
"""The layer that shows everything as belonging to one: none of what tells an owner is forgotten."""

from __future__ import annotations

import os
import re
import typing
from pathlib import Path

import pytest

from xloop import Loopback
from xloop.layers import Squash
from xloop.ops import Op, Operations
from xloop.testing import InProcessTree
from xloop.types import Attr, Entry

#: The operations whose answer tells an owner, read off the contract.
TELLING = [
    op
    for op in Op
    if re.search(
        rf"\b({Attr.__name__}|{Entry.__name__})\b",
        str(typing.get_type_hints(getattr(Operations, op.value))["return"]),
    )
]


def test_there_are_operations_that_tell_an_owner() -> None:
    assert {Op.GETATTR, Op.LOOKUP, Op.CREATE, Op.READDIRPLUS} <= set(TELLING)


@pytest.mark.parametrize("op", TELLING)
def test_each_operation_that_tells_an_owner_is_overridden(op: Op) -> None:
    assert op.value in vars(Squash)


def test_everything_belongs_to_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "directory").mkdir()
    uid, gid = os.getuid() + 1, os.getgid() + 2
    tree = InProcessTree(Squash(Loopback(str(tmp_path)), uid, gid))
    for name in (b".", b"file", b"directory"):
        found = tree.stat(name)
        assert (found.st_uid, found.st_gid) == (uid, gid)
    assert (tmp_path / "file").stat().st_uid == os.getuid()
    tree.let_go()
    tree.shut()
    tree.check_balanced()
