"""`RateLimits`: how many messages, bytes and errors one connection may send per second."""

from __future__ import annotations

from typing import Final

from protocol.bucket import TokenBucket
from protocol.options import ProtocolOptions

ERROR_BURST: Final = 64
ERRORS_PER_SECOND: Final = 1.0
"""A client that causes errors faster than this, for longer than the burst, is considered broken.
Errors that are not the client's fault do not count."""

BYTES_FORGIVEN: Final = 1000.0
"""Bytes above the limit are forgiven at this fraction of the rate at which bytes are accepted."""


class RateLimits:
    """The limits of one connection. ``messages`` and ``bytes`` are charged for each message.

    A message above a limit is rejected, and costs a strike. Strikes are forgiven at rates of their
    own; a client that runs out of them is disconnected. The buckets for strikes and errors start
    full, so they are made when they are needed first: a well-behaved connection has none.
    """

    __slots__ = ("_byte_strikes", "_errors", "_strikes", "bytes", "messages")

    def __init__(self, options: ProtocolOptions, now: float) -> None:
        rate = float(options.messages_per_second)
        self.messages = TokenBucket(rate, 2 * rate, now)
        rate = float(options.bytes_per_second)
        burst = max(2 * rate, float(options.max_message_bytes))
        self.bytes = TokenBucket(rate, burst, now)
        self._strikes: TokenBucket | None = None
        self._byte_strikes: TokenBucket | None = None
        self._errors: TokenBucket | None = None

    def charge(self, count: int, size: int, now: float) -> bool:
        """Charge ``count`` messages of ``size`` bytes in all; False, and none charged, if that
        exceeds a limit."""
        if not self.messages.take(now, count):
            return False
        if self.bytes.take(now, size):
            return True
        self.messages.give_back(count)
        return False

    def strike(self, cost: float, now: float) -> bool:
        """Charge a strike for a message of ``cost`` bytes; False if the client has run out."""
        if self._strikes is None or self._byte_strikes is None:
            self._strikes = TokenBucket(1.0, self.messages.burst, now)
            rate = self.bytes.rate / BYTES_FORGIVEN
            self._byte_strikes = TokenBucket(rate, self.bytes.burst, now)
        return self._strikes.take(now) and self._byte_strikes.take(now, cost)

    def seconds_until(self, cost: float) -> float:
        """Seconds until a message of ``cost`` bytes is within the limits again."""
        return max(self.messages.seconds_until(), self.bytes.seconds_until(cost))

    def allow_error(self, now: float) -> bool:
        """Charge an error of the client's; False if there were too many."""
        if self._errors is None:
            self._errors = TokenBucket(ERRORS_PER_SECOND, ERROR_BURST, now)
        return self._errors.take(now)
