"""Behind PgBouncer in transaction mode each transaction may be on another connection."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
import trio
from sqlalchemy import Connection, text

from protocol import Refusal
from tests.support.databases import eventually
from tests.support.pgbouncer import PgBouncer
from tests.support.postgresql import PostgreSQL
from trioserver import AuditConfig
from trioserver.app.mailbox import Mailbox
from trioserver.auth import SQLAuthorizer, User
from trioserver.auth.blocks import Block, Blocks
from trioserver.storage import Database
from trioserver.storage.lookup import QueryLookup
from trioserver.telemetry.audit import Auditor
from trioserver.telemetry.observer import AdminAction

_numbers: Final = itertools.count()


@pytest.fixture
def tables(postgresql: PostgreSQL) -> Iterator[str]:
    """The prefix of two tables: room 1 is alice's, and mallory is a member of it."""
    prefix = f"bouncer_{next(_numbers)}"
    postgresql.execute(
        f"CREATE TABLE {prefix}_rooms (id text, user_id text);"
        f"CREATE TABLE {prefix}_members (room_id text, user_id text);"
        f"INSERT INTO {prefix}_rooms VALUES ('1', 'alice');"
        f"INSERT INTO {prefix}_members VALUES ('1', 'alice'), ('1', 'mallory')"
    )
    yield prefix
    postgresql.execute(f"DROP TABLE {prefix}_rooms, {prefix}_members")


@pytest.fixture
def own_tables(postgresql: PostgreSQL) -> Iterator[None]:
    """The server's own tables are in the schema ``public``: PgBouncer refuses a search_path."""
    yield
    postgresql.execute(
        "DROP TABLE IF EXISTS trioserver_schema, trioserver_blocks, trioserver_audit,"
        " trioserver_mailbox_messages, trioserver_mailbox_dropped"
    )


async def test_calls_at_once_are_all_answered_right(pgbouncer: PgBouncer) -> None:
    wrong = 0

    async def ask(database: Database, number: int) -> None:
        nonlocal wrong
        for work, added in ((database.run, 1), (database.read, 2)):
            query = text(f"SELECT :x + {added}")  # two shapes of a statement
            found = await work(lambda c, q=query: c.execute(q, {"x": number}).scalar())  # type: ignore[misc]
            wrong += found != number + added

    async with Database(pgbouncer.url) as database:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(ask, database, number)
    assert wrong == 0


async def test_nobody_is_admitted_by_the_answer_to_another_owners_query(
    pgbouncer: PgBouncer, tables: str
) -> None:
    where = "= :id AND user_id = :user_id"
    members = SQLAuthorizer(
        pgbouncer.url, query=f"SELECT 1 FROM {tables}_members WHERE room_id {where}"
    )
    rooms = SQLAuthorizer(pgbouncer.url, query=f"SELECT 1 FROM {tables}_rooms WHERE id {where}")
    answers: Counter[tuple[str, bool | str]] = Counter()

    async def ask(name: str, owner: SQLAuthorizer) -> None:
        for _ in range(60):
            try:
                answers[name, await owner(User(id="mallory"), {"id": "1"})] += 1
            except Refusal as refusal:
                answers[name, refusal.code] += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(members.run)
        await nursery.start(rooms.run)
        for alone in ((members, rooms), (rooms,), (members,)):
            async with trio.open_nursery() as crowd:
                for owner in alone:
                    for _ in range(2):
                        crowd.start_soon(ask, "members" if owner is members else "rooms", owner)
        nursery.cancel_scope.cancel()
    assert answers == {("members", True): 240, ("rooms", False): 240}


async def test_an_id_that_cannot_be_compared_costs_nobody_else_the_answer(
    pgbouncer: PgBouncer,
) -> None:
    rooms = "(VALUES (1, 'alice')) AS rooms (id, owner)"
    query = f"SELECT 1 FROM {rooms} WHERE id = :id AND owner = :user_id"
    keys = [("mallory", "one"), ("alice", "1"), ("mallory", "two"), ("mallory", "1")]
    lookup = QueryLookup(query)
    async with Database(pgbouncer.url) as database:
        found = await database.read(lambda connection: lookup(connection, keys))
        assert [key for key in keys if found[key]] == [("alice", "1")]
        limit = text("SHOW statement_timeout")
        bound = await database.read(lambda c: (lookup(c, keys[:1]), c.execute(limit).scalar())[1])
        assert bound == "5s", "also of what is asked afterwards"


async def test_the_time_limit_counts_in_each_call_and_is_left_to_nobody(
    pgbouncer: PgBouncer, postgresql: PostgreSQL
) -> None:
    import psycopg

    def limit(connection: Connection) -> Any:
        return connection.exec_driver_sql("SHOW statement_timeout").scalar_one()

    async with Database(pgbouncer.url, timeout=7) as database:
        for _ in range(4):
            assert await database.run(limit) == "7s"
            assert await database.read(limit) == "7s"
        with psycopg.connect(pgbouncer.url, autocommit=True, prepare_threshold=None) as stranger:
            for _ in range(4):
                assert stranger.execute("SHOW statement_timeout").fetchone() == ("0",)


@pytest.mark.usefixtures("own_tables")
async def test_mailbox_blocks_and_audit_work(pgbouncer: PgBouncer) -> None:
    async with Database(pgbouncer.url) as database, trio.open_nursery() as nursery:
        mailbox, blocks = Mailbox(database), Blocks(database, refresh=0.1)
        audit = Auditor(database, AuditConfig(database=pgbouncer.url, flush_interval=0.01))
        for service in (mailbox.run, blocks.run, audit.run):
            await nursery.start(service)

        async def use(user: str) -> None:
            for number in range(20):
                await mailbox.send(user, "note", {"number": number})
                await blocks.add(Block(user=f"{user}-{number}"))
                audit.on_admin_action(AdminAction(actor=user, name="x", target={}, affected=number))

        async with trio.open_nursery() as users:
            for user in ("alice", "bob", "carol"):
                users.start_soon(use, user)
        assert await mailbox.waiting("alice") == 20
        await eventually(lambda: audit.statistics().written == 60)
        await eventually(lambda: all(map(blocks.is_stored, blocks.all)))
        assert len(blocks) == 60
        nursery.cancel_scope.cancel()
