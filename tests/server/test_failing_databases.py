"""A database that fails in whatever way ends no server, and `/readyz` says who gets in."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from tests.support.client import Client
from tests.support.databases import eventually
from tests.support.http import Site, site
from tests.support.postgresql import PostgreSQL
from trioserver import Application, AuditConfig, Config, Credentials, Mailbox, Request, User
from trioserver.http import health
from trioserver.storage import DatabaseUnavailableError


async def by_name(credentials: Credentials, request: Request) -> User:
    return User(id=credentials.token or "nobody")


@asynccontextmanager
async def serving(url: str, *, mailbox: str | None = None) -> AsyncIterator[tuple[Site, Mailbox]]:
    """A server whose audit, blocks and mailbox are in one database."""
    box = Mailbox(mailbox or url)
    app = Application(auth=by_name, mailbox=box)
    app.route("/ws", mailbox=True)
    audit = AuditConfig(database=url, flush_interval=0.01, block_refresh_interval=0.1)
    async with site(app, Config(port=0, audit=audit)) as place:
        yield place, box


@pytest.fixture(autouse=True)
def _fresh_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_FRESH", 0.0)


async def readiness(place: Site) -> Any:
    await trio.sleep(0.05)
    return (await (await place.open()).get("/readyz")).json


async def connect(place: Site, user: str = "alice") -> Client:
    port = place.server.addresses[0].port
    assert port is not None
    client = Client(await trio.open_tcp_stream("127.0.0.1", port))
    await client.open("/ws")
    await client.authenticate(user)
    return client


@contextmanager
def read_only(postgresql: PostgreSQL) -> Iterator[None]:
    postgresql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    postgresql.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        postgresql.execute("ALTER SYSTEM RESET ALL")
        postgresql.execute("SELECT pg_reload_conf()")


async def test_a_primary_that_was_demoted_under_a_server_with_messages_on_their_way(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    with capture_logs() as logs:
        async with serving(postgresql_url) as (place, mailbox):
            await mailbox.send("alice", "note", {"number": 1})
            await eventually_ready(place)
            with read_only(postgresql):
                await trio.sleep(0.2)
                client = await connect(place)
                assert (await client.receive())["data"] == {"number": 1}
                with pytest.raises(DatabaseUnavailableError) as refused:
                    await mailbox.send("bob", "note", {})
                assert refused.value.cause == "read_only"
                done = await place.server.block(user="eve")
                assert not done.stored
                await eventually(lambda: "mailbox_unavailable" in [e["event"] for e in logs])
                assert (await readiness(place))["failed"] == ["mailbox"]
            await eventually_ready(place)
            await mailbox.send("bob", "note", {})
            assert place.server.blocked()
            await trio.aclose_forcefully(client.stream)
    (told,) = {line["error"] for line in logs if line["event"] == "mailbox_unavailable"}
    assert "Promote it" in told


async def eventually_ready(place: Site) -> None:
    with trio.fail_after(15):
        while await readiness(place) != {"status": "ready"}:
            pass


@pytest.mark.parametrize("lost", ["mailbox_messages", "blocks", "audit"])
async def test_a_table_that_was_dropped_ends_no_server(
    lost: str, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    schema = postgresql_url.rpartition("%3D")[2]
    with capture_logs() as logs:
        async with serving(postgresql_url) as (place, mailbox):
            client = await connect(place)
            await mailbox.send("alice", "note", {})
            await client.receive()
            postgresql.execute(f"DROP TABLE {schema}.trioserver_{lost}")
            for _ in range(3):
                await trio.aclose_forcefully((await connect(place, "bob")).stream)
                try:
                    await mailbox.send("alice", "note", {})
                except DatabaseUnavailableError as error:
                    assert error.cause == "missing_table"  # noqa: PT017
                await trio.sleep(0.2)
            await client.send(type="ping", id="p")
            while (await client.receive())["type"] != "pong":
                pass
            await trio.aclose_forcefully(client.stream)
    assert not [line for line in logs if line["event"] == "background_task_failed"]
    assert any(f"trioserver_{lost}: " in str(line.get("error")) for line in logs)


async def test_a_server_starts_with_a_read_only_database(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with serving(postgresql_url) as (place, _):
        await place.server.block(user="eve")
    with read_only(postgresql):
        await trio.sleep(0.2)
        async with serving(postgresql_url) as (place, _):
            client = await connect(place)
            assert [block.user for block in place.server.blocked()] == ["eve"]
            assert "audit" in (await readiness(place))["failed"]
            await trio.aclose_forcefully(client.stream)


async def test_a_database_of_garbage_is_not_ready_and_the_log_says_why(tmp_path: Path) -> None:
    garbage = tmp_path / "audit.db"
    garbage.write_bytes(b"x" * 8192)
    with capture_logs() as logs:
        async with serving(str(garbage), mailbox=str(tmp_path / "mailbox.db")) as (place, _):
            assert (await readiness(place))["failed"] == ["audit", "blocks"]
            (line,) = [line for line in logs if line["event"] == "not_ready"]
            assert "not an SQLite database" in line["failed"]["blocks"]
            assert str(garbage) in line["failed"]["blocks"]
            garbage.unlink()  # nothing was opened yet
            await eventually_ready(place)
            client = await connect(place)
            await trio.aclose_forcefully(client.stream)


async def test_blocks_that_were_never_read_are_not_ready_until_they_are(
    postgresql: PostgreSQL, postgresql_url: str, sqlite_url: str
) -> None:
    async with AsyncExitStack() as stack:
        with postgresql.down():
            served = serving(postgresql_url, mailbox=sqlite_url)
            place, _ = await stack.enter_async_context(served)
            assert (await readiness(place))["failed"] == ["audit", "blocks"]
        await eventually_ready(place)


async def test_a_file_that_is_deleted_under_a_server_is_not_ready_until_it_is_back(
    tmp_path: Path,
) -> None:
    path, elsewhere = tmp_path / "audit.db", tmp_path / "elsewhere.db"
    with capture_logs() as logs:
        async with serving(str(path), mailbox=str(tmp_path / "mailbox.db")) as (place, _):
            await eventually_ready(place)
            path.rename(elsewhere)
            await eventually(
                lambda: "access_blocks_unavailable" in [line["event"] for line in logs]
            )
            assert (await readiness(place))["failed"] == ["blocks"]
            client = await connect(place)  # who is blocked is still known
            await trio.aclose_forcefully(client.stream)
            elsewhere.rename(path)
            await eventually_ready(place)
    (told,) = [line["error"] for line in logs if line["event"] == "access_blocks_unavailable"]
    assert "was deleted or moved" in told
    assert str(path) in told


async def test_a_mailbox_that_takes_no_writes_is_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "mailbox.db"
    async with serving(str(tmp_path / "audit.db"), mailbox=str(path)) as (place, mailbox):
        mailbox._database.timeout = 0.3
        await mailbox.send("alice", "note", {})
        await eventually_ready(place)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError):
            await mailbox.send("alice", "note", {})
        assert (await readiness(place))["failed"] == ["mailbox"]
        other.execute("ROLLBACK")
        other.close()
        await eventually_ready(place)
