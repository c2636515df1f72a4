"""The object behind `Connection`: what it sends, and when it counts as ended."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock

from protocol import ProtocolOptions, Refusal, ServerProtocol
from tests.support.app import wall_clock
from trioserver import Application, Config, ConnectionEnded, Credentials, Observer, Request, User
from trioserver.auth.blocks import Blocks
from trioserver.lifecycle.context import ConnectionContext
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.server.admission.memory import new_memory
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.phases import Phase
from trioserver.websocket.frames import FrameDecoder
from trioserver.websocket.websocket import WebSocket

QUEUE_BYTES = 64 * 1024


async def anybody(credentials: Credentials, request: Request) -> User:
    return User(id="alice")


@contextmanager
def a_connection(stream: trio.abc.Stream) -> Iterator[ServerConnection]:
    config = Config()
    application = Application(auth=anybody)
    context = ConnectionContext(
        config=config,
        blocks=Blocks(),
        metrics=MetricsRegistry(),
        observer=Observer(),
        tracing=None,
        wall_clock=wall_clock,
        poller=None,
        memory=new_memory(config),
    )
    connection = ServerConnection(
        id="1",
        application=application,
        route=application.route("/ws"),
        request=Request(path="/ws"),
        protocol=ServerProtocol(ProtocolOptions(), trio.current_time()),
        websocket=WebSocket(
            stream,
            max_message_bytes=1024,
            send_queue_bytes=QUEUE_BYTES,
            send_queue_age=10.0,
            memory=context.memory,
        ),
        context=context,
        accepted_at=trio.current_time(),
    )
    try:
        yield connection
    finally:
        connection.release()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[ServerConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream, trio.open_nursery() as nursery:
            with a_connection(stream) as connection:
                connection.websocket.send_queue.start(nursery)
                yield connection, theirs
            nursery.cancel_scope.cancel()


def received(peer: socket.socket) -> list[str]:
    """The types of the messages that the peer has got."""
    decoder = FrameDecoder(masked=False, max_message_bytes=QUEUE_BYTES)
    messages: list[bytes] = []
    while True:
        try:
            data = peer.recv(QUEUE_BYTES)
        except BlockingIOError:
            break
        messages += [item for item in decoder.receive(data) if isinstance(item, bytes)]
    return [msgspec.json.decode(message)["type"] for message in messages]


def message(type: str, size: int = 0) -> bytes:
    return msgspec.json.encode({"type": type, "data": "x" * size})


async def test_a_flush_that_ends_the_connection_sends_no_message_twice() -> None:
    """The callback for a message that has left runs inside a flush, when that makes room."""
    async with connected() as (connection, peer):
        send_queue = connection.websocket.send_queue
        send_queue.cork()
        connection.transmit(message("opened"))
        end = partial(connection.fail, Refusal("internal_error"))
        send_queue.call_when_flushed(send_queue.position, end)
        connection.protocol.outgoing += [message("first", 30_000), message("second", 30_000)]
        connection.flush()
        send_queue.uncork()
        got = received(peer)
        assert got[:2] == ["opened", "first"]
        assert sorted(got[2:]) == ["error", "second"]
        assert connection.ended.is_set()
        assert connection.protocol.outgoing == []


async def test_the_end_is_drawn_from_the_protocol_once(autojump_clock: MockClock) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    with a_connection(ours) as connection:
        assert connection.phases.current is Phase.HANDSHAKE
        await trio.sleep(1.0)
        connection.fail(Refusal("server_busy"))
        assert connection.has_ended
        assert connection.phases.closing == trio.current_time()
        auth_done = connection.auth_done
        assert auth_done is not None
        assert auth_done.is_set()
        await trio.sleep(1.0)
        connection.disconnect()
        assert connection.protocol.close is not None
        assert connection.protocol.close.reason == "server_busy"
        assert connection.phases.closing == trio.current_time() - 1.0


async def test_a_connection_that_has_ended_takes_no_message_and_no_task() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    with a_connection(ours) as connection:
        connection.disconnect()
        facade, sent = connection.facade, connection.websocket.messages_sent
        with pytest.raises(ConnectionEnded):
            facade.send_nowait("news")
        with pytest.raises(ConnectionEnded):
            await facade.send("news")
        with pytest.raises(ConnectionEnded):
            facade.start_soon(trio.sleep_forever)
        connection.deliver(message("told"))
        facade.subscribe("news")
        assert facade.topics == frozenset()
        assert connection.websocket.messages_sent == sent


async def test_a_facade_outlives_the_connection() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    with a_connection(ours) as connection:
        connection.identify(User(id="alice"))
        facade = connection.facade
        connection.disconnect()
    assert facade.id == "1"
    assert facade.user.id == "alice"
    assert facade.has_ended
    assert facade.statistics().in_flight == 0
    assert not hasattr(connection, "facade")
