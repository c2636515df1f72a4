"""The stream of one HTTP connection, with a deadline for each read and write."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from trioserver.websocket.handshake import linger

PIECE_BYTES: Final = 64 * 1024
"""Bytes that are read at once, and bytes of a response that one write and its deadline are for."""

_LINGER: Final = 1.0
"""Seconds that closing may take. To close with unread input would reset the connection, and the
client could lose the response."""

_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class ClientGone(OSError):
    """Nothing can be sent to the client any more. ASGI has ``send`` raise an `OSError` for it."""


class Transport:
    """Reads and writes. One task at a time may read, and one may write."""

    def __init__(self, stream: trio.abc.Stream, *, send_timeout: float) -> None:
        self.stream = stream
        self._send_timeout = send_timeout
        self._reading = trio.CancelScope()

    async def receive(self, timeout: float) -> bytes | None:
        """Return some bytes, or ``b""`` when the client sends no more.

        Return None after ``timeout`` seconds, or when interrupted.
        """
        with trio.move_on_after(timeout) as self._reading:
            try:
                return bytes(await self.stream.receive_some(PIECE_BYTES))
            except trio.BrokenResourceError:
                return b""
        return None

    def interrupt(self) -> None:
        """End the read that is under way, if any."""
        self._reading.cancel()

    async def send(self, data: memoryview) -> None:
        """Send at most `PIECE_BYTES`. Raises `ClientGone`."""
        try:
            with trio.fail_after(self._send_timeout):
                await self.stream.send_all(data)
        except (*_LOST, trio.TooSlowError):
            raise ClientGone from None

    async def close(self, *, unread: bool) -> None:
        """Close so that the last response arrives. ``unread``: the client has sent more."""
        if unread:
            with trio.move_on_after(_LINGER), suppress(*_LOST):
                await linger(self.stream)
        with trio.move_on_after(_LINGER), suppress(*_LOST):
            await self.stream.aclose()  # with TLS it tells the client that nothing is missing
