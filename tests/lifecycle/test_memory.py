"""What clients can make a server hold: by connection, and all together."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import Harness, backend_of, serving
from tests.support.client import Client, masked
from trioserver import Config, HandlerConfig, LimitsConfig, SendQueueConfig
from trioserver.telemetry.metrics.families import Families

MIB = 1024 * 1024
SLOW = HandlerConfig(timeout=3600.0)


def large(id: int, size: int = MIB - 1000, ms: int = 3_000_000) -> bytes:
    return masked(type="slow", id=id, data={"ms": ms, "more": "x" * size})


async def send_all(client: Client, count: int, **options: Any) -> None:
    """Until the server does not take any more of it, or has ended it."""
    with suppress(trio.BrokenResourceError):
        for id in range(count):
            await client.send_bytes(large(id, **options))


async def greedy(harness: Harness) -> Client:
    client = harness.connect_raw(lockstep=True)  # what is not read is not sent
    await client.open("/ws/1")
    await client.authenticate()
    return client


async def test_the_queue_of_a_connection_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    async with serving(Config(port=0, handlers=SLOW)) as harness:
        client = await greedy(harness)
        harness.nursery.start_soon(send_all, client, 64)
        await trio.testing.wait_all_tasks_blocked()
        (connection,) = harness.server.connections
        assert backend_of(connection).websocket.paused
        held = harness.server.statistics().memory_bytes
        assert MIB < held < 4 * MIB, "the one that is handled, the queue, and what one read gave"


async def test_a_queue_full_of_bytes_is_worked_off_and_filled_again(
    autojump_clock: MockClock,
) -> None:
    async with serving(Config(port=0, handlers=SLOW)) as harness:
        client = await harness.ready()
        for id in range(10):
            await client.send_bytes(large(id, ms=100))
        assert [(await client.receive())["id"] for _ in range(10)] == list(range(10))
        assert harness.server.statistics().memory_bytes == 0


async def test_what_waits_in_the_queue_is_given_back_before_the_peer_has_closed(
    autojump_clock: MockClock,
) -> None:
    async with serving(Config(port=0, handlers=SLOW)) as harness:
        client = await greedy(harness)
        harness.nursery.start_soon(send_all, client, 64)
        await trio.testing.wait_all_tasks_blocked()
        (connection,) = harness.server.connections
        connection.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        assert harness.server.statistics().open == 1
        assert harness.server.statistics().memory_bytes == 0


@pytest.mark.parametrize("heartbeat", ["frame", "message"])
async def test_being_paused_exempts_nobody_from_the_heartbeat(
    heartbeat: str, autojump_clock: MockClock
) -> None:
    async with serving(Config(port=0, handlers=SLOW)) as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.authenticate(heartbeat=heartbeat)
        for id in range(3):
            harness.nursery.start_soon(client.send_bytes, large(id))
            await trio.testing.wait_all_tasks_blocked()
        (connection,) = harness.server.connections
        assert backend_of(connection).websocket.paused
        client.answer_ping = False
        _, closed = await client.receive_end()
        assert closed.reason == "heartbeat_timeout"
        assert 40.0 < trio.current_time() < 120.0


async def test_who_is_paused_and_answers_pings_is_heard(autojump_clock: MockClock) -> None:
    config = Config(port=0, handlers=SLOW, limits=LimitsConfig(max_queued_messages=2))
    async with serving(config) as harness:
        client = await harness.ready()
        for id in range(20):
            await client.send(type="slow", id=id, data={"ms": 100_000})
        assert [(await client.receive())["type"] for _ in range(20)] == ["ack"] * 20
        assert client.pings > 10


async def test_together_they_are_bounded_and_those_who_hold_most_wait(
    autojump_clock: MockClock,
) -> None:
    limits = LimitsConfig(max_memory_bytes=16 * MIB)
    config = Config(port=0, handlers=SLOW, limits=limits)
    async with serving(config) as harness:
        good = await harness.ready()
        clients = [await greedy(harness) for _ in range(20)]
        with capture_logs() as lines:
            for client in clients:
                harness.nursery.start_soon(send_all, client, 64)
            await trio.testing.wait_all_tasks_blocked()
            statistics = harness.server.statistics()
        assert statistics.memory_bytes <= limits.max_memory_bytes
        assert statistics.memory_waiting + statistics.memory_closed > 0
        (line,) = [line for line in lines if line["event"] == "memory_pressure"]
        assert line["limit_bytes"] == 16 * MIB
        assert (await good.request("echo", {"text": "still here"}))["type"] == "ack"


async def test_send_queues_count_too_and_beyond_the_limit_the_fullest_go(
    autojump_clock: MockClock,
) -> None:
    limits = LimitsConfig(max_memory_bytes=8 * MIB)
    config = Config(port=0, limits=limits, send_queue=SendQueueConfig(max_age=1000.0))
    async with serving(config) as harness:
        deaf = [await greedy(harness) for _ in range(10)]
        for client in deaf:
            await client.send(type="push", data={"to": 150})  # 1.5 MB
            await trio.testing.wait_all_tasks_blocked()
        server = harness.server
        statistics = server.statistics()
        assert statistics.memory_bytes <= limits.max_memory_bytes
        assert statistics.memory_closed >= 3
        names = {
            sample.name: sample.value
            for family in Families(
                server.metrics, statistics, server.connection_totals_nowait()
            ).collect()
            for sample in family.samples
        }
        assert names["trioserver_memory_closed_connections_total"] == statistics.memory_closed
        assert names["trioserver_memory_bytes"] == statistics.memory_bytes


async def test_a_message_that_never_becomes_whole_counts(autojump_clock: MockClock) -> None:
    async with serving(Config(port=0)) as harness:
        client = await harness.ready()
        whole = large(1)
        for begin in range(0, len(whole) - 100_000, 50_000):
            await client.send_bytes(whole[begin : begin + 50_000])
            await trio.testing.wait_all_tasks_blocked()
        assert harness.server.statistics().memory_bytes > 900_000
        client.vanish()
        await harness.assert_nothing_left()
        assert harness.server.statistics().memory_bytes == 0


async def test_an_event_for_many_who_do_not_read_is_counted_once(
    autojump_clock: MockClock,
) -> None:
    config = Config(port=0, send_queue=SendQueueConfig(max_age=1000.0))
    async with serving(config) as harness:
        deaf = [await greedy(harness) for _ in range(20)]
        for client in deaf:
            await client.send(type="subscribe", topics=["news"], id=1)
            await client.receive()
        for _ in range(15):
            harness.server.application.publish("news", "x" * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        assert harness.server.statistics().memory_bytes < 20 * 200_000 + 15 * 110_000


def test_a_bound_for_all_that_is_too_small_for_one_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_bytes"):
        Config(limits=LimitsConfig(max_memory_bytes=4 * MIB))
