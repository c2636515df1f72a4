"""A listener that waits where the machine runs out of something."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from tests.support.patience import PATIENCE
from trioserver.websocket.accepting import Listener


class Scripted:
    """A socket of a machine that runs short when told to: such errors cannot be had at will."""

    def __init__(self, *script: int | None) -> None:
        self.script = list(script)
        self.socket = socket.socket()  # nobody comes to it
        self.socket.setblocking(False)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        number = self.script.pop(0)
        if number is not None:
            raise OSError(number, "short of something")
        return trio.testing.memory_stream_pair()[0]

    async def aclose(self) -> None:
        self.socket.close()


@asynccontextmanager
async def listener_of(*script: int | None) -> AsyncIterator[Listener]:
    transport: Any = Scripted(*script)
    async with Listener(transport) as listener:
        yield listener


async def test_each_episode_is_said_once_however_long_it_is(autojump_clock: object) -> None:
    short = (errno.EMFILE,) * 20
    script = (*short, None, *short, None, None, errno.ENOMEM, None)
    with structlog.testing.capture_logs() as logs:
        async with listener_of(*script) as listener:
            await listener.accept()
            assert trio.current_time() == pytest.approx(2.0)
            await listener.accept()
            await trio.sleep(1.0)
            await listener.accept()
            assert [each["event"] for each in logs] == ["accepting_paused", "accepting_resumed"]
            assert logs[0]["reason"] == "Too many open files"
            assert logs[1]["seconds"] == pytest.approx(3.9)
            await listener.accept()
            assert logs[2]["reason"] == "Cannot allocate memory"


async def test_another_error_is_an_error(autojump_clock: object) -> None:
    async with listener_of(errno.EBADF) as listener:
        with pytest.raises(OSError, match="short of something"):
            await listener.accept()


async def connected(listener: Listener, number: int) -> list[trio.SocketStream]:
    host, port = listener.transport.socket.getsockname()
    return [await trio.open_tcp_stream(host, port) for _ in range(number)]


async def listening() -> Listener:
    (transport,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return Listener(transport)


async def test_those_that_wait_are_accepted_in_batches_each_once() -> None:
    async with await listening() as listener, trio.open_nursery() as nursery:
        clients = await connected(listener, 40)
        rounds = [0]

        async def count() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                rounds[0] += 1

        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = rounds[0]
        accepted = [await listener.accept() for _ in clients]
        assert rounds[0] - before <= 10, "sixteen in a round, and a round or two to get them"
        nursery.cancel_scope.cancel()
    for number, client in enumerate(clients):
        await client.send_all(bytes([number]))
    assert [await stream.receive_some(1) for stream in accepted] == [
        bytes([number]) for number in range(len(clients))
    ]
    for stream in (*clients, *accepted):
        await stream.aclose()


@pytest.fixture
def default_timeout() -> Iterator[float]:
    """As a library elsewhere in the process may have set it."""
    socket.setdefaulttimeout(20.0)
    yield 20.0
    socket.setdefaulttimeout(None)


async def test_a_default_timeout_of_all_sockets_does_not_stop_the_loop(
    default_timeout: float,
) -> None:
    begin = time.perf_counter()
    async with await listening() as listener:
        (client,) = await connected(listener, 1)
        accepted = await listener.accept()
        await client.send_all(b"x")
        assert await accepted.receive_some(1) == b"x"
    assert time.perf_counter() - begin < default_timeout / 2
    await client.aclose()
    await accepted.aclose()


async def test_a_listener_that_is_closed_while_it_accepts_takes_nothing_from_another() -> None:
    async with await listening() as listener, await listening() as other:
        clients = [*await connected(listener, 1), *await connected(other, 1)]
        accept = listener.transport.accept

        async def accept_and_be_closed() -> trio.SocketStream:
            stream = await accept()
            number = listener.transport.socket.fileno()
            listener.transport.socket.close()
            assert os.dup2(other.transport.socket.fileno(), number) == number
            return stream

        listener.transport.accept = accept_and_be_closed  # type: ignore[method-assign]
        with trio.fail_after(PATIENCE):
            accepted = [await listener.accept(), await other.accept()]
        assert [stream.socket.getpeername() for stream in accepted] == [  # type: ignore[attr-defined]
            client.socket.getsockname() for client in clients
        ]
        os.close(listener._socket.detach())
    for stream in (*clients, *accepted):
        await stream.aclose()


async def test_what_was_accepted_in_a_batch_and_not_taken_ends_with_the_listener() -> None:
    async with await listening() as listener:
        clients = await connected(listener, 3)
        taken = await listener.accept()
    await taken.aclose()
    for client in clients:
        async with client:
            with trio.fail_after(PATIENCE):
                assert await client.receive_some(1) == b""
