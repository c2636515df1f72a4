"""Floods of tokens, and honest clients that look like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks import tokens
from tests.attacks.field import Field, field
from tests.attacks.figures import Figures
from tests.attacks.peers import token
from tests.attacks.tokens import flood, reconnect_at_once

pytestmark = pytest.mark.attack

SECONDS = 6.0
ATTACKERS = 100
ADDRESSES = 20


def valid() -> str:
    return token("eager")


FLOODS: dict[str, Callable[[], str]] = {
    "forged": tokens.forged,
    "valid": valid,
    "expired": tokens.expired,
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_tokens(kind: str, tmp_path: Path, report: list[Figures]) -> None:
    name = f"100 that send {kind} tokens without a pause"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            fared = await flood(
                place, ATTACKERS, FLOODS[kind], addresses=ADDRESSES, seconds=SECONDS
            )
            figures.notes += [f"{number:,} {what}" for what, number in fared.most_common(4)]
            metrics = await place.metrics()
        blocked = metrics.get('rejected_total{reason="address_banned"}', 0)
        assert (blocked > 0) == (kind == "forged"), "only forged tokens get an address blocked"
        assert (fared["ready"] > 0) == (kind == "valid")


async def test_two_hundred_reconnects_at_once_from_one_address(
    tmp_path: Path, report: list[Figures]
) -> None:
    name = "200 reconnects at once from one address"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            fared, seconds = await reconnect_at_once(place, 200)
            figures.notes.append(f"all ready after {seconds:.2f} s")
        assert fared == {"ready": 200}
        await assert_nobody_was_blocked(place)


async def assert_nobody_was_blocked(place: Field) -> None:
    metrics = await place.metrics()
    assert metrics["evictions_total"] == 0
