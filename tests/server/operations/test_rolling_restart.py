"""A rolling restart under load, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.operations.rolling_restart import How, describe, histogram, roll

CLIENTS = 20
PERIOD = 0.8


@pytest.mark.parametrize("how", ["socket", "reuse_port"])
async def test_nothing_acknowledged_is_lost_and_everybody_comes_back_in_turn(
    tmp_path: Path, how: How
) -> None:
    outcome = await roll(tmp_path, clients=CLIENTS, drain_period=PERIOD, how=how)
    print(describe(outcome))
    assert not outcome.lost
    assert len(outcome.acknowledged) > 10 * CLIENTS
    assert len(outcome.came_back) == CLIENTS
    # A busy machine is late, so their times count from the first; a stampede comes all at once.
    first, last = outcome.came_back[0], outcome.came_back[-1]
    assert last - first > PERIOD / 2
    since_first = [time - first for time in outcome.came_back]
    assert max(histogram(since_first, PERIOD, 5)) <= CLIENTS * 3 / 4


def test_what_came_after_the_period_counts_for_its_last_slice() -> None:
    assert histogram([0.0, 0.1, 0.25, 0.99, 5.0], 1.0, 4) == [2, 1, 0, 2]
