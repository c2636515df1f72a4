"""A clock for deleting by age, so that a wall clock that is set wrong deletes nothing too early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

MAX_CLOCK_SKEW: Final = 3600.0
"""Seconds by which the wall clock may be ahead of the time that has passed since the start. With a
higher value, larger corrections of the clock take effect at once. With a lower value, a wrong clock
deletes less."""


class RetentionClock:
    """The wall clock, limited by the time that has passed since `start`.

    Everything that deletes by age uses this clock. If the wall clock jumps ahead by more than
    `MAX_CLOCK_SKEW`, nothing becomes older by that. If it jumps back, nothing is deleted until it
    has caught up.

    ``wall_clock`` returns the time in seconds since the Unix epoch. Use it inside `trio.run`.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        """Assume that the wall clock is right at this moment. Later calls do nothing."""
        if self._started is None:
            self._started = (trio.current_time(), self._wall_clock())

    def now(self) -> float:
        """Return Unix seconds, at most `MAX_CLOCK_SKEW` ahead of what has passed."""
        return min(self._wall_clock(), self._expected() + MAX_CLOCK_SKEW)

    def stamp(self) -> float:
        """Return the time from which something ages, at most `MAX_CLOCK_SKEW` behind what has
        passed.

        Otherwise, what is stored while the clock is set back would be too old right afterwards.
        """
        return max(self._wall_clock(), self._expected() - MAX_CLOCK_SKEW)

    def _expected(self) -> float:
        self.start()
        assert self._started is not None, "it has just been started"
        started, wall = self._started
        return wall + trio.current_time() - started
