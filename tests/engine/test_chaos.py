"""A few runs of `tests.engine.chaos`; `python -m tests.engine.chaos` has many."""

from __future__ import annotations

import pytest

from tests.engine import chaos

SEEDS = (3, 4, 11, 21, 26)
"""A snapshot that comes back, a kill, an empty server, a late fork; 26 failed once, see
test_topic_reader.py."""


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_silently_wrong_or_doubled(seed: int) -> None:
    verdict = await chaos.run(seed)
    assert verdict.wrong == []
    assert verdict.heard > 100
