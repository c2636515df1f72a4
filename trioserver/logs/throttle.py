"""Things that are worth a line in the log, but not each time."""

from __future__ import annotations


class Seldom:
    """Says yes at most once in ``period`` seconds, and how often it has said no in between."""

    __slots__ = ("_next", "_period", "_suppressed")

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = float("-inf")
        self._suppressed = 0

    def ask(self, now: float) -> int | None:
        """None is no; a number is yes, and how many have gone unsaid since the last yes."""
        if now < self._next:
            self._suppressed += 1
            return None
        self._next = now + self._period
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
