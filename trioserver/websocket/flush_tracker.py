"""How many frames were put into a send queue, and how many of them the transport has accepted."""

from __future__ import annotations

from collections.abc import Callable


class FlushTracker:
    """Counts the control frames, and the others: data, and the Close frame.

    A *position* is how many of the others had been put at some moment. It is flushed when all of
    these have been accepted by the transport.
    """

    __slots__ = (
        "_complete_to", "bytes_sent", "controls_flushed", "controls_put", "on_flushed",
        "others_flushed", "others_put",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bytes_sent = 0
        self.controls_put = 0
        self.controls_flushed = 0
        self.others_put = 0
        self.others_flushed = 0
        self._complete_to: int | None = None  # the last position before data was discarded
        self.on_flushed: tuple[int, Callable[[], None]] | None = None

    def discarded(self, others: int) -> None:
        """Record that frames were dropped: nobody waits for them any more."""
        if others and self._complete_to is None:
            self._complete_to = self.others_flushed
        self.others_flushed += others

    def is_flushed(self, position: int) -> bool:
        """Return whether this position is flushed; False if some data before it was discarded."""
        if self._complete_to is not None:
            return position <= self._complete_to
        return position <= self.others_flushed

    def call_when_flushed(self, position: int, function: Callable[[], None]) -> None:
        """See `SendQueue.call_when_flushed`."""
        self.on_flushed = (position, function)
        self.call_if_flushed()

    def call_if_flushed(self) -> None:
        """Call what waits for a position, if that is flushed. To be called when a count changes."""
        if self.on_flushed is not None and self.is_flushed(self.on_flushed[0]):
            function, self.on_flushed = self.on_flushed[1], None
            function()
