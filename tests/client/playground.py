"""Servers for tests of the client, in memory and virtual time: the real one, and one by script."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeAlias

import attrs
import trio
import trio.testing
import trio_websocket
from trio_websocket import WebSocketConnection

from protocol import codec
from protocol.messages import HeartbeatInfo, Hello, Limits, Ready
from tests.support.app import Harness, World, serving
from trioserver import Config
from trioserver.client import Backoff, Client, WebSocketURL, connect
from trioserver.client.options import OpenStream

URL = "ws://server/ws/1"

HELLO = codec.encode(Hello(protocol="trioserver.v1", auth_timeout_ms=10_000)).decode()
READY = codec.encode(
    Ready(
        connection_id="c",
        user={"id": "alice"},
        resource={"id": "1"},
        expires_at=None,
        server_time="2023-11-14T22:13:20.000Z",
        heartbeat=HeartbeatInfo(mode="frame", interval_ms=30_000, timeout_ms=10_000),
        limits=Limits(
            max_message_bytes=1024,
            max_in_flight=256,
            max_streams=32,
            max_subscriptions=1000,
            messages_per_second=1000,
            bytes_per_second=8 * 1024 * 1024,
        ),
    )
).decode()

Script: TypeAlias = Callable[[WebSocketConnection], Awaitable[object]]


@attrs.define
class Place:
    """What clients connect to: a server that can go and come back. ``attempts``: when they came."""

    harness: Harness
    attempts: list[float] = attrs.field(factory=list)
    down: bool = False
    lockstep: bool = False
    streams: list[Any] = attrs.field(factory=list)

    @property
    def world(self) -> World:
        return self.harness.world

    async def open_stream(self, address: WebSocketURL) -> trio.abc.Stream:
        """An `OpenStream` that leads here."""
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.down:
            raise OSError("nobody is here")
        make = (
            trio.testing.lockstep_stream_pair if self.lockstep else trio.testing.memory_stream_pair
        )
        ours, theirs = make()
        self.streams.append(theirs)
        self.harness.nursery.start_soon(self.harness.server.serve_stream, theirs)
        return ours

    def connect(self, url: str = URL, **options: Any) -> AbstractAsyncContextManager[Client]:
        """`connect`, as alice if nothing else is said."""
        own = {"token": "alice", "open_stream": self.open_stream, "backoff": seeded()}
        everything: dict[str, Any] = own | options
        return connect(url, **everything)

    def cut(self) -> None:
        """End all connections without a word."""
        for stream in self.streams:
            stream.send_stream.close()
            stream.receive_stream.close()
        self.streams.clear()


@asynccontextmanager
async def playing(config: Config | None = None, **options: Any) -> AsyncIterator[Place]:
    """A place; at the end nothing may be left on its server."""
    async with serving(config, **options) as harness:
        yield Place(harness)
        await harness.assert_nothing_left()


def seeded(**options: float) -> Backoff:
    """The same pauses each time."""
    return Backoff(random=random.Random(1), **options)


def scripted(nursery: trio.Nursery, *scripts: Script) -> OpenStream:
    """An `OpenStream` to a server that does what is written; the last script goes on for ever."""
    left = list(scripts)

    async def open_stream(address: WebSocketURL) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(_perform, theirs, left.pop(0) if len(left) > 1 else left[0])
        return ours

    return open_stream


async def _perform(stream: trio.abc.Stream, script: Script) -> None:
    async with trio.open_nursery() as nursery:
        request = await trio_websocket.wrap_server_stream(nursery, stream)
        websocket = await request.accept(subprotocol="trioserver.v1")
        with suppress(trio_websocket.ConnectionClosed):
            await script(websocket)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def greet(websocket: WebSocketConnection) -> str | bytes:
    """Hello, auth, ready; the auth is returned."""
    await websocket.send_message(HELLO)
    auth = await websocket.get_message()
    await websocket.send_message(READY)
    return auth


async def collect(iterator: AsyncIterator[Any], into: list[Any]) -> None:
    """Take all there is, and keep it when it ends with an exception."""
    async for item in iterator:
        into.append(item)
