"""Blocks: who is kept out, with which code, and for how long."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from sqlalchemy import select
from trio.testing import MockClock

from tests.support.app import EPOCH, World, serving, wall_clock
from tests.support.databases import eventually
from tests.support.postgresql import PostgreSQL
from trioserver import Block, Refusal, TooManyBlocksError, User
from trioserver.auth.blocks import Blocks
from trioserver.auth.blocks import blocks as blocks_module
from trioserver.auth.blocks.table import BLOCKS
from trioserver.storage import Database, DatabaseUnavailableError

ALICE = User(id="alice", token_id="t1", claims={"sid": "s1"})


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ({"user": "alice"}, "session_blocked"),
        ({"token_id": "t1"}, "token_revoked"),
        ({"sid": "s1"}, "session_blocked"),
        ({"resource": {"id": "1"}}, "session_blocked"),
        ({"user": "alice", "resource": {"id": "1"}}, "session_blocked"),
        ({"user": "alice", "token_id": "t1"}, "token_revoked"),
    ],
)
async def test_what_fits_is_refused_with_a_code_that_says_whether_to_log_in_again(
    target: dict[str, Any], code: str
) -> None:
    blocks = Blocks()
    await blocks.add(Block(**target))
    with pytest.raises(Refusal) as refused:
        blocks.check(ALICE, {"id": "1"})
    assert refused.value.code == code


@pytest.mark.parametrize(
    "target",
    [
        {"user": "bob"},
        {"token_id": "alice"},
        {"sid": "t1"},
        {"resource": {"id": "2"}},
        {"resource": {"id": "1", "other": "1"}},
        {"user": "alice", "token_id": "t2"},
        {"user": "bob", "resource": {"id": "1"}},
    ],
)
async def test_what_does_not_fit_in_every_point_lets_in(target: dict[str, Any]) -> None:
    blocks = Blocks()
    await blocks.add(Block(**target))
    blocks.check(ALICE, {"id": "1"})


async def test_a_block_of_a_resource_waits_until_the_resource_is_known_to_be_theirs() -> None:
    blocks = Blocks()
    await blocks.add(Block(resource={"id": "1"}))
    blocks.check(ALICE)


async def test_claims_of_any_shape_are_looked_at_without_harm() -> None:
    blocks = Blocks()
    await blocks.add(Block(sid="s1"))
    blocks.check(User(id="eve", claims={"sid": ["s1"]}))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"user": ""},
        {"user": "x" * 257},
        {"token_id": "a\nb"},
        {"resource": {}},
        {"reason": "x"},
        {"user": "alice", "until": math.nan},  # it has no place in any order
    ],
)
def test_a_block_that_names_nothing_good_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"names nothing|must|not a number"):
        Block(**wrong)


async def test_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "MAX_BLOCKS", 3)
    now = 0.0
    blocks = Blocks(wall_clock=lambda: now)
    for number in range(3):
        await blocks.add(Block(user=str(number), until=10.0))
    with pytest.raises(TooManyBlocksError):
        await blocks.add(Block(user="x"))
    now = 11.0  # those whose time has passed make room
    await blocks.add(Block(user="x"))
    assert [block.user for block in blocks.all] == ["x"]


# ---------------------------------------------------------------------------- on a server


async def test_pages_of_blocks_follow_each_other_oldest_first() -> None:
    now = 0.0
    blocks = Blocks(wall_clock=lambda: now)
    for number in range(7):
        name = "alice" if number % 2 else "bob"
        await blocks.add(Block(user=name, token_id=str(number), created_at=float(number % 5)))
    await blocks.add(Block(user="alice", token_id="over", until=5.0, created_at=0.5))
    now = 10.0
    cases: list[tuple[str | None, str]] = [(None, "0516234"), ("alice", "513"), ("nobody", "")]
    for user, tokens in cases:
        found: list[Block] = []
        while page := blocks.page(user=user, after=found[-1].id if found else None, limit=2):
            assert len(page) <= 2
            found += page
        ages = [block.created_at for block in found]
        assert ages == sorted(ages)
        assert sorted(str(block.token_id) for block in found) == sorted(tokens)
    assert blocks.page(after="of no block") == ()


async def test_a_page_reads_no_more_blocks_than_are_on_it() -> None:
    """90,000 blocks in one go would hold up every connection."""
    asked = 0

    class Counted(Block):
        @property
        def target(self) -> dict[str, Any]:
            return {"user": self.user}

        def __getattribute__(self, name: str) -> Any:
            nonlocal asked
            asked += name == "until"
            return super().__getattribute__(name)

    blocks = Blocks()
    for number in range(300):
        await blocks.add(Counted(user=f"u{number}", created_at=float(number)))
    middle = blocks.page()[150]
    for limit in (1, 10):
        asked = 0
        assert len(blocks.page(after=middle.id, limit=limit)) == limit
        assert asked <= 2 * limit
    asked = 0
    assert [block.user for block in blocks.page(user="u7")] == ["u7"]
    assert blocks.find(None, {"user": "u8"})
    assert asked <= 4


async def test_blocking_a_user_closes_their_connections_at_once_and_keeps_them_out(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        alice, bob = await harness.ready(), await harness.ready("/ws/2", "bob")
        done = await harness.server.block(user="alice", reason="spam", actor="root")
        assert (done.disconnected, done.stored) == (1, False)
        assert (await alice.receive_end())[1].reason == "session_blocked"
        again = await harness.connect()
        await again.send(type="auth", token="alice")
        messages, closed = await again.receive_end()
        assert (closed.code, closed.reason) == (1008, "session_blocked")
        assert "spam" not in str(messages)
        assert "root" not in str(messages)
        assert (await bob.request("echo", {"text": "x"}))["type"] == "ack"
        assert await harness.server.unblock(user="alice") == 1
        await (await harness.ready()).close()
        await bob.close()
        await harness.assert_nothing_left()


async def test_blocking_a_token_leaves_the_user_another(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        alice = await harness.ready()
        await harness.server.block(token_id="token-alice")
        assert (await alice.receive_end())[1].reason == "token_revoked"
        other = await harness.ready(token="alice:60")
        await other.close()
        await harness.assert_nothing_left()


async def test_a_block_ends_at_its_time(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        until = wall_clock() + 60
        await harness.server.block(user="alice", until=until)
        assert harness.server.statistics().access_blocks == 1
        await trio.sleep(61)
        assert harness.server.blocked() == ()
        await (await harness.ready()).close()
        await harness.assert_nothing_left()
    assert until > EPOCH


async def test_a_block_during_verification_is_met(autojump_clock: MockClock) -> None:
    world = World(verify_delay=1.0)
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.send(type="auth", token="alice")
        await trio.sleep(0.5)  # nobody is known yet
        assert (await harness.server.block(user="alice")).disconnected == 0
        assert (await client.receive_end())[1].reason == "session_blocked"
        await harness.assert_nothing_left()


async def test_a_block_during_the_authorization_applies(autojump_clock: MockClock) -> None:
    world = World(owner_delay=1.0)
    async with serving(world=world) as harness:
        client = await harness.connect()
        await client.send(type="auth", token="alice")
        await trio.sleep(0.5)
        assert (await harness.server.block(user="alice")).disconnected == 1
        assert (await client.receive_end())[1].reason == "session_blocked"
        await harness.assert_nothing_left()


async def test_a_block_of_somebody_elses_resource_does_not_tell_of_it(
    autojump_clock: MockClock,
) -> None:
    async with serving(world=World(owner_delay=1.0)) as harness:
        early = await harness.connect("/ws/2")
        await early.send(type="auth", token="alice")
        await trio.sleep(0.5)
        assert (await harness.server.block(resource={"id": "2"})).disconnected == 0
        assert (await early.receive_end())[1].reason == "access_denied"
        owner = await harness.connect("/ws/2")
        await owner.send(type="auth", token="bob")
        assert (await owner.receive_end())[1].reason == "session_blocked"
        await harness.assert_nothing_left()


async def test_a_refresh_does_not_slip_past_a_block_of_the_new_token(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready(token="alice:60")
        await harness.server.block(token_id="token-alice")
        await client.send(type="auth", token="alice", id=1)
        assert (await client.receive_end())[1].reason == "token_revoked"
        await harness.assert_nothing_left()


# ---------------------------------------------------------------------------- in a database


async def test_blocks_survive_a_restart(database_url: str) -> None:
    target = {"user": "alice", "resource": {"id": "1"}, "reason": "spam", "actor": "root"}
    async with Database(database_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database)
        await nursery.start(blocks.run)
        await blocks.add(block := Block(**target, until=9e9, created_at=5.0))  # type: ignore[arg-type]
        assert blocks.is_stored(block)
        nursery.cancel_scope.cancel()
    async with Database(database_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database)
        await nursery.start(blocks.run)
        (found,) = blocks.all
        assert found.id == block.id
        assert found.target == {"user": "alice", "resource": {"id": "1"}}
        assert (found.until, found.reason, found.actor, found.created_at) == (
            9e9,
            "spam",
            "root",
            5,
        )
        assert await blocks.remove([found]) == 1
        nursery.cancel_scope.cancel()
    async with Database(database_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database)
        await nursery.start(blocks.run)
        assert blocks.all == ()
        nursery.cancel_scope.cancel()


async def test_servers_that_share_a_database_share_blocks(database_url: str) -> None:
    met: list[str | None] = []

    def enforce(block: Block) -> int:
        met.append(block.user)
        return 1

    async with (
        Database(database_url) as one,
        Database(database_url) as two,
        trio.open_nursery() as nursery,
    ):
        here = Blocks(one, refresh=0.1)
        there = Blocks(two, refresh=0.1, enforce=enforce)
        await nursery.start(here.run)
        await nursery.start(there.run)
        block = Block(user="alice")
        await here.add(block)
        await eventually(lambda: met == ["alice"])
        with pytest.raises(Refusal):
            there.check(ALICE)
        await there.remove([block])
        await eventually(lambda: here.all == ())
        here.check(ALICE)
        assert met == ["alice"]
        nursery.cancel_scope.cancel()


async def test_expired_blocks_are_deleted_from_the_database(database_url: str) -> None:
    began = trio.current_time()

    def clock() -> float:
        return 9000.0 + trio.current_time() - began

    async with Database(database_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=0.1, wall_clock=clock)
        await nursery.start(blocks.run)
        await blocks.add(Block(user="alice", until=9000.0 - blocks_module._KEEP_ENDED + 0.2))
        await blocks.add(Block(user="bob"))
        assert len(blocks) == 2
        await eventually(lambda: len(blocks) == 1)
        await eventually(lambda: blocks._has_expired)
        left = await database.read(lambda c: c.execute(select(BLOCKS.c.user_id)).scalars().all())
        assert left == ["bob"]
        nursery.cancel_scope.cancel()


async def test_a_clock_that_is_a_day_ahead_for_a_moment_deletes_no_block(
    database_url: str,
) -> None:
    jump, reads = 0.0, 0
    began = trio.current_time()

    def clock() -> float:
        nonlocal reads
        reads += 1
        return 9000.0 + trio.current_time() - began + jump

    async def some_reads() -> None:
        enough = reads + 10
        await eventually(lambda: reads > enough)

    async with Database(database_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=0.05, wall_clock=clock)
        await nursery.start(blocks.run)
        await blocks.add(Block(user="alice", until=9000.0 + 12 * 3600))
        jump = 86400.0
        await some_reads()
        assert len(blocks) == 1, "nothing is deleted"
        blocks.check(ALICE)  # by this clock its time has passed
        jump = 0.0
        await some_reads()
        with pytest.raises(Refusal):
            blocks.check(ALICE)
        fresh = Blocks(database, wall_clock=clock)
        await fresh._synchronize()
        assert [block.user for block in fresh.all] == ["alice"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("stored", [True, False])
async def test_who_came_in_while_the_clock_was_ahead_is_put_out_when_it_is_right_again(
    stored: bool, sqlite_url: str
) -> None:
    jump, looks, met = 0.0, 0, list[str | None]()

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 9000.0 + jump

    def enforce(block: Block) -> int:
        met.append(block.user)
        return 1

    async with Database(sqlite_url) as database, trio.open_nursery() as nursery:
        blocks = Blocks(
            database if stored else None,
            refresh=0.05,
            enforce=enforce,
            wall_clock=clock,
        )
        await nursery.start(blocks.run)
        await blocks.add(Block(user="alice", until=9000.0 + 12 * 3600))
        await blocks.add(Block(user="bob"))
        assert met == ["alice", "bob"]
        jump = 86400.0
        await eventually(lambda: bool(blocks._over))
        jump = 0.0
        await eventually(lambda: met == ["alice", "bob", "alice"])
        enough = looks + 6
        await eventually(lambda: looks > enough)
        assert len(met) == 3, "once"
        nursery.cancel_scope.cancel()


async def test_a_clock_that_is_ahead_makes_no_room_among_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks_module, "MAX_BLOCKS", 1)
    jump = 0.0
    blocks = Blocks(wall_clock=lambda: 9000.0 + jump)
    await blocks.add(Block(user="alice", until=9000.0 + 12 * 3600))
    blocks._retention.start()
    jump = 86400.0
    with pytest.raises(TooManyBlocksError):
        await blocks.add(Block(user="bob"))
    jump = 0.0
    assert [block.user for block in blocks.all] == ["alice"]


async def test_nobody_gets_in_before_the_blocks_are_known(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with Database(postgresql_url, timeout=1) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=0.1)
        with postgresql.down():
            await nursery.start(blocks.run)
            with pytest.raises(Refusal) as refused:
                blocks.check(ALICE)
            assert refused.value.code == "unavailable"
        await eventually(lambda: blocks._known)
        blocks.check(ALICE)
        nursery.cancel_scope.cancel()


async def test_a_block_made_while_the_database_is_away_is_in_force_and_stored_later(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    async with Database(postgresql_url, timeout=1) as database, trio.open_nursery() as nursery:
        blocks = Blocks(database, refresh=0.1)
        await nursery.start(blocks.run)
        await blocks.add(kept := Block(user="bob"))
        block = Block(user="alice")
        with postgresql.down():
            await blocks.add(block)
            assert not blocks.is_stored(block)
            with pytest.raises(Refusal):
                blocks.check(ALICE)
            with pytest.raises(DatabaseUnavailableError):
                await blocks.remove([kept])
            assert kept in blocks.all  # lifted as a whole, or not at all
        await eventually(lambda: blocks.is_stored(block))
        fresh = Blocks(database)
        await fresh._synchronize()
        assert {each.user for each in fresh.all} == {"alice", "bob"}
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------- sessions in the path


async def test_a_block_of_the_session_that_a_route_is_for_closes_whoever_is_connected_to_it(
    autojump_clock: MockClock,
) -> None:
    async with serving(session_parameter="id") as harness:
        alice, bob = await harness.ready(), await harness.ready("/ws/2", "bob")
        done = await harness.server.block(sid="1")
        assert done.disconnected == 1
        assert (await alice.receive_end())[1].reason == "session_blocked"
        again = await harness.connect()
        await again.send(type="auth", token="alice")
        assert (await again.receive_end())[1].reason == "session_blocked"
        assert (await bob.request("echo", {"text": "x"}))["type"] == "ack"
        assert await harness.server.unblock(sid="1") == 1
        await harness.ready()


async def test_that_a_session_is_blocked_is_told_only_to_whom_it_belongs(
    autojump_clock: MockClock,
) -> None:
    async with serving(session_parameter="id") as harness:
        await harness.server.block(sid="1")
        await harness.server.block(user="bob")
        for token in ("bob", "mallory"):
            client = await harness.connect()
            await client.send(type="auth", token=token)
            assert (await client.receive_end())[1].reason == "access_denied"


async def test_who_is_being_verified_for_a_blocked_session_is_told_after_whose_it_is(
    autojump_clock: MockClock,
) -> None:
    world = World(owner_delay=1.0)
    async with serving(world=world, session_parameter="id") as harness:
        clients = [await harness.connect(), await harness.connect()]
        for client, token in zip(clients, ("alice", "bob"), strict=True):
            await client.send(type="auth", token=token)
        await trio.sleep(0.5)
        assert (await harness.server.block(sid="1")).disconnected == 0
        ends = [(await client.receive_end())[1].reason for client in clients]
        assert ends == ["session_blocked", "access_denied"]
