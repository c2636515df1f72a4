"""`Pacer`: the schedule of an open loop, which does not depend on answers.

A load tester that waits for an answer before its next request sends less to a slow server, and so
omits the moments in which it was slow (Tene, "How NOT to Measure Latency", 2013: coordinated
omission). Here each request has a scheduled time, and its latency is measured from that time, even
if it was sent later.
"""

from __future__ import annotations

import math
import time
from typing import Final

clock: Final = time.perf_counter
"""Seconds. On Linux and macOS all processes of a machine share this clock."""


_SLACK: Final = 1e-3
"""Part of an interval. A request due this close to the end of a load is left out. Sums of
floats are exact to less than that, so the clock's value does not change the number of requests."""


class Pacer:
    """Instants ``1 / rate`` seconds apart.

    Args:
        rate: Instants per second.
        start: The instant that the schedule counts from, of the caller's clock.
        duration: Seconds after ``start`` for which it goes on.
        warmup: Seconds before ``start`` at which it begins. No instant of the warm-up is at or
            after ``start``, and no other is before it, exactly.
        phase: Part of an interval, from 0 up to 1, by which all instants come later, so that
            several processes do not send at the same instants.
    """

    def __init__(
        self,
        rate: float,
        *,
        start: float,
        duration: float = math.inf,
        warmup: float = 0.0,
        phase: float = 0.0,
    ) -> None:
        if rate <= 0:
            raise ValueError(f"rate must be above 0, not {rate:g}")
        self._interval = 1.0 / rate
        self._start = start
        self._phase = phase
        # Instants are counted, not compared with an end: number 0 is the first after the warm-up.
        self._number = -math.floor(warmup * rate + phase + _SLACK)
        self._end: float = math.inf
        if math.isfinite(duration):
            self._end = math.ceil(duration * rate - phase - _SLACK)

    @property
    def next(self) -> float:
        """When the next one is due; infinity after the last."""
        if self._number >= self._end:
            return math.inf
        return self._start + (self._number + self._phase) * self._interval

    def pop_due(self, now: float, at_most: int) -> list[float]:
        """Return, and remove, at most ``at_most`` instants that have passed."""
        taken: list[float] = []
        while len(taken) < at_most and (due := self.next) <= now and math.isfinite(due):
            taken.append(due)
            self._number += 1
        return taken
