"""`SendTolerantStream`: a stream that can still be read after a failed send."""

from __future__ import annotations

import math
from typing import Final

import trio

_SECONDS: Final = 1.0
"""Time to read what is left after a failed send. It has arrived by then, or never will."""


class SendTolerantStream(trio.abc.Stream):
    """Wraps a stream so that only receiving reports that the peer has gone.

    A server that rejects a connection sends the reason, such as an HTTP status or a TLS alert, and
    closes at once. Sending to it then fails while the reason waits to be read. Therefore a failed
    send raises nothing here. Later receives return what has arrived, then the end of the stream or
    `trio.BrokenResourceError`, within a second after the failed send.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._broken = False
        self._reading: trio.CancelScope | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.abc.ReceiveStream`."""
        deadline = trio.current_time() + _SECONDS if self._broken else math.inf
        with trio.CancelScope(deadline=deadline) as self._reading:
            return bytes(await self._stream.receive_some(max_bytes))
        raise trio.BrokenResourceError("the peer has closed the connection")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`, but does not raise `trio.BrokenResourceError`."""
        if self._broken:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._broken = True
            if self._reading is not None:
                self._reading.deadline = trio.current_time() + _SECONDS

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        if self._broken:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As `trio.abc.AsyncResource`."""
        await self._stream.aclose()
