# SPDX-License-Identifier: MIT
"""A thread that has dropped CAP_FSETID for a while: when it has it, and when not.  Root only."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from xloop.host import host
from xloop.types import Caller

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities")

_FSETID = 4  # linux/capability.h
SOMEBODY = Caller(1000, 1000, os.getpid(), ())
ROOT_OF_ANOTHER_GROUP = Caller(0, 1000, os.getpid(), ())


def has_it() -> bool:
    with open("/proc/thread-self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _FSETID & 1)


def in_a_thread(steps: Callable[[], list[bool]]) -> list[bool]:
    """Return what *steps* returns in a thread of its own, which has an identity of its own."""
    found: list[bool] = []

    def run() -> None:
        host.own_file_system_state()
        found.extend(steps())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


def test_it_is_gone_until_it_is_restored() -> None:
    def steps() -> list[bool]:
        host.drop_fsetid()
        told = [has_it()]
        with host.without_fsetid():
            told.append(has_it())
        told.append(has_it())
        host.restore_fsetid()
        return [*told, has_it()]

    assert in_a_thread(steps) == [False, False, False, True]


@pytest.mark.parametrize("caller", [SOMEBODY, ROOT_OF_ANOTHER_GROUP])
def test_acting_as_somebody_else_in_between_hides_nothing(caller: Caller) -> None:
    """The kernel gives it back with the file system user id 0: what is dropped afterwards must be gone all the same."""

    def steps() -> list[bool]:
        host.drop_fsetid()
        with host.acting_as(caller, checked=False):
            pass
        host.drop_fsetid()
        told = [has_it()]
        host.restore_fsetid()
        return [*told, has_it()]

    assert in_a_thread(steps) == [False, True]


def test_a_thread_that_is_started_meanwhile_has_it() -> None:
    def steps() -> list[bool]:
        host.drop_fsetid()
        return [has_it(), *in_a_thread(lambda: [has_it()])]

    assert in_a_thread(steps) == [False, True]
