"""A stream on which a peer that has left is still heard to its end."""

from __future__ import annotations

import math
from typing import Final

import trio

_SECONDS: Final = 1.0
"""For what is still to be read when nothing can be sent any more: it has arrived, or never will."""


class LastWordsStream(trio.abc.Stream):
    """A stream whose end is told by reading only.

    A server that refuses says why and closes at once: an HTTP status, an alert of TLS. What is sent
    to it after that fails, while the answer waits to be read. So a send that fails is no error
    here. The next reads give what has arrived, then the end or `trio.BrokenResourceError`, at the
    latest after a second.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._broken = False
        self._reading: trio.CancelScope | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As of `trio.abc.ReceiveStream`."""
        deadline = trio.current_time() + _SECONDS if self._broken else math.inf
        with trio.CancelScope(deadline=deadline) as self._reading:
            return bytes(await self._stream.receive_some(max_bytes))
        raise trio.BrokenResourceError("the peer has left")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As of `trio.abc.SendStream`, but does not raise `trio.BrokenResourceError`."""
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
        """As of `trio.abc.SendStream`."""
        if self._broken:
            await trio.lowlevel.checkpoint()
        else:
            await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As of `trio.abc.AsyncResource`."""
        await self._stream.aclose()
