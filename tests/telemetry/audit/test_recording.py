"""What is recorded of whom, from a real connection to a real database and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from tests.support.app import World, make_application, wall_clock
from tests.support.client import Client
from tests.support.databases import eventually, sqlite
from trioserver import AdminAction, AuditConfig, AuditQuery, Config, Server, serve
from trioserver.auth.fingerprint import fingerprint
from trioserver.telemetry.audit import AuditEntry

LONG_TOKEN = "x" * 40 + ".forged"


def config(url: str, **options: float) -> Config:
    return Config(port=0, audit=AuditConfig(database=url, flush_interval=0.01, **options))  # type: ignore[arg-type]


async def start(nursery: trio.Nursery, config: Config, world: World | None = None) -> Server:
    async def run(*, task_status: trio.TaskStatus[Server]) -> None:
        application = make_application(world or World())
        await serve(application, config, clock=wall_clock, task_status=task_status)

    server: Server = await nursery.start(run)
    return server


@asynccontextmanager
async def client_of(server: Server, path: str = "/ws/1") -> AsyncIterator[Client]:
    address = server.addresses[0]
    async with await trio.open_tcp_stream(address.host, address.port or 0) as stream:
        client = Client(stream)
        await client.open(path)
        yield client


async def refused(server: Server, token: str) -> str:
    async with client_of(server) as client:
        await client.send(type="auth", token=token)
        _, closed = await client.receive_end()
        return closed.reason


async def entries(server: Server, **query: object) -> tuple[AuditEntry, ...]:
    """All that is recorded, once nothing waits any more."""
    assert server.audit is not None
    audit = server.audit
    await eventually(lambda: audit.statistics().queued == 0)
    page = await audit.query(AuditQuery(**query))  # type: ignore[arg-type]
    return page.entries


async def test_each_attempt_is_a_row_with_who_where_and_why(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        async with client_of(server) as client:
            await client.authenticate("alice")
            await client.send(type="auth", token="alice:100", id=1)
            await client.receive_until("auth_refreshed")
        assert await refused(server, LONG_TOKEN) == "token_invalid"
        assert await refused(server, "bob") == "access_denied"
        denied, forged, refreshed, accepted = await entries(server)
        several = await entries(server, kind=("refresh", "admin_action"))
        nursery.cancel_scope.cancel()
    assert several == (refreshed,)
    assert (accepted.kind, accepted.outcome, accepted.code) == ("attempt", "accepted", None)
    assert (accepted.user, accepted.token_id) == ("alice", "token-alice")
    assert (accepted.address, accepted.route) == ("127.0.0.1", "/ws/{id}")
    assert accepted.at == pytest.approx(wall_clock(), abs=60)
    assert accepted.duration is not None
    assert 0 <= accepted.duration < 5
    assert (refreshed.kind, refreshed.outcome) == ("refresh", "refreshed")
    assert (forged.outcome, forged.code, forged.user) == ("refused", "token_invalid", None)
    assert forged.token == fingerprint(LONG_TOKEN)
    assert (denied.outcome, denied.code, denied.user) == ("refused", "access_denied", "bob")


async def test_no_part_of_a_token_is_stored(sqlite_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(sqlite_url))
        await refused(server, LONG_TOKEN)
        await refused(server, "short-secret")
        short, long = await entries(server)
        nursery.cancel_scope.cancel()
    stored = b"".join(file.read_bytes() for file in Path(sqlite_url[10:]).parent.glob("test.db*"))
    assert b"trioserver_audit" in stored
    assert b".forged" not in stored
    assert b"short-secret" not in stored
    assert short.token == "***"
    assert long.token == fingerprint(LONG_TOKEN)


async def test_who_leaves_without_a_token_is_recorded_as_such(sqlite_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(sqlite_url))
        async with client_of(server):
            pass
        await eventually(lambda: server.statistics().open == 0)
        (entry,) = await entries(server)
        nursery.cancel_scope.cancel()
    assert (entry.outcome, entry.code, entry.token) == ("client_disconnected", None, None)


async def test_an_act_is_a_row_with_its_actor_and_its_target(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        target = {"user": "ma\0llory\ud800"}
        server.record_admin_action(
            AdminAction(actor="root", name="disconnect", target=target, affected=3)
        )
        (entry,) = await entries(server, kind="admin_action")
        nursery.cancel_scope.cancel()
    assert (entry.outcome, entry.user, entry.action, entry.affected) == (
        "done",
        "root",
        "disconnect",
        3,
    )
    assert entry.target == r'{"user": "ma\u0000llory\ud800"}'


async def test_what_no_database_takes_is_stored_in_other_words(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        server.record_admin_action(
            AdminAction(actor="a\0b\ud800" + "c" * 999, name="x", target={}, affected=0)
        )
        (entry,) = await entries(server)
        nursery.cancel_scope.cancel()
    assert entry.user is not None
    assert entry.user.startswith("a\\0b\\ud800ccc")
    assert len(entry.user) < 270


async def test_filters_and_pages_newest_first(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        for number in range(7):
            actor = "even" if number % 2 == 0 else "odd"
            server.record_admin_action(
                AdminAction(actor=actor, name="x", target={}, affected=number)
            )
        assert [e.affected for e in await entries(server, user="even")] == [6, 4, 2, 0]
        assert server.audit is not None
        first = await server.audit.query(AuditQuery(limit=4))
        rest = await server.audit.query(AuditQuery(limit=4, before=first.next))
        assert [e.affected for e in (*first.entries, *rest.entries)] == [6, 5, 4, 3, 2, 1, 0]
        assert rest.next is None
        middle = first.entries[2].at
        assert all(e.at >= middle for e in await entries(server, since=middle))
        assert all(e.at < middle for e in await entries(server, until=middle))
        assert await entries(server, outcome="refused") == ()
        assert await entries(server, address="127.0.0.1") == ()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1001}, {"outcome": "x"}, {"before": 0}])
def test_a_wrong_query_is_refused_with_the_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AuditQuery(**wrong)  # type: ignore[arg-type]


async def test_what_is_queued_at_the_end_is_written(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        for number in range(1200):
            server.record_admin_action(AdminAction(actor="a", name="x", target={}, affected=number))
        nursery.cancel_scope.cancel()
    assert server.audit is not None
    assert (server.audit.statistics().written, server.audit.statistics().lost) == (1200, 0)
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        assert len(await entries(server, limit=1000)) == 1000
        nursery.cancel_scope.cancel()


async def test_rows_beyond_the_age_are_deleted_in_small_batches(database_url: str) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery, config(database_url))
        for _ in range(2500):
            server.record_admin_action(AdminAction(actor="old", name="x", target={}, affected=0))
        await entries(server)
        nursery.cancel_scope.cancel()
    later = wall_clock() + 3600.0

    async def run_later(*, task_status: trio.TaskStatus[Server]) -> None:
        application = make_application(World())
        settings = config(database_url, retention=60.0)
        await serve(application, settings, clock=lambda: later, task_status=task_status)

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(run_later)
            server.record_admin_action(AdminAction(actor="new", name="x", target={}, affected=0))
            await eventually(lambda: any(line["event"] == "audit_rows_expired" for line in logs))
            assert {entry.user for entry in await entries(server)} == {"new"}
            nursery.cancel_scope.cancel()
    assert [line["rows"] for line in logs if line["event"] == "audit_rows_expired"] == [2500]


def test_a_database_that_cannot_be_is_refused_before_the_start() -> None:
    with pytest.raises(ValueError, match=r"audit.database: mysql:// is not supported"):
        Server(make_application(World()), Config(audit=AuditConfig(database="mysql://x/y")))


async def test_tables_of_a_newer_version_stop_the_start(sqlite_url: str) -> None:

    async with trio.open_nursery() as nursery:
        await start(nursery, config(sqlite_url))
        nursery.cancel_scope.cancel()
    with sqlite(sqlite_url[10:]) as connection:
        connection.execute("UPDATE trioserver_schema SET version = 99 WHERE component = 'audit'")
    with pytest.raises(ValueError, match="start the newer server"):
        await serve(make_application(World()), config(sqlite_url), handle_signals=False)
