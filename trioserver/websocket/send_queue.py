"""The frames that wait to be sent to one peer: bounded in bytes and in age, with one writer."""

from __future__ import annotations

from collections.abc import Callable

import trio

from trioserver.websocket.chunk_writer import ChunkWriter, pieces
from trioserver.websocket.flush_tracker import FlushTracker
from trioserver.websocket.frame_buffer import CHUNK_BYTES, FrameBuffer
from trioserver.websocket.memory import MemoryAccount
from trioserver.websocket.send_limits import SendLimits
from trioserver.websocket.send_room import SendRoom


class FrameTooBig(Exception):
    """The frame is larger than any that the send queue accepts; nothing was queued."""


class SendQueueFull(Exception):
    """The peer does not read fast enough; nothing was queued."""


class SendQueueClosed(Exception):
    """The transport has ended, or a Close frame was queued; nothing can be sent any more."""


class SendQueue:
    """Frames on their way out: straight to the transport while it accepts them, else by `run`.

    ``write_nowait`` hands bytes to the transport without waiting, and returns how many it accepted;
    it may raise `OSError`. If it is None, all is left to `run`, the one task that writes to
    ``stream`` and waits for it. `start` says where that task runs, once there is work for it.

    ``max_bytes`` bounds what waits, ``max_age`` (seconds) for how long. Data that has waited longer
    is dropped, and ``on_expired`` called, once, which may still put a last message. If the
    transport has not accepted a piece for that long, nothing more is sent. A large frame leaves in
    pieces, each with that time of its own, and what waits behind it has its time after it: its size
    makes nothing expire while the peer reads.

    Callers that can wait call `wait_room` before they put a frame, and then it fits. They wait
    while more than ``low_water_bytes`` are queued.
    """

    __slots__ = (
        "_has_memory", "_limits", "_memory", "_moved", "_nursery", "_on_expired", "_room",
        "_stream", "_tracker", "_write_nowait", "_writer", "buffer", "closed", "corked",
        "low_water_bytes", "queued_bytes",
    )  # fmt: skip

    def __init__(
        self,
        stream: trio.abc.SendStream,
        *,
        max_bytes: int,
        max_age: float,
        on_expired: Callable[[], None],
        write_nowait: Callable[[bytes | memoryview], int] | None = None,
        memory: MemoryAccount | None = None,
    ) -> None:
        self._limits = SendLimits.of(max_bytes, max_age)
        self.low_water_bytes = self._limits.low_water_bytes  # less while a large frame waits
        self.queued_bytes = 0
        self.closed = False
        self.corked = False
        self.buffer = FrameBuffer()
        self._tracker = FlushTracker()
        self._stream = stream
        self._write_nowait = write_nowait
        self._writer: ChunkWriter | None = None  # since something was left to it
        self._nursery: trio.Nursery | None = None  # until the writer has been started in it
        self._on_expired: Callable[[], None] | None = on_expired
        self._memory = memory
        self._has_memory = False  # whether the account has been told of anything
        self._moved: trio.Event | None = None  # somebody waits for `queued_bytes` to change
        self._room: SendRoom | None = None  # since somebody has waited for room

    def start(self, nursery: trio.Nursery) -> None:
        """From now on there is a ``nursery`` for `run`."""
        self._nursery = nursery
        if self.buffer:
            self._leave_to_writer()

    @property
    def bytes_sent(self) -> int:
        """How many bytes the transport has accepted."""
        return self._tracker.bytes_sent

    # -------------------------------------------------------------------------- putting

    def put_nowait(self, frame: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a data frame.

        ``urgent``: it cannot wait, and may use the reserve. The ``last`` one is always accepted.

        Raises `SendQueueFull`, `FrameTooBig`, `SendQueueClosed`.
        """
        buffer, limits = self.buffer, self._limits
        if self.closed or buffer.ending:
            raise SendQueueClosed
        size = len(frame)
        queued = self.queued_bytes
        if queued + size > limits.max_frame_bytes and not last:
            queued = self._fit(size, limits.max_bytes if urgent else limits.max_frame_bytes)
        self._tracker.others_put += 1
        self.queued_bytes = queued + size
        if self.corked:
            if buffer.held is None:
                buffer.held = [frame]
            else:
                buffer.held.append(frame)
        elif queued or self._write_nowait is None:
            buffer.add_data(frame, trio.current_time())
            self._send()
            self.account()
        else:
            buffer.set_chunk(frame, 1)
            self._try_chunk()

    def put_control_nowait(self, frame: bytes) -> None:
        """Queue a control frame before all data, a Close frame after it. Raises `SendQueueClosed`.

        Not bounded here: those who send control frames wait for each to be written, or send one
        in an interval.
        """
        if self.closed or self.buffer.ending:
            raise SendQueueClosed
        if self.buffer.add_control(frame):
            self._tracker.others_put += 1
        else:
            self._tracker.controls_put += 1
        self.queued_bytes += len(frame)
        if not self.corked:
            self._send()

    async def send_control(self, frame: bytes) -> None:
        """Queue a control frame, and wait until it has been written. Raises `SendQueueClosed`.

        Cancelling this does not take it back.
        """
        self.put_control_nowait(frame)
        tracker = self._tracker
        if self.buffer.ending:
            await self._wait_flushed(0, tracker.others_put)
        else:
            await self._wait_flushed(tracker.controls_put, 0)

    def discard(self) -> None:
        """Drop the data that waits. A frame that is being sent is still sent to its end."""
        self.buffer.release_held()
        frames, size = self.buffer.discard_data()
        self.queued_bytes -= size
        self._tracker.discarded(frames)
        self.account()
        self._notify()

    def cork(self, now: float | None = None) -> None:
        """Hold back what is put until `uncork`, so that it leaves in one call."""
        if not self.corked:
            self.corked = True
            self.buffer.held_since = trio.current_time() if now is None else now

    def uncork(self) -> None:
        """Send what was held back."""
        if not self.corked:
            return
        self.corked = False
        buffer = self.buffer
        held = buffer.held
        if held is not None:
            chunk = held[0] if len(held) == 1 else b"".join(held)
            if len(chunk) == self.queued_bytes <= CHUNK_BYTES and self._write_nowait is not None:
                buffer.held = None
                buffer.set_chunk(chunk, len(held))
                del chunk, held  # a `SharedFrame` counts as long as it is referred to
                self._try_chunk()
                return
            buffer.release_held()
        if self.queued_bytes:
            self._send()

    # -------------------------------------------------------------------------- what has left

    @property
    def data_put(self) -> int:
        """How many data frames were ever put."""
        return self._tracker.others_put - self.buffer.ending

    @property
    def control_waits(self) -> bool:
        """Whether a control frame was put that the transport has not accepted yet."""
        return self._tracker.controls_flushed < self._tracker.controls_put

    @property
    def oldest(self) -> float | None:
        """When the oldest of the data that waits was put, by Trio's clock; None without any."""
        return self.buffer.oldest

    @property
    def position(self) -> int:
        """How many frames other than control frames were ever put; for `is_flushed`."""
        return self._tracker.others_put

    def is_flushed(self, position: int) -> bool:
        """Return whether the transport has accepted the frame that was put last at this position.

        False too if it cannot be known, because data was discarded before it had left.
        """
        return self._tracker.is_flushed(position)

    async def wait_flushed(self, position: int) -> None:
        """Wait until the frame at this `position` has left. Raises `SendQueueClosed`."""
        await self._wait_flushed(0, position)

    def call_when_flushed(self, position: int, function: Callable[[], None]) -> None:
        """Call ``function`` as soon as the frame at this `position` has left, before anybody can
        know that it has. One at a time; never called if the frame does not leave."""
        self._tracker.call_when_flushed(position, function)

    async def flush(self) -> None:
        """Wait until all that is queued now has been written. Raises `SendQueueClosed`."""
        await self._wait_flushed(self._tracker.controls_put, self._tracker.others_put)

    async def _wait_flushed(self, controls: int, others: int) -> None:
        tracker = self._tracker
        if tracker.controls_flushed < controls or tracker.others_flushed < others:
            self.uncork()
        while tracker.controls_flushed < controls or tracker.others_flushed < others:
            if self.closed:
                raise SendQueueClosed
            await self._wait_moved()

    # -------------------------------------------------------------------------- room

    @property
    def has_room(self) -> bool:
        """Whether a frame that could wait does not have to."""
        return self.queued_bytes <= self.low_water_bytes

    def make_room(self) -> bool:
        """Send what is held back, as far as the transport accepts it; return `has_room`."""
        if self.corked:
            self.uncork()
            self.cork()
        return self.has_room

    async def wait_below(self, queued_bytes: int) -> None:
        """Wait until at most ``queued_bytes`` are queued, or the send queue is closed."""
        if self.queued_bytes > queued_bytes:
            self.uncork()  # nobody can wait for what is held back
        while self.queued_bytes > queued_bytes and not self.closed:
            await self._wait_moved()

    async def wait_room(self, size: int = 0) -> None:
        """Wait until there is room for a frame of ``size`` bytes, or the send queue is closed.

        The frame fits if it is put before the next checkpoint. Frames get room in the order in
        which they wait for it. Returns without a checkpoint if nobody has to wait, and for a frame
        that is too big.
        """
        if size > self._limits.max_frame_bytes:
            return
        target = min(self.low_water_bytes, self._limits.max_frame_bytes - size)
        if self.queued_bytes <= target and (self._room is None or not self._room.is_waited_for):
            return
        await self._waiters().wait(size)

    def call_when_room(self, call: Callable[[], None]) -> None:
        """Call this once, when there is room or the send queue is closed; not before it changes."""
        self._waiters().call = call
        if self._moved is None:
            self._moved = trio.Event()

    def _waiters(self) -> SendRoom:
        if self._room is None:
            self._room = SendRoom(self, self._limits)
        return self._room

    def _fit(self, size: int, limit: int) -> int:
        """Return what is queued, if a frame of ``size`` bytes fits within the ``limit``.

        Raises `SendQueueFull`, `FrameTooBig`.
        """
        if size > self._limits.max_frame_bytes:
            raise FrameTooBig
        self.uncork()  # the peer is not to blame for what is only held back
        if self.queued_bytes + size > limit:
            raise SendQueueFull
        return self.queued_bytes

    # -------------------------------------------------------------------------- writing

    async def run(self) -> None:
        """Write what is put, until the transport ends, or something expires, or `close`."""
        await self._own_writer().run()

    def _own_writer(self) -> ChunkWriter:
        if self._writer is None:
            self._writer = ChunkWriter(self, self._stream, self._limits.max_age)
        return self._writer

    def _leave_to_writer(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.run)
            self._nursery = None
        self.account()
        if self._writer is not None:
            self._writer.wake_up()

    def _send(self) -> None:
        """Hand over what waits, as far as the transport accepts it; the rest is for `run`."""
        if self._write_nowait is None:
            self._leave_to_writer()
        elif self._writer is None or not self._writer.writing:
            buffer = self.buffer
            while buffer:
                buffer.fill_chunk()
                if not self._try_chunk():
                    break

    def _try_chunk(self) -> bool:
        """Hand the chunk over; return whether the transport accepted all of it."""
        buffer = self.buffer
        taken = self._write_pieces_nowait(buffer.chunk)
        self._tracker.bytes_sent += taken
        if taken == len(buffer.chunk):
            self.chunk_sent(taken)
            return True
        if taken:  # otherwise it may go on being shared
            buffer.chunk = buffer.chunk[taken:]
        self.queued_bytes -= taken
        self._leave_to_writer()
        return False

    def _write_pieces_nowait(self, chunk: bytes) -> int:
        """Return how many bytes the transport accepts without waiting. No reference to the chunk
        outlives the call: a `SharedFrame` counts as long as it is referred to."""
        assert self._write_nowait is not None
        taken = 0
        try:
            for piece in pieces(chunk):  # the same that `run` goes on with, as TLS demands it
                took = self._write_nowait(piece)
                taken += took
                if took < len(piece):
                    break
        except OSError:
            pass  # `run` meets it as well, and ends
        return taken

    def accepted(self, size: int) -> None:
        """See `Writable`."""
        self._tracker.bytes_sent += size

    def chunk_sent(self, size: int) -> None:
        """See `Writable`."""
        buffer, tracker = self.buffer, self._tracker
        buffer.chunk = b""
        self.queued_bytes -= size
        tracker.controls_flushed += buffer.chunk_controls
        tracker.others_flushed += buffer.chunk_others
        if self._has_memory:
            self.account()
        if self._moved is not None:
            self._notify()
        if tracker.on_flushed is not None:
            tracker.call_if_flushed()

    def account(self) -> None:
        """Update the memory account. Not needed while the transport accepts all at once."""
        if self._memory is not None:
            shared = self.buffer.shared_bytes
            size = self.queued_bytes - shared
            if self._room is not None:
                size += self._room.waiting_bytes
            self._has_memory = size > 0 or shared > 0
            self._memory.set_unsent(size, shared)

    def expire(self, *, discard: bool) -> None:
        """See `Writable`."""
        if discard:
            self.discard()
        else:
            self.close()
        call, self._on_expired = self._on_expired, None
        if call is not None:
            call()

    # -------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Accept nothing any more; all waits end."""
        self.closed = True
        self.buffer.clear()
        self.queued_bytes = 0
        self.account()
        if self._writer is not None:
            self._writer.wake_up()
        self._notify()

    def release(self) -> None:
        """Drop all references, after `close`."""
        self._on_expired = None
        self._tracker.on_flushed = None
        self._room = None
        self._memory = None
        self._write_nowait = None
        self._writer = None
        self._nursery = None

    async def _wait_moved(self) -> None:
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    def _notify(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None
        if self._room is not None and self._room.call is not None:
            if self.has_room or self.closed:
                call, self._room.call = self._room.call, None
                call()
            else:
                self._moved = trio.Event()
