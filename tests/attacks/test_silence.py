"""Thousands that say nothing, or hardly anything: what they are after is places, memory, time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import silence
from tests.attacks.field import field
from tests.attacks.figures import Figures
from tests.attacks.peers import source
from tests.attacks.silence import Behaviour, crowd

pytestmark = pytest.mark.attack

SECONDS = 8.0
"""Longer than what a head may take."""

FROM_THE_SAME_ADDRESS = {"newcomers_from": [source(0), "127.0.200.1"]}

ATTACKS = {
    "5,000 silent TCP connections from one address": (silence.say_nothing, 5000, 1),
    "5,000 silent TCP connections from 100 addresses": (silence.say_nothing, 5000, 100),
    "5,000 upgraded and silent from 100 addresses": (silence.upgrade_and_say_nothing, 5000, 100),
    "2,000 heads at a byte a second": (silence.send_a_head_slowly, 2000, 100),
    "1,000 that close their half at once": (silence.half_close, 1000, 20),
    "1,000 that upgrade and close their half": (silence.upgrade_and_half_close, 1000, 20),
    "1,000 that ask and close their half": (silence.get_ready_and_half_close, 1000, 20),
}


@pytest.mark.parametrize("name", ATTACKS, ids=ATTACKS)
async def test_silence_keeps_out_nobody(name: str, tmp_path: Path, report: list[Figures]) -> None:
    behave: Behaviour
    behave, count, addresses = ATTACKS[name]
    async with field(tmp_path, plan=FROM_THE_SAME_ADDRESS) as place:
        async with place.attack(name, most_memory=200, report=report) as figures:
            connected = await crowd(place, count, behave, addresses=addresses, seconds=SECONDS)
            metrics = await place.metrics()
            figures.notes.append(f"{connected:,} connections")
            figures.notes.append(f"{metrics['evictions_total']:,.0f} evicted")
        assert connected >= count
