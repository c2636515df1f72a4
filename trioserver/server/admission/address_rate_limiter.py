"""How often each address may connect, send requests, and send tokens that were never valid.

A ban saves work and log lines. It does not protect tokens, which cannot be guessed anyway. Many
people may share an address, so bans are made for those who are not to blame: a ban is short, it is
followed by a cooldown of the same length in which the address cannot be banned again, and each user
who authenticates resets the count. A client that tries again as the server advises gets in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from protocol import TokenBucket
from trioserver.config import LimitsConfig

BURST: Final = 10.0
"""Seconds' worth of handshakes, and of requests, that an address may send at once: a whole office
after a restart."""

_RESPONSES_AT_ONCE: Final = 10.0
"""Requests of a banned address that are answered with the reason; after these, one a second."""

_STALE_ENDS: Final = 1_000
"""Ends of bans that are over, or forgotten, and are kept until there are more of them."""


class _AddressState:
    """What is known of one address. An address without a state is treated like a new one."""

    __slots__ = (
        "cooldown_until", "handshakes", "invalid_tokens", "requests", "responses", "seen",
    )  # fmt: skip

    def __init__(self, limits: LimitsConfig, now: float) -> None:
        rate = limits.handshakes_per_second
        self.handshakes = TokenBucket(rate, rate * BURST, now)
        self.invalid_tokens: TokenBucket | None = None
        self.responses: TokenBucket | None = None
        self.requests: TokenBucket | None = None
        self.cooldown_until = -math.inf
        self.seen = now


class AddressRateLimiter:
    """Keeps a state for each address, by `addresses.address_key`. The empty key is no address.

    ``bans`` counts bans; ``on_ban`` is called with the address and the duration of each. At most
    ``limits.max_tracked_addresses`` have a state: those that were seen longest ago lose it first.

    Time is an argument. Every operation takes constant time, on average.
    """

    def __init__(
        self, limits: LimitsConfig, *, on_ban: Callable[[str, float], None] | None = None
    ) -> None:
        self.limits = limits
        self.bans = 0
        self._on_ban = on_ban
        self._states: OrderedDict[str, _AddressState] = OrderedDict()
        self._banned: dict[str, float] = {}
        self._ban_ends: list[tuple[float, str]] = []  # a heap of what is, or was, in `_banned`

    def __len__(self) -> int:
        """How many addresses have a state."""
        return len(self._states)

    def reconfigure(self, limits: LimitsConfig) -> None:
        """Use other limits from now on. All addresses but the banned ones are as if new."""
        self.limits = limits
        banned = ((key, state) for key, state in self._states.items() if key in self._banned)
        self._states = OrderedDict(banned)

    def banned_count(self, now: float) -> int:
        """How many addresses are banned. It costs the same for any number of them."""
        ends = self._ban_ends
        while ends and ends[0][0] <= now:
            until, key = heappop(ends)
            if self._banned.get(key) == until:
                del self._banned[key]
        return len(self._banned)

    def banned_for(self, key: str, now: float) -> float:
        """Return the seconds until the ban of an address ends; 0 if it is not banned."""
        until = self._banned.get(key)
        if until is None:
            return 0.0
        if until <= now:
            del self._banned[key]
            return 0.0
        return until - now

    def should_respond(self, key: str, now: float) -> bool:
        """Whether a banned address gets an answer, or its connection is closed without one."""
        state = self._state(key, now)
        if state.responses is None:
            state.responses = TokenBucket(1.0, _RESPONSES_AT_ONCE, now)
        return state.responses.take(now)

    def charge_handshake(self, key: str, now: float) -> float:
        """Count a handshake; return the seconds to wait if it is one too many, otherwise 0."""
        if not key:
            return 0.0
        bucket = self._state(key, now).handshakes
        return 0.0 if bucket.take(now) else bucket.seconds_until()

    def charge_request(self, key: str, now: float) -> float:
        """Count an HTTP request; return the seconds to wait if it is one too many, otherwise 0."""
        if not key:
            return 0.0
        state = self._state(key, now)
        if state.requests is None:
            rate = self.limits.requests_per_second
            state.requests = TokenBucket(rate, rate * BURST, now)
        return 0.0 if state.requests.take(now) else state.requests.seconds_until()

    def record_invalid_token(self, key: str, now: float) -> None:
        """Count a token that was never valid, and ban the address at ``max_invalid_tokens``."""
        limits = self.limits
        if not key or limits.ban_duration == 0:
            return
        state = self._state(key, now)
        if now < state.cooldown_until:
            return
        if state.invalid_tokens is None:
            rate = limits.max_invalid_tokens / limits.invalid_token_window
            state.invalid_tokens = TokenBucket(rate, limits.max_invalid_tokens, now)
        state.invalid_tokens.take(now)
        if state.invalid_tokens.seconds_until() > 0:
            self._ban(key, state, now)

    def record_authenticated(self, key: str) -> None:
        """Note that a user has authenticated from the address: its count starts again."""
        state = self._states.get(key)
        if state is not None:
            state.invalid_tokens = None

    def _ban(self, key: str, state: _AddressState, now: float) -> None:
        seconds = self.limits.ban_duration
        state.invalid_tokens = state.responses = None
        state.cooldown_until = now + 2 * seconds
        self._banned[key] = now + seconds
        heappush(self._ban_ends, (now + seconds, key))
        if len(self._ban_ends) > 2 * len(self._banned) + _STALE_ENDS:
            self._ban_ends = sorted((until, key) for key, until in self._banned.items())
        self.bans += 1
        if self._on_ban is not None:
            self._on_ban(key, seconds)

    def _state(self, key: str, now: float) -> _AddressState:
        state = self._states.get(key)
        if state is None:
            self._forget(now)
            state = self._states[key] = _AddressState(self.limits, now)
        else:
            self._states.move_to_end(key)
            state.seen = now
        return state

    def _forget(self, now: float) -> None:
        """Make room for one state: drop those that mean nothing any more, or else the oldest."""
        limits = self.limits
        expired = now - max(BURST, limits.invalid_token_window, 2 * limits.ban_duration)
        for _ in range(2):  # more than one is added, so that in time all expired ones are dropped
            if not self._states:
                break
            oldest, state = next(iter(self._states.items()))
            if state.seen > expired and len(self._states) < limits.max_tracked_addresses:
                break
            del self._states[oldest]
            self._banned.pop(oldest, None)
