"""The end of a peer is noticed although reading is paused and megabytes stand before it."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from typing import Final

import pytest
import trio
import trio.testing

from tests.support.tls import contexts_for
from tests.websocket.peer import close, text
from tests.websocket.test_websocket import Echo, Implementation, opened
from trioserver.websocket.close_frame import CloseFrame
from trioserver.websocket.poller import make_poller
from trioserver.websocket.task_reader import SHORT_PAUSE
from trioserver.websocket.tls_stream import TLSStream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="EPOLLRDHUP is Linux's")

RESET: Final = struct.pack("ii", 1, 0)
RECEIVE_BUFFER: Final = 200_000
BEFORE_THE_END: Final = [text("x" * 60_000) for _ in range(3)]
"""As much as the kernel keeps for a socket that nobody reads."""

contexts: Final = contexts_for()


def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        theirs = socket.create_connection(listener.getsockname())
        ours = listener.accept()[0]
    from_stdlib = trio.socket.from_stdlib_socket
    return trio.SocketStream(from_stdlib(ours)), trio.SocketStream(from_stdlib(theirs))


def tls_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = tcp_pair()
    server, client = contexts
    return TLSStream(ours, server), trio.SSLStream(
        theirs, client, server_hostname="localhost", https_compatible=True
    )


def trios_tls_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = tcp_pair()
    server, client = contexts
    return trio.SSLStream(ours, server, server_side=True, https_compatible=True), trio.SSLStream(
        theirs, client, server_hostname="localhost", https_compatible=True
    )


WAYS: Final = (
    pytest.param(Implementation(tcp_pair, lambda: None), id="task"),
    pytest.param(Implementation(tcp_pair, make_poller), id="poller"),
    pytest.param(Implementation(tls_pair, lambda: None), id="task, TLS"),
    pytest.param(Implementation(tls_pair, make_poller), id="poller, TLS"),
    pytest.param(Implementation(trios_tls_pair, lambda: None), id="task, Trio's TLS"),
)


@pytest.fixture(params=WAYS)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return request.param  # type: ignore[no-any-return]


def socket_under(stream: trio.abc.Stream) -> trio.socket.SocketType:
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    assert isinstance(stream, trio.SocketStream)
    return stream.socket


def end_with_fin(stream: trio.abc.Stream) -> None:
    socket_under(stream).shutdown(socket.SHUT_WR)


def end_with_reset(stream: trio.abc.Stream) -> None:
    sock = socket_under(stream)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@pytest.mark.parametrize("end", [end_with_fin, end_with_reset])
async def test_the_end_of_a_peer_is_noticed_while_reading_is_paused(
    end: Callable[[trio.abc.Stream], None],
    implementation: Implementation,
    autojump_clock: trio.abc.Clock,
) -> None:
    async with opened(implementation) as it:
        it.websocket.pause()
        await it.peer.send(text("read already"))
        await it.notes.wait(messages=1)
        await it.peer.send(*BEFORE_THE_END, close())
        end(it.peer.stream)
        await it.notes.wait(departures=1)
        assert trio.current_time() <= SHORT_PAUSE
        await it.close()
        assert it.notes.messages == [b"read already"]
        assert it.websocket.close_received == CloseFrame(1006, "")


async def test_a_peer_that_closes_its_socket_with_unsent_bytes_is_noticed_by_the_next_ping(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    """Its FIN stands behind bytes that the kernel has no room for; it answers ours with a reset."""
    async with opened(implementation) as it:
        it.websocket.pause()
        with trio.move_on_after(1.0):  # until nothing more is taken
            while True:
                await it.peer.send(*BEFORE_THE_END)
        await trio.aclose_forcefully(it.peer.stream)
        it.websocket.ping_nowait(b"?")
        await it.notes.wait(departures=1)
        assert trio.current_time() <= 1.0 + SHORT_PAUSE


async def test_a_peer_that_ends_in_a_short_pause_is_still_read(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    async with opened(implementation) as it:
        it.websocket.pause()
        await it.peer.send(text("read already"))
        await it.notes.wait(messages=1)
        await it.peer.send(*BEFORE_THE_END, close())
        end_with_fin(it.peer.stream)
        await trio.testing.wait_all_tasks_blocked()
        it.websocket.resume()
        await it.notes.wait(messages=4, departures=1)
        assert it.websocket.close_received == CloseFrame(1000, "")


async def test_a_peer_that_stays_is_read_again_after_a_long_pause(
    implementation: Implementation, autojump_clock: trio.abc.Clock
) -> None:
    class Pausing(Echo):
        def on_messages(self, messages: list[bytes]) -> None:
            super().on_messages(messages)
            self.websocket.pause()

    async with opened(implementation, receiver=Pausing()) as it:
        for messages in (1, 2, 3):
            await it.peer.send(text("x"))
            await it.notes.wait(messages=messages)
            await trio.sleep(SHORT_PAUSE + 0.2)
            it.websocket.resume()
        assert not it.notes.departures
        assert it.websocket.close_received is None
