"""The task that writes what the transport does not accept at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import trio

from trioserver.websocket.frame_buffer import CHUNK_BYTES, FrameBuffer


def pieces(chunk: bytes) -> Iterator[bytes | memoryview]:
    """The chunk in pieces, each of which the transport has to accept in time.

    What small frames fill is one piece. What is left after a piece has the same pieces again.
    """
    if len(chunk) <= 2 * CHUNK_BYTES:
        yield chunk
        return
    left = memoryview(chunk)
    while len(left) > 2 * CHUNK_BYTES:
        yield left[:CHUNK_BYTES]
        left = left[CHUNK_BYTES:]
    yield left


class Writable(Protocol):
    """The send queue whose chunks are written."""

    closed: bool
    buffer: FrameBuffer

    def account(self) -> None:
        """Update the memory account."""

    def accepted(self, size: int) -> None:
        """The transport has accepted a piece."""

    def chunk_sent(self, size: int) -> None:
        """The transport has accepted the rest of the chunk, ``size`` bytes of it in pieces."""

    def expire(self, *, discard: bool) -> None:
        """Data has waited too long; ``discard``: it is dropped, else the queue is closed."""

    def close(self) -> None:
        """The transport has ended."""


class ChunkWriter:
    """Writes the chunks of ``queue`` to ``stream``, the only task that does.

    Data that waits for longer than ``max_age`` seconds expires. So does a piece that the transport
    does not accept for that long. After a large frame, what waited behind it has its time anew.
    """

    __slots__ = ("_fresh_since", "_max_age", "_queue", "_stream", "_wake", "writing")

    def __init__(self, queue: Writable, stream: trio.abc.SendStream, max_age: float) -> None:
        self._queue = queue
        self._stream = stream
        self._max_age = max_age
        self._wake: trio.Event | None = None
        self._fresh_since = 0.0  # what waits counts as no older: a large frame left before it
        self.writing = False  # whether the chunk is being handed to the transport

    def wake_up(self) -> None:
        """There is something to write, or the queue is closed."""
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    async def run(self) -> None:
        """Write what is put, until the transport ends, data expires, or the queue closes."""
        queue = self._queue
        try:
            while not queue.closed:
                await self._wait_for_work()
                self._drop_expired()
                await self._write_chunk()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            queue.close()

    async def _wait_for_work(self) -> None:
        # What woke it up may have been written without it.
        while not self._queue.buffer and not self._queue.closed:
            self._wake = trio.Event()
            await self._wake.wait()

    def _drop_expired(self) -> None:
        oldest = self._queue.buffer.oldest
        limit = trio.current_time() - self._max_age
        if oldest is not None and oldest < limit and self._fresh_since < limit:
            self._queue.expire(discard=True)

    async def _write_chunk(self) -> None:
        queue, buffer = self._queue, self._queue.buffer
        buffer.fill_chunk()
        if not buffer.chunk:
            return
        queue.account()  # what was many frames is one piece, and this queue's own
        self.writing = True
        # No name is kept for the chunk: a `SharedFrame` counts as long as it is referred to.
        in_time = await self._write_pieces(buffer.chunk, is_large=buffer.chunk_is_large)
        self.writing = False
        if not in_time:
            queue.expire(discard=False)
        elif not queue.closed:
            queue.chunk_sent(len(buffer.chunk))

    async def _write_pieces(self, chunk: bytes, *, is_large: bool) -> bool:
        """Write the chunk; return whether the transport accepted each piece of it in time."""
        with trio.move_on_after(self._max_age) as scope:
            for piece in pieces(chunk):
                await self._stream.send_all(piece)
                self._queue.accepted(len(piece))
                scope.deadline = trio.current_time() + self._max_age
            if is_large:
                self._fresh_since = trio.current_time()
        return not scope.cancelled_caught
