"""What time it is for deleting: a clock that is set wrong must not delete what is not old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

DRIFT: Final = 3600.0
"""Seconds by which the wall clock may run ahead of the time that has passed since the start. With a
higher value larger corrections of the clock count at once; with a lower one a wrong clock deletes
less."""


class RetentionClock:
    """The wall clock, as far as the time that has passed since the first call bears it out.

    Everything that deletes by age asks this clock. A wall clock that jumps ahead by more than
    `DRIFT`, for a moment or for good, does not make anything older. One that jumps back makes
    everything younger, and nothing is deleted until it has caught up.

    ``wall_clock`` gives seconds since the Unix epoch. To be used inside of `trio.run`.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        """Take the wall clock for right at this moment. Later calls change nothing."""
        if self._started is None:
            self._started = (trio.current_time(), self._wall_clock())

    def now(self) -> float:
        """Seconds since the Unix epoch, never more than `DRIFT` ahead of what has passed."""
        return min(self._wall_clock(), self._borne_out() + DRIFT)

    def stamp(self) -> float:
        """When something begins to age. Never more than `DRIFT` behind what has passed.

        With a clock that was set back for a moment, it would be found too old right afterwards.
        """
        return max(self._wall_clock(), self._borne_out() - DRIFT)

    def _borne_out(self) -> float:
        self.start()
        assert self._started is not None, "it has just been started"
        started, wall = self._started
        return wall + trio.current_time() - started
