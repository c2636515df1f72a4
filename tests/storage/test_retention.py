"""The clock that deletions hang on."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from trioserver.storage.retention import MAX_CLOCK_SKEW, RetentionClock

DAY = 86400.0


@pytest.mark.parametrize("jump", [-DAY, -1.0, 0.0, 1.0, MAX_CLOCK_SKEW - 1, DAY, 1e9])
async def test_it_is_never_ahead_of_the_wall_clock_nor_far_ahead_of_what_has_passed(
    jump: float, autojump_clock: MockClock
) -> None:
    began, now = trio.current_time(), 1e9
    ahead = 0.0
    clock = RetentionClock(lambda: now + trio.current_time() - began + ahead)
    clock.start()
    await trio.sleep(500)
    ahead = jump
    assert clock.now() == pytest.approx(now + 500 + min(jump, MAX_CLOCK_SKEW))
    assert clock.stamp() == pytest.approx(now + 500 + max(jump, -MAX_CLOCK_SKEW))
    ahead = 0.0
    await trio.sleep(500)
    assert clock.now() == clock.stamp() == pytest.approx(now + 1000)


async def test_a_clock_that_was_set_right_for_good_is_caught_up_with_as_time_passes(
    autojump_clock: MockClock,
) -> None:
    began, ahead = trio.current_time(), 0.0
    clock = RetentionClock(lambda: 1e9 + trio.current_time() - began + ahead)
    clock.start()
    ahead = -DAY  # it was a day ahead when the server started
    assert clock.now() == pytest.approx(1e9 - DAY)
    await trio.sleep(DAY)
    assert clock.now() == pytest.approx(1e9)
