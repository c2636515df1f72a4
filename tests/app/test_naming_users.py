"""Wherever a user is meant, a `User` and an id do the same, and anything else is a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio.testing
from trio.testing import MockClock

from tests.support.app import Harness, serving
from trioserver import (
    AuditQuery,
    Block,
    ConnectionFilter,
    Mailbox,
    Presence,
    Server,
    User,
)
from trioserver.auth import id_if_given, id_of

ALICE = User(id="alice", claims={"any": "thing"})
MISTAKES: list[Any] = [5, b"alice", ("alice",), {"id": "alice"}, object()]


@pytest.mark.parametrize("user", ["alice", ALICE])
async def test_a_user_and_an_id_both_disconnect_block_and_unblock(
    user: str | User, autojump_clock: MockClock
) -> None:
    async with serving(presence=Presence()) as harness:
        server = harness.server
        (presence,) = [route.presence for route in server.application.routes]
        await harness.ready()
        assert presence.is_present(user)
        assert len(presence.connections(user)) == 1
        assert len(server.inspect_all(ConnectionFilter(user=user))) == 1
        assert server.disconnect(user=user) == 1
        await harness.assert_nothing_left()
        await harness.ready()
        blocked = await server.block(user=user, actor=user)
        assert (blocked.disconnected, blocked.block.actor) == (1, "alice")
        assert await server.unblock(user=user) == 1
        await harness.assert_nothing_left()
        await harness.ready()


async def test_a_connection_and_its_id_both_do(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        server = harness.server
        for by_id in (False, True):
            await harness.ready()
            (connection,) = server.connections
            named = connection.id if by_id else connection
            report = server.inspect(named)
            assert report is not None
            assert report.id == connection.id
            assert server.disconnect(connection=named) == 1
            await harness.assert_nothing_left()


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_anything_else_is_a_type_error_and_changes_nothing(
    mistake: Any, autojump_clock: MockClock
) -> None:
    async with serving(presence=Presence()) as harness:
        server = harness.server
        (presence,) = [route.presence for route in server.application.routes]
        await harness.ready()
        calls: list[Callable[[], object]] = [
            lambda: server.disconnect(user=mistake),
            lambda: server.disconnect(connection=mistake),
            lambda: server.inspect(mistake),
            lambda: presence.is_present(mistake),
            lambda: presence.connections(mistake),
            lambda: ConnectionFilter(user=mistake),
            lambda: AuditQuery(user=mistake),
            lambda: Block(user=mistake),
            lambda: id_of(mistake),
            lambda: id_if_given(mistake),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="a str, not"):
                call()
        for call_async in (server.block, server.unblock):
            with pytest.raises(TypeError):
                await call_async(user=mistake)
        assert len(server.connections) == 1


async def test_the_mailbox_takes_both_and_nothing_else(tmp_path: Path) -> None:
    mailbox = Mailbox(f"sqlite:///{tmp_path}/mail.db")
    async with mailbox._database:
        await mailbox.send(ALICE, "letter")
        await mailbox.send("alice", "letter")
        assert await mailbox.waiting(ALICE) == await mailbox.waiting("alice") == 2
        await mailbox.acknowledge(ALICE, ["unknown"])
        with pytest.raises(TypeError):
            await mailbox.send(5, "letter")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await mailbox.waiting(5)  # type: ignore[arg-type]


async def test_what_was_refused_is_counted_once_for_statistics_and_metrics(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        server: Server = harness.server
        await _be_refused(harness)
        alice = await harness.ready()
        server.disconnect(user="alice")
        await alice.receive_end()
        await harness.assert_nothing_left()
        statistics = server.statistics()
        assert statistics.rejected == {"token_invalid": 1, "access_denied": 1}
        assert statistics.rejected == server.metrics.rejected
        assert statistics.closed == {"token_invalid": 1, "access_denied": 1, "disconnected": 1}


async def _be_refused(harness: Harness) -> None:
    for token in ("forged", "bob"):
        client = await harness.connect()
        await client.send(type="auth", token=token)
        await client.receive_end()
    await trio.testing.wait_all_tasks_blocked()
