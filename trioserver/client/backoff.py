"""When to connect again: never, at the time that the server named, or after a random pause.

Exponential backoff with full jitter: Brooker, "Exponential Backoff And Jitter", 2015. Clients that
lost the same server at the same moment must not all come back at the same moment.
"""

from __future__ import annotations

import random

import attrs

from trioserver.client.close_reason import CloseReason


@attrs.frozen(kw_only=True)
class Backoff:
    """Pauses between attempts: random, from 0 to ``first`` seconds, doubling up to ``maximum``.

    ``random`` is the source of the jitter. A seeded one gives the same pauses each time.
    """

    first: float = attrs.field(default=0.5, validator=attrs.validators.ge(0.0))
    maximum: float = attrs.field(default=30.0, validator=attrs.validators.ge(0.0))
    random: random.Random = attrs.field(factory=random.Random, repr=False)

    def delay(self, number: int) -> float:
        """Seconds before attempt ``number``, counted from 0."""
        longest = min(self.maximum, self.first * 2.0 ** min(number, 64))
        return self.random.uniform(0.0, longest)


@attrs.define(kw_only=True)
class ReconnectPolicy:
    """Decides after each connection when to connect again.

    ``max_attempts`` is the number of consecutive attempts that may fail before READY; None for no
    limit. ``can_refresh`` says whether another token can be obtained.
    """

    backoff: Backoff
    reconnect: bool
    max_attempts: int | None
    can_refresh: bool
    _failed: int = attrs.field(default=0, init=False)
    _pauses: int = attrs.field(default=0, init=False)
    _refreshing: bool = attrs.field(default=False, init=False)

    def pause(
        self, reason: CloseReason, *, ready_for: float | None, reconnect_in: float | None
    ) -> float | None:
        """Seconds until the next attempt, or None to give up.

        ``ready_for`` is how long the connection was READY, None if it never was. Pauses start at
        the shortest again only after a connection that lasted at least as long as the longest
        pause, so that a connection that is lost repeatedly does not cause a reconnect storm.
        ``reconnect_in`` is the time that `goaway` named, None without one.
        """
        if not self.reconnect or reason.retry == "never":
            return None
        if ready_for is not None and ready_for >= self.backoff.maximum:
            self._pauses, self._refreshing = 0, False
        refreshing, self._refreshing = self._refreshing, reason.retry == "refresh_token"
        if self._refreshing and not self.can_refresh:
            return None
        self._failed = self._failed + 1 if ready_for is None else 0
        if self.max_attempts is not None and self._failed >= self.max_attempts:
            return None
        if reconnect_in is not None:
            return reconnect_in
        if self._refreshing and not refreshing:
            return 0.0
        self._pauses += 1
        return (reason.retry_after or 0.0) + self.backoff.delay(self._pauses - 1)
