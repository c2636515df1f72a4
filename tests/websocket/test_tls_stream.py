"""TLS on a socket: a stream as any other of Trio's, and what serves many sockets at once."""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import pytest
import trio
import trio.testing

from tests.support.patience import PATIENCE
from tests.support.tls import Contexts, contexts_for, stream_pair
from trioserver.websocket.tls_stream import TLSStream, socket_below

TOO_MUCH: Final = b"x" * 2**22
"""More than a socket takes when nobody reads."""


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def tls(request: pytest.FixtureRequest) -> Contexts:
    return contexts_for(ssl.TLSVersion[request.param])


Client = trio.SSLStream[trio.SocketStream]


async def shaken(tls: Contexts) -> tuple[TLSStream, Client]:
    """Both ends, after the handshake."""
    ours, theirs = stream_pair(tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"first")
        assert await ours.receive_some() == b"first"
    return ours, theirs


@asynccontextmanager
async def connected(tls: Contexts) -> AsyncIterator[tuple[TLSStream, Client]]:
    ours, theirs = await shaken(tls)
    try:
        with trio.fail_after(PATIENCE):
            yield ours, theirs
    finally:
        for end in (ours, theirs):
            await trio.aclose_forcefully(end)


async def test_it_is_a_stream_as_trio_wants_them(tls: Contexts) -> None:
    with trio.fail_after(PATIENCE):
        await trio.testing.check_two_way_stream(partial(shaken, tls), None)


async def test_much_data_arrives_whole_both_ways_at_once(tls: Contexts) -> None:
    ours, theirs = stream_pair(tls)

    async def read(stream: trio.abc.ReceiveStream) -> None:
        count = 0
        while count < len(TOO_MUCH):
            count += len(await stream.receive_some())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for stream in (ours, theirs):
                nursery.start_soon(stream.send_all, TOO_MUCH)
                nursery.start_soon(read, stream)
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)


async def test_what_is_there_is_read_without_waiting(tls: Contexts) -> None:
    async with connected(tls) as (ours, theirs):
        assert ours.read_nowait() is None
        await theirs.send_all(b"one")
        await theirs.send_all(b"two")
        assert [ours.read_nowait(), ours.read_nowait(), ours.read_nowait()] == [
            b"one",
            b"two",
            None,
        ]
        await theirs.transport_stream.aclose()
        assert ours.read_nowait() == b""


async def test_a_peer_that_leaves_with_session_tickets_unread_has_left_as_any_other(
    tls: Contexts,
) -> None:
    """Then the kernel resets the connection, behind all that the peer has sent."""
    async with connected(tls) as (ours, theirs):
        await theirs.send_all(b"last")
        await theirs.transport_stream.aclose()
        assert await ours.receive_some() == b"last"
        assert await ours.receive_some() == b""


async def test_what_was_closed_is_neither_read_nor_written(tls: Contexts) -> None:
    async with connected(tls) as (ours, _):
        await ours.aclose()
        for act in (ours.read_nowait, partial(ours.write_nowait, b"x")):
            with pytest.raises(OSError, match="closed") as caught:
                act()
            assert caught.value.errno == errno.EBADF


async def test_a_record_of_any_size_leaves_nothing_that_the_socket_does_not_show(
    tls: Contexts,
) -> None:
    async with connected(tls) as (ours, theirs):
        for size in (1, 2**14 - 1, 2**14, 2**14 + 1, 3 * 2**14):
            await theirs.send_all(b"x" * size)
            count = 0
            while count < size:
                await trio.lowlevel.wait_readable(ours.socket)
                count += len(ours.read_nowait() or b"")
            assert count == size


async def test_what_the_socket_does_not_take_at_once_is_sent_by_who_waits(tls: Contexts) -> None:
    async with connected(tls) as (ours, theirs), trio.open_nursery() as nursery:
        taken = ours.write_nowait(TOO_MUCH)
        assert taken < len(TOO_MUCH)
        assert ours.write_nowait(TOO_MUCH[taken:]) == 0
        nursery.start_soon(ours.send_all, TOO_MUCH[taken:])
        count = 0
        while count < len(TOO_MUCH):
            data = await theirs.receive_some()
            assert data == b"x" * len(data)
            count += len(data)
        assert count == len(TOO_MUCH)
        assert ours.write_nowait(b"y") == 1
        assert await theirs.receive_some() == b"y"


async def test_who_closes_says_so(tls: Contexts) -> None:
    """Else the peer could not tell the end from an attacker's cut."""
    ours, theirs = stream_pair(tls)
    strict = trio.SSLStream(theirs.transport_stream, tls[1], server_hostname="localhost")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(strict.send_all, b"first")
            assert await ours.receive_some() == b"first"
        await ours.send_all(b"last")
        await ours.aclose()
        assert await strict.receive_some() == b"last"
        assert await strict.receive_some() == b""
    await trio.aclose_forcefully(strict)


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"])
async def test_who_speaks_no_tls_is_told_apart_from_who_has_left(
    nonsense: bytes, tls: Contexts
) -> None:
    ours, theirs = stream_pair(tls)
    await theirs.transport_stream.send_all(nonsense)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_who_leaves_in_the_handshake_has_left(said: bytes, tls: Contexts) -> None:
    ours, theirs = stream_pair(tls)
    await theirs.transport_stream.send_all(said)
    await theirs.transport_stream.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ours.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLEOFError)
    await ours.aclose()


async def test_a_handshake_that_does_not_go_on_can_be_cancelled(tls: Contexts) -> None:
    ours, theirs = stream_pair(tls)
    with trio.move_on_after(0.01) as scope:
        await ours.receive_some()
    assert scope.cancelled_caught
    await ours.aclose()
    for act in (ours.receive_some, partial(ours.send_all, b"x")):
        with pytest.raises(trio.ClosedResourceError):
            await act()
    await theirs.transport_stream.aclose()


async def test_a_read_that_is_cancelled_loses_nothing(tls: Contexts) -> None:
    async with connected(tls) as (ours, theirs):
        for _ in range(3):
            with trio.move_on_after(0.001) as scope:
                await ours.receive_some()
            assert scope.cancelled_caught
        await theirs.send_all(b"later")
        assert await ours.receive_some() == b"later"


async def test_what_is_no_record_breaks_it_whoever_reads(tls: Contexts) -> None:
    async with connected(tls) as (ours, theirs):
        await theirs.transport_stream.send_all(b"no record at all, but something else")
        with pytest.raises(ssl.SSLError):
            ours.read_nowait()
        assert ours.read_nowait() == b"", "and that is the end"
        with pytest.raises(OSError, match="EOF"):
            ours.write_nowait(b"answer")
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"answer")


async def test_a_socket_that_was_reset_before_the_handshake_is_broken(tls: Contexts) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    stream = TLSStream(await listener.accept(), tls[0])
    client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await client.aclose()
    await trio.lowlevel.wait_readable(stream.transport_stream.socket)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()
    await listener.aclose()


async def test_it_has_a_socket_before_the_handshake_and_after_it(tls: Contexts) -> None:
    ours, theirs = stream_pair(tls)
    plain = ours.transport_stream
    assert socket_below(ours) is socket_below(plain) is plain.socket
    assert socket_below(trio.testing.memory_stream_pair()[0]) is None
    fd = plain.socket.fileno()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, b"x")
        await ours.receive_some()
    assert ours.socket.fileno() == fd
    assert plain.socket.fileno() == -1, "it belongs to one of them"
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(theirs)
