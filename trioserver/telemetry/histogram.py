"""Histograms of durations, in plain numbers: cheap enough for every message.

The histograms of metrics libraries take a lock and about a microsecond per value. These are
converted when the metrics are scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

HANDLING: Final = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Bounds for durations of handlers, in seconds: from a look-up to the default timeout."""

PHASES: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for all phases except READY, and for round trips, in seconds."""

LIVES: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0)
"""Bounds for the phase READY, in seconds."""


class Histogram:
    """Counts durations by bucket, and adds them up in ``seconds``.

    ``buckets[i]`` counts durations up to ``bounds[i]`` and above the bound before it. The last
    bucket counts those above all bounds. In Prometheus' format buckets are cumulative; here not.
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
        # Most durations are in the first bucket, and one comparison is cheaper than a search.
        self.buckets[0 if seconds <= bounds[0] else bisect_left(bounds, seconds)] += 1

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.buckets)
