"""One contract for SQLite and PostgreSQL, then what is particular to each."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.support.databases import eventually
from tests.support.postgresql import PostgreSQL
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage import database as database_module


def insert(connection: Connection) -> None:
    connection.execute(text("INSERT INTO notes (body) VALUES ('a')"))


def count(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT count(*) FROM notes")).scalar_one()
    return number


def one(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT 1")).scalar_one()
    return number


def threads_in_use(database: Database) -> int:
    limiters = {database._readers, database._writers}
    return sum(limiter.borrowed_tokens for limiter in limiters)


async def idle(database: Database) -> None:
    """Nothing is left behind: no place in a limiter, no connection outside of the pool."""
    await eventually(lambda: threads_in_use(database) == 0)
    assert database._engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, timeout=5) as database:
        await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
        yield database
        await idle(database)


async def test_a_transaction_is_committed_when_its_function_returns(database: Database) -> None:
    await database.run(insert)
    assert await database.read(count) == 1
    assert await database.run(count) == 1


async def test_a_transaction_is_rolled_back_when_its_function_raises(database: Database) -> None:
    def fail(connection: Connection) -> None:
        insert(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(fail)
    assert await database.run(count) == 0


async def test_a_part_of_a_transaction_can_be_rolled_back(database: Database) -> None:
    def half(connection: Connection) -> None:
        insert(connection)
        savepoint = connection.begin_nested()
        insert(connection)
        savepoint.rollback()

    await database.run(half)
    assert await database.read(count) == 1


async def test_concurrent_transactions_all_take_place(database: Database) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(database.run, insert)
    assert await database.read(count) == 50


async def test_no_more_threads_work_than_are_allowed(database_url: str) -> None:
    working, most, lock = 0, 0, threading.Lock()

    def work(connection: Connection) -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        one(connection)
        with lock:
            working -= 1

    async with Database(database_url, max_threads=2) as database, trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(database.read, work)
    assert most <= 2


async def test_a_mistake_in_the_sql_is_the_programmers_and_tells_no_parameters(
    database: Database,
) -> None:
    with pytest.raises(DBAPIError, match="nowhere") as caught:
        await database.read(lambda c: c.execute(text("SELECT :x, nowhere"), {"x": "hush"}))
    assert "hush" not in str(caught.value)


async def test_a_database_that_is_not_open_says_so(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(RuntimeError, match="is not open"):
        await database.run(one)
    for _ in range(2):  # and it can be opened again
        async with database:
            assert await database.run(one) == 1
            with pytest.raises(RuntimeError, match="is open already"):
                await database.__aenter__()
    with pytest.raises(RuntimeError, match="is not open"):
        await database.read(one)


async def test_what_comes_too_late_is_rolled_back(database: Database) -> None:
    go_on = threading.Event()

    def slow(connection: Connection) -> None:
        insert(connection)
        assert go_on.wait(10)

    with pytest.raises(DatabaseUnavailableError, match=r"did not answer within 0\.1 s") as caught:
        await database.run(slow, timeout=0.1)
    assert caught.value.category == "timeout"
    go_on.set()
    await idle(database)
    assert await database.read(count) == 0


async def test_what_nobody_waits_for_any_more_is_not_begun(database: Database) -> None:
    go_on = threading.Event()
    begun: list[Connection] = []
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(database.run, lambda _: go_on.wait(10))
        await eventually(lambda: threads_in_use(database) == database._writers.total_tokens)
        with pytest.raises(DatabaseUnavailableError):
            await database.run(begun.append, timeout=0.05)
        go_on.set()
    assert not begun


async def test_cancelling_returns_at_once_and_leaves_nothing_behind(database: Database) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        insert(connection)
        begun.set()
        assert go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.run, slow)
        await eventually(begun.is_set)
        asked = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - asked < 1
    go_on.set()
    await idle(database)
    assert await database.read(count) == 0


async def test_cancelling_at_any_moment_does_all_of_it_or_nothing(database: Database) -> None:
    def two(connection: Connection) -> None:
        insert(connection)
        insert(connection)

    for ticks in range(40):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.run, two)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    await idle(database)
    assert await database.read(count) % 2 == 0


async def test_too_many_callers_are_refused_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MAX_WAITING", 3)
    go_on = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(int(database._writers.total_tokens) + 3):
            nursery.start_soon(database.run, lambda _: go_on.wait(10))
        await eventually(lambda: database._writers.statistics().tasks_waiting == 3)
        with pytest.raises(DatabaseUnavailableError, match="Too many") as caught:
            await database.run(insert)
        go_on.set()
    assert caught.value.category == "overload"


# --- SQLite ---


async def test_sqlite_syncs_every_commit_and_lets_readers_in_beside_the_writer(
    sqlite_url: str,
) -> None:
    def pragma(name: str) -> Callable[[Connection], object]:
        return lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar_one()

    async with Database(sqlite_url, timeout=3) as database:
        assert await database.read(pragma("journal_mode")) == "wal"
        assert await database.read(pragma("synchronous")) == 2
        assert await database.read(pragma("foreign_keys")) == 1
        assert await database.read(pragma("busy_timeout")) == 3000


async def test_sqlite_keeps_what_was_acknowledged_before_a_kill(tmp_path: Path) -> None:
    program = """
import os, signal, sys, trio
from sqlalchemy import text
from trioserver.storage import Database

async def main():
    async with Database(sys.argv[1]) as database:
        await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
        await database.run(lambda c: c.execute(text("INSERT INTO notes VALUES ('a')")))
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""
    path = tmp_path / "killed.db"
    ended = await trio.run_process([sys.executable, "-c", program, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    async with Database(path) as database:
        assert await database.read(count) == 1


async def test_sqlite_locked_by_another_process_is_unavailable_till_it_lets_go(
    sqlite_url: str,
) -> None:
    async with Database(sqlite_url) as database:
        await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailableError):
            await database.run(insert, timeout=0.15)
        assert await database.read(count) == 0
        other.execute("ROLLBACK")
        other.close()
        await idle(database)
        await database.run(insert)
        assert await database.read(count) == 1


async def test_sqlite_stops_a_query_that_nobody_waits_for(sqlite_url: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
    async with Database(sqlite_url) as database:
        with pytest.raises(DatabaseUnavailableError):
            await database.read(lambda c: c.execute(text(endless)).all(), timeout=0.1)
        await idle(database)
        assert await database.read(one) == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/test.db", "No such file or directory"),
        ("file/test.db", "Not a directory"),
        ("directory", "it is a directory"),
    ],
)
async def test_sqlite_in_an_impossible_place_says_what_to_do(
    tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(DatabaseUnavailableError) as caught:
        await Database(tmp_path / path).__aenter__()
    parent = (tmp_path / path).parent
    assert str(caught.value) == (
        f"SQLite cannot keep its database in {tmp_path / path}: {reason}. "
        f"Make {parent} a directory this process may write to, or give another path."
    )
    assert caught.value.category == "location"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)  # root may write anywhere
    yield tmp_path
    os.seteuid(os.getuid())
    tmp_path.chmod(0o755)


async def test_sqlite_in_a_read_only_directory_says_what_to_do(read_only: Path) -> None:
    with pytest.raises(
        DatabaseUnavailableError, match=r"Permission denied\. Make .* or give another"
    ):
        await Database(read_only / "test.db").__aenter__()


# --- PostgreSQL ---


@pytest.fixture
async def remote(postgresql_url: str) -> AsyncIterator[Database]:
    async with Database(postgresql_url) as database:
        await database.run(lambda c: c.execute(text("CREATE TABLE notes (body TEXT)")))
        yield database
        await idle(database)


async def test_a_hung_postgresql_ties_up_no_thread_and_is_used_again_when_it_goes_on(
    remote: Database, postgresql: PostgreSQL
) -> None:
    with postgresql.hung():
        with pytest.raises(DatabaseUnavailableError, match=r"within 0\.2 s"):
            await remote.run(insert, timeout=0.2)
        # Cut off from the server, the thread ends while that still hangs.
        await eventually(lambda: threads_in_use(remote) == 0)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(expect_unavailable, remote)
        assert threads_in_use(remote) <= 4
    await idle(remote)
    assert await remote.read(count) == 0


async def expect_unavailable(database: Database) -> None:
    # Far below what a database that hangs takes, and above what a busy machine does.
    with trio.fail_after(5), pytest.raises(DatabaseUnavailableError):
        await database.read(one, timeout=0.2)


async def test_postgresql_that_hangs_in_its_first_answer_ties_up_no_thread(
    postgresql: PostgreSQL,
) -> None:
    with postgresql.hung():
        async with Database(postgresql.url, timeout=0.1) as database:
            await expect_unavailable(database)
    await idle(database)


async def test_the_first_call_after_a_restart_of_postgresql_succeeds(
    remote: Database, postgresql: PostgreSQL
) -> None:
    for work in (remote.run, remote.read):
        assert await work(one) == 1
        with postgresql.down():
            pass
        assert await work(one) == 1


async def test_a_killed_postgresql_is_unavailable_and_tells_the_drivers_class_only(
    remote: Database, postgresql: PostgreSQL
) -> None:
    with postgresql.down():
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError) as caught:
                await remote.run(insert)
    assert caught.value.category == "driver"
    assert caught.value.driver_error
    assert caught.value.driver_error.startswith("psycopg.")
    await remote.run(insert)
    assert await remote.read(count) == 1


async def test_a_transaction_that_was_begun_is_not_repeated(
    remote: Database, postgresql: PostgreSQL
) -> None:
    calls = 0

    def killed_in_the_middle(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        insert(connection)
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        postgresql.execute(f"SELECT pg_terminate_backend({backend}, 2000)")
        insert(connection)

    with pytest.raises(DatabaseUnavailableError, match="AdminShutdown 57P01"):
        await remote.run(killed_in_the_middle)
    assert calls == 1
    assert await remote.read(count) == 0


async def test_postgresql_itself_ends_a_statement_that_takes_too_long(remote: Database) -> None:
    timeout = await remote.read(lambda c: c.execute(text("SHOW statement_timeout")).scalar_one())
    assert timeout == "5s"


# --- URLs, secrets, extras ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("data/test.db", "sqlite:///data/test.db"),
        ("sqlite:////tmp/test.db", "sqlite:////tmp/test.db"),
        ("postgres://u:hush@h/d", "postgresql+psycopg://h/d"),
        ("postgresql://u:hush@h:5/d?password=hush", "postgresql+psycopg://h:5/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
    ],
)
def test_a_database_shows_where_it_is_and_no_secret(url: str, shown: str) -> None:
    assert repr(Database(url)) == f"<Database {shown}>"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "in memory"),
        (":memory:", "in memory"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://u:hush@h/d", r"mysql:// is not supported: use sqlite:///\.\.\. or postgresql:"),
        ("postgresql://u:hush@h:hush/d", "is malformed"),
        ("://hush", "is malformed"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_quoting_it(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Database(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("inf")}, {"max_threads": 0}])
def test_an_option_out_of_bounds_is_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Database("test.db", **options)  # type: ignore[arg-type]


async def test_no_error_holds_a_password_sql_or_a_parameter(postgresql: PostgreSQL) -> None:
    async with Database("postgresql://someone:hush@127.0.0.1:1/d?sslpassword=hush") as database:
        with pytest.raises(DatabaseUnavailableError) as refused:
            await database.read(one)
    async with Database(postgresql.url) as database:
        with pytest.raises(DatabaseUnavailableError) as late:
            await database.read(
                lambda c: c.execute(text("SELECT :x, pg_sleep(2)"), {"x": "hush"}).all(),
                timeout=0.1,
            )
        await idle(database)
    for error in (refused.value, late.value):
        told = "".join(traceback.format_exception(error)[-1:]) + repr(error.__dict__)
        assert "hush" not in told
        assert "SELECT" not in told
        assert error.__suppress_context__ or error.__context__ is None


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install 'trioserver\[postgresql\]'"):
        Database("postgresql://h/d")


def test_missing_sqlalchemy_says_what_to_install() -> None:
    program = """
import sys
sys.modules["sqlalchemy"] = None
from trioserver.storage import Batcher, Database
Database("test.db")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingExtraError: SQL needs SQLAlchemy: pip install 'trioserver[sql]'" in ended.stderr
