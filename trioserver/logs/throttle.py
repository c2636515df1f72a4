"""Limits how often one log line is repeated."""

from __future__ import annotations


class LogThrottle:
    """Allows one line per ``period`` seconds, and counts the lines that it suppressed."""

    __slots__ = ("_next", "_period", "_suppressed")

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = float("-inf")
        self._suppressed = 0

    def allow(self, now: float) -> int | None:
        """Return None if the line must be suppressed.

        Otherwise return how many lines were suppressed since the last one that was allowed.
        """
        if now < self._next:
            self._suppressed += 1
            return None
        self._next = now + self._period
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
