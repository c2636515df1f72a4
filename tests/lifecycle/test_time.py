"""Heartbeats, the token's end, refresh: what happens by the clock."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import World, serving
from tests.support.client import Closed
from trioserver import Application, Config, HeartbeatConfig


async def test_frames_are_pinged_and_the_round_trip_is_measured(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        (connection,) = harness.server.connections
        with trio.move_on_after(95.0):
            await client.receive()
        assert client.pings == 3
        assert connection.statistics().round_trip == 0.0
        assert (await client.request("echo", {"text": "x"}))["type"] == "ack"


async def test_a_silent_peer_is_found_and_closed(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        client.answer_ping = False
        (error,), closed = await client.receive_end()
        assert (error["code"], error["retry"]) == ("heartbeat_timeout", "backoff")
        assert closed == Closed(4000, "heartbeat_timeout")
        assert trio.current_time() == pytest.approx(40.0, abs=0.1)
        await harness.assert_nothing_left()


async def test_incoming_data_counts_as_life(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        client.answer_ping = False
        for _ in range(20):
            await trio.sleep(9.0)
            assert (await client.request("note"))["type"] == "ack"


@pytest.mark.parametrize(("asked", "form"), [({}, "message"), ({"heartbeat": "frame"}, "frame")])
async def test_a_route_says_how_those_are_pinged_who_do_not(
    asked: dict[str, str], form: str, autojump_clock: MockClock
) -> None:
    async with serving(heartbeat="message") as harness:
        client = await harness.connect()
        assert (await client.authenticate(**asked))["heartbeat"]["mode"] == form
        await trio.sleep(31.0)
        if form == "message":
            assert await client.receive() == {"type": "ping"}
        await client.send(type="ping", id=1)
        assert (await client.receive())["type"] == "pong"
        assert client.pings == (form == "frame")


def test_a_route_has_one_of_two_heartbeats() -> None:
    with pytest.raises(ValueError, match="'frame' or 'message'"):
        Application(auth=World().authenticate).route("/", heartbeat="sound")  # type: ignore[arg-type]


async def test_a_client_that_asks_for_messages_is_pinged_by_message(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.connect()
        ready = await client.authenticate(heartbeat="message")
        assert ready["heartbeat"]["mode"] == "message"
        for round in (1, 2, 3):
            assert await client.receive() == {"type": "ping"}
            assert trio.current_time() == pytest.approx(round * 30.0, abs=0.5)
            await client.send(type="pong")
        assert await client.receive() == {"type": "ping"}
        _, closed = await client.receive_end()
        assert closed == Closed(4000, "heartbeat_timeout")
        assert client.pings == 0


async def test_pings_do_not_wait_behind_queued_data(autojump_clock: MockClock) -> None:
    config = Config(port=0, heartbeat=HeartbeatConfig(interval=1.0, timeout=5.0))
    async with serving(config) as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.authenticate()
        await client.send(type="push", data={"to": 50})  # half a MiB, of which nothing is read
        await trio.sleep(1.5)
        for _ in range(12):  # one chunk of the send queue is under way, the ping comes right behind
            await client.receive()
        assert client.pings == 1


async def test_a_token_that_ends_is_warned_of_and_then_closed(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready(token="alice:300")
        warning = await client.receive()
        assert trio.current_time() == pytest.approx(240.0, abs=0.01)
        assert warning["type"] == "auth_expiring"
        assert warning["expires_in_ms"] == 60_000
        assert warning["expires_at"] == "2023-11-14T22:18:20.000Z"
        (error,), closed = await client.receive_end()
        assert trio.current_time() == pytest.approx(300.0, abs=0.01)
        assert (error["code"], error["retry"]) == ("token_expired", "refresh_token")
        assert closed == Closed(1008, "token_expired")


async def test_a_refresh_keeps_the_connection_past_the_first_tokens_end(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready(token="alice:300")
        await client.receive_until("auth_expiring")
        await client.send(type="auth", id="r", token="alice:500")
        refreshed = await client.receive()
        assert refreshed["type"] == "auth_refreshed"
        assert refreshed["id"] == "r"
        assert refreshed["expires_in_ms"] == 500_000
        await client.receive_until("auth_expiring")
        assert trio.current_time() == pytest.approx(680.0, abs=0.1)
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "token_expired")
        assert trio.current_time() == pytest.approx(740.0, abs=0.1)


@pytest.mark.parametrize(
    ("token", "code"),
    [("bob", "access_denied"), ("forged", "token_invalid"), ("expired", "token_expired")],
)
async def test_a_bad_refresh_ends_the_connection(
    autojump_clock: MockClock, token: str, code: str
) -> None:
    async with serving() as harness:
        harness.world.owners["1"] = "alice"
        client = await harness.ready()
        await client.send(type="auth", token=token, id=1)
        (error,), closed = await client.receive_end()
        assert (error["code"], error["id"]) == (code, 1)
        assert closed == Closed(1008, code)
        await harness.assert_nothing_left()


async def test_a_refresh_is_authorized_again(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        harness.world.owners["1"] = "bob"
        await client.send(type="auth", token="alice")
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "access_denied")


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_a_refresh_during_an_outage_leaves_the_old_token_in_force(
    autojump_clock: MockClock, trouble: str
) -> None:
    world = World()
    async with serving(world=world) as harness:
        client = await harness.ready(token="alice:300")
        if trouble == "fails":
            world.authorizer_error = OSError()
        else:
            world.owner_delay = 1000.0
        await client.send(type="auth", token="alice", id=5)
        error = await client.receive()
        assert (error["code"], error["id"], error["fatal"]) == ("unavailable", 5, False)
        assert (await client.request("echo", {"text": "x"}))["type"] == "ack"
        world.authorizer_error, world.owner_delay = None, 0.0
        await client.send(type="auth", token="alice", id=6)
        assert (await client.receive())["type"] == "auth_refreshed"


async def test_messages_are_handled_during_a_refresh(autojump_clock: MockClock) -> None:
    world = World()
    async with serving(world=world) as harness:
        client = await harness.ready()
        world.verify_delay = 2.0
        await client.send(type="auth", token="alice", id=5)
        assert (await client.request("echo", {"text": "x"}))["type"] == "ack"
        assert (await client.receive())["type"] == "auth_refreshed"


async def test_a_refresh_is_cancelled_when_the_peer_leaves(autojump_clock: MockClock) -> None:
    world = World()
    async with serving(world=world) as harness:
        client = await harness.ready()
        world.owner_delay = 2.0
        await client.send(type="auth", token="alice")
        await trio.sleep(1.0)
        client.vanish()
        await harness.assert_nothing_left()
        assert world.cancelled == 1
