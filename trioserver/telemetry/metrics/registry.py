"""What a server counts of itself, in plain numbers, for whoever asks for metrics or statistics.

Kept whether anybody asks or not: a few additions in the life of a connection. Every key is one of
the server's own words, the application's routes, or the protocol's error codes; never what a peer
has chosen.
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
"""Codes of an application's own, which might have been made of anything."""


class Counts(Observer):
    """The counters of one server, from its start on.

    ``rejected``: those who were not let in, by error code, ``http_<status>``, or
    `Rejection.code`.
    ``closed``: connections, by what ended them. ``messages_*`` and ``bytes_*`` are those of
    connections that have ended. ``drain_total`` is how many were ready as draining began.
    """

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.refreshes: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.became_ready_total = 0
        self.drain_total = 0
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
        self.became_ready_total += 1

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
