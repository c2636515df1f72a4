"""Blocks and a database that hangs, is large, or does not take everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import trio
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from tests.support.databases import eventually
from tests.support.postgresql import PostgreSQL
from trioserver import Block, Refusal, User
from trioserver.auth.blocks import Blocks
from trioserver.auth.blocks.blocks import LOADED_AT_ONCE
from trioserver.auth.blocks.storing import ANSWER_WITHIN
from trioserver.storage import Database, DatabaseUnavailableError

T = TypeVar("T")


def users(blocks: Blocks) -> set[str | None]:
    return {block.user for block in blocks.all}


async def stored_users(database: Database) -> set[str | None]:
    """As a server that starts now finds them."""
    fresh = Blocks(database)
    await fresh._synchronize()
    return users(fresh)


async def test_blocking_does_not_wait_for_a_database_that_hangs(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with Database(postgresql_url, timeout=3) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=0.1)
        await nursery.start(blocks.run)
        with postgresql.hung():
            began = trio.current_time()
            async with trio.open_nursery() as six:
                for number in range(6):
                    six.start_soon(blocks.add, Block(user=f"u{number}"))
            assert trio.current_time() - began < 2 * ANSWER_WITHIN
            assert len(blocks) == 6
            await eventually(lambda: str(blocks._trouble).startswith("The database"))
            began = trio.current_time()
            await blocks.add(Block(user="u6"))  # it is known to fail: nobody waits
            assert trio.current_time() - began < ANSWER_WITHIN / 2
        await eventually(lambda: all(map(blocks.is_stored, blocks.all)), timeout=15)
        assert await stored_users(database) == {f"u{number}" for number in range(7)}
        nursery.cancel_scope.cancel()


async def test_those_who_lift_blocks_do_not_queue_for_a_database_that_hangs(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with Database(postgresql_url, timeout=0.5) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database)
        await nursery.start(blocks.run)
        for number in range(6):
            await blocks.add(Block(user=f"u{number}"))

        async def fail_to_lift(block: Block) -> None:
            with pytest.raises(DatabaseUnavailableError):
                await blocks.remove([block])

        with postgresql.hung(), trio.fail_after(2):
            async with trio.open_nursery() as six:
                for block in blocks.all:
                    six.start_soon(fail_to_lift, block)
        assert len(blocks) == 6
        nursery.cancel_scope.cancel()


@pytest.fixture
def latin_url(postgresql: PostgreSQL) -> Iterator[str]:
    """A database that lacks letters."""
    postgresql.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    yield postgresql.url.replace("/postgres?", "/latin?")
    postgresql.execute("DROP DATABASE latin WITH (FORCE)")


async def test_a_block_that_cannot_be_stored_keeps_no_other_from_being_stored_and_read(
    latin_url: str,
) -> None:
    async with Database(latin_url) as database, trio.open_nursery() as nursery:
        here, there = Blocks(database, refresh=0.1), Blocks(database, refresh=0.1)
        await nursery.start(here.run)
        await nursery.start(there.run)
        with capture_logs() as logs:
            async with trio.open_nursery() as several:
                for user in ("αλίκη", "bob", "carol", "dave"):
                    several.start_soon(here.add, Block(user=user))
            await there.add(Block(user="mallory"))
            await eventually(lambda: users(here) == {"αλίκη", "bob", "carol", "dave", "mallory"})
            await eventually(lambda: users(there) == {"bob", "carol", "dave", "mallory"})
        (greek,) = [block for block in here.all if block.user == "αλίκη"]
        assert not here.is_stored(greek)
        assert all(here.is_stored(block) for block in here.all if block is not greek)
        with pytest.raises(Refusal):
            here.check(User(id="αλίκη"))
        (line,) = [line for line in logs if line["event"] == "access_block_not_stored"]
        assert line["error"] == "UntranslatableCharacter"
        assert await here.remove([greek]) == 1
        assert users(here) == {"bob", "carol", "dave", "mallory"}
        nursery.cancel_scope.cancel()


async def test_a_row_that_is_no_block_keeps_no_block_from_being_read(database_url: str) -> None:
    async with Database(database_url) as database:
        await Blocks(database)._synchronize()
        for row in ("'a', NULL, NULL", "'b', 'eve', 'no json'", "'c', 'bob', NULL"):
            insert = "INSERT INTO trioserver_blocks (id, user_id, resource, created_at)"
            await database.run(lambda c, q=f"{insert} VALUES ({row}, 0)": c.execute(text(q)))  # type: ignore[misc]
        blocks = Blocks(database)
        with capture_logs() as logs:
            await blocks._synchronize()
            await blocks._synchronize()
    assert users(blocks) == {"bob"}
    assert [line["id"] for line in logs if line["event"] == "access_block_unreadable"] == ["a", "b"]


class Watched(Database):
    """Calls ``after_read`` when a read has its answer and before its caller has it."""

    after_read: Callable[[], Awaitable[object]] | None = None

    async def read(self, fn: Callable[[Connection], T], *, timeout: float | None = None) -> T:
        result = await super().read(fn, timeout=timeout)
        if self.after_read is not None:
            hook, self.after_read = self.after_read, None
            await hook()
        return result


async def test_a_block_that_is_stored_while_others_are_read_stays_in_force(sqlite_url: str) -> None:
    async with Watched(sqlite_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=3600)
        await nursery.start(blocks.run)
        await blocks.add(Block(user="bob"))

        async def add_and_lift() -> None:
            await blocks.add(block := Block(user="alice"))
            assert blocks.is_stored(block)
            await blocks.remove([each for each in blocks.all if each.user == "bob"])

        database.after_read = add_and_lift
        await blocks._synchronize()
        assert users(blocks) == {"alice"}
        await blocks._synchronize()
        assert users(blocks) == {"alice"}
        nursery.cancel_scope.cancel()


async def test_a_server_that_ends_stores_what_is_left(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        async with trio.open_nursery() as nursery:
            blocks = Blocks(database)
            await nursery.start(blocks.run)
            with trio.CancelScope() as scope:
                scope.cancel()
                await blocks.add(Block(user="alice"))
            nursery.cancel_scope.cancel()
        assert await stored_users(database) == {"alice"}


async def test_many_blocks_are_read_in_steps_and_lifted_at_once(database_url: str) -> None:
    # Above the parameters of one statement.
    number = 33_000 if database_url.startswith("sqlite") else 66_000

    def fill(connection: Connection) -> None:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{number})"
        connection.execute(
            text(
                f"{numbers} INSERT INTO trioserver_blocks (id, user_id, created_at)"
                " SELECT 'x' || i, 'v' || i, 0 FROM n"
            )
        )

    async with Database(database_url, timeout=60) as database:
        await Blocks(database)._synchronize()
        await database.run(fill)
        blocks = Blocks(database)
        steps: list[int] = []

        async def watch() -> None:
            before = 0
            while True:
                await trio.lowlevel.checkpoint()
                steps.append(len(blocks) - before)
                before = len(blocks)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await blocks._synchronize()
            nursery.cancel_scope.cancel()
        assert len(blocks) == blocks.count == number
        assert max(steps) <= LOADED_AT_ONCE
        with pytest.raises(Refusal):
            blocks.check(User(id="v32999"))
        assert await blocks.remove(blocks.all) == number
        assert len(blocks) == 0
        assert await stored_users(database) == set()
