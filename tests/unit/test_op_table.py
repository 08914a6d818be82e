# SPDX-License-Identifier: MIT
"""The table of operations and the contract say the same."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from xloop.ops import Mutates, Op, Operations, Subject
from xloop.testing.tree import Tree

METHODS = {
    name: method
    for name, method in vars(Operations).items()
    if inspect.isfunction(method) and not name.startswith("_")
}
#: What an operation without an answer of its own does: nothing, or what another one does.
DEFAULTS = {Op.INIT, Op.DESTROY, Op.SPELLING, Op.FORGET, Op.BATCH_FORGET}
EACH_OP = pytest.mark.parametrize("op", Op, ids=lambda op: op.value)


def _parameters(op: Op) -> list[str]:
    return list(inspect.signature(METHODS[op.value]).parameters)[1:]


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    assert [op.value for op in Op] == list(dict.fromkeys(op.value for op in Op))
    assert {op.value for op in Op} == set(METHODS)


def test_a_row_is_named_like_its_method() -> None:
    assert {op.name.lower() for op in Op} == {op.value for op in Op}


@EACH_OP
def test_an_operation_is_specified(op: Op) -> None:
    assert (METHODS[op.value].__doc__ or "").strip()


@EACH_OP
def test_the_subject_shows_in_the_parameters(op: Op) -> None:
    names = _parameters(op)
    if op.subject is Subject.LIFE:
        assert "caller" not in names
    elif op.subject is Subject.NAME:
        assert names[:3] == ["caller", "parent", "name"]
    elif op.subject is Subject.INODE:
        assert names[0] == "caller"
        assert names[1] in ("ino", "parent")
        assert "name" not in names or op.value.endswith("xattr")
    else:
        # release is asked for by nobody.
        expected = ["ino", "handle"] if "caller" not in names else ["caller", "ino", "handle"]
        got = [name.removesuffix("_in") for name in names[: len(expected)]]
        assert got == expected


@EACH_OP
def test_what_is_not_there_is_enosys(op: Op) -> None:
    method: Callable[..., Any] = getattr(Operations(), op.value)
    required = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
    ]
    args = [
        () if parameter.name == "forgets" else None
        for parameter in required
        if parameter.kind != parameter.KEYWORD_ONLY
    ]
    kwargs = {p.name: None for p in required if p.kind == p.KEYWORD_ONLY}
    if op in DEFAULTS:
        assert method(*args, **kwargs) is None
    else:
        with pytest.raises(OSError, match=r"\S") as raised:
            method(*args, **kwargs)
        assert raised.value.errno == errno.ENOSYS


def test_what_creates_and_removes_mutates() -> None:
    for op in Op:
        if op.subject is Subject.NAME and op not in (Op.LOOKUP, Op.SPELLING):
            assert op.mutates is Mutates.YES
        if op.value.startswith(("get", "list", "read", "stat", "release")):
            assert op.mutates is Mutates.NO


def test_the_tests_trees_speak_of_system_calls_not_of_operations() -> None:
    # Where both have a name for it, it is the same name.
    both = {op.value for op in Op} & set(vars(Tree))
    assert {"unlink", "rename", "mkdir", "rmdir", "link", "symlink", "open", "read"} <= both
