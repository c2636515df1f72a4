"""How much work one peer may cause with reads, fragments and control frames, which cost far more
than their bytes. A peer that causes more is read later, or is rejected with `rate_limited`."""

from __future__ import annotations

from typing import Final

from protocol.bucket import TokenBucket

READS_PER_SECOND: Final = 5000.0
"""Reads, fragments and control frames of one peer, and as many at once. Above that its bytes wait
in the kernel, where one read takes many of them together. So this slows down only what arrives in
pieces of a few bytes."""

BEFORE_READY: Final = 0.1
"""The share of everything that a peer has before it is authenticated."""

_AT_ONCE: Final = 0.05
"""Seconds of the rate that are charged together, so the usual pause of a peer that exceeds it."""


class Pace:
    """The allowances of one peer. ``now`` is in seconds, of any clock.

    ``control_frames`` is how many of them are allowed per second, twice as many at once. ``left``
    is how many reads and frames are free until `rest` has to be called.
    """

    __slots__ = ("_controls", "_debt", "_rate", "_since", "left")

    def __init__(self, control_frames: float, now: float, *, known: bool = False) -> None:
        share = 1.0 if known else BEFORE_READY
        self._rate = READS_PER_SECOND * share
        self._debt = -self._rate  # what is left at once is a negative debt
        self._since = now
        rate = control_frames * share
        self._controls = TokenBucket(rate, max(2 * rate, 2.0), now)
        self.left = self._rate * _AT_ONCE

    def authenticated(self, now: float) -> Pace:
        """Return the allowances that the same peer has from now on."""
        return Pace(self._controls.rate / BEFORE_READY, now, known=True)

    def rest(self, now: float) -> float:
        """Charge what was used of ``left``, and renew it; return seconds for which not to read."""
        at_once = self._rate * _AT_ONCE
        used, self.left = at_once - self.left, at_once
        paid = (now - self._since) * self._rate
        self._since = now
        self._debt = max(self._debt - paid, -self._rate) + used
        return max(self._debt, 0.0) / self._rate

    def allows_control(self, now: float) -> bool:
        """Charge one control frame; return False if there have been too many."""
        return self._controls.take(now)
