"""A server's numbers at one moment, for those who put them into a form of their own."""

from __future__ import annotations

from typing import Protocol

import attrs

from trioserver.telemetry.metrics.connection_totals import Census
from trioserver.telemetry.metrics.registry import Counts
from trioserver.telemetry.metrics.statistics import ServerStatistics


@attrs.frozen(kw_only=True)
class Measurements:
    """``counts`` are live and go on counting; ``census`` is of those connected at the moment."""

    counts: Counts
    census: Census
    statistics: ServerStatistics


class Measured(Protocol):
    """A `Server`, as far as it is of interest here."""

    def measurements(self) -> Measurements:
        """Look at all connections at once."""

    async def measure(self) -> Measurements:
        """The same in small steps, between which others get their turn."""
