"""The counters and histograms that a server keeps: plain numbers, a few additions per connection.

Keys are the server's own words, the application's routes and message types, and the protocol's
error codes. A client cannot choose a key.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from protocol.errors import ERRORS
from trioserver.telemetry.handling_times import HandlingTimes
from trioserver.telemetry.histogram import LIVES, PHASES, Histogram
from trioserver.telemetry.observer import (
    CLIENT_DISCONNECTED,
    AuthAttempt,
    Observer,
    Rejection,
)
from trioserver.telemetry.phases import Phase, PhaseTimes

if TYPE_CHECKING:
    from trioserver.app.connection import Connection, ConnectionStatistics

OTHER: Final = "other"
"""Stands for the application's own error codes, because a code could be made of anything."""


class MetricsRegistry(Observer):
    """The counters and histograms of one server, from its start on.

    - ``rejected``: clients that were rejected before they were ready, by error code,
      ``http_STATUS``, or `Rejection.code`.
    - ``refreshes``: new tokens on open connections, by error code, or "refreshed".
    - ``ready``: connections that became ready. ``closed``: those that have ended, by reason.
    - ``messages_*`` and ``bytes_*``: of connections that have ended. `ConnectionTotals` adds those
      of open connections.
    - ``drain_initial``: connections that were ready when draining began.
    - ``phases``, ``round_trips``, ``handling``: durations.
    """

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.refreshes: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.ready = 0
        self.drain_initial = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.phases = {
            phase: Histogram(LIVES if phase is Phase.READY else PHASES) for phase in Phase
        }
        self.round_trips = Histogram(PHASES)
        self.handling = HandlingTimes()

    def on_request_rejected(self, rejection: Rejection) -> None:
        if rejection.code == "bad_request":
            self.rejected[f"http_{rejection.status}"] += 1
        else:
            self.rejected[rejection.code] += 1

    def on_auth_attempt(self, attempt: AuthAttempt) -> None:
        if attempt.connection is None:
            return
        if attempt.refresh:
            self.refreshes["refreshed" if attempt.code is None else _known(attempt.code)] += 1
        elif attempt.code is not None and attempt.code != CLIENT_DISCONNECTED:
            self.rejected[_known(attempt.code)] += 1

    def on_ready(self, connection: Connection) -> None:
        self.ready += 1

    def on_closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        self.closed[_known(reason)] += 1
        for phase, length in phases.lengths(trio.current_time()).items():
            self.phases[phase].add(length)

    def removed(self, statistics: ConnectionStatistics) -> None:
        """Add the counters of a connection that has been removed from the registry."""
        self.messages_received += statistics.messages_received
        self.messages_sent += statistics.messages_sent
        self.bytes_received += statistics.bytes_received
        self.bytes_sent += statistics.bytes_sent


def _known(code: str) -> str:
    return code if code in ERRORS or code == CLIENT_DISCONNECTED else OTHER
