"""A machine that fails its server: clocks that jump, files that run out."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.attacks.field import Field, field
from tests.attacks.figures import Figures
from tests.attacks.peers import Peer, source, token

pytestmark = pytest.mark.attack

DAY = 86400.0
JUMPS = (3600.0, -3600.0, DAY, -DAY, 365 * DAY, -365 * DAY, 0.0)
FREE = 50
CROWD = 1000


async def test_a_clock_that_jumps_backwards_and_forwards(
    tmp_path: Path, report: list[Figures]
) -> None:
    """Whose token is good for years is served all along; whose has ended may be sent away."""
    options: dict[str, Any] = {"audit_database": tmp_path / "audit.db", "heartbeat_interval": 0.5}
    name = "the clock jumps by an hour, a day, a year, both ways"
    async with (
        field(tmp_path, **options) as place,
        place.attack(name, most_memory=50, report=report) as figures,
    ):
        with await Peer.open(place.target, source(0)) as short:
            assert await short.get_ready(token("short", lifetime=600)) == "ready"
            for offset in JUMPS:
                place.set_clock(offset)
                await trio.sleep(0.7)
                expected = "token_expired" if offset > 600 else "ready"
                assert await fares(place, token("late", lifetime=600)) == expected
            await short.say(type="echo", id=1, data=1)
            answer = await short.hear_until("ack", "error")
            assert answer["type"] == "ack", "deadlines are by a clock that does not jump"
        figures.notes.append(f"{len(JUMPS)} jumps")


async def fares(place: Field, credential: str) -> str:
    with await Peer.open(place.target, source(1)) as peer:
        return await peer.get_ready(credential)


async def test_file_descriptors_that_run_out(tmp_path: Path, report: list[Figures]) -> None:
    """Newcomers wait in the kernel's queue until there are some again."""
    async with field(tmp_path) as place:
        async with place.attack(
            "file descriptors run out, with 1,000 more connecting", most_memory=50, report=report
        ) as figures:
            soft, hard = allow_few_files(place)
            async with trio.open_nursery() as nursery:
                for number in range(CROWD):
                    nursery.start_soon(hold, place, number)
                await place.server.wait_log("accepting_paused")
                await trio.sleep(4.0)
                figures.notes.append(f"{place.files()} of {place_limit(place)} files open")
                nursery.cancel_scope.cancel()
        await place.server.wait_log("accepting_resumed")
        resource.prlimit(place.pid, resource.RLIMIT_NOFILE, (soft, hard))


async def hold(place: Field, number: int) -> None:
    """Connect, and stay."""
    try:
        with await Peer.open(place.target, source(number % 50)) as peer:
            await peer.wait_end()
    except OSError:
        pass


def allow_few_files(place: Field) -> tuple[int, int]:
    """Let the server open ``FREE`` more than it has open now; what it could open before."""
    opened = max(map(int, os.listdir(f"/proc/{place.pid}/fd"))) + 1
    before = resource.prlimit(place.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(place.pid, resource.RLIMIT_NOFILE, (opened + FREE, before[1]))
    return before


def place_limit(place: Field) -> int:
    return resource.prlimit(place.pid, resource.RLIMIT_NOFILE)[0]
