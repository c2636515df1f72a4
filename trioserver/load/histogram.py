"""`LatencyHistogram`: an HDR histogram with three significant digits, which can be merged.

Latencies are appended to a list, counted in batches, and added to the histogram at the end. Adding
each of them to the histogram at once would cost as much as everything else for a request.
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
"""Different values, in microseconds, that are counted before they are added to the histogram."""

_CURVE: Final = tuple(
    100.0 - 100.0 / 2.0 ** (step / 4) for step in range(4 * 20)
)  # each fourth step halves what is left: the usual way to show a tail


class Encoded(msgspec.Struct, frozen=True):
    """A `LatencyHistogram`, encoded for another process."""

    histogram: str
    max_us: int
    sum_us: int


class LatencyHistogram:
    """A distribution of durations. They are added in seconds, and reported in milliseconds."""

    def __init__(self) -> None:
        self.recent: list[float] = []
        """Append durations in seconds to it, and call `flush` regularly."""
        self._by_us: Counter[int] = Counter()
        self._histogram: Any = HdrHistogram(1, _LONGEST_US, _FIGURES)
        self._max_us = 0
        self._sum_us = 0
        self._peak = 0.0

    def flush(self) -> None:
        """Count the appended durations; this takes 0.1 us for each."""
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

    def pop_peak_ms(self) -> float:
        """The longest flushed duration since the last call; 0 without one."""
        peak, self._peak = self._peak, 0.0
        return round(peak * 1000, 3)

    @property
    def count(self) -> int:
        """Number of durations that were flushed."""
        return int(self._histogram.total_count) + self._by_us.total()

    def encode(self) -> Encoded:
        """Encode it for `merge` in another process."""
        self.flush()
        self._sort_in()
        encoded = self._histogram.encode().decode("ascii")
        return Encoded(encoded, self._max_us, self._sum_us)

    def merge(self, encoded: Encoded) -> None:
        """Add the durations of another process, so that percentiles are those of all processes."""
        self._histogram.decode_and_add(encoded.histogram.encode("ascii"))
        self._max_us = max(self._max_us, encoded.max_us)
        self._sum_us += encoded.sum_us

    def figures(self) -> dict[str, float]:
        """Count, mean, percentiles and maximum; empty without durations."""
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
        """Percentiles and milliseconds, up to the percentile above which one duration is left."""
        self.flush()
        self._sort_in()
        if not self.count:
            return []
        wanted = [p for p in _CURVE if self.count * (100.0 - p) >= 100.0]
        return [*self._at(wanted), (100.0, self._max_us / 1000)]

    def _at(self, percentiles: Any) -> list[tuple[float, float]]:
        found = self._histogram.get_percentile_to_value_dict(list(percentiles))
        # A bucket is reported by its upper edge, which may be above the largest value in it.
        return [(p, min(value, self._max_us) / 1000) for p, value in sorted(found.items())]


def name_of(percentile: float) -> str:
    """ "p50_ms", "p999_ms"."""
    return f"p{percentile:g}_ms".replace(".", "")
