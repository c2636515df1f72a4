"""Who never authenticates keeps nobody out, cuts nobody off, and does not fill the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.attacks import silence
from tests.attacks.field import Field, field
from tests.attacks.figures import Figures, percentile
from tests.attacks.silence import Behaviour, crowd
from tests.attacks.strangers import (
    ask_without_a_pause,
    be_refused,
    hold_uploads,
    refresh_without_a_pause,
    rows,
    upload,
)

pytestmark = pytest.mark.attack

SECONDS = 8.0

MOST_P50 = 20.0
"""Milliseconds that the answer to a good client may take, in the middle; on a machine that is busy
with something else, five times as long as before the attack."""

ADMINISTRATION = (
    b"GET /api/v1/admin/" + b"%F0%9F%98%80" * 250 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
)

SILENT: dict[str, Behaviour] = {
    "400 silent TCP connections from 8 addresses, 300 connections allowed": silence.say_nothing,
    "400 upgraded and silent from 8 addresses, 300 connections allowed": (
        silence.upgrade_and_say_nothing
    ),
}


def check(figures: Figures) -> None:
    assert percentile(figures.answers, 0.5) < max(MOST_P50, 5 * percentile(figures.quiet, 0.5))


@pytest.mark.parametrize("name", SILENT, ids=SILENT)
async def test_silence_at_the_cap_of_all_keeps_out_nobody(
    name: str, tmp_path: Path, report: list[Figures]
) -> None:
    async with (
        field(tmp_path, limits_max_connections=300) as place,
        place.attack(name, most_memory=100, report=report) as figures,
    ):
        connected = await crowd(place, 400, SILENT[name], addresses=8, seconds=SECONDS)
        metrics = await place.metrics()
        figures.notes.append(f"{connected:,} connections")
        figures.notes.append(f"{metrics['evictions_total']:,.0f} were evicted")
    check(figures)


async def test_http_from_one_address_cuts_nobody_off(tmp_path: Path, report: list[Figures]) -> None:
    name = "250 HTTP connections a second from one address"
    answers = []

    async def go_up(place: Field) -> None:
        await trio.sleep(3.0)
        answers.append(await upload(place, "127.0.201.1"))

    async with (
        field(tmp_path) as place,
        place.attack(name, most_memory=200, report=report) as figures,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_up, place)
            opened = await hold_uploads(place, 250, seconds=14.0)
        figures.notes.append(f"{opened:,} connections")
        figures.notes.append("somebody else's upload of 8 s arrived")
    assert answers[0].startswith("HTTP/1.1 200")
    check(figures)


async def grown(place: Field, database: Path, figures: Figures) -> dict[str, int]:
    """Rows of the audit, once they are written."""
    await trio.sleep(2.5)
    kinds = rows(database)
    figures.notes.append(f"{sum(kinds.values()):,} rows")
    return kinds


async def test_requests_to_the_administration_do_not_fill_the_disk(
    tmp_path: Path, report: list[Figures]
) -> None:
    name = "8 that ask the administration without a token or a pause"
    database = tmp_path / "audit.db"
    options: dict[str, Any] = {"audit_database": database, "heartbeat_interval": 5.0}
    async with field(tmp_path, **options) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            answers = await ask_without_a_pause(
                place, ADMINISTRATION, 8, addresses=1, seconds=SECONDS
            )
            kinds = await grown(place, database, figures)
            figures.notes.append(f"{sum(answers.values()):,} requests")
            figures.notes.append(f"{len(place.server.log) / 1024:,.0f} KiB of log")
        assert answers["401"] > 0
        assert kinds["attempt"] < 60 + 2 * SECONDS + 200, "newcomers are among these"
        assert len(place.server.log) < 500_000
    check(figures)


async def test_refreshes_of_one_client_do_not_fill_the_disk(
    tmp_path: Path, report: list[Figures]
) -> None:
    name = "1 that shows its token again and again"
    database = tmp_path / "audit.db"
    async with field(tmp_path, audit_database=database) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            taken = await refresh_without_a_pause(place, seconds=SECONDS)
            kinds = await grown(place, database, figures)
            figures.notes.append(f"{taken:,} refreshes")
        assert taken > 0
        assert kinds["refresh"] < 60 + 2 * SECONDS
    check(figures)


async def test_refusals_do_not_fill_the_disk(tmp_path: Path, report: list[Figures]) -> None:
    name = "20 that are refused at paths of 8 KB without a pause"
    async with field(tmp_path) as place:
        async with place.attack(name, most_memory=100, report=report) as figures:
            path = "/ws?x=" + "x" * 8000
            refused = await be_refused(place, path, 20, seconds=SECONDS)
            figures.notes.append(f"{refused:,} refused")
            figures.notes.append(f"{len(place.server.log) / 1024:,.0f} KiB of log")
        assert refused > 0
        assert len(place.server.log) < 1_500_000
    check(figures)
