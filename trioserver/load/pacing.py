"""An open loop's schedule: what is due when, whatever has been answered.

A load tester that waits for an answer before it asks again asks less of a slow server, and leaves
out the very moments in which it was slow (Tene, "How NOT to Measure Latency", 2013: coordinated
omission). Here each request has its instant before the clock starts, and its latency is counted
from there, also where it could be sent only later.
"""

from __future__ import annotations

import math
import time
from typing import Final

clock: Final = time.perf_counter
"""Seconds. On Linux and macOS it is one clock for all processes of a machine."""


class Pacer:
    """Instants ``1 / rate`` seconds apart. ``start`` and ``until`` are of the caller's clock.

    ``phase``, from 0 to 1: by what part of an interval all of them come later, so that several
    processes do not send at the same instants.
    """

    def __init__(self, rate: float, *, start: float, until: float, phase: float = 0.0) -> None:
        if rate <= 0:
            raise ValueError("a rate is above zero")
        self._interval = 1.0 / rate
        self._first = start + phase * self._interval
        self._until = until
        self._given = 0

    @property
    def next(self) -> float:
        """When the next one is due; infinity after the last."""
        at = self._first + self._given * self._interval
        return at if at < self._until else math.inf

    def take(self, now: float, at_most: int) -> list[float]:
        """The instants that have come and were not given before, ``at_most`` of them."""
        taken: list[float] = []
        while len(taken) < at_most and (due := self.next) <= now and due < self._until:
            taken.append(due)
            self._given += 1
        return taken
