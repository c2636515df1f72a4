"""Pings and the round trips that they measure."""

from __future__ import annotations

from collections.abc import Callable


class Pings:
    """The last ping that was sent to one peer, and the time that its answer took.

    ``round_trip`` is that of the last answer, in seconds; ``on_round_trip`` is called with each.
    ``messages`` counts the pings that were messages.
    """

    __slots__ = ("_sent", "messages", "on_round_trip", "round_trip")

    def __init__(self) -> None:
        self._sent: tuple[bytes | None, float] | None = None
        self.round_trip: float | None = None
        self.messages = 0
        self.on_round_trip: Callable[[float], None] | None = None

    def send(self, payload: bytes | None, now: float) -> None:
        """Record a Ping with this payload; None stands for a message in place of a Ping frame."""
        self._sent = (payload, now)

    def receive_pong(self, payload: bytes | None, now: float) -> None:
        """Measure the round trip, if this answers the last ping."""
        if self._sent is not None and payload == self._sent[0]:
            self.round_trip = now - self._sent[1]
            self._sent = None
            if self.on_round_trip is not None:
                self.on_round_trip(self.round_trip)
