"""What the metrics need of a server."""

from __future__ import annotations

from typing import Protocol

from trioserver.telemetry.metrics.connection_totals import ConnectionTotals
from trioserver.telemetry.metrics.registry import MetricsRegistry
from trioserver.telemetry.metrics.statistics import ServerStatistics


class MetricsSource(Protocol):
    """A `Server`, as far as the metrics need it."""

    @property
    def metrics(self) -> MetricsRegistry:
        """The counters and histograms."""

    def statistics(self) -> ServerStatistics:
        """Return a snapshot that costs the same for any number of connections."""

    def connection_totals_nowait(self) -> ConnectionTotals:
        """Add up all connections at once."""

    async def connection_totals(self) -> ConnectionTotals:
        """Add up all connections in steps, between which other tasks run."""
