# SPDX-License-Identifier: MIT
"""The base of all layers: :class:`Layer`, an Operations that wraps another.

Owns how a call finds its way through a stack of layers.  Does not own any policy.

A layer costs nothing for what it leaves alone: such an operation is bound to the wrapped file
system's own method when the layer is made, so that a stack of ten layers of which none cares
about read() reads as fast as the file system itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, TypeVar

from xloop.ops import Op, Operations
from xloop.types import Caller, DirEntry, Entry, HandleId, Ino

__all__ = ["Layer"]

_R = TypeVar("_R")


def _readdirplus(
    self: Operations, caller: Caller, ino: Ino, handle: HandleId, offset: int
) -> Iterator[tuple[DirEntry, Entry | None]]:
    for entry in self.readdir(caller, ino, handle, offset):
        yield entry, None  # who wants to know more looks it up


class _Derived(NamedTuple):
    """An operation that the contract explains by others."""

    bases: tuple[Op, ...]
    #: The operation, made of those others.
    made: Callable[..., Any]


#: Who overrides one of the bases must not be bypassed through what is explained by it.
_DERIVED = {
    Op.STATX: _Derived((Op.GETATTR,), Operations.statx),
    Op.BATCH_FORGET: _Derived((Op.FORGET,), Operations.batch_forget),
    # What changes in the wrapped file system is what changes here as long as names and attributes are its own.
    Op.WATCH: _Derived(
        (Op.LOOKUP, Op.READDIR, Op.READDIRPLUS, Op.GETATTR, Op.STATX), Operations.watch
    ),
    Op.READDIRPLUS: _Derived((Op.READDIR, Op.LOOKUP), _readdirplus),
}


class Layer(Operations):
    """Shows :attr:`inner` as it is.  Subclass it, and override single operations or :meth:`around`.

    An overridden operation reaches what it wraps through ``super()``::

        class KeepsEverything(Layer):
            def unlink(self, caller, parent, name):
                if name.endswith(b".keep"):
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
                super().unlink(caller, parent, name)

    What to mind: a layer that changes attributes changes those in an Entry too (lookup, mkdir,
    create, readdirplus, ...); one that must see the data withdraws ``Opened.fd``; and an Entry
    that is not passed on is owed a ``forget``.
    """

    def __init__(self, inner: Operations) -> None:
        self.inner = inner
        self.stack_depth = inner.stack_depth
        self.case_sensitive = inner.case_sensitive
        surrounded = type(self).around is not Layer.around
        for op in Op:
            answer = self._answer(op)
            if surrounded:
                answer = self._surround(op, answer)
            elif _overrides(type(self), op):
                continue
            setattr(self, op.value, answer)

    @property
    def believed(self) -> float:
        return self.inner.believed

    @believed.setter
    def believed(self, seconds: float) -> None:
        self.inner.believed = seconds

    def around(self, op: Op, caller: Caller | None, call: partial[_R]) -> _R:
        """Carry out ``call()``: the one hook through which every operation of a layer goes.

        Override it for what concerns many operations: decide by ``op.mutates`` and
        ``op.subject``, look at ``call.args``, raise OSError instead of calling.  *caller* is
        None for the few operations that nobody asks for, such as forget and release.
        readdir and readdirplus return an iterator: what fails while it runs fails outside.
        """
        return call()

    def _answer(self, op: Op) -> Callable[..., Any]:
        """Return what answers *op* in this layer, around() left aside."""
        if _overrides(type(self), op):
            return MethodType(getattr(type(self), op.value), self)
        derived = _DERIVED.get(op)
        if derived is not None and any(_overrides(type(self), base) for base in derived.bases):
            return MethodType(derived.made, self)
        answer: Callable[..., Any] = getattr(self.inner, op.value)
        return answer

    def _surround(self, op: Op, answer: Callable[..., Any]) -> Callable[..., Any]:
        around = self.around

        def asked(caller: Caller, *args: Any, **kwargs: Any) -> Any:
            return around(op, caller, partial(answer, caller, *args, **kwargs))

        def unasked(*args: Any, **kwargs: Any) -> Any:
            return around(op, None, partial(answer, *args, **kwargs))

        return asked if _has_caller(op) else unasked


def _overrides(layer: type[Layer], op: Op) -> bool:
    return getattr(layer, op.value) is not getattr(Layer, op.value)


def _has_caller(op: Op) -> bool:
    # Read off the contract, so that no second list can go stale.  Not by inspect.signature():
    # importing inspect takes longer than the rest of this module.
    code = getattr(Operations, op.value).__code__
    return "caller" in code.co_varnames[: code.co_argcount]


def _forward(op: Op) -> Callable[..., Any]:
    def forward(self: Layer, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, op.value)(*args, **kwargs)

    forward.__name__ = op.value
    forward.__qualname__ = f"Layer.{op.value}"
    forward.__doc__ = getattr(Operations, op.value).__doc__
    return forward


# What super() finds.  Made from the table: forty methods written by hand would differ from the
# contract one day, and a new operation would end in ENOSYS for every layer.
for _op in Op:
    setattr(Layer, _op.value, _forward(_op))
