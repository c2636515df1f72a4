"""What was measured: histograms (HDR, three significant figures) and counts, which can be merged.

A latency is appended to a list, whose values are counted by the hundred, and the histogram has them
at the end: its own Python would cost a generator as much as all else that it does for a request.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 99.99)

_LONGEST_US: Final = 3_600_000_000
_FIGURES: Final = 3

_MOST_VALUES: Final = 100_000
"""Different microseconds that are counted one by one before the histogram has them."""

_MOST_CODES: Final = 200

_CURVE: Final = tuple(
    100.0 - 100.0 / 2.0 ** (step / 4) for step in range(4 * 20)
)  # each fourth step halves what is left: the usual way to show a tail


class Encoded(msgspec.Struct, frozen=True):
    """A `Measure` on its way between processes."""

    histogram: str
    max_us: int
    sum_us: int


class Measure:
    """A distribution of durations, put in in seconds and had in milliseconds."""

    def __init__(self) -> None:
        self.recent: list[float] = []
        """Append to it, in seconds; `flush` in time."""
        self._by_us: Counter[int] = Counter()
        self._histogram: Any = HdrHistogram(1, _LONGEST_US, _FIGURES)
        self._max_us = 0
        self._sum_us = 0
        self._peak = 0.0

    def flush(self) -> None:
        """Count what was appended: a tenth of a microsecond for each, so do it often."""
        self._peak = max(self._peak, max(self.recent, default=0.0))
        self._by_us.update([int(seconds * 1e6) for seconds in self.recent])
        self.recent.clear()
        if len(self._by_us) > _MOST_VALUES:
            self._sort_in()

    def _sort_in(self) -> None:
        for value, count in self._by_us.items():
            inside = min(max(value, 0), _LONGEST_US)
            self._histogram.record_value(inside, count)
            self._max_us = max(self._max_us, inside)
            self._sum_us += inside * count
        self._by_us.clear()

    def take_peak_ms(self) -> float:
        """The longest since this was last called, of what was flushed; 0 where there is none."""
        peak, self._peak = self._peak, 0.0
        return round(peak * 1000, 3)

    @property
    def count(self) -> int:
        """How many there are, without the recent ones."""
        return int(self._histogram.total_count) + self._by_us.total()

    def encode(self) -> Encoded:
        """For `merge` in another process."""
        self.flush()
        self._sort_in()
        encoded = self._histogram.encode().decode("ascii")
        return Encoded(encoded, self._max_us, self._sum_us)

    def merge(self, encoded: Encoded) -> None:
        """Add another process's. Percentiles of the whole, not means of percentiles."""
        self._histogram.decode_and_add(encoded.histogram.encode("ascii"))
        self._max_us = max(self._max_us, encoded.max_us)
        self._sum_us += encoded.sum_us

    def figures(self) -> dict[str, float]:
        """Count, mean, percentiles and maximum; empty where there is nothing."""
        self.flush()
        self._sort_in()
        if not self.count:
            return {}
        values = self._at(PERCENTILES)
        figures: dict[str, float] = {"count": self.count}
        figures["mean_ms"] = round(self._sum_us / self.count / 1000, 3)
        figures |= {name_of(percentile): ms for percentile, ms in values}
        figures["max_ms"] = self._max_us / 1000
        return figures

    def curve(self) -> list[tuple[float, float]]:
        """Percentiles and milliseconds, up to where a single one is left."""
        self.flush()
        self._sort_in()
        if not self.count:
            return []
        wanted = [p for p in _CURVE if self.count * (100.0 - p) >= 100.0]
        return [*self._at(wanted), (100.0, self._max_us / 1000)]

    def _at(self, percentiles: Any) -> list[tuple[float, float]]:
        found = self._histogram.get_percentile_to_value_dict(list(percentiles))
        # A bucket is told by its upper edge, which may lie above the largest in it.
        return [(p, min(value, self._max_us) / 1000) for p, value in sorted(found.items())]


def name_of(percentile: float) -> str:
    """ "p50_ms", "p999_ms"."""
    return f"p{percentile:g}_ms".replace(".", "")


class Counts(msgspec.Struct, kw_only=True):
    """What was counted. The dicts are by code: of errors, of closes, of failures."""

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
        """Add another process's."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for code, count in theirs.items():
                    mine[code] = mine.get(code, 0) + count
            else:
                setattr(self, name, mine + theirs)

    @property
    def wrong(self) -> int:
        """What counts against ``--max-errors``: clients that failed and requests that did."""
        requests = sum(self.errors.values()) + self.unanswered + self.not_sent
        return self.not_ready + self.lost + requests


def count(by_code: dict[str, int], code: str) -> None:
    """One more of this code; what a server calls its errors is bounded too."""
    if code not in by_code and len(by_code) >= _MOST_CODES:
        code = "other"
    by_code[code] = by_code.get(code, 0) + 1


class Second(msgspec.Struct, kw_only=True):
    """What happened within one second of a run."""

    answered: int = 0
    delivered: int = 0
    wrong: int = 0
    ready: int = 0  # at its end
    slowest_request_ms: float = 0.0
    slowest_delivery_ms: float = 0.0
