"""Messages that wait to be sent, and the one task that sends them.

No other task writes to the WebSocket, so cancelling a request never leaves half a frame behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

LOW_WATER_BYTES: Final = 64 * 1024
"""A task that wants to send waits until at most so many bytes are queued."""

SEND_TIMEOUT: Final = 60.0
"""Seconds for one message to be written. A busy server stops reading, but for no longer than its
handlers may take. A server that does not read for longer than this is considered dead."""


class SendQueue:
    """Text messages in order. `put` never waits; callers that can wait call `wait_low_water` first,
    which bounds the queue."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._changed = trio.Event()
        self._closed = False

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._bytes

    def put(self, messages: Sequence[bytes]) -> None:
        """Append messages. After `close` they are dropped."""
        if not self._closed:
            self._messages.extend(messages)
            self._bytes += sum(map(len, messages))
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def close(self) -> None:
        """Drop the queue and wake all waiting tasks. Nothing is sent after this."""
        self._closed = True
        self._messages.clear()
        self._bytes = 0
        self._wake()

    async def wait_low_water(self) -> None:
        """Wait until at most `LOW_WATER_BYTES` are queued, or it is closed. It has no deadline."""
        while self._bytes > LOW_WATER_BYTES:
            await self._changed.wait()

    async def wait_empty(self) -> None:
        """Wait until all messages are sent, or it is closed. It has no deadline."""
        while self._messages:
            await self._changed.wait()

    async def run(self, websocket: WebSocketConnection) -> bool:
        """Send messages until the WebSocket ends. Returns False if a send exceeds its timeout."""
        while True:
            while not self._messages:
                await self._changed.wait()
            message = self._messages[0]
            with trio.move_on_after(SEND_TIMEOUT) as scope:
                try:
                    await websocket.send_message(message.decode())
                except ConnectionClosed:
                    return True
            if scope.cancelled_caught:
                return False
            if self._messages:
                self._messages.popleft()
                self._bytes -= len(message)
                self._wake()
