"""What a server said before it left is heard, although nothing can be sent to it any more."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.patience import PATIENCE
from trioserver.client import ConnectionLostError, ConnectRejectedError, connect
from trioserver.client.send_tolerant import SendTolerantStream

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"


def pair() -> tuple[SendTolerantStream, trio.testing.MemoryReceiveStream]:
    """A stream that cannot be sent to any more, and what its peer has said."""
    reading = trio.testing.MemoryReceiveStream()
    writing = trio.testing.MemorySendStream()

    async def fail() -> None:
        raise trio.BrokenResourceError

    writing.send_all_hook = fail
    return SendTolerantStream(trio.StapledStream(writing, reading)), reading


async def test_what_was_said_before_is_read_and_then_the_end() -> None:
    stream, peer = pair()
    await stream.send_all(b"hello?")
    await stream.send_all(b"hello?")
    await stream.wait_send_all_might_not_block()
    peer.put_data(b"go away")
    peer.put_eof()
    assert await stream.receive_some() == b"go away"
    assert await stream.receive_some() == b""


async def test_nothing_more_is_waited_for_longer_than_a_second(autojump_clock: MockClock) -> None:
    stream, _ = pair()
    await stream.send_all(b"hello?")
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert trio.current_time() == pytest.approx(1.0)


async def test_a_read_that_waits_already_ends_as_well(autojump_clock: MockClock) -> None:
    stream, _ = pair()

    async def read() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(10)
        await stream.send_all(b"hello?")
    assert trio.current_time() == pytest.approx(11.0)


@asynccontextmanager
async def refusing(answer: bytes) -> AsyncIterator[str]:
    """A server that answers without reading, and resets the connection before anything comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]

        async def serve() -> None:
            while True:
                await trio.lowlevel.wait_readable(listening)
                with listening.accept()[0] as accepted:
                    accepted.sendall(answer)
                    if not answer:  # a reset at once, and not only for what is sent later
                        linger = b"\x01\x00\x00\x00" + bytes(4)
                        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield f"ws://127.0.0.1:{port}/ws"
            nursery.cancel_scope.cancel()


async def open_late(address: object, port: int) -> trio.abc.Stream:
    """A stream whose server has answered and gone before the handshake is sent."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await trio.lowlevel.wait_readable(stream.socket)
    with suppress(trio.BrokenResourceError):
        # The first of what is sent to a closed socket provokes the reset, and the next one fails.
        await stream.send_all(b"\r\n")
    return stream


@pytest.mark.parametrize("answer", [BUSY, b""], ids=["503", "nothing"])
async def test_a_refusal_that_comes_before_the_handshake_is_sent_is_read(answer: bytes) -> None:
    async with refusing(answer) as url:
        port = int(url.split(":")[2].split("/")[0])
        with (
            trio.fail_after(PATIENCE),
            pytest.raises((ConnectRejectedError, ConnectionLostError)) as raised,
        ):
            async with connect(
                url,
                reconnect=False,
                ready_timeout=10 * PATIENCE,
                open_stream=lambda address: open_late(address, port),
            ):
                pytest.fail("entered")
    assert isinstance(raised.value, ConnectRejectedError | ConnectionLostError)
    reason = raised.value.reason
    if answer:
        assert (reason.code, reason.retry_after) == ("http_503", 7.0)
    else:
        assert type(raised.value) is ConnectionLostError
        assert reason.code == "connection_lost"
