"""What a load test counts, in all and in each second."""

from __future__ import annotations

from typing import Final

import msgspec

_MAX_CODES: Final = 200
"""Different codes that are counted. Further ones are counted as "other", because a server chooses
them."""


class Counts(msgspec.Struct, kw_only=True):
    """The counts of a load test. The dictionaries are by code."""

    clients: int = 0
    ready: int = 0  # at this moment
    not_ready: int = 0  # gave up
    lost: int = 0  # were ready, and then closed by the server or the network
    sent: int = 0
    answered: int = 0
    in_window: int = 0  # answers that came while it was measured
    unanswered: int = 0
    not_sent: int = 0  # due, but the connection was full, or there was none
    delivered: int = 0
    delivered_in_window: int = 0
    missed: int = 0  # events that a subscriber should have had, by their offsets
    refreshed: int = 0
    slow_readers: int = 0
    slow_readers_open: int = 0
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    closes: dict[str, int] = msgspec.field(default_factory=dict)
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    retries: dict[str, int] = msgspec.field(default_factory=dict)
    slow_closes: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Add the counts of another process."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for code, count in theirs.items():
                    mine[code] = mine.get(code, 0) + count
            else:
                setattr(self, name, mine + theirs)

    @property
    def wrong(self) -> int:
        """Failed clients and failed requests, which are compared with ``--max-errors``."""
        requests = sum(self.errors.values()) + self.unanswered + self.not_sent
        return self.not_ready + self.lost + requests


def count(by_code: dict[str, int], code: str) -> None:
    """Count one more of this code, or of "other" if there are too many codes."""
    if code not in by_code and len(by_code) >= _MAX_CODES:
        code = "other"
    by_code[code] = by_code.get(code, 0) + 1


class Second(msgspec.Struct, kw_only=True):
    """What happened in one second of a load test."""

    answered: int = 0
    delivered: int = 0
    wrong: int = 0
    ready: int = 0  # at its end
    slowest_request_ms: float = 0.0
    slowest_delivery_ms: float = 0.0
