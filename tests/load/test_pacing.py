"""The open loop's schedule, in virtual time."""

from __future__ import annotations

import math

import pytest

from trioserver.load.pacing import Pacer


def test_requests_are_due_at_even_distances_and_none_after_the_end() -> None:
    pacer = Pacer(10.0, start=100.0, duration=0.5)
    assert pacer.pop_due(99.9, 100) == []
    assert pacer.pop_due(1000.0, 100) == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4])
    assert pacer.next == math.inf
    assert pacer.pop_due(1000.0, 100) == []


def test_what_was_held_up_keeps_the_instants_at_which_it_was_due() -> None:
    pacer = Pacer(100.0, start=0.0, duration=10.0)
    assert pacer.pop_due(0.001, 100) == [0.0]
    # Half a second passes in which nothing could be sent.
    held_up = pacer.pop_due(0.5049, 1000)
    assert held_up == pytest.approx([n / 100 for n in range(1, 51)])
    assert pacer.next == pytest.approx(0.51)


def test_a_turn_takes_no_more_than_it_may_and_the_rest_comes_in_the_next() -> None:
    pacer = Pacer(1000.0, start=0.0, duration=1.0)
    taken = [pacer.pop_due(0.0105, 4) for _ in range(4)]
    assert [len(turn) for turn in taken] == [4, 4, 3, 0]


def test_processes_share_a_rate_without_sending_at_the_same_instants() -> None:
    pacers = [Pacer(5.0, start=0.0, duration=1.0, phase=n / 2) for n in range(2)]
    dues = sorted(due for pacer in pacers for due in pacer.pop_due(1.0, 100))
    assert dues == pytest.approx([n / 10 for n in range(10)])


def test_over_an_hour_the_instants_do_not_drift() -> None:
    pacer = Pacer(3.0, start=0.0, duration=3600.0)
    dues = pacer.pop_due(math.inf, 20_000)
    assert len(dues) == 10_800
    assert dues[-1] == pytest.approx(3600.0 - 1 / 3, abs=1e-6)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Pacer(rate, start=0.0, duration=1.0)


# Whatever the clock reads. Just below these values the distance between two floats is largest.
CLOCKS = [0.0, 0.1, 4503.7, 8191.9999, 65535.95, 1e6 / 3, 2.0**20 - 0.05, 31_536_000.3]


@pytest.mark.parametrize("start", CLOCKS)
@pytest.mark.parametrize(("rate", "seconds"), [(200.0, 0.1), (3.0, 7.0), (10.0, 0.3), (7.0, 1.1)])
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_how_many_requests_a_load_has_does_not_depend_on_what_the_clock_reads(
    start: float, rate: float, seconds: float, phase: float
) -> None:
    pacer = Pacer(rate, start=start, warmup=seconds, duration=seconds, phase=phase)
    dues = pacer.pop_due(math.inf, 1000)
    count = math.ceil(round(seconds * rate, 6) - phase)
    assert sum(due >= start for due in dues) == count
    assert sum(due < start for due in dues) == math.floor(round(seconds * rate, 6) + phase)
    assert dues == sorted(set(dues))


def test_several_processes_share_the_warm_up_and_the_measured_time_without_a_gap() -> None:
    pacers = [Pacer(50.0, start=10.0, warmup=0.1, duration=0.1, phase=n / 4) for n in range(4)]
    dues = sorted(due for pacer in pacers for due in pacer.pop_due(math.inf, 100))
    assert dues == pytest.approx([9.9 + n / 200 for n in range(40)])
