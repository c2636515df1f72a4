"""The files of SQLite: deleted or replaced under a running server, read-only, and their size."""

# ruff: noqa: ASYNC240 -- a test may wait for a file

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.storage.sqlite_file import WAL_BYTES


def create(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE notes (body BLOB)"))


def insert(connection: Connection) -> None:
    connection.execute(text("INSERT INTO notes VALUES ('a')"))


def count(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT count(*) FROM notes")).scalar_one()
    return number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with Database(path) as database:
        await database.run(create)
        await database.run(insert)
        yield database


async def test_a_file_that_was_deleted_is_said_and_no_new_one_is_made_in_its_place(
    database: Database, path: Path
) -> None:
    moved = path.rename(path.with_name("moved.db"))
    for work in (database.run, database.read):
        with pytest.raises(DatabaseUnavailableError) as caught:
            await work(count)
        assert caught.value.cause == "file_missing"
        assert str(path) in str(caught.value)
    with pytest.raises(DatabaseUnavailableError):
        await database.check_health()
    assert not path.exists()
    moved.rename(path)
    await database.run(insert)
    assert await database.read(count) == 2
    await database.check_health()


async def test_a_file_that_was_replaced_is_opened_and_said(database: Database, path: Path) -> None:
    backup = path.with_name("backup.db")
    with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
        source.backup(target)
    source.close()
    target.close()
    await database.run(insert)
    with capture_logs() as logs:
        backup.rename(path)
        assert await database.read(count) == 1
        await database.run(insert)
    assert [line["event"] for line in logs] == ["database_file_replaced"]
    found = sqlite3.connect(path)
    assert found.execute("SELECT count(*) FROM notes").fetchone() == (2,)
    found.close()


async def test_nothing_is_written_to_a_file_that_is_no_longer_there(
    database: Database, path: Path
) -> None:
    kept = path.with_name("kept.db")
    kept.hardlink_to(path)
    size = kept.stat().st_size
    path.unlink()
    with pytest.raises(DatabaseUnavailableError):
        await database.run(insert)
    assert kept.stat().st_size == size


async def test_a_database_that_is_opened_again_takes_what_is_there(path: Path) -> None:
    database = Database(path)
    async with database:
        await database.run(create)
    path.unlink()
    async with database:
        await database.run(create)


async def test_reading_only_writes_nothing(database: Database, path: Path) -> None:
    async with Database(path, read_only=True) as reader:
        assert await reader.read(count) == 1
        with pytest.raises(DatabaseUnavailableError) as caught:
            await reader.run(insert)
        assert caught.value.cause == "read_only"


async def test_reading_only_makes_no_file(tmp_path: Path) -> None:
    async with Database(tmp_path / "none.db", read_only=True) as reader:
        with pytest.raises(DatabaseUnavailableError) as caught:
            await reader.read(count)
    assert caught.value.cause == "file_access"
    assert list(tmp_path.iterdir()) == []


def insert_much(connection: Connection) -> None:
    connection.execute(text("INSERT INTO notes VALUES (zeroblob(40000000))"))


async def test_the_wal_shrinks_after_a_large_transaction(database: Database, path: Path) -> None:
    wal = path.with_name("notes.db-wal")
    await database.run(insert_much)  # which wrote more than twice as much to it
    await database.run(insert)
    assert wal.stat().st_size <= WAL_BYTES


async def test_the_wal_is_bounded_though_somebody_always_reads(
    database: Database, path: Path
) -> None:
    """Readers that overlap keep a WAL from beginning anew, for as long as they do."""
    wal = path.with_name("notes.db-wal")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<10000)"
    reading = text(f"{endless} SELECT max(i), (SELECT count(*) FROM notes) FROM n")
    largest = 0
    async with trio.open_nursery() as nursery:

        async def read_on() -> None:
            while True:
                await database.read(lambda c: c.execute(reading).all())

        for _ in range(3):
            nursery.start_soon(read_on)
        await trio.sleep(0.05)
        for _ in range(80):
            await database.run(
                lambda c: c.execute(text("INSERT INTO notes VALUES (zeroblob(1000000))"))
            )
            largest = max(largest, wal.stat().st_size)
        nursery.cancel_scope.cancel()
    assert largest < 3 * WAL_BYTES, largest
