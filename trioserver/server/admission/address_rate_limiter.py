"""How addresses behave: how often they connect and ask, and how many forged tokens they send.

A block saves work and log lines; it is no defence of tokens, which cannot be guessed anyway. Behind
one address there may be many people, so it is made for those who are not to blame: it is short, it
is followed by a pardon of the same length in which the address cannot be blocked again, and each
user who authenticates wipes the slate. Whoever tries again as the server advises gets in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from protocol import TokenBucket
from trioserver.config import LimitsConfig

BURST = 10.0
"""Seconds' worth of handshakes, and of requests, that an address may do at once: a whole office
after a restart."""

_HONEST_REFUSALS = 10.0
"""Refusals in a row that a blocked address is told the reason of; then one a second."""


class _Record:
    """What is known of one address. What has been forgotten is as good as new."""

    __slots__ = (
        "blocked_until", "forged", "handshakes", "pardoned_until", "refusals", "requests", "seen",
    )  # fmt: skip

    def __init__(self, limits: LimitsConfig, now: float) -> None:
        rate = limits.handshakes_per_second
        self.handshakes = TokenBucket(rate, rate * BURST, now)
        self.forged: TokenBucket | None = None
        self.refusals: TokenBucket | None = None
        self.requests: TokenBucket | None = None
        self.blocked_until = -math.inf
        self.pardoned_until = -math.inf
        self.seen = now


class AddressRateLimiter:
    """Remembers addresses, by `addresses.address_key`; the empty key is nobody's, and does no
    wrong.

    Time comes in as an argument. Every operation takes constant time, on average. At most
    ``limits.max_tracked_addresses`` are remembered: those that were seen longest ago are
    forgotten first.
    """

    def __init__(
        self, limits: LimitsConfig, *, on_block: Callable[[str, float], None] | None = None
    ) -> None:
        self.limits = limits
        self.blocks = 0
        self._on_block = on_block
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._blocked: dict[str, float] = {}

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._records)

    def reconfigure(self, limits: LimitsConfig) -> None:
        """Other limits from now on. Who is not blocked is as good as new."""
        self.limits = limits
        blocked = ((key, record) for key, record in self._records.items() if key in self._blocked)
        self._records = OrderedDict(blocked)

    def blocked_count(self, now: float) -> int:
        """How many addresses are blocked."""
        return sum(until > now for until in self._blocked.values())

    def blocked_for(self, key: str, now: float) -> float:
        """Seconds until the address is let in again; zero where it is not blocked."""
        until = self._blocked.get(key)
        if until is None:
            return 0.0
        if until <= now:
            del self._blocked[key]
            return 0.0
        return until - now

    def may_be_told(self, key: str, now: float) -> bool:
        """Whether a refusal of this blocked address is worth an answer, and not only an end."""
        record = self._record(key, now)
        if record.refusals is None:
            record.refusals = TokenBucket(1.0, _HONEST_REFUSALS, now)
        return record.refusals.take(now)

    def handshake(self, key: str, now: float) -> float:
        """Count a handshake; seconds until the next is welcome where this is one too many."""
        if not key:
            return 0.0
        bucket = self._record(key, now).handshakes
        return 0.0 if bucket.take(now) else bucket.seconds_until()

    def request(self, key: str, now: float) -> float:
        """Count a request over HTTP; seconds until the next is welcome where it is one too many."""
        if not key:
            return 0.0
        record = self._record(key, now)
        if record.requests is None:
            rate = self.limits.requests_per_second
            record.requests = TokenBucket(rate, rate * BURST, now)
        return 0.0 if record.requests.take(now) else record.requests.seconds_until()

    def forged(self, key: str, now: float) -> None:
        """A token that was never good came from the address."""
        limits = self.limits
        if not key or limits.ban_duration == 0:
            return
        record = self._record(key, now)
        if now < record.pardoned_until:
            return
        if record.forged is None:
            rate = limits.max_invalid_tokens / limits.invalid_token_window
            record.forged = TokenBucket(rate, limits.max_invalid_tokens, now)
        record.forged.take(now)
        if record.forged.seconds_until() > 0:
            self._block(key, record, now)

    def _block(self, key: str, record: _Record, now: float) -> None:
        seconds = self.limits.ban_duration
        record.forged = record.refusals = None
        record.blocked_until = now + seconds
        record.pardoned_until = now + 2 * seconds
        self._blocked[key] = record.blocked_until
        self.blocks += 1
        if self._on_block is not None:
            self._on_block(key, seconds)

    def authenticated(self, key: str) -> None:
        """A user is behind the address: forged tokens are counted anew."""
        record = self._records.get(key)
        if record is not None:
            record.forged = None

    def _record(self, key: str, now: float) -> _Record:
        record = self._records.get(key)
        if record is None:
            self._forget(now)
            record = self._records[key] = _Record(self.limits, now)
        else:
            self._records.move_to_end(key)
            record.seen = now
        return record

    def _forget(self, now: float) -> None:
        """Make room for one: drop who is new again by now, and the oldest where it is full."""
        limits = self.limits
        expired = now - max(BURST, limits.invalid_token_window, 2 * limits.ban_duration)
        for _ in range(2):  # more than comes in, so that in time all who are gone are forgotten
            if not self._records:
                break
            oldest, record = next(iter(self._records.items()))
            if record.seen > expired and len(self._records) < limits.max_tracked_addresses:
                break
            del self._records[oldest]
            self._blocked.pop(oldest, None)
