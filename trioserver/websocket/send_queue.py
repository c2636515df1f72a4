"""What waits to be sent: bounded in bytes and in age, control frames before data, one writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs
import trio

from trioserver.websocket.headers import Opcode, payload_within
from trioserver.websocket.memory import MemoryAccount, SharedFrame

_CHUNK_BYTES: Final = 64 * 1024
"""At most about this much is handed to the transport at once, so that a control frame that comes
in behind a large backlog waits for no more than that."""

_CLOSE: Final = 0x80 | Opcode.CLOSE
"""The first byte of a Close frame."""

LOW_WATER_BYTES: Final = 64 * 1024
"""Frames that can wait do so until at most this is queued: a lower mark keeps a fast transport idle
in between, a higher one lets one client hold more memory."""


def largest_frame(max_bytes: int) -> int:
    """The size of the largest frame that a send queue of ``max_bytes`` takes.

    What is left is the reserve for frames that cannot wait: it is as large as what may be queued
    when a frame is put that could wait, so that such a frame always fits.
    """
    return max_bytes - _room(max_bytes)


def largest_payload(max_bytes: int) -> int:
    """The size of the largest message whose frame a send queue of ``max_bytes`` takes."""
    return payload_within(largest_frame(max_bytes))


def _room(max_bytes: int) -> int:
    return min(LOW_WATER_BYTES, max_bytes // 4)


def _pieces(chunk: bytes) -> Iterator[bytes | memoryview]:
    """The chunk in pieces, each of which the transport has to take in time.

    What small frames fill is one piece. What is left after a piece has the same pieces again.
    """
    if len(chunk) <= 2 * _CHUNK_BYTES:
        yield chunk
        return
    left = memoryview(chunk)
    while len(left) > 2 * _CHUNK_BYTES:
        yield left[:_CHUNK_BYTES]
        left = left[_CHUNK_BYTES:]
    yield left


class FrameTooBig(Exception):
    """The frame is larger than any that the send queue takes; nothing was queued."""


class SendQueueFull(Exception):
    """The peer does not read fast enough; nothing was queued."""


class SendQueueClosed(Exception):
    """The transport has ended, or a Close frame was queued; nothing can be sent any more."""


@attrs.define
class _Counter:
    """How many frames of a kind were ever put, and how many of them have left."""

    put: int = 0
    left: int = 0


class SendQueue:
    """Frames on their way out: straight to the transport while it takes them, else by `run`.

    ``write_nowait`` hands bytes to the transport without waiting and says how many it took; it may
    raise `OSError`. None where the transport has no such thing: then all is left to `run`, the
    one task that writes to ``stream`` and waits for it. `start` says where it is to run, once
    there is something for it.

    ``max_bytes`` bounds what waits, ``max_age`` (seconds) for how long. When data has waited
    longer it is dropped and ``on_expired`` called, once, which may still put its last words; when
    the transport has not taken a piece for that long, nothing more is sent. A large frame leaves
    in pieces, each with that time of its own, and what waits behind it has its time after it: so
    its size makes nobody overdue who reads.

    ``max_frame_bytes`` is the size of the largest frame that is accepted. Callers that can wait
    call `wait_room` before they put a frame, and then it fits. They wait while more than
    ``low_water_bytes`` are queued.
    """

    __slots__ = (
        "_ages_from", "_chunk", "_chunk_controls", "_chunk_is_large", "_chunk_others", "_close",
        "_control", "_controls", "_data", "_ending", "_held", "_held_since", "_last_complete",
        "_memory", "_moved", "_nursery", "_on_left", "_on_overdue", "_on_room", "_others", "_owes",
        "_shared_bytes", "_stream", "_turn", "_waiting_bytes", "_wake", "_write_nowait", "_writing",
        "bytes_sent", "closed", "corked", "low_water_bytes", "max_age", "max_bytes",
        "max_frame_bytes", "queued_bytes",
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
        self.max_bytes = max_bytes
        self.max_frame_bytes = largest_frame(max_bytes)
        self.low_water_bytes = _room(max_bytes)  # less while a frame waits that needs more room
        self.max_age = max_age
        self.queued_bytes = 0
        self.bytes_sent = 0
        self.closed = False
        self._on_overdue: Callable[[], None] | None = on_expired
        self._stream = stream
        self._write_nowait = write_nowait
        self._nursery: trio.Nursery | None = None  # until `run` has been started in it
        self.corked = False
        self._held_since = 0.0
        self._ages_from = 0.0  # what waits is no older than this: a large frame went before it
        self._writing = False  # `run` is handing the chunk to the transport
        self._control: list[bytes] = []
        self._data: list[tuple[bytes, float]] = []  # often empty, and then small
        self._held: list[bytes] = []  # data that was put while corked
        self._close: bytes | None = None  # the Close frame, which is the last of all
        self._ending = False
        self._controls = _Counter()
        self._others = _Counter()
        self._last_complete: int | None = (
            None  # up to where all has left, once something was discarded
        )
        # What is handed over in one piece, or what is left of it; and its frames of each lane.
        self._chunk = b""
        self._chunk_controls = 0
        self._chunk_others = 0
        self._chunk_is_large = False  # one of its frames is larger than a chunk need be
        self._wake: trio.Event | None = None  # `run` waits for it
        self._moved: trio.Event | None = None  # others wait for it
        self._on_left: tuple[int, Callable[[], None]] | None = None
        self._memory = memory
        self._owes = False  # whether the debt is told of anything
        self._shared_bytes = 0  # of the data that waits, what is not this send queue's alone
        self._waiting_bytes = 0  # of frames that wait for room
        self._turn: trio.Lock | None = None  # of those who wait for room
        self._on_room: Callable[[], None] | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """From now on there is a ``nursery`` for `run`."""
        self._nursery = nursery
        if self._has_work:
            self._leave_to_run()

    def put_nowait(self, frame: bytes, *, urgent: bool = False, last: bool = False) -> None:
        """Queue a data frame.

        ``urgent``: it cannot wait, and may use the reserve. The ``last`` one is always taken.

        Raises `SendQueueFull`, `FrameTooBig`, `SendQueueClosed`.
        """
        if self.closed or self._ending:
            raise SendQueueClosed
        size = len(frame)
        queued = self.queued_bytes
        if queued + size > self.max_frame_bytes and not last:
            queued = self._fit(size, self.max_bytes if urgent else self.max_frame_bytes)
        self._others.put += 1
        self.queued_bytes = queued + size
        if self.corked:
            self._held.append(frame)
        elif queued or self._write_nowait is None:
            self._data.append((frame, trio.current_time()))
            if type(frame) is SharedFrame:
                self._shared_bytes += size
            self._send_now()
            self._count()
        else:
            self._send_alone(frame, 1)

    def put_control_nowait(self, frame: bytes) -> None:
        """Queue a control frame before all data, a Close frame after it. Raises `SendQueueClosed`.

        Not bounded here: those who send control frames wait for each to be written, or send one
        in an interval.
        """
        if self.closed or self._ending:
            raise SendQueueClosed
        if frame[0] == _CLOSE:
            self._close = frame
            self._ending = True
            self._others.put += 1
        else:
            self._control.append(frame)
            self._controls.put += 1
        self.queued_bytes += len(frame)
        if not self.corked:
            self._send_now()

    async def send_control(self, frame: bytes) -> None:
        """Queue a control frame, and wait until it has been written. Raises `SendQueueClosed`.

        Cancelling this does not take it back.
        """
        self.put_control_nowait(frame)
        lane = self._others if frame[0] == _CLOSE else self._controls
        await self._wait_left(lane, lane.put)

    def discard(self) -> None:
        """Forget the data that waits; a frame that is being sent is still sent to its end."""
        self._stop_holding()
        self.queued_bytes -= sum(len(frame) for frame, _ in self._data)
        if self._data and self._last_complete is None:
            self._last_complete = self._others.left
        self._others.left += len(self._data)
        self._data.clear()
        self._shared_bytes = 0
        self._count()
        self._notify()

    @property
    def data_put(self) -> int:
        """How many data frames were ever put."""
        return self._others.put - self._ending

    @property
    def has_room(self) -> bool:
        """Whether a frame that could wait does not have to."""
        return self.queued_bytes <= self.low_water_bytes

    @property
    def control_waits(self) -> bool:
        """Whether a control frame was put that has not been handed to the transport yet."""
        return self._controls.left < self._controls.put

    @property
    def position(self) -> int:
        """How many frames other than control frames were ever put; for `is_flushed`."""
        return self._others.put

    def is_flushed(self, position: int) -> bool:
        """Whether the frame that was put last at this `position` was handed to the transport.

        False too where it cannot be known: some data was discarded before it had left.
        """
        return position <= (
            self._others.left if self._last_complete is None else self._last_complete
        )

    async def wait_flushed(self, position: int) -> None:
        """Wait until the frame at this `position` has left. Raises `SendQueueClosed`."""
        await self._wait_left(self._others, position)

    def call_when_flushed(self, position: int, function: Callable[[], None]) -> None:
        """Call ``function`` as soon as the frame at this `position` has left, before anybody can
        know that it has. One at a time; never called if the frame does not leave."""
        self._on_left = (position, function)
        self._check_left()

    def _check_left(self) -> None:
        if self._on_left is not None and self.is_flushed(self._on_left[0]):
            function, self._on_left = self._on_left[1], None
            function()

    def cork(self, now: float | None = None) -> None:
        """Hold back what is put until `uncork`, so that it leaves in one call."""
        if not self.corked:
            self.corked = True
            self._held_since = trio.current_time() if now is None else now

    def uncork(self) -> None:
        """Send what was held back."""
        if self.corked:
            self.corked = False
            held = self._held
            if held:
                chunk = held[0] if len(held) == 1 else b"".join(held)
                if (
                    len(chunk) == self.queued_bytes <= _CHUNK_BYTES
                    and self._write_nowait is not None
                ):
                    self._held = []
                    self._send_alone(chunk, len(held))
                    return
                self._stop_holding()
            if self.queued_bytes:
                self._send_now()

    async def wait_below(self, queued_bytes: int) -> None:
        """Wait until at most ``queued_bytes`` are queued, or the send queue is closed."""
        if self.queued_bytes > queued_bytes:
            self.uncork()  # nobody can wait for what is held back
        while self.queued_bytes > queued_bytes and not self.closed:
            await self._wait_moved()

    async def wait_room(self, size: int = 0) -> None:
        """Wait until there is room for a frame of ``size`` bytes, or the send queue is closed.

        The frame fits if it is put before the next checkpoint. Frames get room in the order in
        which they wait for it. Returns without a checkpoint where nobody has to wait, and for a
        frame that is too big.
        """
        if size > self.max_frame_bytes:
            return
        target = min(self.low_water_bytes, self.max_frame_bytes - size)
        if self.queued_bytes <= target and (self._turn is None or not self._turn.locked()):
            return
        if self._turn is None:
            self._turn = trio.Lock()
        self._waiting_bytes += size
        self._count()
        try:
            async with self._turn:
                await self._wait_for_turn(size)
        finally:
            self._waiting_bytes -= size
            self._count()

    async def _wait_for_turn(self, size: int) -> None:
        room = self.low_water_bytes
        self.low_water_bytes = min(room, self.max_frame_bytes - size)
        try:
            await self.wait_below(self.low_water_bytes)
        finally:
            self.low_water_bytes = room

    def make_room(self) -> bool:
        """Send what is held back, as far as the transport takes it; whether there is room then."""
        if self.corked:
            self.uncork()
            self.cork()
        return self.queued_bytes <= self.low_water_bytes

    def call_when_room(self, call: Callable[[], None]) -> None:
        """Call this once, when there is room or the send queue is closed; not before it changes."""
        self._on_room = call
        if self._moved is None:
            self._moved = trio.Event()

    async def flush(self) -> None:
        """Wait until all that is queued now has been written. Raises `SendQueueClosed`."""
        targets = [(lane, lane.put) for lane in (self._controls, self._others)]
        for lane, target in targets:
            await self._wait_left(lane, target)

    async def run(self) -> None:
        """Write what is put, until the transport ends, or data has waited too long, or `close`."""
        try:
            while not self.closed:
                await self._wait_for_work()
                self._drop_expired()
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
        self._held.clear()
        self._close = None
        self._chunk = b""
        self.queued_bytes = 0
        self._shared_bytes = 0
        self._count()
        self._wake_up()
        self._notify()

    def release(self) -> None:
        """Hold nobody any more, after `close`."""
        self._on_overdue = None
        self._on_left = None
        self._on_room = None
        self._memory = None
        self._write_nowait = None
        self._nursery = None

    @property
    def oldest(self) -> float | None:
        """When the oldest of the data that waits was put, by Trio's clock; None without any."""
        return self._data[0][1] if self._data else None

    @property
    def _has_work(self) -> bool:
        return bool(self._chunk or self._control or self._data or self._close)

    def _fit(self, size: int, limit: int) -> int:
        """What is queued when a frame of ``size`` bytes fits within the ``limit``.

        Raises `SendQueueFull`, `FrameTooBig`.
        """
        if size > self.max_frame_bytes:
            raise FrameTooBig
        self.uncork()  # the peer is not to blame for what is only held back
        if self.queued_bytes + size > limit:
            raise SendQueueFull
        return self.queued_bytes

    def _send_now(self) -> None:
        """Hand over what waits, as far as the transport takes it; the rest is for `run`."""
        if self._write_nowait is None:
            self._leave_to_run()
        elif not self._writing:
            while self._has_work:
                self._take_chunk()
                if not self._try_chunk():
                    break

    def _stop_holding(self) -> None:
        self._data += [(frame, self._held_since) for frame in self._held]
        self._shared_bytes += sum(len(each) for each in self._held if type(each) is SharedFrame)
        self._held.clear()

    def _send_alone(self, frames: bytes, count: int) -> None:
        """Hand over data frames that are all there is."""
        self._chunk, self._chunk_controls, self._chunk_others = frames, 0, count
        self._chunk_is_large = len(frames) > _CHUNK_BYTES
        self._try_chunk()

    def _try_chunk(self) -> bool:
        """Hand the chunk over; whether the transport took all of it."""
        taken = self._write_pieces_now(self._chunk)
        self.bytes_sent += taken
        if taken == len(self._chunk):
            self._sent(taken)
            return True
        if taken:  # else it may go on being shared
            self._chunk = self._chunk[taken:]
        self.queued_bytes -= taken
        self._leave_to_run()
        return False

    def _write_pieces_now(self, chunk: bytes) -> int:
        """How many bytes the transport takes without waiting. Nothing here outlives the call, so
        that a frame for many is gone when the last one counts what it has left."""
        assert self._write_nowait is not None
        taken = 0
        try:
            for piece in _pieces(chunk):  # the same that `run` goes on with, as TLS demands it
                took = self._write_nowait(piece)
                taken += took
                if took < len(piece):
                    break
        except OSError:
            pass  # `run` is going to meet it, and ends
        return taken

    def _count(self) -> None:
        """Tell the debt what is held. Where the transport takes all at once, it never needs to."""
        if self._memory is not None:
            shared = self._shared_bytes
            if type(self._chunk) is SharedFrame:
                shared += len(self._chunk)
            size = self.queued_bytes - shared + self._waiting_bytes
            self._owes = size > 0 or shared > 0
            self._memory.set_unsent(size, shared)

    def _leave_to_run(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.run)
            self._nursery = None
        self._count()
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    async def _wait_left(self, lane: _Counter, target: int) -> None:
        if lane.left < target:
            self.uncork()
        while lane.left < target:
            if self.closed:
                raise SendQueueClosed
            await self._wait_moved()

    async def _wait_moved(self) -> None:
        if self._moved is None:
            self._moved = trio.Event()
        await self._moved.wait()

    async def _wait_for_work(self) -> None:
        while (
            not self._has_work and not self.closed
        ):  # others may have done it before this wakes up
            self._wake = trio.Event()
            await self._wake.wait()

    async def _write_chunk(self) -> None:
        self._take_chunk()
        if not self._chunk:
            return
        self._count()  # what was many frames is one piece, and this send queue's own
        self._writing = True
        in_time = await self._write_pieces(self._chunk)
        self._writing = False
        if not in_time:
            self.close()
            self._expire()
        elif not self.closed:
            self._sent(len(self._chunk))

    async def _write_pieces(self, chunk: bytes) -> bool:
        """Hand over the chunk; whether the transport took each piece of it in time."""
        with trio.move_on_after(self.max_age) as scope:
            for piece in _pieces(chunk):
                await self._stream.send_all(piece)
                self.bytes_sent += len(piece)
                scope.deadline = trio.current_time() + self.max_age
            if self._chunk_is_large:
                self._ages_from = trio.current_time()
        return not scope.cancelled_caught

    def _take_chunk(self) -> None:
        """Fill the chunk, unless something is left of the last one: control frames, data as far
        as it fits, the Close frame."""
        if self._chunk:
            return
        frames, self._control = self._control, []
        self._chunk_controls = len(frames)
        size = sum(map(len, frames))
        data, taken = self._data, 0
        self._chunk_is_large = False
        while taken < len(data) and size < _CHUNK_BYTES:
            frame = data[taken][0]
            frames.append(frame)
            size += len(frame)
            taken += 1
            self._chunk_is_large = len(frame) > _CHUNK_BYTES  # then it is the last one
            if type(frame) is SharedFrame:
                self._shared_bytes -= len(frame)  # what is joined is this send queue's own
        del data[:taken]
        if self._close is not None and not data:
            frames.append(self._close)
            self._close = None
        self._chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        self._chunk_others = len(frames) - self._chunk_controls

    def _sent(self, size: int) -> None:
        """The rest of the chunk has left."""
        self._chunk = b""
        self.queued_bytes -= size
        self._controls.left += self._chunk_controls
        self._others.left += self._chunk_others
        if self._owes:
            self._count()
        if self._moved is not None:
            self._notify()
        if self._on_left is not None:
            self._check_left()

    def _drop_expired(self) -> None:
        overdue = trio.current_time() - self.max_age
        if self._data and self._data[0][1] < overdue and self._ages_from < overdue:
            self.discard()
            self._expire()

    def _expire(self) -> None:
        tell, self._on_overdue = self._on_overdue, None
        if tell is not None:
            tell()

    def _notify(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None
        if self._on_room is not None:
            if self.queued_bytes <= self.low_water_bytes or self.closed:
                call, self._on_room = self._on_room, None
                call()
            else:
                self._moved = trio.Event()
