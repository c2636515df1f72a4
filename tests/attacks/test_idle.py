"""Ten thousand that are ready and do nothing but answer heartbeats, on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.attacks.field import Field, connections, field
from tests.attacks.figures import Figures
from tests.attacks.peers import Peer, source, token
from tests.attacks.server import raise_files

pytestmark = pytest.mark.attack

COUNT = 10_000
PER_ADDRESS = 250
PER_USER = 50
INTERVAL = 10.0  # seconds between heartbeats: three times as many as by default
HELD = 22.0  # seconds: two heartbeats of each, at least
_AT_ONCE = 100
_OTHER_FILES = 500


async def test_ten_thousand_idle_connections_and_their_heartbeats(
    tmp_path: Path, report: list[Figures]
) -> None:
    if raise_files() < COUNT + _OTHER_FILES:
        pytest.skip(f"needs {COUNT + _OTHER_FILES} files a process: ulimit -Hn")
    options: dict[str, Any] = {
        "limits_max_connections": COUNT + 100,
        "heartbeat_interval": INTERVAL,
    }
    async with (
        field(tmp_path, **options) as place,
        place.attack(
            f"{COUNT:,} idle, ready, a heartbeat each {INTERVAL:.0f} s",
            most_memory=COUNT * 50 / 1024,
            longest=300,
            report=report,
        ) as figures,
    ):
        await hold(place, figures)


async def hold(place: Field, figures: Figures) -> None:
    """Connect them all, and let them be for a while."""
    peers: list[Peer] = []
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def idle(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with limiter:
            peer = await Peer.open(place.target, source(number // PER_ADDRESS))
            assert await peer.get_ready(token(f"idle-{number // PER_USER}")) == "ready"
            task_status.started()
        with peer:
            peers.append(peer)
            await peer.hear()  # there is nothing to hear but pings

    async with trio.open_nursery() as staying:
        before = place.memory()
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(COUNT):
                nursery.start_soon(staying.start, idle, number)
        took = trio.current_time() - begun
        each = (place.memory() - before) * 1024 / COUNT
        heartbeat = "heartbeat_round_trip_seconds_count"
        pongs_before = (await place.metrics())[heartbeat]
        pings_before, cpu, since = pings(peers), place.cpu(), trio.current_time()
        await trio.sleep(HELD)
        share = (place.cpu() - cpu) / (trio.current_time() - since)
        metrics = await place.metrics()
        pongs = metrics[heartbeat] - pongs_before
        assert connections(metrics) >= COUNT
        assert 'connections_closed_total{reason="heartbeat_timeout"}' not in metrics
        assert pings(peers) - pings_before >= 2 * COUNT
        assert pongs >= 2 * COUNT
        figures.notes += [
            f"ready after {took:.0f} s",
            f"{each:.1f} KiB a connection",
            f"{pongs:,.0f} heartbeats answered in {HELD:.0f} s",
            f"{share:.0%} of a core, good clients' requests included",
        ]
        staying.cancel_scope.cancel()


def pings(peers: list[Peer]) -> int:
    """That came to them so far; each has been answered."""
    return sum(peer.pings for peer in peers)
