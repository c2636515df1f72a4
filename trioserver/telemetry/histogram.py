"""Durations in buckets: plain numbers, cheap enough to be kept for each message.

A metrics library's own histograms take a lock and about a microsecond for each value. What is
counted here is read, and put into a library's form, when somebody asks for the metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

HANDLING: Final = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bounds for what a handler takes, in seconds: from a dictionary look-up to the usual timeout."""

PHASES: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for the phases before READY, for closing, and for round trips, in seconds."""

LIVES: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
"""Bounds for how long connections run, in seconds."""


class Histogram:
    """How many durations fell below each bound, and their sum.

    ``buckets`` has one more element than ``bounds``: what was longer than the last. Unlike in the
    text that Prometheus reads, each counts its own range only.
    """

    __slots__ = ("bounds", "buckets", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.seconds += seconds
        bounds = self.bounds
        # Most are the shortest there are, and comparing once is cheaper than searching.
        self.buckets[0 if seconds <= bounds[0] else bisect_left(bounds, seconds)] += 1

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)
