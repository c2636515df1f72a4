"""Histograms and counts, and putting together those of several processes."""

from __future__ import annotations

import random

import pytest

from trioserver.load.counts import Counts, count
from trioserver.load.histogram import LatencyHistogram


def measure(seconds: list[float]) -> LatencyHistogram:
    measure = LatencyHistogram()
    measure.recent += seconds
    return measure


def test_percentiles_are_right_to_three_figures() -> None:
    figures = measure([n / 1000 for n in range(1, 10_001)]).figures()
    assert figures["count"] == 10_000
    for name, expected in (("p50_ms", 5000), ("p99_ms", 9900), ("p9999_ms", 9999)):
        assert figures[name] == pytest.approx(expected, rel=0.002)
    assert figures["max_ms"] == 10_000


def test_merged_percentiles_are_those_of_all_values_together() -> None:
    chance = random.Random(1)
    fast = [chance.uniform(0.001, 0.002) for _ in range(9_000)]
    slow = [chance.uniform(0.1, 0.2) for _ in range(1_000)]
    together = LatencyHistogram()
    together.merge(measure(fast).encode())
    together.merge(measure(slow).encode())
    assert together.figures() == measure(fast + slow).figures()
    # The mean of the two processes' own p50 would be 75 ms.
    assert together.figures()["p50_ms"] < 2.1
    assert together.figures()["p99_ms"] > 100


def test_nothing_measured_has_no_figures_and_merges_as_nothing() -> None:
    empty = LatencyHistogram()
    empty.merge(LatencyHistogram().encode())
    assert empty.figures() == {}
    assert empty.curve() == []


def test_what_is_longer_than_an_hour_counts_as_an_hour_and_is_not_lost() -> None:
    figures = measure([7200.0, -0.5]).figures()
    assert figures["count"] == 2
    assert figures["max_ms"] == 3_600_000


def test_the_curve_rises_and_ends_with_the_maximum() -> None:
    points = measure([n / 1000 for n in range(1, 1001)]).curve()
    assert points == sorted(points)
    assert points[0][0] == 0.0
    assert points[-1] == (100.0, 1000.0)
    assert points[-2][0] <= 99.9  # there are only so many values to tell from


def test_the_peak_is_that_of_what_came_since_the_last_look() -> None:
    values = measure([0.002, 0.005])
    values.flush()
    assert values.pop_peak_ms() == 5.0
    assert values.pop_peak_ms() == 0.0
    values.recent.append(0.001)
    values.flush()
    assert values.pop_peak_ms() == 1.0


def test_more_different_values_than_are_held_one_by_one_are_all_there() -> None:
    many = LatencyHistogram()
    for start in range(3):
        many.recent += [(n * 3 + start) / 1e6 for n in range(50_000)]
        many.flush()
    assert many.count == 150_000
    assert many.figures()["max_ms"] == pytest.approx(150.0, rel=0.001)


def test_a_server_that_has_ever_new_codes_fills_no_memory() -> None:
    by_code: dict[str, int] = {}
    for n in range(1000):
        count(by_code, f"code {n}")
    assert len(by_code) == 201
    assert sum(by_code.values()) == 1000


def test_counts_of_processes_add_up_by_code_too() -> None:
    counts = Counts(ready=3, errors={"rate_limited": 2}, unanswered=1)
    counts.add(Counts(ready=4, lost=1, errors={"rate_limited": 1, "not_found": 5}))
    assert counts.ready == 7
    assert counts.errors == {"rate_limited": 3, "not_found": 5}
    assert counts.wrong == 1 + 1 + 8
