"""What waits to be sent: bounded in bytes and in age, control frames before data, one writer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trioserver.websocket.frames import Opcode

_CHUNK_BYTES: Final = 64 * 1024
"""At most about this much is handed to the transport at once, so that a control frame that comes
in behind a large backlog waits for no more than that."""

_CLOSE: Final = 0x80 | Opcode.CLOSE
"""The first byte of a Close frame."""


class OutboxFull(Exception):
    """The peer does not read fast enough; nothing was queued."""


class OutboxClosed(Exception):
    """The transport has ended, or a Close frame was queued; nothing can be sent any more."""


@attrs.define
class _Lane:
    """How many frames of a kind were ever put, and how many of them have left."""

    put: int = 0
    left: int = 0


@attrs.frozen
class _Chunk:
    """Frames that are handed to the transport together, or what is left of them."""

    data: bytes
    controls: int
    others: int


class Outbox:
    """Frames on their way out: straight to the transport while it takes them, else by `run`.

    ``write_now`` hands bytes to the transport without waiting and says how many it took; it may
    raise `OSError`. None where the transport has no such thing: then all is left to `run`, the
    one task that writes to ``stream`` and waits for it.

    ``max_bytes`` bounds what waits, ``max_age`` (seconds) for how long. When data has waited
    longer it is dropped and ``on_overdue`` called, once, which may still put its last words; when
    the transport has not taken a chunk for that long, nothing more is sent.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        max_bytes: int,
        max_age: float,
        on_overdue: Callable[[], None],
        write_now: Callable[[bytes], int] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.queued_bytes = 0
        self.bytes_sent = 0
        self.closed = False
        self._on_overdue: Callable[[], None] | None = on_overdue
        self._stream = stream
        self._write_now = write_now
        self._writing = False  # `run` is handing a chunk to the transport
        self._corked = False
        self._rest: _Chunk | None = None  # of a chunk that the transport took in part
        self._control: deque[bytes] = deque()
        self._data: deque[tuple[bytes, float]] = deque()
        self._close: bytes | None = None  # the Close frame, which is the last of all
        self._ending = False
        self._controls = _Lane()
        self._others = _Lane()
        self._sound: int | None = None  # up to where all has left, once something was discarded
        self._wake = trio.Event()
        self._moved = trio.Event()
        self._waiters = 0

    def put_nowait(self, frame: bytes, *, last: bool = False) -> None:
        """Queue a data frame; the ``last`` one is taken also when the outbox is full.

        Raises `OutboxFull`, `OutboxClosed`.
        """
        self._check_open()
        if not last and self.queued_bytes + len(frame) > self.max_bytes:
            raise OutboxFull
        self._data.append((frame, trio.current_time()))
        self._queued(frame, self._others)

    def put_control_nowait(self, frame: bytes) -> None:
        """Queue a control frame ahead of all data, a Close frame behind it. Raises `OutboxClosed`.

        Not bounded here: those who send control frames wait for each to be written, or send one
        in an interval.
        """
        self._check_open()
        if frame[0] == _CLOSE:
            self._close = frame
            self._ending = True
            self._queued(frame, self._others)
        else:
            self._control.append(frame)
            self._queued(frame, self._controls)

    async def send_control(self, frame: bytes) -> None:
        """Queue a control frame, and wait until it has been written. Raises `OutboxClosed`.

        Cancelling this does not take it back.
        """
        self.put_control_nowait(frame)
        lane = self._others if frame[0] == _CLOSE else self._controls
        await self._wait_left(lane, lane.put)

    def discard(self) -> None:
        """Forget the data that waits; a frame that is being sent is still sent to its end."""
        self.queued_bytes -= sum(len(frame) for frame, _ in self._data)
        if self._data and self._sound is None:
            self._sound = self._others.left
        self._others.left += len(self._data)
        self._data.clear()
        self._notify()

    @property
    def position(self) -> int:
        """How many frames other than control frames were ever put; for `has_left`."""
        return self._others.put

    def has_left(self, position: int) -> bool:
        """Whether the frame that was put last at this `position` was handed to the transport.

        False too where it cannot be known: some data was discarded before it had left.
        """
        return position <= (self._others.left if self._sound is None else self._sound)

    async def wait_left(self, position: int) -> None:
        """Wait until the frame at this `position` has left. Raises `OutboxClosed`."""
        await self._wait_left(self._others, position)

    def cork(self) -> None:
        """Hold back what is put until `uncork`, so that it leaves in one call."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was held back."""
        self._corked = False
        self._send_now()

    async def wait_below(self, queued_bytes: int) -> None:
        """Wait until no more than so much is queued, or the outbox is closed."""
        while self.queued_bytes > queued_bytes and not self.closed:
            await self._wait_moved()

    async def flush(self) -> None:
        """Wait until all that is queued now has been written. Raises `OutboxClosed`."""
        targets = [(lane, lane.put) for lane in (self._controls, self._others)]
        for lane, target in targets:
            await self._wait_left(lane, target)

    async def run(self) -> None:
        """Write what is put, until the transport ends, or data has waited too long, or `close`."""
        try:
            while not self.closed:
                await self._wait_for_work()
                self._drop_overdue()
                await self._write_chunk()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Take nothing any more; whoever waits is told."""
        self.closed = True
        self._control.clear()
        self._data.clear()
        self._close = self._rest = None
        self.queued_bytes = 0
        self._wake.set()
        self._notify()

    def _check_open(self) -> None:
        if self.closed or self._ending:
            raise OutboxClosed

    def _queued(self, frame: bytes, lane: _Lane) -> None:
        lane.put += 1
        self.queued_bytes += len(frame)
        if not self._corked:
            self._send_now()

    @property
    def _has_work(self) -> bool:
        return bool(self._rest or self._control or self._data or self._close)

    def _send_now(self) -> None:
        """Hand over what waits, as far as the transport takes it; the rest is for `run`."""
        if self._write_now is not None and not self._writing:
            while self._has_work:
                chunk = self._take_chunk()
                try:
                    taken = self._write_now(chunk.data)
                except OSError:
                    taken = 0  # `run` is going to meet it, and ends
                if taken < len(chunk.data):
                    self.bytes_sent += taken
                    self.queued_bytes -= taken
                    self._rest = _Chunk(chunk.data[taken:], chunk.controls, chunk.others)
                    break
                self._sent(chunk)
        if self._has_work:
            self._wake.set()

    async def _wait_left(self, lane: _Lane, target: int) -> None:
        while lane.left < target:
            if self.closed:
                raise OutboxClosed
            await self._wait_moved()

    async def _wait_moved(self) -> None:
        self._waiters += 1
        try:
            await self._moved.wait()
        finally:
            self._waiters -= 1

    async def _wait_for_work(self) -> None:
        if not self._has_work:
            self._wake = trio.Event()
            await self._wake.wait()

    async def _write_chunk(self) -> None:
        chunk = self._take_chunk()
        self._writing = True
        with trio.move_on_after(self.max_age) as scope:
            await self._stream.send_all(chunk.data)
        self._writing = False
        if scope.cancelled_caught:
            self.close()
            self._overdue()
        elif not self.closed:
            self._sent(chunk)

    def _take_chunk(self) -> _Chunk:
        """What is left of the last chunk; else control frames, data as far as it fits, the Close
        frame."""
        if self._rest is not None:
            chunk, self._rest = self._rest, None
            return chunk
        frames = list(self._control)
        self._control.clear()
        controls = len(frames)
        size = sum(map(len, frames))
        while self._data and size < _CHUNK_BYTES:
            frame, _ = self._data.popleft()
            frames.append(frame)
            size += len(frame)
        if self._close is not None and not self._data:
            frames.append(self._close)
            self._close = None
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        return _Chunk(data, controls, len(frames) - controls)

    def _sent(self, chunk: _Chunk) -> None:
        self.queued_bytes -= len(chunk.data)
        self.bytes_sent += len(chunk.data)
        self._controls.left += chunk.controls
        self._others.left += chunk.others
        self._notify()

    def _drop_overdue(self) -> None:
        if self._data and self._data[0][1] < trio.current_time() - self.max_age:
            self.discard()
            self._overdue()

    def _overdue(self) -> None:
        tell, self._on_overdue = self._on_overdue, None
        if tell is not None:
            tell()

    def _notify(self) -> None:
        if self._waiters:
            self._moved.set()
            self._moved = trio.Event()
