"""Durations of handlers by route, type and outcome, and `def` handlers that block the event loop.

This runs for each message, so it is cheap: two clock readings, one look-up and one addition. The
clock is the real one, not Trio's, which may be virtual in tests.
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

_WARN_PERIOD: Final = 60.0
"""Seconds between two warnings about one handler."""

_log: Final = structlog.get_logger("trioserver")


class Outcome(IntEnum):
    """How a handler ended. The value is the index of its histogram."""

    OK = 0
    REFUSED = 1
    """The handler, or a check before it, raised `protocol.Refusal`."""
    TIMEOUT = 2
    FAILED = 3
    """The handler raised anything else."""
    CANCELLED = 4
    """By the client, or by the end of the connection."""


class HandlerTimes:
    """The durations of one handler by outcome.

    ``slow`` counts how often it blocked the event loop for too long. ``add_ok(seconds)`` is a
    faster ``add(Outcome.OK, seconds)``.
    """

    __slots__ = ("_throttle", "add_ok", "outcomes", "slow")

    def __init__(self) -> None:
        self.outcomes = tuple(Histogram(HANDLING) for _ in Outcome)
        self.add_ok = self.outcomes[Outcome.OK].add
        self.slow = 0
        self._throttle = LogThrottle(_WARN_PERIOD)

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Count a handled message."""
        self.outcomes[outcome].add(seconds)

    def held_the_loop(self, route: str, handler: Handler, seconds: float) -> None:
        """Count a `def` handler that blocked the event loop for too long, and log a warning."""
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
                hint="a def handler blocks all connections: make it async def, or use a thread",
            )


class RouteTimes(dict[str, HandlerTimes]):
    """Durations of a route's handlers by message type.

    A missing type is added, so look up only types of the route or of the protocol.
    """

    def __missing__(self, type: str) -> HandlerTimes:
        times = self[type] = HandlerTimes()
        return times


class HandlingTimes:
    """Durations of all handlers of one server."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteTimes] = {}

    def of(self, route: Route) -> RouteTimes:
        """Return the durations of a route's handlers by message type."""
        return self._routes.setdefault(route.path, RouteTimes())

    def __iter__(self) -> Iterator[tuple[str, str, HandlerTimes]]:
        """Yield path, message type and durations of each handler."""
        for path, route in self._routes.items():
            for type, times in route.items():
                yield path, type, times
