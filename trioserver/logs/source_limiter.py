"""Limits the rate of records that clients cause, such as log lines: by source and in total.

Suppressed records are counted by source and kind, for a summary: "and 4,211 more".
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final

import attrs

from protocol import TokenBucket

SOURCES: Final = 10_000
"""Sources whose token buckets are kept. The least recently seen source is removed first."""

_COUNTED: Final = 1_000
"""Pairs of source and kind that are counted separately between two summaries. All further ones are
counted under ``OTHERS``."""

_SHOWN: Final = 20
"""Entries of a summary that name a source: those with the highest counts."""

OTHERS: Final = ""
"""Stands for all sources that are not counted separately."""


@attrs.frozen
class Suppressed:
    """``count`` suppressed records of a ``kind``, caused by ``source``, or by `OTHERS`."""

    source: str
    kind: Hashable
    count: int


class SourceLimiter:
    """Allows ``rate`` records per second and source, and ``total_rate`` in total.

    Up to ``burst`` seconds' worth of them may come at once. If ``total_rate`` is None, there is no
    total limit, so that no source can use up another's share. The caller passes the time in.
    """

    def __init__(self, rate: float, total_rate: float | None = None, *, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._total: TokenBucket | None = None
        if total_rate is not None:
            self._total = TokenBucket(total_rate, total_rate * burst, -math.inf)  # full
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._suppressed: Counter[tuple[str, Hashable]] = Counter()

    def allow(self, source: str, kind: Hashable, now: float) -> bool:
        """Return whether a record may be kept. If not, it is counted for `collect`."""
        if self._bucket(source, now).take(now) and (self._total is None or self._total.take(now)):
            return True
        self.suppress(source, kind)
        return False

    def suppress(self, source: str, kind: Hashable) -> None:
        """Count a record that the caller does not keep."""
        key = source, kind
        if key not in self._suppressed and len(self._suppressed) >= _COUNTED:
            key = OTHERS, kind
        self._suppressed[key] += 1

    def collect(self) -> list[Suppressed]:
        """Return what was suppressed since the last call, highest counts first."""
        ordered = self._suppressed.most_common()
        self._suppressed = Counter()
        rest: Counter[Hashable] = Counter()
        for (_, kind), count in ordered[_SHOWN:]:
            rest[kind] += count
        shown = [Suppressed(source, kind, count) for (source, kind), count in ordered[:_SHOWN]]
        return shown + [Suppressed(OTHERS, kind, count) for kind, count in rest.most_common()]

    def _bucket(self, source: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= SOURCES:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = TokenBucket(
                self._rate, max(1.0, self._rate * self._burst), now
            )
        else:
            self._buckets.move_to_end(source)
        return bucket
