"""A token bucket that is told the time."""

from __future__ import annotations


class TokenBucket:
    """Allows ``rate`` a second on average, and ``burst`` at once.

    Starts full. Time, in seconds, comes in as an argument and may come from any clock; a clock
    that runs backwards adds nothing.
    """

    __slots__ = ("_level", "_updated", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._updated = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take so many; False, and nothing taken, where there are fewer."""
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
        """Undo a `take`."""
        self._level += amount

    def wait(self, amount: float = 1.0) -> float:
        """Seconds from the last `take` until there are so many again."""
        return max(0.0, (amount - self._level) / self.rate)
