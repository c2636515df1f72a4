"""What waits to be sent: bounded in bytes and in age, control frames before data, one writer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from trioserver.websocket.frames import Opcode

_CHUNK_BYTES: Final = 64 * 1024
"""At most about this much is handed to the transport at once, so that a control frame that comes
in behind a large backlog waits for no more than that."""


class OutboxFull(Exception):
    """The peer does not read fast enough; nothing was queued."""


class OutboxClosed(Exception):
    """The transport has ended; nothing can be sent any more."""


class Outbox:
    """Frames on their way out. One task, `run`, writes them to ``stream``.

    ``max_bytes`` bounds what waits, ``max_age`` (seconds) for how long. When data has waited
    longer it is dropped and ``on_overdue`` called, which may still put its last words; when the
    transport has taken nothing for that long, `run` ends as well.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        max_bytes: int,
        max_age: float,
        on_overdue: Callable[[], None],
    ) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.queued_bytes = 0
        self.bytes_sent = 0
        self.closed = False
        self._on_overdue = on_overdue
        self._stream = stream
        self._control: deque[bytes] = deque()
        self._data: deque[tuple[bytes, float]] = deque()
        self._written = 0  # frames, of all that were ever put
        self._put = 0
        self._wake = trio.Event()
        self._moved = trio.Event()

    def put_nowait(self, frame: bytes, *, last: bool = False) -> None:
        """Queue a data frame; the ``last`` one is taken also when the outbox is full.

        Raises `OutboxFull`, `OutboxClosed`.
        """
        if self.closed:
            raise OutboxClosed
        if not last and self.queued_bytes + len(frame) > self.max_bytes:
            raise OutboxFull
        self._data.append((frame, trio.current_time()))
        self._queued(frame)

    def put_control_nowait(self, frame: bytes) -> None:
        """Queue a control frame ahead of all data, a Close frame behind it. Raises `OutboxClosed`.

        Not bounded here: those who send control frames wait for each to be written, or send one
        in an interval.
        """
        if self.closed:
            raise OutboxClosed
        if frame[0] & 0x0F == Opcode.CLOSE:
            self._data.append((frame, trio.current_time()))
        else:
            self._control.append(frame)
        self._queued(frame)

    def _queued(self, frame: bytes) -> None:
        self._put += 1
        self.queued_bytes += len(frame)
        self._wake.set()

    def discard(self) -> None:
        """Forget the data that waits; a frame that is being sent is still sent to its end."""
        for frame, _ in self._data:
            self.queued_bytes -= len(frame)
            self._written += 1
        self._data.clear()
        self._notify()

    async def wait_below(self, queued_bytes: int) -> None:
        """Wait until no more than so much is queued, or the outbox is closed."""
        while self.queued_bytes > queued_bytes and not self.closed:
            await self._moved.wait()

    async def flush(self) -> None:
        """Wait until all that is queued now has been written. Raises `OutboxClosed`.

        The sum of frames written is waited for: control frames that overtake what is queued now
        can only make it wait a little longer.
        """
        target = self._put
        while self._written < target:
            if self.closed:
                raise OutboxClosed
            await self._moved.wait()

    async def run(self) -> None:
        """Write what is put, until the transport ends, or data has waited too long."""
        try:
            while True:
                await self._wait_for_work()
                self._drop_overdue()
                chunk, frames = self._take_chunk()
                with trio.move_on_after(self.max_age) as scope:
                    await self._stream.send_all(chunk)
                if scope.cancelled_caught:
                    self.close()
                    self._on_overdue()
                    return
                self.queued_bytes -= len(chunk)
                self.bytes_sent += len(chunk)
                self._written += frames
                self._notify()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            self.close()

    async def _wait_for_work(self) -> None:
        if not self._control and not self._data:
            self._wake = trio.Event()
            await self._wake.wait()

    def _take_chunk(self) -> tuple[bytes, int]:
        """Control frames first, then as much data as fits; and how many frames that is."""
        frames = list(self._control)
        self._control.clear()
        size = sum(map(len, frames))
        while self._data and size < _CHUNK_BYTES:
            frame, _ = self._data.popleft()
            frames.append(frame)
            size += len(frame)
        return b"".join(frames), len(frames)

    def _drop_overdue(self) -> None:
        if self._data and self._data[0][1] < trio.current_time() - self.max_age:
            self.discard()
            self._on_overdue()

    def close(self) -> None:
        """Take nothing any more; whoever waits is told."""
        self.closed = True
        self._control.clear()
        self._data.clear()
        self.queued_bytes = 0
        self._notify()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
