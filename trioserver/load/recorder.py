"""`Recorder`: the latencies and counts of one process, in all and for each second."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from trioserver.client.close_reason import CloseReason
from trioserver.load.counts import Counts, Second, count
from trioserver.load.histogram import Encoded, LatencyHistogram
from trioserver.load.requests import PublishedData

LATENCIES: Final = {
    "ready": "From the start of connecting to ready",
    "request": "From when a request was due to its answer",
    "delivery": "From when an event was due to be published to its delivery",
    "ready_again": "From the drop to ready again, in storms",
    "refresh": "From a warned token to its successor's acceptance",
    "send_delay": "From when a request was due to its being sent: the load tester's own lateness",
}

_REMEMBERED: Final = 64
"""Events whose due time is cached, so that they are not decoded again for each subscriber."""


class ProcessResult(msgspec.Struct):
    """The result of one process."""

    counts: Counts
    latencies: dict[str, Encoded]
    seconds: list[Second]
    measured: float = 0.0
    """Seconds of the measured window; fewer if the test ended early."""


class Recorder:
    """``window`` is the time in which requests must be due to be measured."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.latencies = {name: LatencyHistogram() for name in LATENCIES}
        self.seconds: list[Second] = []
        self.window = (math.inf, math.inf)
        self._request = self.latencies["request"].recent
        self._delivery = self.latencies["delivery"].recent
        self._published: dict[bytes, float] = {}
        self._before = Counts()

    def answered(self, dues: list[float], now: float) -> None:
        """Record answers to requests that were due at these times."""
        self.counts.answered += len(dues)
        begin, end = self.window
        if now >= begin:
            if now < end:
                self.counts.in_window += len(dues)
            self._request += [now - due for due in dues if due >= begin]

    def delivered(self, payload: bytes, now: float) -> None:
        """Record a delivered event. Events that this load test did not publish have no latency."""
        self.counts.delivered += 1
        begin, end = self.window
        if begin <= now < end:
            self.counts.delivered_in_window += 1
        due = self._published.get(payload)
        if due is None:
            due = _due_of(payload)
            if len(self._published) >= _REMEMBERED:
                self._published.clear()
            self._published[payload] = due
        if due >= begin:
            self._delivery.append(now - due)

    def ended(self, reason: CloseReason, unanswered: int) -> None:
        """Record that the server or the network ended a connection that was READY."""
        counts = self.counts
        counts.lost += 1
        counts.unanswered += unanswered
        count(counts.closes, name_of(reason))

    def flush(self) -> None:
        """Count the latencies that were appended."""
        for measure in self.latencies.values():
            measure.flush()

    def end_second(self) -> None:
        """Record what happened in the second that has just ended."""
        self.flush()
        now, before = self.counts, self._before
        self.seconds.append(
            Second(
                answered=now.answered - before.answered,
                delivered=now.delivered - before.delivered,
                wrong=max(0, now.wrong - before.wrong),
                ready=now.ready,
                slowest_request_ms=self.latencies["request"].pop_peak_ms(),
                slowest_delivery_ms=self.latencies["delivery"].pop_peak_ms(),
            )
        )
        self._before = msgspec.convert(msgspec.to_builtins(now), Counts)

    def result(self, now: float) -> ProcessResult:
        """The result at the time ``now``."""
        begin, end = self.window
        measured = min(now, end) - begin if now > begin else 0.0
        self.flush()
        latencies = {name: m.encode() for name, m in self.latencies.items() if m.count}
        return ProcessResult(self.counts, latencies, self.seconds, measured)


def name_of(reason: CloseReason) -> str:
    """The code by which ends are counted, after the WebSocket close code if there is one."""
    if reason.close_code is None or reason.code.startswith("close_"):
        return reason.code
    return f"{reason.close_code} {reason.code}"


class _Event(msgspec.Struct):
    data: PublishedData


_decode: Final = msgspec.json.Decoder(_Event).decode


def _due_of(payload: bytes) -> float:
    """When an event of this load test was due; minus infinity for other events."""
    try:
        return _decode(payload).data.due
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return -math.inf
