"""On real sockets, where answers are held back to leave with others: their order, and the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.support.client import Client, masked_frame
from tests.support.patience import PATIENCE
from trioserver import Application, Config, Connection, SendQueueConfig, User, serve

PIECE = "x" * 30_000
PIECES = 10


async def _anybody(credentials: Any, request: Any) -> User:
    return User(id=credentials.token)


def make_application() -> Application:
    app = Application(auth=_anybody)
    route = app.route("/ws", authorize=None)

    @route.on("pour")
    async def pour(connection: Connection, _: Any) -> None:
        """Sends more than waits for a client, at a time."""
        for _ in range(PIECES):
            await connection.send("piece", PIECE)

    @route.on("now")
    def now(connection: Connection, payload: int) -> int:
        return payload

    @route.on("soon")
    async def soon(connection: Connection, payload: int) -> int:
        if payload % 3 == 0:
            await trio.lowlevel.checkpoint()
        return payload

    @route.allow_subscribe
    @route.allow_publish
    def may(connection: Connection, topic: str) -> bool:
        return True

    return app


@asynccontextmanager
async def clients(count: int, **config: Any) -> AsyncIterator[list[Client]]:
    """So many that are ready, over TCP; afterwards the server has none left."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, make_application(), Config(port=0, **config))
            port = server.addresses[0].port
            streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(count)]
            ready = [Client(stream) for stream in streams]
            for client in ready:
                await client.open("/ws")
                await client.authenticate("alice")
            yield ready
            for stream in streams:
                await stream.aclose()
            while server.connections:  # noqa: ASYNC110 -- there is no event for it
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


def frames(*messages: dict[str, Any]) -> bytes:
    return b"".join(masked_frame(0x1, json.dumps(message).encode()) for message in messages)


async def test_answers_leave_in_the_order_of_the_requests_whatever_the_handler() -> None:
    async with clients(3) as all_of_them:
        requests = [{"type": "now" if n % 2 else "soon", "id": n, "data": n} for n in range(60)]
        for client in all_of_them:
            for begin in range(0, 60, 20):
                await client.send_bytes(frames(*requests[begin : begin + 20]))
        for client in all_of_them:
            assert [(await client.receive())["id"] for _ in requests] == [*range(60)]


async def test_a_handler_that_sends_much_is_not_kept_waiting_by_what_is_held_back() -> None:
    async with clients(2) as all_of_them:
        for client in all_of_them:
            await client.send_bytes(
                frames(*({"type": "pour", "id": n, "data": None} for n in range(3)))
            )
        for client in all_of_them:
            came = [await client.receive() for _ in range(3 * (PIECES + 1))]
            kinds = [message["type"] for message in came]
            assert kinds == 3 * [*PIECES * ["piece"], "ack"]


async def test_a_client_may_leave_while_much_is_sent_to_it() -> None:
    for _ in range(20):
        async with clients(2) as all_of_them:
            for client in all_of_them:
                await client.send_bytes(
                    frames(*({"type": "pour", "id": n, "data": None} for n in range(3)))
                )
            await all_of_them[0].receive()


async def test_events_of_one_tick_reach_all_in_their_order() -> None:
    async with clients(5) as all_of_them:
        for client in all_of_them:
            await client.send(type="subscribe", topics=["news"], id=1)
            assert (await client.receive())["type"] == "ack"
        publish = ({"type": "publish", "topic": "news", "data": n, "id": n} for n in range(20))
        await all_of_them[0].send_bytes(frames(*publish))
        for client in all_of_them[1:]:
            assert [(await client.receive())["data"] for _ in range(20)] == [*range(20)]
        mine = [await all_of_them[0].receive() for _ in range(40)]
        assert [m["data"] for m in mine if m["type"] == "event"] == [*range(20)]
        assert [m["id"] for m in mine if m["type"] == "ack"] == [*range(20)]


async def test_more_at_once_than_a_send_queue_takes_makes_no_slow_consumer_of_who_reads() -> None:
    async with clients(2, send_queue=SendQueueConfig(max_bytes=10_000)) as both:
        reader, sender = both
        await reader.send(type="subscribe", topics=["news"], id=1)
        assert (await reader.receive())["type"] == "ack"
        publish = (
            {"type": "publish", "topic": "news", "data": "x" * 6_000, "id": n} for n in range(8)
        )
        await sender.send_bytes(frames(*publish))
        for _ in range(8):
            assert (await reader.receive())["data"] == "x" * 6_000
