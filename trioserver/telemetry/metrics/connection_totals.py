"""Numbers that are added up over all open connections when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

import trio

from protocol import ServerProtocol
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.phases import Phase, PhaseTimes
from trioserver.websocket.websocket import WebSocket


class MeasuredConnection(Protocol):
    """What is read of a connection; a `ServerConnection` has it."""

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


class ConnectionTotals:
    """Totals over the connections that `add` was called with, and over those that have ended.

    - ``phases``: open connections by phase.
    - ``messages_*``, ``bytes_*``: counters, including connections that have ended.
    - ``queueing``: connections with a send queue that is not empty. ``queued_bytes``: bytes in all
      send queues. ``queued_bytes_max``: bytes in the longest. ``oldest``: seconds that the oldest
      message in any of them has waited.
    - ``in_flight``: requests that have not been answered. ``subscriptions``: to topics.

    Create it before the first `add`, without an ``await`` before the connections are listed.
    """

    def __init__(self, registry: MetricsRegistry) -> None:
        self.phases: dict[str, int] = dict.fromkeys(Phase, 0)
        self.messages_received = registry.messages_received
        self.messages_sent = registry.messages_sent
        self.bytes_received = registry.bytes_received
        self.bytes_sent = registry.bytes_sent
        self.queued_bytes = 0
        self.queued_bytes_max = 0
        self.queueing = 0
        self.oldest = 0.0
        self.in_flight = 0
        self.subscriptions = 0
        self._now = trio.current_time()

    def add(self, connection: MeasuredConnection) -> None:
        """Add a connection, even if it has ended since this object was created."""
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
