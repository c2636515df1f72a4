"""The audit while its database is away, full, or hung; the server goes on all the while."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from sqlalchemy import event
from structlog.testing import capture_logs

from tests.support.databases import eventually
from tests.support.patience import PATIENCE
from tests.support.postgresql import PostgreSQL
from trioserver import AdminAction, AuditConfig, AuditQuery
from trioserver.storage import Database
from trioserver.storage.retention import MAX_CLOCK_SKEW
from trioserver.telemetry.audit import Auditor
from trioserver.telemetry.audit.retention import expire_forever


@asynccontextmanager
async def recording(url: str, *, timeout: float = 1.0, **options: Any) -> AsyncIterator[Auditor]:
    """An auditor that runs; at the end it flushes."""
    config = AuditConfig(database=url, **{"flush_interval": 0.01, **options})
    async with Database(url, timeout=timeout) as database, trio.open_nursery() as nursery:
        auditor = Auditor(database, config)
        await nursery.start(auditor.run)
        yield auditor
        nursery.cancel_scope.cancel()


def act(auditor: Auditor, number: int, times: int = 1) -> None:
    for each in range(number, number + times):
        auditor.on_admin_action(AdminAction(actor="a", name="x", target={}, affected=each))


async def stored(auditor: Auditor) -> list[int | None]:
    page = await auditor.query(AuditQuery(kind="admin_action", limit=1000))
    return [entry.affected for entry in reversed(page.entries)]


def events(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


async def test_rows_survive_a_killed_postgresql_and_none_is_stored_twice(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with capture_logs() as logs:
        async with recording(postgresql_url) as auditor:
            act(auditor, 0, 10)
            await eventually(lambda: auditor.statistics().written == 10)
            with postgresql.down():
                act(auditor, 10, 10)
                await eventually(lambda: auditor.statistics().failing)
                assert auditor.statistics().queued == 10
            await eventually(lambda: auditor.statistics().written == 20)
            assert await stored(auditor) == [*range(20)]
            assert not auditor.statistics().failing
    assert events(logs) == ["audit_unavailable", "audit_available"]


async def test_rows_are_written_once_though_their_commit_was_never_answered(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with recording(postgresql_url, timeout=0.3) as auditor:
        for round in range(3):
            with postgresql.hung():
                act(auditor, round * 5, 5)
                await eventually(lambda: auditor.statistics().failing)
            expected = round * 5 + 5
            await eventually(lambda: auditor.statistics().written == expected)  # noqa: B023
        assert await stored(auditor) == [*range(15)]


async def test_beyond_the_bound_rows_are_lost_counted_said_and_recorded(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with capture_logs() as logs:
        async with recording(postgresql_url, max_queued_rows=5) as auditor:
            with postgresql.down():
                act(auditor, 0, 8)
                statistics = auditor.statistics()
                assert (statistics.queued, statistics.lost) == (5, 3)
            await eventually(lambda: auditor.statistics().written == 6)
            assert await stored(auditor) == [0, 1, 2, 3, 4]
            page = await auditor.query(AuditQuery(kind="loss"))
            assert [(entry.outcome, entry.affected) for entry in page.entries] == [("lost", 3)]
    assert events(logs).count("audit_rows_lost") == 1


async def test_a_database_that_is_away_at_the_start_gets_its_rows_later(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    postgresql.kill()
    try:
        async with recording(postgresql_url) as auditor:
            act(auditor, 0, 3)
            await eventually(lambda: auditor.statistics().failing)
            postgresql.start()
            await eventually(lambda: auditor.statistics().written == 3)
            assert await stored(auditor) == [0, 1, 2]
    except BaseException:
        postgresql.remove()
        raise


async def test_the_end_does_not_wait_for_a_database_for_long(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with capture_logs() as logs, postgresql.down(), trio.fail_after(PATIENCE):
        async with recording(postgresql_url, flush_timeout=0.3) as auditor:
            act(auditor, 0, 3)
    assert auditor.statistics().lost == 3
    lost = [line for line in logs if line["event"] == "audit_rows_lost"]
    assert [(line["lost"], line["reason"]) for line in lost] == [(3, "shutdown")]


async def test_a_full_disk_costs_nothing_while_there_is_room_in_the_queue(sqlite_url: str) -> None:
    pages = 40
    async with recording(sqlite_url, max_batch_rows=20) as auditor:
        engine = auditor._store._database._engine

        @event.listens_for(engine, "engine_connect")
        def limit(connection: Any) -> None:
            connection.connection.driver_connection.execute(f"PRAGMA max_page_count={pages}")

        number = 0
        while not auditor.statistics().failing:
            act(auditor, number, 100)
            number += 100
            await trio.sleep(0.01)
        act(auditor, number, 100)
        number += 100
        assert auditor.statistics().queued > 0
        assert len(await stored(auditor)) < number  # what is stored can be read on a full disk
        pages = 100_000
        await eventually(lambda: auditor.statistics().queued == 0)
        assert auditor.statistics().lost == 0
        assert auditor.statistics().written == number


async def test_a_table_that_was_dropped_is_made_again(sqlite_url: str) -> None:
    async with recording(sqlite_url) as auditor:
        act(auditor, 0)
        await eventually(lambda: auditor.statistics().written == 1)
        connection = sqlite3.connect(sqlite_url[10:], isolation_level=None)
        connection.execute("DROP TABLE trioserver_audit")
        connection.execute("DELETE FROM trioserver_schema")
        connection.close()
        act(auditor, 1)
        await eventually(lambda: auditor.statistics().written == 2)
        assert await stored(auditor) == [1]


async def test_recording_never_waits(sqlite_url: str) -> None:
    connection = sqlite3.connect(sqlite_url[10:], isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")  # somebody else holds the database
    with trio.CancelScope() as scope:  # which would catch any wait
        scope.cancel()
        async with Database(sqlite_url) as database:
            auditor = Auditor(database, AuditConfig(database=sqlite_url, max_queued_rows=100))
            act(auditor, 0, 1000)
            assert auditor.statistics().lost == 900
    connection.execute("ROLLBACK")
    connection.close()


class Store:
    """Notes what would be deleted."""

    def __init__(self) -> None:
        self.before: list[float] = []

    async def expire(self, before: float) -> int:
        self.before.append(before)
        await trio.lowlevel.checkpoint()
        return 0


@pytest.mark.parametrize("jump", [-1e8, 1e8])
async def test_a_clock_that_jumps_deletes_nothing_early(jump: float, autojump_clock: Any) -> None:
    store, now, day = Store(), 1e9, 86400.0

    def wall_clock() -> float:
        passed = trio.current_time() - began
        return now + passed + (jump if passed > 10_000 else 0)

    began = trio.current_time()
    with trio.move_on_after(20_000):
        await partial(expire_forever, store, day, wall_clock)()  # type: ignore[arg-type]
    allowed = now + 20_000 + MAX_CLOCK_SKEW - day
    assert len(store.before) > 3
    assert max(store.before) <= allowed
