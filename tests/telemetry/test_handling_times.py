"""Durations in buckets, and warnings that are not given each time."""

from __future__ import annotations

import pytest

from trioserver.logs.throttle import LogThrottle
from trioserver.telemetry.handling_times import HandlerTimes, HandlingTimes, Outcome
from trioserver.telemetry.histogram import Histogram


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (3.0, 2), (1e9, 2)]
)
def test_a_duration_falls_into_the_first_bucket_that_it_does_not_exceed(
    seconds: float, bucket: int
) -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.add(seconds)
    assert histogram.buckets == [int(n == bucket) for n in range(3)]
    assert (histogram.count, histogram.seconds) == (1, seconds)


def test_outcomes_are_kept_apart() -> None:
    times = HandlerTimes()
    times.add_ok(1.0)
    times.add(Outcome.OK, 1.0)
    times.add(Outcome.FAILED, 1.0)
    assert [histogram.count for histogram in times.outcomes] == [2, 0, 0, 1, 0]


def test_types_are_told_with_their_route() -> None:
    class ARoute:
        path = "/a"

    handling = HandlingTimes()
    handling.of(ARoute)["ask"].add_ok(1.0)  # type: ignore[arg-type]
    assert handling.of(ARoute)["ask"].outcomes[Outcome.OK].count == 1  # type: ignore[arg-type]
    assert [(path, type) for path, type, _ in handling] == [("/a", "ask")]


def test_throttle_says_yes_once_in_its_period_and_how_often_it_said_no() -> None:
    throttle = LogThrottle(60.0)
    assert [throttle.allow(now) for now in (5.0, 6.0, 64.9, 65.0, 66.0, 200.0)] == [
        0,
        None,
        None,
        2,
        None,
        1,
    ]
