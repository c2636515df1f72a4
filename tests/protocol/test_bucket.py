from hypothesis import given
from hypothesis import strategies as st

from protocol import TokenBucket


def test_it_starts_full_and_then_refuses() -> None:
    bucket = TokenBucket(rate=1.0, burst=3.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_it_fills_at_its_rate_and_no_higher_than_its_burst() -> None:
    bucket = TokenBucket(rate=2.0, burst=2.0, now=0.0)
    assert all(bucket.take(0.0) for _ in range(2))
    assert not bucket.take(0.4)
    assert bucket.take(0.5)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


def test_it_says_how_long_to_wait() -> None:
    bucket = TokenBucket(rate=4.0, burst=1.0, now=0.0)
    assert bucket.seconds_until() == 0.0
    assert bucket.take(0.0)
    assert bucket.seconds_until() == 0.25
    assert bucket.take(0.25)


def test_a_clock_that_runs_backwards_adds_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=1.0, now=10.0)
    assert bucket.take(10.0)
    assert not bucket.take(0.0)
    assert not bucket.take(10.5)
    assert bucket.take(11.0)


@given(st.lists(st.floats(0.0, 10.0), max_size=200))
def test_whatever_the_pace_no_more_is_taken_than_rate_and_burst_allow(pauses: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate=3.0, burst=5.0, now=0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
    assert taken <= 5.0 + 3.0 * now + 1e-6
