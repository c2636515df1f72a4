"""Frames that wait for room in a send queue, in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from trioserver.websocket.send_limits import SendLimits


class Queue(Protocol):
    """The send queue, as it is seen here."""

    low_water_bytes: int

    def account(self) -> None:
        """Update the memory account."""

    async def wait_below(self, queued_bytes: int) -> None:
        """Wait until at most ``queued_bytes`` are queued, or the send queue is closed."""


class SendRoom:
    """Who waits for room. ``waiting_bytes`` is the size of the frames that wait.

    ``call`` is to be called once, when there is room.
    """

    __slots__ = ("_limits", "_queue", "_turn", "call", "waiting_bytes")

    def __init__(self, queue: Queue, limits: SendLimits) -> None:
        self._queue = queue
        self._limits = limits
        self._turn = trio.Lock()
        self.waiting_bytes = 0
        self.call: Callable[[], None] | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a frame waits."""
        return self._turn.locked()

    async def wait(self, size: int) -> None:
        """Wait until there is room for a frame of ``size`` bytes."""
        queue = self._queue
        self.waiting_bytes += size
        queue.account()
        try:
            async with self._turn:
                await self._wait_for_turn(size)
        finally:
            self.waiting_bytes -= size
            queue.account()

    async def _wait_for_turn(self, size: int) -> None:
        queue = self._queue
        low_water = queue.low_water_bytes
        queue.low_water_bytes = min(low_water, self._limits.max_frame_bytes - size)
        try:
            await queue.wait_below(queue.low_water_bytes)
        finally:
            queue.low_water_bytes = low_water
