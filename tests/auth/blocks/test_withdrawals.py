"""A right that is withdrawn while a verification is on its way: the verification lets nobody in.

In each test the withdrawal is complete before the verification ends, at a moment that is moved
through all of the verification.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from protocol import Disconnect, Refusal
from tests.support.app import Harness, World, serving
from tests.support.client import Client
from trioserver import User
from trioserver.auth.blocks import withdrawals
from trioserver.auth.blocks.withdrawals import Withdrawals

Withdraw = Callable[[Harness], Awaitable[None]]

MOMENTS = [0.5, 1.5]  # while it is asked who it is, and while it is asked whose the resource is


def slow_world() -> World:
    return World(verify_delay=1.0, owner_delay=1.0)


async def disconnect_user(harness: Harness) -> None:
    harness.server.disconnect(user="alice")


async def disconnect_user_and_resource(harness: Harness) -> None:
    harness.server.disconnect(user="alice", resource={"id": "1"})


async def disconnect_token(harness: Harness) -> None:
    harness.server.disconnect(token_id="token-alice", code="token_revoked")


async def disconnect_resource(harness: Harness) -> None:
    harness.server.disconnect(resource={"id": "1"})


async def disconnect_as_unavailable(harness: Harness) -> None:
    harness.server.disconnect(user="alice", code="unavailable")


async def unshare(harness: Harness) -> None:
    harness.world.owners["1"] = "bob"
    harness.server.disconnect(user="alice", resource={"id": "1"}, code="access_denied")


async def block_user(harness: Harness) -> None:
    await harness.server.block(user="alice")


async def block_token(harness: Harness) -> None:
    await harness.server.block(token_id="token-alice")


async def block_resource(harness: Harness) -> None:
    await harness.server.block(resource={"id": "1"})


async def block_session(harness: Harness) -> None:
    await harness.server.block(sid="1")


ALL = [
    disconnect_user,
    disconnect_user_and_resource,
    disconnect_token,
    disconnect_resource,
    disconnect_as_unavailable,
    unshare,
    block_user,
    block_token,
    block_resource,
    block_session,
]


@pytest.mark.parametrize("withdraw", ALL)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_no_verification_survives_a_withdrawal_that_came_after_its_beginning(
    withdraw: Withdraw, moment: float, autojump_clock: MockClock
) -> None:
    async with serving(world=slow_world(), session_parameter="id") as harness:
        client = await harness.connect()
        await client.send(type="auth", token="alice")
        await trio.sleep(moment)
        await withdraw(harness)
        messages, _ = await client.receive_end()
        assert "ready" not in [message["type"] for message in messages]
        assert messages[-1]["fatal"]
        await harness.assert_nothing_left()
        assert harness.world.seen == []
        assert len(harness.server._context.blocks.withdrawals) == 0


@pytest.mark.parametrize("withdraw", ALL)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_no_refresh_survives_it_either(
    withdraw: Withdraw, moment: float, autojump_clock: MockClock
) -> None:
    world = World()
    async with serving(world=world, session_parameter="id") as harness:
        client = await harness.ready(token="alice:300")  # this token has no id, the new one has
        world.verify_delay = world.owner_delay = 1.0
        await client.send(type="auth", token="alice", id=1)
        await trio.sleep(moment)
        await withdraw(harness)
        messages, _ = await client.receive_end()
        assert "auth_refreshed" not in [message["type"] for message in messages]
        assert messages[-1]["fatal"]
        await harness.assert_nothing_left()
        assert len(harness.server._context.blocks.withdrawals) == 0


@pytest.mark.parametrize("withdraw", ALL)
async def test_who_is_verified_and_has_not_read_ready_is_met(
    withdraw: Withdraw, autojump_clock: MockClock
) -> None:
    async with serving(session_parameter="id") as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await trio.testing.wait_all_tasks_blocked()
        await withdraw(harness)
        with trio.fail_after(5.0):  # long before the deadline of the authentication
            await harness.assert_nothing_left()
        assert harness.world.seen == []


@pytest.mark.parametrize("withdraw", [disconnect_user, disconnect_token, disconnect_resource])
async def test_a_disconnect_keeps_nobody_out_who_comes_later(
    withdraw: Withdraw, autojump_clock: MockClock
) -> None:
    async with serving(world=slow_world()) as harness:
        early = await harness.connect()
        await early.send(type="auth", token="alice")
        await trio.sleep(0.5)
        await withdraw(harness)
        late = await harness.connect()
        await late.authenticate("alice")
        assert (await late.request("note"))["type"] == "ack"


async def test_a_disconnect_of_somebody_else_changes_nothing(autojump_clock: MockClock) -> None:
    async with serving(world=slow_world()) as harness:
        client: Client = await harness.connect()
        await client.send(type="auth", token="alice")
        await trio.sleep(0.5)
        for resource in (None, {"id": "1"}):
            harness.server.disconnect(user="bob", resource=resource)
        harness.server.disconnect(user="alice", resource={"id": "2"})
        harness.server.disconnect(user="alice", token_id="another")
        harness.server.disconnect(token_id="another")
        await client.receive_until("ready")


ALICE = User(id="alice", token_id="a")


def withdraw_from(remembered: Withdrawals, user: str) -> None:
    refusal = Disconnect("disconnected")
    remembered.add(user=user, token_id=None, resource=None, refusal=refusal)


def test_nothing_is_remembered_while_nobody_is_being_verified() -> None:
    remembered = Withdrawals()
    withdraw_from(remembered, "alice")
    assert len(remembered) == 0
    with remembered.verification() as verification:
        remembered.check(verification, ALICE, {})
        withdraw_from(remembered, "bob")
        remembered.check(verification, ALICE, {})
        assert len(remembered) == 1
        withdraw_from(remembered, "alice")
        with pytest.raises(Disconnect):
            remembered.check(verification, ALICE, {})
    assert len(remembered) == 0


def test_only_what_a_verification_can_need_is_remembered() -> None:
    remembered = Withdrawals()
    first, second = remembered.verification(), remembered.verification()
    first.__enter__()
    withdraw_from(remembered, "alice")
    with second:
        withdraw_from(remembered, "bob")
        assert len(remembered) == 2
        first.__exit__(None, None, None)
        withdraw_from(remembered, "bob")
        assert len(remembered) == 2
    assert len(remembered) == 0


def test_when_more_is_withdrawn_than_can_be_remembered_nobody_is_let_in_by_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(withdrawals, "MAX_REMEMBERED", 10)
    remembered = Withdrawals()
    with remembered.verification() as early:
        withdraw_from(remembered, "alice")
        with remembered.verification() as late:
            for n in range(10):
                withdraw_from(remembered, f"user-{n}")
            assert len(remembered) == 10
            with pytest.raises(Refusal) as refused:
                remembered.check(early, ALICE, {})
            assert refused.value.code == "unavailable"
            remembered.check(late, ALICE, {})
