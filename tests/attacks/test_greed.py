"""Clients that are let in and take all they can get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.attacks.field import field
from tests.attacks.figures import Figures, percentile
from tests.attacks.greed import (
    SLOW,
    ask_and_read_nothing,
    fill_queues,
    hear_and_read_nothing,
    send_at_full_speed,
    subscribe_to_many,
)

pytestmark = pytest.mark.attack

SECONDS = 6.0

UNLIMITED: dict[str, Any] = {
    "limits_messages_per_second": 10_000_000,
    "limits_bytes_per_second": 1024**3,
}


async def test_peers_that_send_at_full_speed(tmp_path: Path, report: list[Figures]) -> None:
    name = "4 that send at full speed"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            counts = await send_at_full_speed(place, 4, seconds=SECONDS)
            figures.notes.append(f"{counts['requests']:,} requests")
            figures.notes.append(f"closed with `rate_limited` {counts['rate_limited']:,} times")
        assert counts["rate_limited"] > 0


async def test_a_peer_that_sends_at_full_speed_without_a_limit(
    tmp_path: Path, report: list[Figures]
) -> None:
    name = "1 that sends at full speed, without limits of rates"
    async with field(tmp_path, **UNLIMITED) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            counts = await send_at_full_speed(place, 1, seconds=SECONDS)
            figures.notes.append(f"{counts['answers'] / SECONDS:,.0f} answers a second")
        assert counts["answers"] > 1000


async def test_peers_that_ask_and_read_nothing(tmp_path: Path, report: list[Figures]) -> None:
    name = "50 that ask for 10 KB each time and read nothing"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=50 * 5, report=report) as figures:
            await ask_and_read_nothing(place, 50)
            metrics = await place.metrics()
            figures.notes.append(f"{metrics[SLOW]:.0f} closed with `slow_consumer`")
        assert metrics[SLOW] == 50


async def test_peers_that_fill_their_queues(tmp_path: Path, report: list[Figures]) -> None:
    """Each is bounded, and all of them together are."""
    name = "100 that send 1 MB messages to a handler that takes 25 s"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=2 * 256, report=report) as figures:
            counts = await fill_queues(place, 100, seconds=10.0)
            figures.notes.append(f"{counts['messages']:,} messages taken")
            figures.notes.append(f"{counts['held'] / 2**20:.0f} MiB counted at most")
            figures.notes.append(f"{counts['server_busy']} closed with `server_busy`")
        assert counts["held"] <= 256 * 2**20
        assert percentile(figures.answers, 0.5) < 20


async def test_thousands_that_never_read(tmp_path: Path, report: list[Figures]) -> None:
    """An event is kept once for all, so they cost little more than one of them."""
    name = "2,000 subscribers that never read"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=250, report=report) as figures:
            await hear_and_read_nothing(place, 2000)
            metrics = await place.metrics()
            figures.notes.append(f"{metrics[SLOW]:,.0f} closed with `slow_consumer`")
        assert metrics[SLOW] == 2000


async def test_ten_thousand_subscriptions(tmp_path: Path, report: list[Figures]) -> None:
    name = "10 peers with 1,000 subscriptions each, and 1 that wants 10,000"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            answers = await subscribe_to_many(place, 10, 1000)
            assert answers == {"ack": 10_000, "held": 10_000}
            answers = await subscribe_to_many(place, 1, 10_000)
            figures.notes.append("the 1 got 1,000, and was closed as it went on")
        assert answers["ack"] == 1000
        assert answers["too_many_errors"] == 100
        metrics = await place.metrics()
        assert (metrics["subscriptions"], metrics["topics"]) == (0, 0)
