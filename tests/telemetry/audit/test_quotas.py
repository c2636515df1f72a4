"""What strangers and single clients may add to the audit, and what is never lost by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from tests.support.databases import eventually
from trioserver import AdminAction, AuditConfig, AuditQuery, AuthAttempt
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit import AuditEntry, Auditor
from trioserver.telemetry.audit.quotas import Quotas

CONFIG = AuditConfig(database="x", rows_per_source=1, rows_per_second=10)


def attempt(**fields: Any) -> AuditEntry:
    kept: dict[str, Any] = {"method": "bearer", "outcome": "refused", "code": "token_invalid"}
    return AuditEntry(at=0.0, kind="attempt", **{**kept, "address": "192.0.2.1", **fields})


def keep(
    quotas: Quotas, entry: AuditEntry, times: int, now: float = 0.0, is_full: bool = False
) -> int:
    """How many of them are kept."""
    return sum(quotas.allow(entry, now, is_full=is_full) for _ in range(times))


def told(quotas: Quotas) -> list[tuple[Any, ...]]:
    return [
        (entry.method, entry.code, entry.address, entry.user, entry.affected)
        for entry in quotas.collect(0.0)
    ]


def test_an_address_may_cause_a_minutes_worth_of_rows_at_once_and_then_its_rate() -> None:
    quotas = Quotas(CONFIG)
    assert keep(quotas, attempt(), 5000) == 60
    assert keep(quotas, attempt(), 5000, now=10.0) == 10
    assert keep(quotas, attempt(address="192.0.2.2"), 5) == 5
    assert told(quotas) == [("bearer", "token_invalid", "192.0.2.1", None, 9930)]
    assert told(quotas) == []


def test_all_failing_attempts_have_a_bound_whatever_the_addresses() -> None:
    quotas = Quotas(CONFIG)
    kept = sum(
        keep(quotas, attempt(address=f"198.51.{n // 250}.{n % 250}"), 1) for n in range(5000)
    )
    assert kept == 600
    rows = told(quotas)
    assert len(rows) <= 21, "the largest sources, and the rest together"
    assert sum(row[-1] for row in rows) == 4400


def test_a_flood_of_failures_costs_nobody_who_succeeds_a_row() -> None:
    quotas = Quotas(CONFIG)
    for n in range(5000):
        keep(quotas, attempt(address=f"198.51.{n // 250}.{n % 250}"), 1)
    good = attempt(outcome="accepted", code=None, user="alice", method="websocket")
    done = AuditEntry(at=0.0, kind="admin_action", outcome="done", action="block")
    for is_full in (False, True):
        assert keep(quotas, good, 5, is_full=is_full) == 5
        assert keep(quotas, done, 1000, is_full=is_full) == 1000
    assert keep(quotas, attempt(address="203.0.113.9"), 1, is_full=True) == 0


def test_refreshes_of_one_client_are_bounded_and_cost_no_other_user_a_row() -> None:
    quotas = Quotas(CONFIG)
    refresh = AuditEntry(
        at=0.0, kind="refresh", outcome="refreshed", user="bob", method="websocket"
    )
    assert keep(quotas, refresh, 1250) == 60
    (row,) = quotas.collect(0.0)
    assert (row.kind, row.action, row.user, row.affected) == ("suppressed", "refresh", "bob", 1190)


def test_who_tries_to_log_in_as_somebody_is_counted_by_address_and_not_as_that_user() -> None:
    quotas = Quotas(CONFIG)
    guess = attempt(method="password", code="login_failed", user="alice")
    assert keep(quotas, guess, 100) == 60
    good = attempt(method="password", outcome="accepted", code=None, user="alice")
    assert keep(quotas, good, 10) == 10


def test_a_bearer_token_that_is_used_again_and_again_is_one_row_in_ten_minutes() -> None:
    quotas = Quotas(CONFIG)
    good = attempt(outcome="accepted", code=None, user="alice", token="one")
    assert keep(quotas, good, 500) == 1
    assert keep(quotas, attempt(outcome="accepted", code=None, user="alice", token="two"), 9) == 1
    assert keep(quotas, good, 500, now=600.0) == 1
    assert told(quotas) == [("bearer", None, None, "alice", 1006)]


@asynccontextmanager
async def recording(url: str, **options: Any) -> AsyncIterator[Auditor]:
    async with Database(url) as database, trio.open_nursery() as nursery:
        auditor = Auditor(
            database, AuditConfig(database=url, **{"flush_interval": 0.01, **options})
        )
        await nursery.start(auditor.run)
        yield auditor
        nursery.cancel_scope.cancel()


def flood(auditor: Auditor, times: int) -> None:
    for _ in range(times):
        auditor.on_auth_attempt(
            AuthAttempt(method="bearer", code="token_missing", remote="192.0.2.1:80", path="/x")
        )


async def test_the_end_of_the_server_tells_what_was_suppressed(sqlite_url: str) -> None:
    async with recording(sqlite_url) as auditor:
        flood(auditor, 4271)
        await eventually(lambda: auditor.statistics().written == 60)
        assert auditor.statistics().suppressed == 4211
    async with recording(sqlite_url) as auditor:
        (row,) = (await auditor.query(AuditQuery(kind="suppressed"))).entries
    assert (row.outcome, row.code, row.method) == ("refused", "token_missing", "bearer")
    assert (row.address, row.affected) == ("192.0.2.1", 4211)


async def test_actions_are_kept_while_the_database_is_away_and_many_users_fill_the_queue(
    sqlite_url: str, autojump_clock: MockClock
) -> None:
    auditor = Auditor(Database(sqlite_url), AuditConfig(database=sqlite_url, max_queued_rows=100))
    for number in range(1000):
        auditor.on_auth_attempt(
            AuthAttempt(method="bearer", user=f"user-{number}", remote="192.0.2.1:80", path="/x")
        )
    lost = auditor.statistics().lost
    for number in range(25):
        auditor.on_admin_action(AdminAction(actor="root", name="block", target={}, affected=number))
    statistics = auditor.statistics()
    assert (statistics.queued, statistics.lost) == (100, lost)


async def test_summaries_do_not_fill_the_queue_while_the_database_is_away(
    sqlite_url: str, autojump_clock: MockClock
) -> None:
    class Away(Database):
        async def _call(self, *_: object, **__: object) -> Any:
            raise DatabaseUnavailableError("driver", "It is away.")

    config = AuditConfig(database=sqlite_url, max_queued_rows=20, flush_timeout=0.0)
    async with trio.open_nursery() as nursery:
        auditor = Auditor(Away(sqlite_url), config)
        await nursery.start(auditor.run)
        for _ in range(60):
            flood(auditor, 100)
            await trio.sleep(60.0)
        statistics = auditor.statistics()
        assert (statistics.queued, statistics.lost) == (10, 0)
        nursery.cancel_scope.cancel()


async def test_actions_are_kept_while_the_database_is_away_and_strangers_flood_the_queue(
    sqlite_url: str, autojump_clock: MockClock
) -> None:
    options = {"max_queued_rows": 100, "rows_per_source": 100_000, "rows_per_second": 100_000}
    database = Database(sqlite_url)
    auditor = Auditor(database, AuditConfig(database=sqlite_url, **options))
    flood(auditor, 1000)
    for number in range(50):
        auditor.on_admin_action(AdminAction(actor="root", name="block", target={}, affected=number))
    statistics = auditor.statistics()
    assert (statistics.queued, statistics.lost, statistics.suppressed) == (100, 0, 950)
