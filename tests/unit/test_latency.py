# SPDX-License-Identifier: MIT
"""How long requests take: the arithmetic."""

from __future__ import annotations

import pytest

from xloop.latency import EVERY, Calls, Latencies


def test_mean_and_most_are_exact_and_the_rest_is_an_upper_bound() -> None:
    latencies = Latencies(3)
    times = [1000 * number for number in range(1, 101)]  # nanoseconds
    for time in times:
        latencies.note(1, time)
    latencies.note(2, 0)
    told = latencies.status(lambda kind: f"kind {kind}")
    assert set(told) == {"kind 1", "kind 2"}
    one = told["kind 1"]
    assert one["timed"] == 100
    assert one["mean"] == pytest.approx(50_500e-9)
    assert one["most"] == pytest.approx(100_000e-9)
    assert 50_000e-9 <= one["median"] <= 100_000e-9
    assert 99_000e-9 <= one["99%"] <= 100_000e-9


def test_what_takes_for_ever_and_what_nobody_knows_is_no_error() -> None:
    latencies = Latencies(1)
    latencies.note(0, 1 << 60)
    latencies.note(1, 5)
    latencies.note(-1, 5)
    told = latencies.status(str)
    assert set(told) == {"0"}
    assert told["0"]["most"] == told["0"]["mean"] == pytest.approx((1 << 60) / 1e9)


def test_calls_are_counted_and_one_in_so_many_is_timed() -> None:
    calls = Calls()

    def add(one: int, two: int) -> int:
        return one + two

    def fail() -> None:
        raise OSError

    counted, failing = calls.counted("add", add), calls.counted("fail", fail)
    calls.counted("never", fail)
    for number in range(2 * EVERY):
        assert counted(number, two=1) == number + 1
    for _ in range(EVERY):
        with pytest.raises(OSError):  # noqa: PT011  # it says nothing
            failing()
    told = calls.status()
    assert told["requests"] == {"add": 2 * EVERY, "fail": EVERY}
    assert {name: times["timed"] for name, times in told["latencies"].items()} == {
        "add": 2,
        "fail": 1,
    }


def test_a_program_that_repeats_itself_is_seen_as_a_whole() -> None:
    for length in range(1, EVERY):
        seen = {number % length for number in range(0, EVERY * length, EVERY)}
        assert seen == set(range(length))
