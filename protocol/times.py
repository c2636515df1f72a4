"""Times and durations as they are written in messages."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_LAST_SECOND: Final = 253402300799.0
"""9999-12-31T23:59:59Z. Some tokens contain later times to mean "never"."""


def instant(seconds: float) -> str:
    """Format seconds since the Unix epoch as RFC 3339 text in UTC, with milliseconds.

    Times after the year 9999 become its last second.
    """
    clamped = min(max(seconds, 0.0), _LAST_SECOND)
    whole, part = divmod(round(clamped * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{part // 1000:03d}Z"


@lru_cache(maxsize=64)  # in a reconnect storm thousands arrive in one second, with the same expiry
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def milliseconds(seconds: float) -> int:
    """Convert a duration in seconds to whole milliseconds, never negative."""
    return round(min(max(seconds, 0.0), 1e12) * 1000)
