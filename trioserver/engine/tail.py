"""The newest events of one topic, as the frames that subscribers get."""

from __future__ import annotations

from collections import deque
from itertools import islice

import attrs


@attrs.define
class Tail:
    """Frames of consecutive offsets, the last of which is that of the topic's last event.

    Bounded in ``max_events`` and ``max_bytes``. The frames are shared by all who resume.
    """

    max_events: int
    max_bytes: int
    size: int = 0
    """Bytes of all frames."""
    _frames: deque[bytes] = attrs.field(factory=deque, repr=False)

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, frame: bytes) -> None:
        """Add the next event; the oldest ones make room for it."""
        frames = self._frames
        frames.append(frame)
        self.size += len(frame)
        while len(frames) > self.max_events or self.size > self.max_bytes:
            self.size -= len(frames.popleft())

    def newest(self, count: int) -> tuple[bytes, ...]:
        """The last ``count`` frames, oldest first; no more than there are."""
        frames = self._frames
        return tuple(islice(frames, max(len(frames) - count, 0), None))

    def clear(self) -> None:
        self._frames.clear()
        self.size = 0
