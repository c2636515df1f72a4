"""A WebSocket without the protocol, for tools that send what `Client` would never send."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from trioserver.client.close_reason import CloseReason
from trioserver.client.handshake import (
    MAX_MESSAGE_BYTES,
    WatchedStream,
    reason_of_close,
    run_websocket,
)
from trioserver.client.network import open_stream as open_tcp_stream
from trioserver.client.network import reason_from_error
from trioserver.client.options import OpenStream
from trioserver.client.url import WebSocketURL

_CLOSE_TIMEOUT: Final = 2.0


class RawConnection:
    """Sends and receives text and binary messages. WebSocket pings are answered."""

    def __init__(self, websocket: WebSocketConnection, stream: WatchedStream) -> None:
        self._websocket = websocket
        self._stream = stream

    async def send(self, message: str | bytes) -> None:
        """Send a message; after the end it is dropped. It has no deadline."""
        try:
            await self._websocket.send_message(message)
        except ConnectionClosed:
            await trio.lowlevel.checkpoint()

    async def receive(self) -> str | bytes | CloseReason:
        """Wait for the next message, or the reason of the end. It has no deadline."""
        try:
            return await self._websocket.get_message()
        except ConnectionClosed:
            return reason_of_close(self._stream, self._websocket)

    async def aclose(self) -> None:
        """Close normally, within two seconds; when cancelled, close at once."""
        try:
            with trio.move_on_after(_CLOSE_TIMEOUT):
                await self._websocket.aclose()
        finally:
            await trio.aclose_forcefully(self._stream)


async def open_raw(
    nursery: trio.Nursery,
    url: WebSocketURL,
    *,
    timeout: float,
    ssl_context: ssl.SSLContext | None = None,
    open_stream: OpenStream | None = None,
) -> RawConnection | CloseReason:
    """Connect within ``timeout`` seconds; returns the reason if that fails.

    A task in ``nursery`` reads from the connection. The caller must call `RawConnection.aclose`.
    ``ssl_context`` and ``open_stream`` are as for `connect`.
    """
    open_stream = open_stream or partial(open_tcp_stream, ssl_context=ssl_context)
    reason = CloseReason.local("The server does not answer.", "connect_timeout")
    stream: WatchedStream | None = None
    websocket: WebSocketConnection | None = None
    try:
        with trio.move_on_after(timeout):
            stream = WatchedStream(await open_stream(url))
            websocket = await nursery.start(run_websocket, stream, url, (), MAX_MESSAGE_BYTES)
            if websocket is not None:
                return RawConnection(websocket, stream)
            reason = stream.handshake_failure()
    except (OSError, trio.BrokenResourceError) as error:
        reason = reason_from_error(error)
    finally:
        if stream is not None and websocket is None:
            await trio.aclose_forcefully(stream)
    return reason
