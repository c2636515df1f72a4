"""How long handlers take, by route, type and outcome, and which `def` handlers hold the loop.

Counted for each message, so it costs as little as it can: two clock readings, one look-up, and one
addition to plain numbers. The clock is the real one, never Trio's, which may be virtual.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from time import perf_counter as perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from trioserver.logs.throttle import LogThrottle
from trioserver.telemetry.histogram import HANDLING, Histogram

if TYPE_CHECKING:
    from trioserver.app.handlers import Handler
    from trioserver.app.route import Route

_WARN_PERIOD: Final = 60.0  # seconds, for one handler: who holds the loop does so often

_log: Final = structlog.get_logger("trioserver")


class Outcome(IntEnum):
    """How the handling of a message ended; the index of its histogram."""

    OK = 0
    REFUSED = 1
    """The handler, or a check before it, raised `protocol.Refusal`."""
    TIMEOUT = 2
    FAILED = 3
    """The handler raised anything else."""
    CANCELLED = 4
    """By the client, or by the end of the connection."""


class HandlerTimes:
    """The durations of one handler, by outcome; ``slow`` counts when it held the loop too long.

    ``add_ok`` counts the usual outcome, and is quicker to get at than `add`.
    """

    __slots__ = ("_throttle", "add_ok", "outcomes", "slow")

    def __init__(self) -> None:
        self.outcomes = tuple(Histogram(HANDLING) for _ in Outcome)
        self.add_ok = self.outcomes[Outcome.OK].add
        self.slow = 0
        self._throttle = LogThrottle(_WARN_PERIOD)

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Count a message that was handled."""
        self.outcomes[outcome].add(seconds)

    def held_the_loop(self, route: str, handler: Handler, seconds: float) -> None:
        """Count, and warn of, a `def` handler for which everybody else had to wait."""
        self.slow += 1
        suppressed = self._throttle.allow(perf_counter())
        if suppressed is not None:
            _log.warning(
                "sync_handler_slow",
                route=route,
                type=handler.type,
                handler=getattr(handler.function, "__qualname__", type(handler.function).__name__),
                held_ms=round(seconds * 1000, 1),
                suppressed=suppressed,
                hint="a def handler holds up every connection: make it async def, or use a thread",
            )


class RouteTimes(dict[str, HandlerTimes]):
    """By type. Asked only for types that the route or the protocol names, never a peer's."""

    def __missing__(self, type: str) -> HandlerTimes:
        times = self[type] = HandlerTimes()
        return times


class HandlingTimes:
    """Those of a server. One application may be served by several."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteTimes] = {}

    def of(self, route: Route) -> RouteTimes:
        """Those of one route, by type."""
        return self._routes.setdefault(route.path, RouteTimes())

    def __iter__(self) -> Iterator[tuple[str, str, HandlerTimes]]:
        """Each route's path, message type, and times."""
        for path, route in self._routes.items():
            for type, times in route.items():
                yield path, type, times
