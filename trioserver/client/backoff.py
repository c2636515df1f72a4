"""When to come back: never, at the time the server named, or after a while of its own.

Exponential backoff with full jitter: Brooker, "Exponential Backoff And Jitter", 2015. Clients that
lost the same server at the same moment must not come back at the same moment.
"""

from __future__ import annotations

import random

import attrs

from trioserver.client.close_reason import CloseReason


@attrs.frozen(kw_only=True)
class Backoff:
    """A pause before each attempt: from 0 to ``first`` seconds, twice that, up to ``maximum``.

    ``random``: where the jitter comes from; give a seeded one to have the same pauses again.
    """

    first: float = attrs.field(default=0.5, validator=attrs.validators.ge(0.0))
    maximum: float = attrs.field(default=30.0, validator=attrs.validators.ge(0.0))
    random: random.Random = attrs.field(factory=random.Random, repr=False)

    def delay(self, number: int) -> float:
        """Seconds before attempt ``number``, counted from 0."""
        longest = min(self.maximum, self.first * 2.0 ** min(number, 64))
        return self.random.uniform(0.0, longest)


@attrs.define(kw_only=True)
class Retrying:
    """Decides after each end of a connection. ``max_attempts``: in a row that did not get READY."""

    backoff: Backoff
    reconnect: bool
    max_attempts: int | None
    can_refresh: bool
    _failed: int = attrs.field(default=0, init=False)
    _pauses: int = attrs.field(default=0, init=False)
    _refreshing: bool = attrs.field(default=False, init=False)

    def pause(
        self, reason: CloseReason, *, ready_for: float | None, come_back_in: float | None
    ) -> float | None:
        """Seconds until the next attempt, None for no more.

        ``ready_for``: how long the connection was READY, None if it never was. A connection has to
        hold for as long as the longest pause before the pauses begin anew, so that one which is
        lost again and again does not cause a storm. ``come_back_in``: what `goaway` said.
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
        if come_back_in is not None:
            return come_back_in
        if self._refreshing and not refreshing:
            return 0.0
        self._pauses += 1
        return (reason.retry_after or 0.0) + self.backoff.delay(self._pauses - 1)
