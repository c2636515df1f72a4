"""What waits to be sent, and the one task that sends it.

Nobody else does, so that cancelling a request never leaves half a frame behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

ROOM_BYTES: Final = 64 * 1024
"""Who wants to send waits until no more than this is queued."""

SEND_TIMEOUT: Final = 60.0
"""Seconds for one message to leave. A server that is busy with our earlier ones stops reading, for
no longer than its handlers may take; beyond that it is dead."""


class Outgoing:
    """Text messages on their way. Bounded by whoever puts in what could wait: `wait_room` first."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._changed = trio.Event()
        self._closed = False

    def put(self, messages: Sequence[bytes]) -> None:
        """Never waits."""
        if not self._closed:
            self._messages.extend(messages)
            self._bytes += sum(map(len, messages))
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def close(self) -> None:
        """Nothing will be sent any more; those who wait wait no longer."""
        self._closed = True
        self._messages.clear()
        self._bytes = 0
        self._wake()

    async def wait_room(self) -> None:
        """Wait until there is room for more, or it is closed. The deadline is the caller's."""
        while self._bytes > ROOM_BYTES:
            await self._changed.wait()

    async def wait_sent(self) -> None:
        """Wait until all is sent, or it is closed. The deadline is the caller's."""
        while self._messages:
            await self._changed.wait()

    async def run(self, websocket: WebSocketConnection) -> bool:
        """Send until the WebSocket has ended; False where the server does not read."""
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
