"""Whatever is wrong with a database: it is said in a class of cause, with what to do about it."""

from __future__ import annotations

import socket
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trustme
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.support.databases import eventually
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.postgresql import PostgreSQL
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage.advice import EXPLAINED


async def failure(
    database: Database, work: Callable[[Connection], object]
) -> DatabaseUnavailableError:
    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.run(work)
    return caught.value


def does(statement: str) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(text(statement))


async def opening(url: str | Path) -> DatabaseUnavailableError:
    """What a first call fails with."""
    async with Database(url, timeout=3) as database:
        return await failure(database, does("SELECT 1"))


# ---------------------------------------------------------------------------- opening a connection


@pytest.fixture
def url_of(postgresql: PostgreSQL) -> Callable[..., str]:
    def make(*, role: str = "postgres", name: str = "postgres", options: str = "") -> str:
        return f"postgresql://{role}:hush@/{name}?host={postgresql.directory}{options}"

    return make


async def test_no_such_database(url_of: Callable[..., str]) -> None:
    error = await opening(url_of(name="nope"))
    assert error.cause == "no_database"
    assert "(postgresql+psycopg:///nope)" in str(error)


async def test_no_such_role(url_of: Callable[..., str]) -> None:
    assert (await opening(url_of(role="nobody"))).cause == "no_role"


async def test_no_such_host() -> None:
    error = await opening("postgresql://u:hush@no.such.host.invalid/d")
    assert error.cause == "no_host"
    assert "Correct the host" in str(error)
    assert "hush" not in str(error)


async def test_nothing_listens(tmp_path: Path) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        error = await opening(f"postgresql://u:hush@127.0.0.1:{port}/d")
        assert error.cause == "refused"
        assert f"127.0.0.1:{port}" in str(error)
    assert (await opening(f"postgresql://u@/d?host={tmp_path}")).cause == "refused"


async def test_too_many_connections(url_of: Callable[..., str], postgresql: PostgreSQL) -> None:
    import psycopg

    postgresql.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1")
    with psycopg.connect(url_of(role="narrow")):
        assert (await opening(url_of(role="narrow"))).cause == "too_many_connections"


@contextmanager
def admission(postgresql: PostgreSQL, line: str) -> Iterator[None]:
    """A line in front of all others of pg_hba.conf, for as long as it lasts."""
    file = postgresql.directory / "data" / "pg_hba.conf"
    before = file.read_text()
    file.write_text(f"{line}\n{before}")
    postgresql.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        file.write_text(before)
        postgresql.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("method", "cause"), [("scram-sha-256", "password"), ("reject", "not_permitted")]
)
async def test_a_role_that_is_not_admitted(
    url_of: Callable[..., str], postgresql: PostgreSQL, method: str, cause: str
) -> None:
    postgresql.execute("CREATE ROLE guarded LOGIN PASSWORD 'another'")
    try:
        with admission(postgresql, f"local all guarded {method}"):
            error = await opening(url_of(role="guarded"))
    finally:
        postgresql.execute("DROP ROLE guarded")
    assert error.cause == cause
    assert "hush" not in str(error)


async def test_a_server_without_tls_where_tls_is_asked_for(pgbouncer: PgBouncer) -> None:
    assert (await opening(f"{pgbouncer.url}?sslmode=require")).cause == "tls"


async def test_a_certificate_that_is_not_trusted(postgresql: PostgreSQL, tmp_path: Path) -> None:
    trusted, stranger = tmp_path / "trusted.pem", tmp_path / "stranger.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(trusted)
    trustme.CA().cert_pem.write_to_path(stranger)
    issued = authority.issue_cert("127.0.0.1")
    with running_pgbouncer(postgresql, certificate=issued) as bouncer:
        url = f"{bouncer.url}?sslmode=verify-full&sslrootcert="
        async with Database(f"{url}{trusted}") as database:
            await database.check_health()
        assert (await opening(f"{url}{stranger}")).cause == "certificate"
        other_name = url.replace("127.0.0.1", "localhost")
        assert (await opening(f"{other_name}{trusted}")).cause == "certificate"


async def test_a_database_that_a_pooler_does_not_know(pgbouncer: PgBouncer) -> None:
    assert (await opening(pgbouncer.url.removesuffix("postgres") + "nope")).cause == "no_database"


async def test_a_server_that_never_answers_is_a_time_out(
    url_of: Callable[..., str], postgresql: PostgreSQL
) -> None:
    with postgresql.hung():
        async with Database(url_of(), timeout=0.2) as database:
            assert (await failure(database, does("SELECT 1"))).cause == "timeout"


async def test_no_writable_server_among_the_hosts(
    url_of: Callable[..., str], postgresql: PostgreSQL
) -> None:
    postgresql.execute(
        "CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on"
    )
    url = url_of(role="reader", options="&target_session_attrs=read-write")
    try:
        assert (await opening(url)).cause == "read_only"
    finally:
        postgresql.execute("DROP ROLE reader")


@pytest.mark.parametrize("option", ["hush=1", "prepared=hush"])
def test_an_option_that_postgresql_does_not_have_is_a_wrong_url(option: str) -> None:
    url = f"postgresql://u:{'hush'}@h/d?{option}"
    with pytest.raises(ValueError, match="an option that PostgreSQL does not know") as caught:
        Database(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


async def test_sqlite_says_which_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"x" * 8192)
    monkeypatch.chdir(tmp_path)
    error = await opening("garbage.db")
    assert error.cause == "not_a_database"
    assert str(path) in str(error)


def test_each_cause_says_what_to_do() -> None:
    assert all(advice.endswith(".") for _, advice in EXPLAINED.values())


async def test_the_database_sees_who_is_connected(postgresql_url: str) -> None:
    who = "SELECT current_setting('application_name')"
    for url, name in (
        (postgresql_url, "trioserver"),
        (f"{postgresql_url}&application_name=a", "a"),
    ):
        async with Database(url) as database:
            assert await database.read(lambda c: c.execute(text(who)).scalar_one()) == name


# ---------------------------------------------------------------------------- a statement


@pytest.fixture
async def notes(postgresql_url: str) -> AsyncIterator[Database]:
    async with Database(postgresql_url) as database:
        await database.run(does("CREATE TABLE notes (id int PRIMARY KEY, body text)"))
        yield database


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("08006", "connection_lost"),
        ("25006", "read_only"),
        ("26000", "prepared_statement"),
        ("40001", "conflict"),
        ("40P01", "conflict"),
        ("42501", "privilege"),
        ("42P01", "missing_table"),
        ("42P05", "prepared_statement"),
        ("53100", "disk_full"),
        ("53200", "no_resources"),
        ("55P03", "locked"),
        ("57014", "timeout"),
        ("57P01", "connection_lost"),
        ("58030", "internal"),
        ("XX000", "internal"),
        ("XX002", "internal"),
    ],
)
async def test_postgresqls_own_code_says_what_is_wrong(
    notes: Database, state: str, cause: str
) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'hush' USING ERRCODE = '{state}'; END $$"
    error = await failure(notes, does(raising))
    assert (error.cause, error.category) == (cause, "driver")
    assert error.driver_error
    assert error.driver_error.endswith(state)
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    "mistake",
    ["SELECT nothing", "SELEC 1", "INSERT INTO notes VALUES (1), (1)", "SELECT 'x'::int"],
)
async def test_a_mistake_in_the_program_stays_the_drivers_own_error(
    notes: Database, mistake: str
) -> None:
    for work in (notes.run, notes.read):
        with pytest.raises(DBAPIError):
            await work(does(mistake))


async def test_a_table_that_is_missing_is_named(database_url: str) -> None:
    async with Database(database_url) as database:
        error = await failure(database, does("INSERT INTO lost VALUES (1)"))
    assert error.cause == "missing_table"
    assert "[lost: " in str(error)


async def test_a_privilege_that_is_missing_is_named(
    url_of: Callable[..., str], postgresql: PostgreSQL
) -> None:
    postgresql.execute("CREATE ROLE weak LOGIN; CREATE TABLE guarded_notes (x int)")
    async with Database(url_of(role="weak")) as database:
        error = await failure(database, does("SELECT * FROM guarded_notes"))
    assert error.cause == "privilege"
    assert "[guarded_notes: " in str(error)


# ---------------------------------------------------------------------------- read-only


@contextmanager
def read_only(postgresql: PostgreSQL) -> Iterator[None]:
    """As a primary that was demoted: connections stay, and no write is taken."""
    postgresql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    postgresql.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        postgresql.execute("ALTER SYSTEM RESET ALL")
        postgresql.execute("SELECT pg_reload_conf()")


async def test_a_server_that_became_read_only_is_left_for_one_that_takes_writes(
    notes: Database, postgresql: PostgreSQL
) -> None:
    process = "SELECT pg_backend_pid()"
    before = await notes.read(lambda c: c.execute(text(process)).scalar_one())
    insert = does("INSERT INTO notes VALUES (1, '')")
    with read_only(postgresql):

        async def refused() -> bool:
            try:
                await notes.run(insert)
                await notes.run(does("DELETE FROM notes"))
            except DatabaseUnavailableError as error:
                return error.cause == "read_only"
            return False

        with trio.fail_after(5):
            while not await refused():  # noqa: ASYNC110 -- backends read their files when they like
                await trio.sleep(0.01)
        after = await notes.read(lambda c: c.execute(text(process)).scalar_one())
        assert after != before
    await eventually_writes(notes)


async def eventually_writes(database: Database) -> None:
    with trio.fail_after(5):
        while True:
            try:
                await database.check_writable()
                return
            except DatabaseUnavailableError:
                await trio.sleep(0.01)


async def test_a_server_that_takes_no_writes_is_not_healthy_until_it_does(
    notes: Database, postgresql: PostgreSQL
) -> None:
    await notes.check_health()
    with read_only(postgresql):
        with trio.fail_after(5):
            while True:
                try:
                    await notes.run(does("INSERT INTO notes VALUES (1, '')"))
                    await notes.run(does("DELETE FROM notes"))
                except DatabaseUnavailableError:
                    break
        with pytest.raises(DatabaseUnavailableError) as caught:
            await notes.check_health()
        assert caught.value.cause == "read_only"
    await eventually_writes(notes)
    await notes.check_health()


async def test_a_mistake_says_nothing_of_the_health(database_url: str) -> None:
    async with Database(database_url) as database:
        with pytest.raises(DBAPIError):
            await database.run(does("SELEC 1"))
        await failure(database, does("DELETE FROM lost"))
        await database.check_health()


async def test_sqlite_on_a_full_disk_is_not_healthy_until_there_is_room(sqlite_url: str) -> None:
    async with Database(sqlite_url, max_threads=1) as database:
        await database.run(does("CREATE TABLE notes (body BLOB)"))
        await database.run(does("PRAGMA max_page_count = 2"))  # of the connection in the pool
        error = await failure(database, does("INSERT INTO notes VALUES (zeroblob(100000))"))
        assert error.cause == "disk_full"
        await database.check_health()  # a little does fit


async def test_migrations_that_are_done_write_nothing(
    postgresql_url: str, postgresql: PostgreSQL
) -> None:
    steps = (lambda c: c.execute(text("CREATE TABLE things (x int)")),)
    async with Database(postgresql_url) as database:
        await database.migrate("things", steps)
        with read_only(postgresql):
            await eventually(lambda: True)
            async with Database(postgresql_url) as fresh:
                await fresh.migrate("things", steps)
                error = await failure(fresh, does("INSERT INTO things VALUES (1)"))
                assert error.cause == "read_only"
