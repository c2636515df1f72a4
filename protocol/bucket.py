"""`TokenBucket`: a rate limiter that gets the time as an argument."""

from __future__ import annotations


class TokenBucket:
    """Allows ``rate`` tokens per second on average, and ``burst`` at once. It starts full.

    Times are in seconds, of any clock. If the clock runs backwards, nothing is added.
    """

    __slots__ = ("_level", "_updated", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._updated = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take ``amount`` tokens; False, and none taken, if there are fewer."""
        level = self._level
        if now > self._updated:
            level = min(self.burst, level + (now - self._updated) * self.rate)
            self._updated = now
        if level < amount:
            self._level = level
            return False
        self._level = level - amount
        return True

    def give_back(self, amount: float) -> None:
        """Undo a `take` of this amount."""
        self._level += amount

    def seconds_until(self, amount: float = 1.0) -> float:
        """Seconds, counted from the last `take`, until there are ``amount`` tokens."""
        return max(0.0, (amount - self._level) / self.rate)
