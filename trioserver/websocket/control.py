"""The stream that trio-websocket sees: handshake and control frames, never data.

trio-websocket keeps what it is good at, through its public API: the opening handshake, answering
Ping, the closing handshake. Data frames go around it.
"""

from __future__ import annotations

import trio

from trioserver.websocket.frames import Control
from trioserver.websocket.outbox import Outbox, OutboxClosed


class ControlStream(trio.abc.Stream):
    """What is put in with `feed` comes out of `receive_some`; what is sent goes to the outbox."""

    def __init__(self, head: bytes, outbox: Outbox) -> None:
        self.closed = trio.Event()
        self._outbox = outbox
        self._incoming = head
        self._fed = trio.Event()
        self._fed.set()
        self._taken = trio.Event()

    async def feed(self, control: Control) -> None:
        """Pass a control frame on, and wait until it has been dealt with.

        Control frames are a barrier: what came behind a Ping is not looked at before its Pong has
        been written. Returns at once when the stream is closed.
        """
        if not self.closed.is_set():
            self._taken = trio.Event()
            self._incoming += _as_from_client(control)
            self._fed.set()
            await self._taken.wait()

    async def wait_taken(self) -> None:
        """Wait until all that was fed has been dealt with."""
        await self._taken.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes that were fed. Raises `trio.ClosedResourceError` after `close`."""
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
        """Send the answer to the handshake, or a control frame; wait until it has been written.

        Raises `trio.BrokenResourceError` when the transport has ended.
        """
        try:
            await self._outbox.send_control(bytes(data))
        except OutboxClosed:
            self.close()  # trio-websocket will not ask for more, so nobody may wait for that
            raise trio.BrokenResourceError from None

    async def wait_send_all_might_not_block(self) -> None:
        """The outbox takes control frames at any time."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """trio-websocket is done with the connection; the transport is closed by its owner."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Nothing comes any more, nor is waited for."""
        self.closed.set()
        self._taken.set()
        self._fed.set()


def _as_from_client(control: Control) -> bytes:
    """The frame anew, with a mask of zeros: what trio-websocket's parser never stumbles over."""
    header = bytes((0x80 | control.opcode, 0x80 | len(control.payload), 0, 0, 0, 0))
    return header + control.payload
