"""Databases that go away, and disks that are full."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.attacks.field import Field, field
from tests.attacks.figures import Figures
from tests.attacks.peers import Peer, token
from tests.support.postgresql import PostgreSQL

pytestmark = pytest.mark.attack

MANY_NEWCOMERS = {"newcomer_every": 0.02}
ROOM = {"path": "/rooms/1"}

_KIB = 1024


async def test_a_database_that_is_killed_and_started_again_under_load(
    tmp_path: Path, report: list[Figures], postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Both that of the authorizer and that of the audit."""
    postgresql.execute("DROP TABLE IF EXISTS public.rooms")
    postgresql.execute("CREATE TABLE public.rooms (id text PRIMARY KEY)")
    postgresql.execute("INSERT INTO public.rooms VALUES ('1')")
    name = "PostgreSQL killed and started again, twice"
    async with field(
        tmp_path,
        plan={**MANY_NEWCOMERS, **ROOM},
        environment={"ROOMS": postgresql.url},
        audit_database=postgresql_url,
    ) as place:
        async with place.attack(
            name, most_memory=100, newcomers_may={"unavailable"}, report=report
        ) as figures:
            for _ in range(2):
                await trio.to_thread.run_sync(postgresql.kill)
                try:
                    await trio.sleep(2.0)
                finally:
                    await trio.to_thread.run_sync(postgresql.start)
                await until_let_in(place, ROOM["path"])
                await trio.sleep(1.0)
            metrics = await place.metrics()
            unavailable = metrics['rejected_total{reason="unavailable"}']
            figures.notes.append(f"{unavailable:.0f} new clients got `unavailable`")
        await place.server.wait_log("audit_available")
        assert "audit_rows_lost" not in place.server.log


async def until_let_in(place: Field, path: str) -> None:
    while True:
        with await Peer.open(place.target) as peer:
            if await peer.get_ready(token("first after it"), path) == "ready":
                return
        await trio.sleep(0.05)


async def test_a_disk_that_is_full_for_the_audit_and_the_log(
    tmp_path: Path, report: list[Figures]
) -> None:
    """No file may grow any more: neither the audit's, nor the log."""
    database = tmp_path / "audit.db"
    options: dict[str, Any] = {"audit_database": database, "audit_flush_interval": 0.05}
    async with field(tmp_path, plan=MANY_NEWCOMERS, **options) as place:
        await wait_for_rows(database, 10)
        async with place.attack(
            "no room on the disk, for audit and log", most_memory=100, report=report
        ) as figures:
            stop_files_from_growing(place)
            rows = count_rows(database)
            await trio.sleep(4.0)
            assert count_rows(database) < rows + 100, "it is full"
            resource.prlimit(place.pid, resource.RLIMIT_FSIZE, (-1, -1))
            attempts = (await place.metrics())["connections_ready_total"]
            await wait_for_rows(database, int(attempts))
            figures.notes.append(f"all {attempts:.0f} rows were written in the end")
        await place.server.wait_log("lines_lost_before")


def stop_files_from_growing(place: Field) -> None:
    """As a full disk does, by a limit on the size of files: that of the log, which is small."""
    size = place.server.errors.stat().st_size
    resource.prlimit(place.pid, resource.RLIMIT_FSIZE, (size + _KIB, -1))


def count_rows(database: Path) -> int:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        (number,) = connection.execute("SELECT count(*) FROM trioserver_audit").fetchone()
    finally:
        connection.close()
    return int(number)


async def wait_for_rows(database: Path, number: int) -> None:
    with trio.fail_after(30):
        while count_rows(database) < number:  # noqa: ASYNC110 -- another process's file
            await trio.sleep(0.05)
