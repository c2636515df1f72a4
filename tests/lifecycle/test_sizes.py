"""What is too large to be sent: refused with an error that says so, and nobody is closed for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.client import Client, Closed
from trioserver import (
    Application,
    Config,
    Connection,
    LimitsConfig,
    Presence,
    Refusal,
    SendQueueConfig,
    Server,
    TooBigToSendError,
    User,
    serve,
)

SEND_QUEUE: Final = SendQueueConfig(max_bytes=128 * 1024)
LARGEST: Final = 96 * 1024 - 10
"""Bytes of a message that fits: a quarter is for what cannot wait, and a header is ten bytes."""

CONFIG: Final = Config(
    port=0, send_queue=SEND_QUEUE, limits=LimitsConfig(max_message_bytes=200_000)
)

_ACK: Final = len('{"type":"ack","id":1,"data":""}')


async def _anybody(credentials: Any, request: Any) -> User:
    return User(id=str(credentials.token))


def make_application(raised: list[Exception] | None = None) -> Application:
    app = Application(auth=_anybody)
    route = app.route("/ws", presence=Presence())

    @route.on("inline")
    def inline(connection: Connection, size: int) -> str:
        return "x" * size

    @route.on("loop")
    async def loop(connection: Connection, size: int) -> str:
        return "x" * size

    @route.on("stream")
    async def stream(connection: Connection, size: int) -> AsyncIterator[str]:
        yield "small"
        yield "x" * size

    @route.on("send")
    async def send(connection: Connection, size: int) -> None:
        await connection.send("sent", "x" * size)

    @route.on("send_nowait")
    def send_nowait(connection: Connection, size: int) -> None:
        connection.send_nowait("sent", "x" * size)

    @route.on("task")
    def task(connection: Connection, size: int) -> None:
        async def run() -> None:
            try:
                await connection.send("sent", "x" * size)
            except TooBigToSendError as error:
                assert raised is not None
                raised.append(error)

        connection.start_soon(run)

    @route.on_ready
    async def ready(connection: Connection) -> None:
        if connection.user.id == "greeted too much":
            await connection.send("greeting", "x" * LARGEST)

    @route.allow_subscribe
    @route.allow_publish
    def may(connection: Connection, topic: str) -> bool:
        return True

    return app


@attrs.define
class Place:
    server: Server
    nursery: trio.Nursery

    async def connect(self, token: str = "alice") -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.serve_stream, theirs)
        client = Client(ours)
        await client.open("/ws")
        self.ready = await client.authenticate(token)
        return client

    ready: dict[str, Any] = attrs.field(factory=dict)


@asynccontextmanager
async def place(
    config: Config = CONFIG, raised: list[Exception] | None = None
) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, make_application(raised), config)
        yield Place(server, nursery)
        nursery.cancel_scope.cancel()


async def test_ready_tells_the_largest_message_that_is_sent(autojump_clock: MockClock) -> None:
    async with place() as server:
        await server.connect()
        assert server.ready["limits"]["max_server_message_bytes"] == LARGEST


async def test_with_the_defaults_every_message_that_is_taken_can_be_sent_back(
    autojump_clock: MockClock,
) -> None:
    async with place(Config(port=0)) as server:
        await server.connect()
        limits = server.ready["limits"]
        assert limits["max_server_message_bytes"] >= limits["max_message_bytes"] + 1000


@pytest.mark.parametrize("kind", ["inline", "loop"])
async def test_the_largest_answer_arrives_and_a_byte_more_is_refused(
    kind: str, autojump_clock: MockClock
) -> None:
    async with place() as server:
        client = await server.connect()
        answer = await client.request(kind, LARGEST - _ACK)
        assert answer == {"type": "ack", "id": 1, "data": "x" * (LARGEST - _ACK)}
        refused = await client.request(kind, LARGEST - _ACK + 1)
        assert (refused["code"], refused["retry"]) == ("too_big_to_send", "never")
        assert (refused["fatal"], refused["id"]) == (False, 1)
        assert f"{LARGEST:,}" in refused["message"]
        assert (await client.request(kind, 1))["type"] == "ack"


@pytest.mark.parametrize("kind", ["inline", "loop", "stream", "send", "send_nowait"])
async def test_a_handler_that_sends_too_much_is_told_and_its_client_kept(
    kind: str, autojump_clock: MockClock
) -> None:
    async with place() as server:
        client = await server.connect()
        with capture_logs() as lines:
            for id in range(100):
                await client.send(type=kind, id=id, data=LARGEST)
                answer = await client.receive()
                while answer["type"] == "chunk":
                    answer = await client.receive()
                assert (answer["code"], answer["id"]) == ("too_big_to_send", id)
        assert (await client.request("inline", 1))["type"] == "ack"
        assert len([line for line in lines if line["event"] == "too_big_to_send"]) <= 1
        assert "handler_failed" not in [line["event"] for line in lines]


async def test_a_task_that_sends_too_much_is_told(autojump_clock: MockClock) -> None:
    raised: list[Exception] = []
    async with place(raised=raised) as server:
        client = await server.connect()
        assert (await client.request("task", LARGEST))["type"] == "ack"
        await trio.testing.wait_all_tasks_blocked()
        (error,) = raised
        assert isinstance(error, Refusal)
        assert isinstance(error, ValueError)
        assert (await client.request("inline", 1))["type"] == "ack"


async def test_a_hook_that_sends_too_much_ends_the_connection_for_good(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        client = await server.connect("greeted too much")
        (error,), closed = await client.receive_end()
        assert (error["code"], error["retry"]) == ("too_big_to_send", "never")
        assert closed == Closed(1008, "too_big_to_send")


async def test_an_event_that_is_too_large_is_the_publishers_fault_and_no_subscribers(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        subscriber, publisher = await server.connect(), await server.connect("bob")
        await subscriber.send(type="subscribe", topics=["news"], id=1)
        assert (await subscriber.receive())["type"] == "ack"
        for id, topic in enumerate(["news", "nobody"]):
            await publisher.send(type="publish", topic=topic, data="x" * LARGEST, id=id)
            refused = await publisher.receive()
            assert (refused["code"], refused["id"]) == ("too_big_to_send", id)
        with pytest.raises(TooBigToSendError):
            server.server.application.publish("news", "x" * LARGEST)
        await publisher.send(type="publish", topic="news", data="small", id=3)
        assert (await subscriber.receive())["data"] == "small"


async def test_a_ping_that_cannot_be_answered_is_refused(autojump_clock: MockClock) -> None:
    async with place() as server:
        client = await server.connect()
        await client.send(type="ping", id=1, data="x" * (LARGEST - 60))
        refused = await client.receive()
        assert (refused["code"], refused["id"]) == ("too_big_to_send", 1)
        await client.send(type="ping", id=2, data="x" * (LARGEST - 100))
        assert (await client.receive())["type"] == "pong"


async def test_a_user_whose_presence_is_too_large_to_tell_still_gets_in(
    autojump_clock: MockClock,
) -> None:
    async with place() as server:
        other = Config()  # stands for a second server of this application, with a small send queue
        server.server.application.limit_messages(other, 50)
        with capture_logs() as lines:
            await server.connect("alice")
            await trio.testing.wait_all_tasks_blocked()
            (user,) = server.server.application.routes[0].presence.users()
        assert user.user == "alice"
        assert "presence_event_too_big" in [line["event"] for line in lines]


async def test_ready_that_is_too_large_ends_the_connection_for_good(
    autojump_clock: MockClock,
) -> None:
    async with place(Config(port=0, send_queue=SendQueueConfig(max_bytes=2048))) as server:
        ours, theirs = trio.testing.memory_stream_pair()
        server.nursery.start_soon(server.server.serve_stream, theirs)
        client = Client(ours)
        await client.open("/ws")
        await client.send(type="auth", token="a" * 1600)
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "too_big_to_send")


async def test_an_error_does_not_grow_with_what_it_quotes(autojump_clock: MockClock) -> None:
    async with place() as server:
        client = await server.connect()
        await client.send(type="inline", id="x" * 50, data="1" * 50_000)
        error = await client.receive()
        assert error["code"] == "invalid_payload"
        assert len(error["message"]) <= 1000


async def test_a_send_queue_too_small_for_what_is_taken_is_said_at_the_start(
    autojump_clock: MockClock,
) -> None:
    with capture_logs() as lines:
        async with place(CONFIG):
            pass
    (line,) = [line for line in lines if line["event"] == "send_queue_smaller_than_messages"]
    assert (line["largest_sent_bytes"], line["largest_taken_bytes"]) == (LARGEST, 200_000)
