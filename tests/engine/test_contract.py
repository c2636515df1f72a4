"""What every engine does: one suite for the memory engine, Valkey, and an older Redis."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from msgspec import Raw

from protocol import raw
from tests.engine.listener import Listener
from tests.support.valkey import ValkeyServer, redis_binary, running
from trioserver.engine.errors import WrongThreadError
from trioserver.engine.history import History
from trioserver.engine.memory_engine import MemoryEngine
from trioserver.engine.position import Position
from trioserver.engine.valkey.address import parse_engine_url
from trioserver.engine.valkey.engine import ValkeyEngine

Engine: TypeAlias = MemoryEngine | ValkeyEngine
Start = Callable[[], Any]

KEPT = History(events=10, bytes=1000, seconds=60)


def history_of(topic: str) -> History | None:
    return KEPT if topic.startswith("kept") else None


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ValkeyServer]]:
    with running(tmp_path_factory.mktemp("valkey")) as valkey:
        found = {"valkey": valkey}
        binary = redis_binary()
        if binary is None:
            yield found
            return
        with running(tmp_path_factory.mktemp("redis"), binary=binary) as redis:
            yield {**found, "redis": redis}


@pytest.fixture(params=["memory", "valkey", "redis"])
def start(
    request: pytest.FixtureRequest, servers: dict[str, ValkeyServer], tmp_path: Path
) -> Callable[[], Any]:
    """Start an engine; each test has a prefix of its own in the server."""

    @asynccontextmanager
    async def started() -> AsyncIterator[Engine]:
        engine: Engine
        if request.param == "memory":
            engine = MemoryEngine(history_of=history_of)
        else:
            if request.param not in servers:
                if os.environ.get("CI"):
                    pytest.fail("redis-server is not installed")
                pytest.skip("redis-server is not installed")
            url = servers[request.param].unix_url
            engine = ValkeyEngine(
                parse_engine_url(url), prefix=tmp_path.name, history_of=history_of
            )
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()

    return started


async def test_subscriber_gets_events_of_its_topic_in_order(start: Start) -> None:
    async with start() as engine:
        listener, other = Listener(), Listener()
        await engine.subscribe("a", listener)
        await engine.subscribe("b", other)
        positions = [await engine.publish("a", raw({"n": n})) for n in range(3)]
        await listener.wait_for("event", 3)
        assert [position.offset for position in positions] == [1, 2, 3]
        assert listener.offsets == [1, 2, 3]
        assert listener.data == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert other.heard == []


async def test_offsets_of_a_topic_are_its_own_and_need_no_subscriber(start: Start) -> None:
    async with start() as engine:
        assert [(await engine.publish("a", raw(n))).offset for n in range(2)] == [1, 2]
        assert (await engine.publish("b", raw(0))).offset == 1
        listener = Listener()
        resumed = await engine.subscribe("a", listener)
        assert (resumed.position.offset, resumed.why, resumed.recovered) == (2, "new", False)
        assert (await engine.publish("a", raw(2))).offset == 3
        await listener.wait_for("event")
        assert listener.offsets == [3]


async def test_second_subscription_of_a_subscriber_changes_nothing(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        for _ in range(2):
            await engine.subscribe("a", listener)
        await engine.publish("a", raw(0))
        await engine.publish("a", raw(1))
        await listener.wait_for("event", 2)
        assert listener.offsets == [1, 2]


async def test_unsubscribed_subscriber_gets_nothing_more(start: Start) -> None:
    async with start() as engine:
        listener, stays = Listener(), Listener()
        await engine.subscribe("a", listener)
        await engine.subscribe("a", stays)
        engine.unsubscribe("a", listener)
        engine.unsubscribe("nothing", listener)
        await engine.publish("a", raw(0))
        await stays.wait_for("event")
        assert listener.heard == []


async def test_subscriber_that_comes_back_gets_exactly_what_it_missed(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        seen = await engine.publish("kept", raw(0))
        for n in range(1, 5):
            await engine.publish("kept", raw(n))
        resumed = await engine.subscribe("kept", listener, seen)
        assert (resumed.recovered, resumed.why, resumed.position.offset) == (True, "ok", 5)
        frames = [json.loads(frame) for frame in resumed.frames]
        assert [(frame["offset"], frame["data"]) for frame in frames] == [
            (2, 1),
            (3, 2),
            (4, 3),
            (5, 4),
        ]
        assert listener.heard == []
        await engine.publish("kept", raw(5))
        await listener.wait_for("event")
        assert listener.offsets == [6]


async def test_resume_with_nothing_missed_is_recovered_without_history(start: Start) -> None:
    async with start() as engine:
        seen = await engine.publish("a", raw(0))
        resumed = await engine.subscribe("a", Listener(), seen)
        assert (resumed.recovered, resumed.why, resumed.frames) == (True, "ok", ())


async def test_resume_of_a_topic_without_history_is_trimmed(start: Start) -> None:
    async with start() as engine:
        seen = await engine.publish("a", raw(0))
        await engine.publish("a", raw(1))
        resumed = await engine.subscribe("a", Listener(), seen)
        assert (resumed.recovered, resumed.why, resumed.position.offset) == (False, "trimmed", 2)


@pytest.mark.parametrize(("count", "text"), [(20, "x"), (5, "x" * 300)])
async def test_history_is_bounded_in_events_and_bytes(start: Start, count: int, text: str) -> None:
    async with start() as engine:
        positions = [await engine.publish("kept", raw(text)) for _ in range(count)]
        resumed = await engine.subscribe("kept", Listener(), positions[0])
        assert resumed.why == "trimmed"
        resumed = await engine.subscribe("kept", Listener(), positions[-2])
        assert (resumed.why, len(resumed.frames)) == ("ok", 1)


async def test_position_of_another_epoch_is_not_resumed(start: Start) -> None:
    async with start() as engine:
        await engine.publish("kept", raw(0))
        resumed = await engine.subscribe("kept", Listener(), Position(1, "abc.0"))
        assert (resumed.recovered, resumed.why) == (False, "epoch")


async def test_position_above_the_last_event_is_forked(start: Start) -> None:
    async with start() as engine:
        position = await engine.publish("kept", raw(0))
        resumed = await engine.subscribe("kept", Listener(), Position(2, position.mark))
        assert (resumed.recovered, resumed.why) == (False, "forked")


async def test_event_with_a_key_is_published_once(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        await engine.subscribe("a", listener)
        first = await engine.publish("a", raw(0), key="k")
        assert await engine.publish("a", raw(0), key="k") == first
        assert (await engine.publish("a", raw(1), key="other")).offset == 2
        await listener.wait_for("event", 2)
        assert listener.data == [0, 1]


async def test_event_without_history_empties_the_history(start: Start) -> None:
    async with start() as engine:
        seen = await engine.publish("kept", raw(0))
        await engine.publish("kept", raw(1), history=False)
        resumed = await engine.subscribe("kept", Listener(), seen)
        assert resumed.why == "trimmed"


@pytest.mark.parametrize("topic", ["kept:{x}", "kept}x{", "kept%7D", "kept é 🎈", "kept\n\r\0"])
async def test_names_of_topics_may_have_any_character(start: Start, topic: str) -> None:
    async with start() as engine:
        listener = Listener()
        await engine.subscribe(topic, listener)
        seen = await engine.publish(topic, raw(0), key="}k{")
        await engine.publish(topic, raw(1))
        await listener.wait_for("event", 2)
        assert listener.heard[0]["topic"] == topic
        assert (await engine.subscribe(topic, Listener(), seen)).why == "ok"


async def test_publish_nowait_from_any_thread_reaches_subscribers(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        await engine.subscribe("a", listener)
        engine.publish_nowait("a", raw("here"))
        await trio.to_thread.run_sync(engine.publish_nowait, "a", raw("thread"))
        await listener.wait_for("event", 2)
        assert listener.data == ["here", "thread"]


async def test_publish_from_a_thread_of_its_own_is_refused(start: Start) -> None:
    async with start() as engine:
        raised: list[BaseException] = []

        def publish() -> None:
            try:
                trio.run(engine.publish, "a", raw(0))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert [type(error) for error in raised] == [WrongThreadError]
        assert (await engine.publish("a", raw(0))).offset == 1


async def test_cancelled_subscription_leaves_no_subscriber(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        for topic in ("a", "kept"):
            for deadline in (0.0, 0.0001, 0.001):
                with trio.move_on_after(deadline) as scope:
                    await engine.subscribe(topic, listener, Position(0, "x.0"))
                if not scope.cancelled_caught:
                    engine.unsubscribe(topic, listener)
            await engine.publish(topic, raw(0))
        await trio.sleep(0.05)
        assert listener.heard == []


async def test_large_event_is_delivered_whole(start: Start) -> None:
    async with start() as engine:
        listener = Listener()
        await engine.subscribe("a", listener)
        await engine.publish("a", Raw(b'"' + b"x" * 1_000_000 + b'"'))
        await listener.wait_for("event")
        assert len(listener.data[0]) == 1_000_000
