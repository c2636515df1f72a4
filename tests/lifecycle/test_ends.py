"""Slow consumers, topics, disconnecting, draining, being full: how connections end."""

from __future__ import annotations

from collections.abc import MutableMapping

import pytest
import structlog
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import World, serving
from tests.support.client import Closed
from trioserver import Config, LimitsConfig, SendQueueConfig, ShutdownConfig
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.server import registry


async def test_events_reach_all_subscribers_the_publisher_included(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        clients = [await harness.ready() for _ in range(3)]
        for client in clients[:2]:
            await client.send(type="subscribe", topics=["news", "more"], id=1)
            assert await client.receive() == {"type": "ack", "id": 1}
        await clients[0].send(type="publish", topic="news", data={"a": 1}, id=2)
        event = {"type": "event", "topic": "news", "offset": 1, "data": {"a": 1}}
        assert await clients[0].receive() == event
        assert await clients[0].receive() == {"type": "ack", "id": 2, "data": {"offset": 1}}
        assert await clients[1].receive() == event
        assert (await clients[2].request("note"))["type"] == "ack"
        await clients[1].send(type="unsubscribe", events=["news"], id=3)
        assert (await clients[1].receive())["type"] == "ack"
        assert harness.server.application.publish("news", 5) == 2
        assert (await clients[0].receive())["offset"] == 2
        assert (await clients[1].request("note"))["type"] == "ack"
        for client in clients:
            await client.close()
        await harness.assert_nothing_left()


async def test_a_topic_that_is_not_allowed_is_forbidden_and_none_of_the_others_is_subscribed(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="subscribe", topics=["news", "secret"], id=1)
        assert (await client.receive())["code"] == "forbidden"
        (connection,) = harness.server.connections
        assert connection.topics == frozenset()
        await client.send(type="publish", topic="secret", data=1, id=2)
        assert (await client.receive())["code"] == "forbidden"


async def test_subscriptions_have_a_limit(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_subscriptions=3))
    async with serving(config) as harness:
        client = await harness.ready()
        await client.send(type="subscribe", topics=["a", "b"], id=1)
        await client.send(type="subscribe", topics=["b", "c", "d"], id=2)
        await client.send(type="subscribe", topics=["a", "b", "c"], id=3)
        answers = [await client.receive() for _ in range(3)]
        assert [answer["type"] for answer in answers] == ["ack", "error", "ack"]
        assert answers[1]["code"] == "too_many_in_flight"


async def test_a_subscriber_that_never_reads_is_closed_and_holds_nobody_up(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, send_queue=SendQueueConfig(max_bytes=50_000, max_age=1000.0))
    async with serving(config) as harness:
        slow = harness.connect_raw(lockstep=True)
        await slow.open("/ws/1")
        await slow.authenticate()
        await slow.send(type="subscribe", topics=["news"])
        quick = await harness.ready()
        await quick.send(type="subscribe", topics=["news"], id=1)
        await quick.receive()
        for n in range(20):
            harness.server.application.publish("news", "x" * 10_000)
            assert (await quick.receive())["offset"] == n + 1
        assert harness.server.statistics().ready == 2  # until its time to close is over
        messages, closed = await slow.receive_end()
        assert closed == Closed(4002, "slow_consumer")
        assert (messages[-1]["code"], messages[-1]["retry"]) == ("slow_consumer", "backoff")
        assert trio.current_time() < 1.0


async def test_data_that_has_waited_too_long_ends_the_connection(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.authenticate()
        await client.send(type="push", data={"to": 1})
        await harness.assert_nothing_left()
        assert trio.current_time() == pytest.approx(10.0, abs=0.2)
        statistics = harness.server.statistics()
        assert (statistics.rejected, statistics.closed) == ({}, {"slow_consumer": 1})


async def test_a_stream_waits_for_a_slow_peer_instead_of_filling_its_send_queue(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.authenticate()
        await trio.testing.wait_all_tasks_blocked()  # the stream says that all of `ready` was read
        (connection,) = harness.server.connections
        await client.send(type="flood", id=1, data={"to": 200})  # 2 MB, twice the send queue
        await trio.testing.wait_all_tasks_blocked()
        assert harness.world.seen.count("chunk") < 20
        assert connection.statistics().queued_bytes < 100_000
        chunks = [await client.receive() for _ in range(200)]
        assert [chunk["seq"] for chunk in chunks] == list(range(200))
        assert (await client.receive())["type"] == "end"


async def test_disconnect_closes_what_matches_at_once(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        server = harness.server
        alice = [await harness.ready() for _ in range(2)]
        bob = await harness.ready("/ws/2", "bob")
        assert server.disconnect(user="alice", resource={"id": "2"}) == 0
        assert server.disconnect(token_id="token-nobody") == 0
        assert server.disconnect(user="alice") == 2
        for client in alice:
            (error,), closed = await client.receive_end()
            assert (error["code"], error["retry"]) == ("disconnected", "never")
            assert closed == Closed(4001, "disconnected")
        assert server.disconnect(token_id="token-bob", code="token_revoked") == 1
        assert (await bob.receive_end())[1] == Closed(1008, "token_revoked")
        with pytest.raises(ValueError, match="no criterion given"):
            server.disconnect()
        await harness.assert_nothing_left()


async def test_disconnect_closes_a_user_during_the_authorization(
    autojump_clock: MockClock,
) -> None:
    async with serving(world=World(owner_delay=3.0)) as harness:
        client = await harness.connect()
        await client.receive_until("hello")
        await client.send(type="auth", token="alice")
        await trio.sleep(1.0)
        assert harness.server.disconnect(user="alice", code="token_revoked") == 1
        assert (await client.receive_end())[1] == Closed(1008, "token_revoked")
        assert harness.world.seen == []
        assert harness.world.cancelled == 1


async def test_who_comes_is_compared_with_connections_of_the_same_user_only(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    compared: list[str] = []
    is_same = registry._is_same_target

    def noted(one: ServerConnection, other: ServerConnection) -> bool:
        compared.append(one.facade.user.id)
        return is_same(one, other)

    monkeypatch.setattr(registry, "_is_same_target", noted)
    async with serving(supersede=True) as harness:
        for _ in range(2):
            await harness.ready("/ws/2", "bob")
            await harness.ready()
    assert compared == ["bob", "alice"]


async def test_a_newer_connection_supersedes_where_the_route_says_so(
    autojump_clock: MockClock,
) -> None:
    async with serving(supersede=True) as harness:
        harness.world.owners["3"] = "alice"
        first, elsewhere = await harness.ready(), await harness.ready("/ws/3")
        second = await harness.ready()
        assert (await first.receive_end())[1] == Closed(4001, "superseded")
        for client in (second, elsewhere):
            assert (await client.request("note"))["type"] == "ack"


async def test_draining_gives_each_peer_a_slot_of_its_own(autojump_clock: MockClock) -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=20.0))
    async with serving(config) as harness:
        clients = [await harness.ready() for _ in range(4)]
        waiting = await harness.connect()
        await trio.testing.wait_all_tasks_blocked()
        drained = trio.Event()

        async def drain() -> None:
            await harness.server.drain()
            drained.set()

        harness.nursery.start_soon(drain)
        await waiting.receive_until("hello")
        assert (await waiting.receive_end())[1] == Closed(1001, "shutdown")
        assert trio.current_time() < 1.0
        slots = []
        for client in clients:
            goaway = await client.receive()
            assert goaway["type"] == "goaway"
            assert goaway["reason"] == "shutdown"
            slots.append(goaway["reconnect_after_ms"])
        assert sorted(slots) == [5000, 10000, 15000, 20000]
        assert (await clients[0].request("note"))["type"] == "ack"  # still served until its slot
        for slot, client in sorted(zip(slots, clients, strict=True), key=lambda pair: pair[0]):
            (error,), closed = await client.receive_end()
            assert (error["code"], error["retry"]) == ("shutdown", "backoff")
            assert closed == Closed(1001, "shutdown")
            assert trio.current_time() == pytest.approx(slot / 1000, abs=0.1)
        await drained.wait()


async def test_a_restart_closes_with_1012(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        harness.nursery.start_soon(harness.server.drain, "restart")
        assert (await client.receive_until("goaway"))["reason"] == "restart"
        assert (await client.receive_end())[1] == Closed(1012, "restart")


async def test_a_server_that_is_cancelled_ends_at_once(autojump_clock: MockClock) -> None:
    world = World()
    async with serving(world=world) as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 1_000_000})
        await trio.sleep(1.0)
        harness.nursery.cancel_scope.cancel()
    assert world.cancelled == 1


async def test_a_full_server_says_so(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_connections=2))
    async with serving(config) as harness:
        clients = [await harness.ready() for _ in range(2)]
        late = await harness.connect()
        (error,), closed = await late.receive_end()
        assert (error["code"], error["retry"]) == ("server_busy", "backoff")
        assert closed == Closed(1013, "server_busy")
        await clients[0].close()
        await trio.testing.wait_all_tasks_blocked()
        await harness.ready()


async def test_the_oldest_silent_connection_is_evicted_for_a_new_one(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, limits=LimitsConfig(max_unauthenticated=2))
    async with serving(config) as harness:
        ready = await harness.ready()
        await trio.testing.wait_all_tasks_blocked()
        half = harness.connect_raw()
        await trio.testing.wait_all_tasks_blocked()
        silent = await harness.connect()
        await silent.receive_until("hello")
        third = await harness.connect()
        await third.receive_until("hello")
        assert bytes(await half.stream.receive_some(100)) == b""
        await harness.ready()
        assert (await silent.receive_end())[1] == Closed(1013, "server_busy")
        for client in (third, ready):
            if client is third:
                await client.send(type="auth", token="alice")
                assert (await client.receive())["type"] == "ready"
            assert (await client.request("note"))["type"] == "ack"


async def test_a_log_that_raises_ends_the_connection_whose_line_it_was_and_no_other(
    autojump_clock: MockClock,
) -> None:
    def raise_at_ends(_: object, __: str, event: MutableMapping[str, object]) -> str:
        if event["event"] in ("connection_closed", "connection_handler_failed"):
            raise OSError("no space left on the device")
        return ""

    async with serving() as harness:
        structlog.configure(processors=[raise_at_ends])
        try:
            first, second = await harness.ready(), await harness.ready()
            await first.close()
            await trio.sleep(1.0)
            assert (await second.request("note"))["type"] == "ack"
        finally:
            structlog.reset_defaults()
