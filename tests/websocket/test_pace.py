"""What one peer may cause: at once, and for long."""

from __future__ import annotations

import pytest

from trioserver.websocket.pace import BEFORE_READY, READS_PER_SECOND, Pace


@pytest.mark.parametrize(("known", "share"), [(True, 1.0), (False, BEFORE_READY)])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_for_long_no_more_is_read_than_the_rate_allows(
    known: bool, share: float, step: int
) -> None:
    pace, now, reads = Pace(50, 0.0, known=known), 0.0, 0
    while now < 60.0:
        pace.left -= step
        reads += step
        if pace.left <= 0:
            now += pace.rest(now)
    rate = READS_PER_SECOND * share
    assert reads <= rate * (now + 1.1) + step


def test_who_reads_less_than_the_rate_never_rests() -> None:
    pace = Pace(50, 0.0, known=True)
    for second in range(10):
        for _ in range(16):
            pace.left -= 300
            if pace.left <= 0:
                assert pace.rest(second + 1.0) == 0.0


def test_control_frames_have_a_rate_of_their_own() -> None:
    pace = Pace(50, 0.0, known=True)
    assert [pace.allows_control(0.0) for _ in range(101)].count(True) == 100
    assert pace.allows_control(0.02)
    assert not pace.allows_control(0.02)


def test_a_peer_that_is_not_authenticated_may_always_send_a_ping_and_a_pong() -> None:
    pace = Pace(1, 0.0)
    assert [pace.allows_control(0.0) for _ in range(3)] == [True, True, False]
