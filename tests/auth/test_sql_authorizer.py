"""One contract for both databases and both ways to say who owns what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import pytest
import trio
from sqlalchemy import event, text
from structlog.testing import capture_logs

from protocol import Refusal
from tests.support.databases import eventually
from tests.support.patience import PATIENCE
from tests.support.postgresql import PostgreSQL
from trioserver.auth import SQLAuthorizer
from trioserver.auth.user import User
from trioserver.storage import Database, DatabaseUnavailableError

QUERY = "SELECT 1 FROM conversations WHERE id = :conversation_id AND user_id = :user_id"
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

Way: TypeAlias = Literal["table", "query"]
BY: dict[Way, dict[str, Any]] = {"table": {"table": "conversations"}, "query": {"query": QUERY}}


def user(id_: str = "7") -> User:
    return User(id=id_)


def conversation(id_: str) -> dict[str, str]:
    return {"conversation_id": id_}


@pytest.fixture(params=["table", "query"])
def way(request: pytest.FixtureRequest) -> Way:
    value: Way = request.param
    return value


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


async def fill(database: Database, columns: str, *rows: tuple[object, object]) -> None:
    def work(connection: Any) -> None:
        connection.execute(text(f"CREATE TABLE conversations ({columns})"))
        values = [{"id": id_, "owner": owner} for id_, owner in rows]
        if values:
            connection.execute(text("INSERT INTO conversations VALUES (:id, :owner)"), values)

    await database.run(work)


INTEGERS = "id BIGINT PRIMARY KEY, user_id INTEGER"
TEXTS = "id VARCHAR(2000) PRIMARY KEY, user_id TEXT"


@contextmanager
def queries_of(database: Database) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(database._engine, "before_cursor_execute", note)
    yield statements
    event.remove(database._engine, "before_cursor_execute", note)


async def test_owners_are_told_from_others_whatever_the_columns_are(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7), (2, 8), (-3, 7), (4, None), (2**63 - 1, 7))
    owner = SQLAuthorizer(database, **BY[way])
    await nursery.start(owner.run)
    for id_, expected in {
        "1": True,
        "-3": True,
        str(2**63 - 1): True,
        "2": False,
        "4": False,
    }.items():
        assert await owner(user(), conversation(id_)) is expected, id_
    assert not await owner(user("None"), conversation("4"))
    assert not await owner(user("07"), conversation("1"))


async def test_ids_that_are_text_are_compared_letter_by_letter(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    ids = ["abc", "01", "1.0", "1e3", "٣", "a'b", "%", UUID.upper(), "x" * 1024]
    await fill(database, TEXTS, *((id_, "ann") for id_ in ids))
    owner = SQLAuthorizer(database, **BY[way])
    await nursery.start(owner.run)
    for id_ in ids:
        assert await owner(user("ann"), conversation(id_)), id_
    for id_ in ["ABC", "1", "1000", "3", UUID, " abc", "abc ", "_", "x" * 1023, ""]:
        assert not await owner(user("ann"), conversation(id_)), id_
    for name in ["Ann", "ann ", "ann\0", "", "an_"]:
        assert not await owner(user(name), conversation("abc")), name


async def test_uuids_mean_the_same_in_any_case_and_have_no_other_spelling(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    await fill(database, "id UUID PRIMARY KEY, user_id UUID", (UUID, UUID))
    owner = SQLAuthorizer(database, **BY[way])
    await nursery.start(owner.run)
    assert await owner(user(UUID), conversation(UUID))
    has_the_type = "postgresql" in repr(database)  # to SQLite they are text like any other
    for same in [UUID.upper(), UUID.title()]:
        assert await owner(user(UUID), conversation(same)) is has_the_type, same
        assert await owner(user(same), conversation(UUID)) is has_the_type, same
    for other in [f"{{{UUID}}}", UUID.replace("-", ""), UUID[:-1], "1"]:
        assert not await owner(user(UUID), conversation(other)), other
        assert not await owner(user(other), conversation(UUID)), other


GARBAGE = [
    *["abc", "1e3", "1e0", "1.0", "1.", ".1e1", "٣", "\uff11", "01", "+1", "-0", "-1", " 1", "1 "],
    *["1\n", "\t1", "0x1", "0b1", "0o1", "1_0", "1; DROP TABLE conversations", "1 OR 1=1"],
    *["' OR ''='"],
    *["1) OR (1=1", "1--", "\\", "%", ":user_id", "%(ids)s", "1" * 10_000, str(2**31), str(2**63)],
    *[str(2**64 + 1), str(-(2**63) - 1), "9" * 400, "1\0", "\0", "\ud800", "", "NaN", "Infinity"],
    *["null", "true", UUID, "1::int", "{1}", "1,1"],
]  # fmt: skip


@pytest.mark.parametrize("column", ["SMALLINT", "INTEGER", "BIGINT", "NUMERIC", "UUID", "TEXT"])
async def test_garbage_is_nobodys_and_disturbs_nobody(
    database: Database, way: Way, column: str, nursery: trio.Nursery
) -> None:
    real = "1" if column != "UUID" else UUID.replace("a", "b")
    value: object = int(real) if column not in {"UUID", "TEXT"} else real
    await fill(database, f"id {column} PRIMARY KEY, user_id {column}", (value, value))
    owner = SQLAuthorizer(database, **BY[way], timeout=5)
    await nursery.start(owner.run)
    answers: dict[tuple[str, str], bool] = {}

    async def ask(name: str, id_: str) -> None:
        answers[name, id_] = await owner(user(name), conversation(id_))

    async with trio.open_nursery() as callers:
        callers.start_soon(ask, real, real)
        for garbage in GARBAGE:
            callers.start_soon(ask, real, garbage)
            callers.start_soon(ask, garbage, real)
    assert [key for key, owns in answers.items() if owns] == [(real, real)]


async def test_2000_that_wait_at_once_share_few_queries(
    database: Database, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, *((number, number % 2) for number in range(1000)))
    owner = SQLAuthorizer(database, **BY["table"], timeout=10)
    await nursery.start(owner.run)
    answers: list[bool] = []

    async def ask(number: int) -> None:
        answers.append(await owner(user("1"), conversation(str(number))))

    with queries_of(database) as queries:
        async with trio.open_nursery() as callers:
            for number in range(2000):
                callers.start_soon(ask, number)
    assert sum(answers) == 500
    assert sum(" IN " in query for query in queries) == 4
    assert len(queries) <= 5  # on PostgreSQL one more, for the type of the column


async def test_an_integer_column_is_searched_by_its_index_on_postgresql(
    postgresql_url: str, nursery: trio.Nursery
) -> None:
    async with Database(postgresql_url) as database:
        await fill(database, INTEGERS, *((number, 7) for number in range(3)))
        await database.run(lambda c: c.execute(text("SET enable_seqscan = off")))
        owner = SQLAuthorizer(database, **BY["table"])
        await nursery.start(owner.run)
        with queries_of(database) as queries:
            assert await owner(user(), conversation("1"))
        explain = "EXPLAIN " + queries[-1].replace("%(ids_1)s", "1")
        plan = await database.run(lambda c: c.exec_driver_sql(explain).scalars().all())
        assert "Index" in plan[0]
        nursery.cancel_scope.cancel()


async def test_a_table_may_have_a_schema_other_columns_and_many_owners(
    postgresql_url: str, nursery: trio.Nursery
) -> None:
    async with Database(postgresql_url) as database:
        schema = await database.read(lambda c: c.execute(text("SHOW search_path")).scalar_one())
        await database.run(lambda c: c.execute(text('CREATE TABLE "order" ("Room" INT, who INT)')))
        await database.run(lambda c: c.execute(text('INSERT INTO "order" VALUES (1, 7), (1, 8)')))
        owner = SQLAuthorizer(
            database,
            table=f"{schema}.order",
            id_column="Room",
            owner_column="who",
            parameter="room",
        )
        await nursery.start(owner.run)
        resource = {"room": "1", "tab": "2"}
        assert [await owner(user(id_), resource) for id_ in "789"] == [True, True, False]
        nursery.cancel_scope.cancel()


async def test_letters_the_database_does_not_have_are_nobodys(
    postgresql: PostgreSQL, way: Way, nursery: trio.Nursery
) -> None:
    postgresql.execute(f"CREATE DATABASE latin_{way} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    url = postgresql.url.replace("/postgres?", f"/latin_{way}?")
    async with Database(url) as database:
        await fill(database, TEXTS, ("é", "7"), ("b", "7"))
        owner = SQLAuthorizer(database, **BY[way])
        await nursery.start(owner.run)
        answers = {}

        async def ask(id_: str) -> None:
            answers[id_] = await owner(user(), conversation(id_))

        async with trio.open_nursery() as callers:
            for id_ in ["é", "٣", "b", "c", "猫"]:
                callers.start_soon(ask, id_)
        assert answers == {"é": True, "٣": False, "b": True, "c": False, "猫": False}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "owns"),
    [
        ("SELECT count(*) FROM conversations WHERE user_id = :user_id", True),
        ("SELECT count(*) FROM conversations WHERE user_id <> :user_id", False),
        ("SELECT EXISTS (SELECT 1 FROM conversations WHERE user_id = :user_id)", True),
        ("SELECT NULL FROM conversations WHERE user_id = :user_id", False),
    ],
)  # fmt: skip
async def test_a_query_whose_row_says_no_means_no(
    database: Database, query: str, owns: bool, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(database, query=query)
    await nursery.start(owner.run)
    assert await owner(user(), conversation("1")) is owns


async def test_user_id_is_the_tokens_whatever_the_path_says(
    database: Database, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(database, query=QUERY)
    await nursery.start(owner.run)
    assert not await owner(user("8"), {"conversation_id": "1", "user_id": "7"})


async def test_denied_says_the_same_for_what_is_not_there_and_what_is_anothers(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7), (2, 8))
    owner = SQLAuthorizer(database, **BY[way], denied="Not yours, or not there.")
    await nursery.start(owner.run)
    assert await owner(user(), conversation("1"))
    refusals = []
    for id_ in ["2", "3", "abc", "\0"]:
        with pytest.raises(Refusal) as caught:
            await owner(user(), conversation(id_))
        refusals.append((caught.value.code, caught.value.message, caught.value.args))
    assert set(refusals) == {
        ("access_denied", "Not yours, or not there.", ("access_denied", "Not yours, or not there."))
    }


# --- When nobody can say ---


async def refused(owner: SQLAuthorizer, id_: str = "1") -> str:
    with pytest.raises(Refusal) as caught:
        await owner(user(), conversation(id_))
    return caught.value.code


async def test_a_missing_table_is_unavailable_till_it_is_there_and_logged_once(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    owner = SQLAuthorizer(database, **BY[way], denied="no")
    await nursery.start(owner.run)
    with capture_logs() as log:
        for _ in range(3):
            assert await refused(owner) == "unavailable"
        await fill(database, INTEGERS, (1, 7))
        assert await owner(user(), conversation("1"))
    assert [line["event"] for line in log] == ["authorizer_unavailable", "authorizer_available"]
    assert "conversations" in log[0]["reason"]


@pytest.mark.parametrize("column", ["id bigint", "id uuid", "id text"])
async def test_it_is_healthy_only_while_the_table_can_be_read(
    database: Database, way: Way, column: str
) -> None:
    owner = SQLAuthorizer(database, **BY[way])
    with pytest.raises(Exception, match="conversations"):
        await owner.check_health()
    await fill(database, f"{column}, user_id text")
    await owner.check_health()
    await database.run(lambda connection: connection.exec_driver_sql("DROP TABLE conversations"))
    with pytest.raises(Exception, match="conversations"):
        await owner.check_health()


async def test_a_column_may_change_its_type_under_way(
    database: Database, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(database, table="conversations")
    await nursery.start(owner.run)
    assert await owner(user(), conversation("1"))
    await database.run(lambda c: c.execute(text("DROP TABLE conversations")))
    assert await refused(owner) == "unavailable"
    await fill(database, TEXTS, ("one", "7"))
    assert await owner(user(), conversation("one"))


async def test_a_server_starts_with_its_database_down_and_recovers_when_it_is_back(
    postgresql: PostgreSQL, postgresql_url: str, way: Way, nursery: trio.Nursery
) -> None:
    async with Database(postgresql_url) as database:
        await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(postgresql_url, **BY[way], denied="no", timeout=1)
    with postgresql.down():
        await nursery.start(owner.run)
        assert await refused(owner) == "unavailable"
    assert await owner(user(), conversation("1"))
    with postgresql.down():
        assert await refused(owner) == "unavailable"
    assert await owner(user(), conversation("1"))
    nursery.cancel_scope.cancel()


async def test_a_hung_database_is_unavailable_in_time_and_recovers(
    postgresql: PostgreSQL, postgresql_url: str, nursery: trio.Nursery
) -> None:
    async with Database(postgresql_url) as database:
        await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(postgresql_url, **BY["table"], denied="no", timeout=1)
    await nursery.start(owner.run)
    assert await owner(user(), conversation("1"))
    codes: list[str] = []

    async def ask(id_: str) -> None:
        codes.append(await refused(owner, id_))

    with postgresql.hung(), capture_logs() as log:
        started = trio.current_time()
        async with trio.open_nursery() as callers:
            for number in range(600):
                callers.start_soon(ask, str(number))
        assert trio.current_time() - started < PATIENCE  # one after the other: nine minutes
        await eventually(lambda: bool(log))
    assert codes == ["unavailable"] * 600
    assert [line["reason"] for line in log] == [
        "trioserver.storage.errors.DatabaseUnavailableError: "
        "The database did not answer within 0.9 s (postgresql+psycopg:///postgres)."
    ]
    assert await owner(user(), conversation("1"))
    nursery.cancel_scope.cancel()


async def test_a_full_queue_is_unavailable(database: Database, nursery: trio.Nursery) -> None:
    await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(database, **BY["table"], max_waiting=2)
    await nursery.start(owner.run)
    results: list[object] = []

    async def ask() -> None:
        try:
            results.append(await owner(user(), conversation("1")))
        except Refusal as refusal:
            results.append(refusal.code)

    async with trio.open_nursery() as callers:
        for _ in range(5):
            callers.start_soon(ask)
    assert sorted(map(str, results)) == ["True"] * 2 + ["unavailable"] * 3


async def test_cancelling_at_any_moment_leaves_nothing_behind(
    database: Database, way: Way, nursery: trio.Nursery
) -> None:
    await fill(database, INTEGERS, (1, 7))
    owner = SQLAuthorizer(database, **BY[way])
    await nursery.start(owner.run)
    for ticks in range(20):
        async with trio.open_nursery() as callers:
            callers.start_soon(owner, user(), conversation("1"))
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            callers.cancel_scope.cancel()
        assert owner._batcher.statistics().waiting == 0
        assert owner._batcher.statistics().gathering == 0
    assert await owner(user(), conversation("1"))
    await eventually(lambda: database._readers.borrowed_tokens == 0)


async def test_without_run_it_says_what_is_missing(database: Database) -> None:
    with pytest.raises(RuntimeError, match="run in a nursery"):
        await SQLAuthorizer(database, table="conversations")(user(), conversation("1"))


async def test_an_sqlite_file_in_an_impossible_place_stops_the_start() -> None:
    with pytest.raises(DatabaseUnavailableError, match="Make /nowhere a directory"):
        await SQLAuthorizer("sqlite:////nowhere/test.db", table="conversations").run()


# --- Options ---


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "either table= or query="),
        ({"table": "t", "query": QUERY}, "either table= or query="),
        ({"query": "SELECT 1 FROM t WHERE id = :id"}, "does not use :user_id"),
        ({"table": "t; DROP TABLE t"}, "is not the name"),
        ({"table": 'a"b'}, "is not the name"),
        ({"table": "a.b.c"}, "is not the name"),
        ({"table": ".t"}, "is not the name"),
        ({"table": "t", "id_column": "id OR 1=1"}, "is not the name"),
        ({"table": "t", "owner_column": ""}, "is not the name"),
        ({"table": "t", "timeout": 0}, "timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SQLAuthorizer("test.db", **options)


@pytest.mark.parametrize(
    ("options", "resource"),
    [
        ({"table": "t"}, {"a": "1", "b": "2"}),
        ({"table": "t"}, {}),
        ({"table": "t", "parameter": "c"}, {"a": "1"}),
        ({"query": QUERY}, {"a": "1"}),
    ],
)
async def test_a_route_without_the_parameter_is_a_mistake_and_admits_nobody(
    options: dict[str, Any], resource: dict[str, str]
) -> None:
    with pytest.raises(LookupError, match="SQLAuthorizer needs"):
        await SQLAuthorizer("test.db", **options)(user(), resource)
