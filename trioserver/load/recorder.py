"""What a process's clients have met so far: the measures, the counts, the seconds."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from trioserver.client.close_reason import CloseReason
from trioserver.load.histogram import Counts, Encoded, Measure, Second, count
from trioserver.load.requests import Published

MEASURES: Final = {
    "ready": "From the start of connecting to ready",
    "request": "From when a request was due to its answer",
    "delivery": "From when an event was due to be published to its delivery",
    "ready_again": "From the drop to ready again, in storms",
    "refresh": "From a warned token to its successor's acceptance",
    "send_delay": "From when a request was due to its being sent: the load tester's own lateness",
}

_REMEMBERED: Final = 64
"""Events whose time of publication is known without decoding them again for each subscriber."""


class Result(msgspec.Struct):
    """What a process found, for merging."""

    counts: Counts
    measures: dict[str, Encoded]
    seconds: list[Second]
    measured: float = 0.0
    """Seconds of the window, less where it was cut short."""


class Tally:
    """``window`` is from when to when requests must be due to be measured."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.measures = {name: Measure() for name in MEASURES}
        self.seconds: list[Second] = []
        self.window = (math.inf, math.inf)
        self._request = self.measures["request"].recent
        self._delivery = self.measures["delivery"].recent
        self._published: dict[bytes, float] = {}
        self._before = Counts()

    def answered(self, dues: list[float], now: float) -> None:
        """Answers to requests that were due at these instants."""
        self.counts.answered += len(dues)
        begin, end = self.window
        if now >= begin:
            if now < end:
                self.counts.in_window += len(dues)
            self._request += [now - due for due in dues if due >= begin]

    def delivered(self, payload: bytes, now: float) -> None:
        """An event came. Those that others published count too, but have no latency."""
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
        """A client was ready, and is no more, by no wish of ours."""
        counts = self.counts
        counts.lost += 1
        counts.unanswered += unanswered
        count(counts.closes, name_of(reason))

    def flush(self) -> None:
        """Sort in what was measured."""
        for measure in self.measures.values():
            measure.flush()

    def end_second(self) -> None:
        """A second of the run is over: note what happened in it."""
        self.flush()
        now, before = self.counts, self._before
        self.seconds.append(
            Second(
                answered=now.answered - before.answered,
                delivered=now.delivered - before.delivered,
                wrong=max(0, now.wrong - before.wrong),
                ready=now.ready,
                slowest_request_ms=self.measures["request"].take_peak_ms(),
                slowest_delivery_ms=self.measures["delivery"].take_peak_ms(),
            )
        )
        self._before = msgspec.convert(msgspec.to_builtins(now), Counts)

    def result(self, now: float) -> Result:
        """All of it; ``now`` says how far the window has come."""
        begin, end = self.window
        measured = min(now, end) - begin if now > begin else 0.0
        self.flush()
        measures = {name: m.encode() for name, m in self.measures.items() if m.count}
        return Result(self.counts, measures, self.seconds, measured)


def name_of(reason: CloseReason) -> str:
    """The code by which ends are counted, with the WebSocket's close code where there is one."""
    if reason.close_code is None or reason.code.startswith("close_"):
        return reason.code
    return f"{reason.close_code} {reason.code}"


class _Event(msgspec.Struct):
    data: Published


_decode: Final = msgspec.json.Decoder(_Event).decode


def _due_of(payload: bytes) -> float:
    """When an event of this load tester's was due; minus infinity for somebody else's."""
    try:
        return _decode(payload).data.due
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return -math.inf
