"""A WebSocket with nothing on top, for tools that have to send what a client never would."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trioserver.client.close_reason import CloseReason, lost
from trioserver.client.handshake import (
    MAX_MESSAGE_BYTES,
    WatchedStream,
    reason_of_close,
    run_websocket,
)
from trioserver.client.options import OpenStream
from trioserver.client.url import Address, reason_of_error
from trioserver.client.url import open_stream as open_tcp_stream

_CLOSE_TIMEOUT: Final = 2.0


class RawConnection:
    """Text and binary messages, as they are. Pings of the WebSocket are answered."""

    def __init__(self, websocket: WebSocketConnection, stream: WatchedStream) -> None:
        self._websocket = websocket
        self._stream = stream

    async def send(self, message: str | bytes) -> None:
        """Send; after the end nothing is. The deadline is the caller's."""
        try:
            await self._websocket.send_message(message)
        except ConnectionClosed:
            await trio.lowlevel.checkpoint()

    async def receive(self) -> str | bytes | CloseReason:
        """The next message, or how it ended. The deadline is the caller's."""
        try:
            return await self._websocket.get_message()
        except ConnectionClosed:
            return reason_of_close(self._stream, self._websocket)

    async def aclose(self) -> None:
        """Close normally; takes two seconds at most, and none when cancelled."""
        try:
            with trio.move_on_after(_CLOSE_TIMEOUT):
                await self._websocket.aclose()
        finally:
            await trio.aclose_forcefully(self._stream)


async def open_raw(
    nursery: trio.Nursery,
    address: Address,
    *,
    timeout: float,
    ssl_context: ssl.SSLContext | None = None,
    open_stream: OpenStream | None = None,
) -> RawConnection | CloseReason:
    """Connect within ``timeout`` seconds, or say why not. `RawConnection.aclose` is the caller's.

    It is read in ``nursery``. ``ssl_context`` and ``open_stream`` as of `connect`.
    """
    open_stream = open_stream or partial(open_tcp_stream, ssl_context=ssl_context)
    reason = lost("The server does not answer.", "connect_timeout")
    stream: WatchedStream | None = None
    websocket: WebSocketConnection | None = None
    try:
        with trio.move_on_after(timeout):
            stream = WatchedStream(await open_stream(address))
            websocket = await nursery.start(run_websocket, stream, address, (), MAX_MESSAGE_BYTES)
            if websocket is not None:
                return RawConnection(websocket, stream)
            reason = stream.refusal()
    except (OSError, trio.BrokenResourceError) as error:
        reason = reason_of_error(error)
    finally:
        if stream is not None and websocket is None:
            await trio.aclose_forcefully(stream)
    return reason
