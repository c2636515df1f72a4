"""The closing handshake, by trio-websocket. It is started when a connection begins to close.

trio-websocket is used through its public API, on a stream of this module: it gets an opening
handshake that was checked and answered before, and then Close frames. If it were started with the
connection, it would take a third of the time until a connection is ready, and of the memory of an
idle one. Data frames, pings and pongs do not pass through it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio
import trio_websocket

from trioserver.websocket.frames import Control
from trioserver.websocket.send_queue import SendQueue, SendQueueClosed

_HEAD: Final = (
    b"GET / HTTP/1.1\r\n"
    b"Host: localhost\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"\r\n"
)
"""The opening handshake that trio-websocket gets; no part of it is chosen by a peer."""


class ClosingHandshake:
    """The server's side of a closing handshake; its tasks run in ``nursery``."""

    def __init__(self, nursery: trio.Nursery, send_queue: SendQueue) -> None:
        self._nursery = nursery
        self._stream = _ControlStream(_HEAD, send_queue)
        self._opening = trio.CancelScope()
        self._opened = trio.Event()
        self._websocket: trio_websocket.WebSocketConnection | None = None
        self._peer_has_closed = False
        nursery.start_soon(self._open)

    @property
    def is_over(self) -> bool:
        """Whether both Close frames have passed, or one never will."""
        return self._stream.closed.is_set()

    async def take(self, close: Control) -> None:
        """Pass on the peer's Close frame; return when it has been handled."""
        self._peer_has_closed = True
        await self._opened.wait()
        await self._stream.feed(close)

    async def close(self, code: int, reason: str) -> None:
        """Send our Close frame, unless the peer's came first, and wait until both have passed."""
        await self._opened.wait()
        if self._websocket is not None and not self._peer_has_closed:
            await self._websocket.aclose(code, reason)
        await self._stream.closed.wait()

    def abort(self) -> None:
        """End the handshake: nothing arrives any more, and nothing is waited for."""
        self._stream.close()
        self._opening.cancel()

    async def _open(self) -> None:
        try:
            with self._opening, suppress(trio_websocket.ConnectionClosed):
                request = await trio_websocket.wrap_server_stream(self._nursery, self._stream)
                self._websocket = await request.accept()
                self._stream.is_open = True
        finally:
            self._opened.set()


class _ControlStream(trio.abc.Stream):
    """`receive_some` returns what `feed` was given. What is sent goes to the send queue, except for
    the answer to the opening handshake, which the peer has received before."""

    def __init__(self, head: bytes, send_queue: SendQueue) -> None:
        self.closed = trio.Event()
        self.is_open = False
        self._send_queue = send_queue
        self._incoming = head
        self._fed = trio.Event()
        self._fed.set()
        self._taken = trio.Event()

    async def feed(self, control: Control) -> None:
        """Pass a control frame on, and wait until it has been handled.

        Return at once if the stream is closed.
        """
        if not self.closed.is_set():
            self._taken = trio.Event()
            self._incoming += _as_from_client(control)
            self._fed.set()
            await self._taken.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes that were fed. Raises `trio.ClosedResourceError` after `close`."""
        if not self._incoming:
            self._taken.set()
            if not self.closed.is_set():
                self._fed = trio.Event()
            await self._fed.wait()
        if self.closed.is_set():
            raise trio.ClosedResourceError
        if max_bytes is None:
            max_bytes = len(self._incoming)
        data, self._incoming = self._incoming[:max_bytes], self._incoming[max_bytes:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send a control frame; wait until it has been written.

        Raises `trio.BrokenResourceError` when the transport has ended.
        """
        if not self.is_open:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._send_queue.send_control(bytes(data))
        except SendQueueClosed:
            self.close()  # trio-websocket does not receive again, so `feed` must not wait
            raise trio.BrokenResourceError from None

    async def wait_send_all_might_not_block(self) -> None:
        """The send queue takes control frames at any time."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """trio-websocket is done with the connection; the transport is closed by its owner."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """End the handshake: nothing arrives any more, and nothing is waited for."""
        self.closed.set()
        self._taken.set()
        self._fed.set()


def _as_from_client(control: Control) -> bytes:
    """Encode the frame again, with a mask of zeros: valid for trio-websocket's parser."""
    header = bytes((0x80 | control.opcode, 0x80 | len(control.payload), 0, 0, 0, 0))
    return header + control.payload
