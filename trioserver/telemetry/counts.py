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
    Attempt,
    Observer,
    RefusedRequest,
)
from trioserver.telemetry.phases import Phase, PhaseTimes

if TYPE_CHECKING:
    from trioserver.app.connection import Connection

OTHER: Final = "other"
"""Codes of an application's own, which might have been made of anything."""

_CAME_IN: Final = frozenset({"ready", "refreshed", CLIENT_DISCONNECTED})


class Counts(Observer):
    """The counters of one server, from its start on.

    ``refusals``: those who were not let in, by error code, ``http_<status>``, or
    `RefusedRequest.code`.
    ``ends``: connections, by what ended them. ``messages_*`` and ``bytes_*`` are those of
    connections that have ended. ``drain_total`` is how many were ready as draining began.
    """

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.refreshes: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
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

    def request_refused(self, request: RefusedRequest) -> None:
        if request.code == "bad_request":
            self.refusals[f"http_{request.status}"] += 1
        else:
            self.refusals[request.code] += 1

    def attempted(self, connection: Connection, attempt: Attempt) -> None:
        if attempt.refresh:
            self.refreshes[_known(attempt.outcome)] += 1
        elif attempt.outcome not in _CAME_IN:
            self.refusals[_known(attempt.outcome)] += 1

    def became_ready(self, connection: Connection) -> None:
        self.became_ready_total += 1

    def closed(self, connection: Connection, code: int, reason: str, phases: PhaseTimes) -> None:
        self.ends[_known(reason)] += 1
        for phase, length in phases.lengths(trio.current_time()).items():
            self.phases[phase].add(length)

    def gone(self, connection: Connection) -> None:
        """It is in the registry no more: its numbers are kept here from now on."""
        websocket = connection._websocket
        self.messages_received += websocket.messages_received
        self.messages_sent += websocket.messages_sent
        self.bytes_received += websocket.bytes_received
        self.bytes_sent += websocket.outbox.bytes_sent


def _known(code: str) -> str:
    return code if code in ERRORS or code in _CAME_IN else OTHER
