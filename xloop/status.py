# SPDX-License-Identifier: MIT
"""What a server tells of itself when it is asked, and the text of it: of ``xloop status``, and in the log.

Owns what it is put together from, and the form.  Does not own how the question comes and where the answer
goes (:mod:`xloop.serving`), nor what a backend says: ``Session.status()``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xloop import mounts
from xloop.host import process
from xloop.ops import Operations
from xloop.options import MountOptions
from xloop.records import Record
from xloop.words import moment, shown, span, table, user

__all__ = ["lines", "log", "told"]

_log = logging.getLogger("xloop")


def told(
    record: Record,
    session: Mapping[str, Any],
    operations: Operations,
    options: MountOptions,
    *,
    elsewhere: bool,
) -> dict[str, Any]:
    """Return what there is to tell of a mount that this process serves.

    *record*: of a time of 0 as long as it is not ready.  *elsewhere*: it is in another mount namespace.
    """
    counts = session.get("requests")
    return {
        **record._asdict(),
        "served": sum(counts.values()) if isinstance(counts, dict) else None,
        "mounted": elsewhere
        or not record.since
        or any(entry.device == record.device for entry in mounts.read_table()),
        "layers": [type(layer).__name__ for layer in _stack(operations)],
        "process": process.usage(),
        "caches": {
            "attributes": options.attr_timeout,
            "names": options.entry_timeout,
            "names that are not there": options.negative_timeout,
        },
        "file_system": _told_by(operations),
        "session": session,
    }


def log(tell: Callable[[], Mapping[str, Any]]) -> None:
    """Write to the log what *tell* returns.  Whatever goes wrong is logged too: the mount goes on."""
    try:
        # As it is after its way through the control socket.
        answer = json.loads(json.dumps(tell(), default=str))
        # Where nobody has chosen what is logged, only warnings are shown.
        level = logging.INFO if _log.isEnabledFor(logging.INFO) else logging.WARNING
        _log.log(level, "xloop: %s", "\n".join(lines(answer)))
    except Exception:  # noqa: BLE001
        _log.exception("xloop: the status cannot be told")


def _stack(operations: Operations) -> list[Operations]:
    """Return *operations* and, layer by layer, what is below it."""
    stack = [operations]
    while isinstance(inner := getattr(stack[-1], "inner", None), Operations):
        stack.append(inner)
    return stack


def _told_by(operations: Operations) -> dict[str, object]:
    """Return what the innermost of *operations* tells of itself, if it has a method for that."""
    tell = getattr(_stack(operations)[-1], "status", None)
    told = tell() if callable(tell) else None
    return told if isinstance(told, dict) else {}


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield the *answer* of a server to ``status``, or as much of it as there is, for people."""
    session = dict(answer["session"])
    session.pop("backend", None)  # said already
    yield f"{shown(answer['source'])} at {shown(answer['mountpoint'])}"
    kind = f", type {answer['fstype']}" if answer["fstype"] else ""
    yield f"  backend: {answer['backend']}{kind}"
    yield f"  options: {shown(answer['options']) or 'none but the defaults'}"
    if answer["since"]:
        yield f"  since: {moment(answer['since'])}"
    yield f"  served by: process {answer['pid']} of user {user(answer['owner'])}"
    if not answer["mounted"]:
        yield "  detached: served until its last user is gone"
    yield f"  layers: {', '.join(answer['layers'])}"
    yield from _section("process", answer["process"])
    yield from _section("believed without asking, seconds", answer["caches"])
    yield from _section("file system", answer["file_system"])
    requests = session.pop("requests", {})
    latencies = session.pop("latencies", {})
    features = {name: session.pop(name, {}) for name in ("granted", "refused")}
    yield from _section("session", session)
    for name, what in features.items():
        yield from _section(name, what)
    yield from _requests(requests, latencies)


def _section(name: str, what: Mapping[str, Any]) -> Iterator[str]:
    if not what:
        return
    yield f"{name}:"
    for key, value in what.items():
        text = str(value)
        if isinstance(value, Mapping):
            text = ", ".join(f"{part} {number}" for part, number in value.items()) or "none"
        yield f"  {shown(key)}: {shown(text)}"


def _requests(
    requests: Mapping[str, int], latencies: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    if not requests:
        return
    columns = ("mean", "median", "99%", "most")
    yield f"requests: {sum(requests.values())}"
    rows: list[tuple[str, ...]] = [("", "number", *columns)]
    for name, number in sorted(requests.items(), key=lambda item: -item[1]):
        times = latencies.get(name)
        spans = [span(times[column]) if times else "-" for column in columns]
        rows.append((name, str(number), *spans))
    for line in table(rows):
        yield f"  {line}"
