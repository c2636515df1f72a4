"""A client that reads steadily, however slowly, and keeps to its limits gets all of its answers."""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.app import backend_of
from tests.support.client import Client, Closed, masked
from tests.support.running import running
from tests.support.tls import files_in
from trioserver import (
    Application,
    Config,
    Connection,
    HandlerConfig,
    HeartbeatConfig,
    SendQueueConfig,
    Server,
    User,
    serve,
)

SEND_QUEUE: Final = SendQueueConfig(max_bytes=256 * 1024, max_age=10.0)
SLOWEST: Final = 1.02 * 128 * 1024 / SEND_QUEUE.max_age
"""Bytes a second that are enough, however large the messages are."""

LARGEST: Final = 190_000
"""Characters of an answer; the largest message here is 192 KiB."""

CONFIG: Final = Config(
    port=0,
    send_queue=SEND_QUEUE,
    handlers=HandlerConfig(timeout=3600.0),
    heartbeat=HeartbeatConfig(interval=3600.0),
)

KINDS: Final = ("inline", "loop", "waiting", "stream", "push", "publish", "ping", "topics")


class Want(msgspec.Struct):
    sizes: list[int]


async def _anybody(credentials: Any, request: Any) -> User:
    return User(id=str(credentials.token))


def make_application() -> Application:
    app = Application(auth=_anybody)
    route = app.route("/ws")

    @route.on("inline")
    def inline(connection: Connection, want: Want) -> str:
        return "x" * sum(want.sizes)

    @route.on("loop")
    async def loop(connection: Connection, want: Want) -> str:
        return "x" * sum(want.sizes)

    @route.on("waiting")
    async def waiting(connection: Connection, want: Want) -> str:
        await trio.sleep(0.01)
        return "x" * sum(want.sizes)

    @route.on("stream")
    async def stream(connection: Connection, want: Want) -> AsyncIterator[str]:
        for size in want.sizes:
            yield "x" * size

    @route.on("push")
    async def push(connection: Connection, want: Want) -> None:
        for size in want.sizes:
            await connection.send("pushed", "x" * size)

    @route.on("task")
    def task(connection: Connection, want: Want) -> None:
        connection.start_soon(push, connection, want)

    @route.on_ready
    async def ready(connection: Connection) -> None:
        if connection.user.id == "greeted":
            await push(connection, Want([LARGEST] * 5))

    @route.allow_subscribe
    @route.allow_publish
    def may(connection: Connection, topic: str) -> bool:
        return True

    return app


@attrs.define
class Steady(trio.abc.Stream):
    """A stream that is read at a steady ``rate``, in bytes a second."""

    inner: trio.abc.Stream
    rate: float

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self.inner.receive_some(4096))
        await trio.sleep(len(data) / self.rate)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


@attrs.define
class Place:
    server: Server
    nursery: trio.Nursery

    async def reader(
        self, rate: float, token: str = "alice", heartbeat: str | None = None
    ) -> Client:
        """A client that is ready, and then reads at this rate; nothing is buffered on the way."""
        ours, theirs = trio.testing.lockstep_stream_pair()
        self.nursery.start_soon(self.server.serve_stream, theirs)
        client = Client(Steady(ours, 1e9))
        client.answer_ping = False
        await client.open("/ws")
        await client.authenticate(token, heartbeat=heartbeat)
        client.stream.rate = rate  # type: ignore[attr-defined]
        return client


@asynccontextmanager
async def place(config: Config = CONFIG) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, make_application(), config)
        yield Place(server, nursery)
        nursery.cancel_scope.cancel()


def requests(seed: int, count: int) -> list[dict[str, Any]]:
    """So many requests of all kinds, that want answers of all sizes."""
    rng = random.Random(seed)
    made: list[dict[str, Any]] = []
    for id in range(count):
        kind = rng.choice(KINDS)
        size = int(min(LARGEST, rng.expovariate(1 / 20_000)))
        sizes = [size] * (rng.randint(1, 3) if kind in ("stream", "push") else 1)
        content: dict[str, Any] = {"data": {"sizes": sizes}}
        if kind == "publish":
            content = {"topic": "news", "data": "x" * min(size, 10_000)}
        elif kind == "ping":
            content = {"data": "x" * size}
        elif kind == "topics":
            kind, content = "subscribe", {"topics": [f"topic-{id}"]}
        made.append({"type": kind, "id": id, **content})
    return made


async def ask(client: Client, asked: list[dict[str, Any]]) -> None:
    """All at once: they are less than may be in flight."""
    with suppress(trio.BrokenResourceError):  # who is closed meanwhile sees it elsewhere
        for request in asked:
            await client.send_bytes(masked(**request))


async def answers(client: Client, count: int) -> Counter[str]:
    """What comes until so many requests are answered, by type or error code."""
    came: Counter[str] = Counter()
    while came["ack"] + came["end"] + came["pong"] + came["refused"] < count:
        message = await client.receive()
        came[message["type"]] += 1
        if message["type"] == "error":
            came[message["code"]] += 1
            came["refused"] += 1
    return came


@pytest.mark.parametrize("rate", [1.0, 3.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
async def test_who_reads_steadily_gets_all_answers(
    seed: int, rate: float, autojump_clock: MockClock
) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST * rate)
        asked = requests(seed, 100)
        server.nursery.start_soon(ask, client, asked)
        came = await answers(client, len(asked))
        assert came["error"] == 0, came
        (connection,) = server.server.connections
        assert backend_of(connection).websocket.send_queue.queued_bytes == 0


@pytest.mark.parametrize("kind", ["inline", "loop", "waiting", "stream", "push", "task", "ping"])
async def test_the_largest_answers_wait_for_room_whatever_gives_them(
    kind: str, autojump_clock: MockClock
) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST)
        data: Any = "x" * LARGEST if kind == "ping" else {"sizes": [LARGEST]}
        asked = [{"type": kind, "id": id, "data": data} for id in range(30)]
        server.nursery.start_soon(ask, client, asked)
        came = await answers(client, 30)
        while kind == "task" and came["pushed"] < 30:
            came[(await client.receive())["type"]] += 1
        assert came["error"] == 0


@pytest.mark.parametrize("heartbeat", ["frame", "message"])
async def test_a_ping_behind_a_large_answer_has_its_time_once_it_could_be_seen(
    heartbeat: str, autojump_clock: MockClock
) -> None:
    config = attrs.evolve(CONFIG, heartbeat=HeartbeatConfig(interval=2.0, timeout=6.0))
    async with place(config) as server:
        client = await server.reader(SLOWEST, heartbeat=heartbeat)
        asked = [{"type": "inline", "id": 1, "data": {"sizes": [LARGEST]}}]
        server.nursery.start_soon(ask, client, asked)
        begin = trio.current_time()
        assert (await answers(client, 1))["ack"] == 1
        assert trio.current_time() - begin > 8.0, "the interval and the timeout"
        assert server.server.connections


async def test_a_ping_that_waits_exempts_nobody_who_does_not_read(
    autojump_clock: MockClock,
) -> None:
    send_queue = attrs.evolve(SEND_QUEUE, max_age=1000.0)
    heartbeat = HeartbeatConfig(interval=2.0, timeout=6.0)
    async with place(attrs.evolve(CONFIG, send_queue=send_queue, heartbeat=heartbeat)) as server:
        client = await server.reader(1.0)
        asked = [{"type": "inline", "id": 1, "data": {"sizes": [LARGEST]}}]
        server.nursery.start_soon(ask, client, asked)
        await trio.sleep(30.0)
        assert not server.server.connections


async def test_a_hook_may_send_more_than_a_send_queue_holds(autojump_clock: MockClock) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST, token="greeted")
        came = [(await client.receive())["type"] for _ in range(5)]
        assert came == ["pushed"] * 5


async def test_as_many_as_may_be_in_flight_in_one_segment(autojump_clock: MockClock) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST * 100)
        asked = [{"type": "inline", "id": id, "data": {"sizes": [60_000]}} for id in range(256)]
        segment = b"".join(masked(**each) for each in asked)
        server.nursery.start_soon(client.send_bytes, segment)
        assert await answers(client, 256) == Counter(ack=256)


async def test_reading_pauses_while_answers_are_not_read_and_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST * 10)
        (connection,) = server.server.connections
        received = []

        async def send() -> None:
            for id in range(40):
                await client.send_bytes(masked(type="inline", id=id, data={"sizes": [50_000]}))
                received.append(connection.statistics().messages_received)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert len(received) < 10, "in lockstep, what is not read is not sent"
            assert backend_of(connection).websocket.paused
            await answers(client, 40)
        assert not backend_of(connection).websocket.paused
        assert connection.statistics().queued_bytes == 0


async def test_pings_are_answered_and_streams_cancelled_while_answers_wait(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        client = await server.reader(SLOWEST)
        asked: list[dict[str, Any]] = [
            {"type": "stream", "id": "long", "data": {"sizes": [50_000] * 100}},
            {"type": "inline", "id": 1, "data": {"sizes": [LARGEST]}},
            {"type": "inline", "id": 2, "data": {"sizes": [10]}},
            {"type": "ping", "id": 3},
            {"type": "cancel", "id": "long"},
        ]
        segment = b"".join(masked(**each) for each in asked)
        server.nursery.start_soon(client.send_bytes, segment)
        order: list[tuple[str, Any]] = []
        while len(order) < 4:
            message = await client.receive()
            if message["type"] != "chunk":
                order.append((message["type"], message["id"]))
        assert set(order) == {("ack", 1), ("ack", 2), ("pong", 3), ("end", "long")}
        assert order.index(("pong", 3)) < order.index(("ack", 2))


async def test_who_does_not_read_at_all_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with place() as server:
        client = await server.reader(1e9)
        server.nursery.start_soon(ask, client, requests(1, 50))
        begin = trio.current_time()
        await trio.sleep(SEND_QUEUE.max_age + 1.0)
        _, closed = await client.receive_end()
        assert closed.reason in ("slow_consumer", "")
        assert trio.current_time() - begin < 2 * SEND_QUEUE.max_age


async def test_a_publisher_does_not_wait_for_a_slow_subscriber(autojump_clock: MockClock) -> None:
    async with place() as server:
        slow = await server.reader(1e9)
        server.nursery.start_soon(ask, slow, [{"type": "subscribe", "id": 1, "topics": ["a"]}])
        await answers(slow, 1)
        slow.stream.rate = 1.0  # type: ignore[attr-defined]
        begin = trio.current_time()
        for _ in range(10):
            server.server.application.publish("a", "x" * 50_000)
        assert trio.current_time() == begin
        slow.stream.rate = 1e9  # type: ignore[attr-defined]
        _, closed = await slow.receive_end()
        assert closed == Closed(4002, "slow_consumer")


async def ended_while_an_answer_waits(server: Place, kind: str) -> list[dict[str, Any]]:
    """What a slow consumer gets. There is room for the answer as soon as what was queued is
    discarded; whether who waits for it or who ends it all is woken first is Trio's choice."""
    client = await server.reader(1e9)
    server.nursery.start_soon(ask, client, [{"type": "subscribe", "id": 0, "topics": ["a"]}])
    await answers(client, 1)
    client.stream.rate = 1.0  # type: ignore[attr-defined]
    sizes = (5_000, 55_000, 170_000)
    asked = [{"type": kind, "id": n, "data": {"sizes": [n]}} for n in sizes]
    asked.append({"type": "publish", "topic": "b", "data": None, "id": "b"})
    server.nursery.start_soon(ask, client, asked)
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(10):
        server.server.application.publish("a", "x" * 50_000)
    client.stream.rate = 1e9  # type: ignore[attr-defined]
    messages, closed = await client.receive_end()
    assert closed == Closed(4002, "slow_consumer")
    return messages


@pytest.mark.parametrize("kind", ["inline", "stream"])
async def test_no_answer_that_waited_for_room_follows_the_error_that_ends_it(
    kind: str, autojump_clock: MockClock
) -> None:
    async with place() as server:
        for _ in range(8):
            messages = await ended_while_an_answer_waits(server, kind)
            assert messages[-1]["type"] == "error"


async def test_nothing_is_begun_that_waited_for_room_when_it_has_ended(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        for _ in range(8):
            await ended_while_an_answer_waits(server, "inline")
        assert server.server.application.publish("b", None) == 1


# ------------------------------------------------------------------------------ real sockets


@pytest.mark.parametrize("over", ["tcp", "tls"])
@pytest.mark.parametrize("kind", ["inline", "loop", "stream", "push"])
async def test_many_large_answers_arrive_over_sockets(kind: str, over: str, tmp_path: Path) -> None:
    files = files_in(tmp_path) if over == "tls" else None
    config = Config(port=0)
    if files is not None:
        config = Config(port=0, certificate=files.certificate, key=files.key)
    context: ssl.SSLContext | None = None if files is None else files.trusting()
    with trio.fail_after(60):
        async with running(config, make_application()) as server:
            port = server.addresses[0].port
            assert port is not None
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
            if context is not None:
                stream = trio.SSLStream(stream, context, server_hostname="localhost")
            client = Client(stream)
            await client.open("/ws")
            await client.authenticate("alice")
            asked = [{"type": kind, "id": id, "data": {"sizes": [300_000]}} for id in range(30)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(ask, client, asked))
                came = await answers(client, 30)
            assert came["error"] == 0
            await trio.aclose_forcefully(stream)
