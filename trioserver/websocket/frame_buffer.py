"""The frames of one send queue: in which order they leave, and how they are cut into chunks.

Control frames leave before data, and the Close frame after it. Knows no bounds and does no I/O.
"""

from __future__ import annotations

from typing import Final

from trioserver.websocket.headers import WHOLE_CLOSE
from trioserver.websocket.memory import SharedFrame

CHUNK_BYTES: Final = 64 * 1024
"""About this much is handed to the transport at once, so that a control frame that is queued behind
much data waits for no more than that."""


class FrameBuffer:
    """What waits, and the chunk that is being sent.

    ``chunk`` is what is left of the bytes that are handed to the transport in one piece. It
    consists of ``chunk_controls`` control frames and ``chunk_others`` others; ``chunk_is_large``
    says that one of its frames has more bytes than a chunk needs to have.

    ``held`` are data frames that wait since ``held_since`` to leave together. ``ending`` says that
    a Close frame was added, after which nothing may be.
    """

    __slots__ = (
        "_close", "_control", "_data", "_shared_bytes", "chunk", "chunk_controls", "chunk_is_large",
        "chunk_others", "ending", "held", "held_since",
    )  # fmt: skip

    # The lists are None while they are empty, as they are in nearly all connections at any time.
    def __init__(self) -> None:
        self._control: list[bytes] | None = None
        self._data: list[tuple[bytes, float]] | None = None
        self._close: bytes | None = None
        self._shared_bytes = 0  # of the data, what other send queues hold as well
        self.held: list[bytes] | None = None
        self.held_since = 0.0
        self.ending = False
        self.chunk = b""
        self.chunk_controls = 0
        self.chunk_others = 0
        self.chunk_is_large = False

    def __bool__(self) -> bool:
        """Whether there is anything to send, apart from what is held."""
        return bool(self.chunk or self._data or self._control or self._close)

    @property
    def shared_bytes(self) -> int:
        """The bytes of frames that other send queues hold as well."""
        if type(self.chunk) is SharedFrame:
            return self._shared_bytes + len(self.chunk)
        return self._shared_bytes

    @property
    def oldest(self) -> float | None:
        """When the oldest of the data was added, None without any."""
        return self._data[0][1] if self._data else None

    def add_data(self, frame: bytes, now: float) -> None:
        """Add a data frame."""
        if self._data is None:
            self._data = []
        self._data.append((frame, now))
        if type(frame) is SharedFrame:
            self._shared_bytes += len(frame)

    def add_control(self, frame: bytes) -> bool:
        """Add a control frame; return whether it is a Close frame."""
        if frame[0] == WHOLE_CLOSE:
            self._close = frame
            self.ending = True
            return True
        if self._control is None:
            self._control = []
        self._control.append(frame)
        return False

    def release_held(self) -> None:
        """Add the held frames to the data."""
        held, self.held = self.held, None
        for frame in held or ():
            self.add_data(frame, self.held_since)

    def discard_data(self) -> tuple[int, int]:
        """Drop the data; return how many frames, and how many bytes, that was."""
        data, self._data = self._data or [], None
        self._shared_bytes = 0
        return len(data), sum(len(frame) for frame, _ in data)

    def clear(self) -> None:
        """Drop everything."""
        self._control = self._data = self._close = self.held = None
        self._shared_bytes = 0
        self.chunk = b""

    def set_chunk(self, frames: bytes, count: int) -> None:
        """Make ``count`` data frames the chunk, where nothing else waits."""
        self.chunk, self.chunk_controls, self.chunk_others = frames, 0, count
        self.chunk_is_large = len(frames) > CHUNK_BYTES

    def fill_chunk(self) -> None:
        """Fill the chunk, unless something is left of the last one: control frames, then data as
        far as it fits, then the Close frame."""
        if self.chunk:
            return
        frames, self._control = self._control or [], None
        self.chunk_controls = len(frames)
        self.chunk_is_large = False
        if self._data is not None:
            self._move_data(frames, self._data)
        if self._close is not None and self._data is None:
            frames.append(self._close)
            self._close = None
        self.chunk = frames[0] if len(frames) == 1 else b"".join(frames)
        self.chunk_others = len(frames) - self.chunk_controls

    def _move_data(self, frames: list[bytes], data: list[tuple[bytes, float]]) -> None:
        size, taken = sum(map(len, frames)), 0
        while taken < len(data) and size < CHUNK_BYTES:
            frame = data[taken][0]
            frames.append(frame)
            size += len(frame)
            taken += 1
            self.chunk_is_large = len(frame) > CHUNK_BYTES  # then it is the last one
            if type(frame) is SharedFrame:
                self._shared_bytes -= len(frame)  # what is joined is this queue's own
        del data[:taken]
        if not data:
            self._data = None
