"""All connections at one moment, added up."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

import trio

from protocol import ServerProtocol
from trioserver.telemetry.metrics.registry import Counts
from trioserver.telemetry.phases import Phase, PhaseTimes
from trioserver.websocket.websocket import WebSocket


class Measurable(Protocol):
    """What is counted of a connection; `ServerConnection` is one."""

    @property
    def phases(self) -> PhaseTimes:
        """When the connection entered each phase."""

    @property
    def websocket(self) -> WebSocket:
        """Its counters of messages and bytes, and the send queue."""

    @property
    def protocol(self) -> ServerProtocol:
        """Its requests in flight."""

    @property
    def topics(self) -> Sized:
        """What the client is subscribed to."""


class Census:
    """What `take` has seen so far, and what ended before: to be made before the first `take`.

    ``oldest`` is for how long the oldest message in any send queue has waited, in seconds.
    """

    def __init__(self, counts: Counts) -> None:
        self.phases: dict[str, int] = dict.fromkeys(Phase, 0)
        self.messages_received = counts.messages_received
        self.messages_sent = counts.messages_sent
        self.bytes_received = counts.bytes_received
        self.bytes_sent = counts.bytes_sent
        self.queued_bytes = 0
        self.queued_bytes_max = 0
        self.queueing = 0
        self.oldest = 0.0
        self.in_flight = 0
        self.subscriptions = 0
        self._now = trio.current_time()

    def take(self, connection: Measurable) -> None:
        """Add one, whether it still is connected or has ended since this began."""
        websocket = connection.websocket
        send_queue = websocket.send_queue
        self.phases[connection.phases.current] += 1
        self.messages_received += websocket.messages_received
        self.messages_sent += websocket.messages_sent
        self.bytes_received += websocket.bytes_received
        self.bytes_sent += send_queue.bytes_sent
        self.in_flight += len(connection.protocol.in_flight)
        self.subscriptions += len(connection.topics)
        queued = send_queue.queued_bytes
        if queued:
            self.queueing += 1
            self.queued_bytes += queued
            self.queued_bytes_max = max(self.queued_bytes_max, queued)
            if send_queue.oldest is not None:
                self.oldest = max(self.oldest, self._now - send_queue.oldest)
