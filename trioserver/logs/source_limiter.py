"""Bounds on records that others cause, such as rows and log lines: by source, and of all together.

What is not kept is counted, by its source and kind, for a summary: "and 4,211 more".
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final

import attrs

from protocol import TokenBucket

SOURCES: Final = 10_000
"""Sources whose buckets are kept; the one that was seen longest ago is forgotten first."""

_COUNTED: Final = 1_000
"""Sources and kinds that are counted apart between two summaries; others go under ``OTHERS``."""

_SHOWN: Final = 20
"""Entries of one summary that have a source: those with the highest counts."""

OTHERS: Final = ""
"""Stands for all sources that are not told apart."""


@attrs.frozen
class Suppressed:
    """``count`` records of a ``kind`` that were not kept; ``source`` caused them, or `OTHERS`."""

    source: str
    kind: Hashable
    count: int


class Throttle:
    """Allows ``rate`` records a second for each source, and ``total_rate`` for all together.

    ``burst`` times as many may come at once. ``total_rate`` None: there is no bound for all
    together, so that no source can use up what is another's. Time comes in as an argument.
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
        """Whether one more record may be kept. If not, it is counted for `collect`."""
        if self._bucket(source, now).take(now) and (self._total is None or self._total.take(now)):
            return True
        self.suppress(source, kind)
        return False

    def suppress(self, source: str, kind: Hashable) -> None:
        """Count a record that is not kept for another reason."""
        key = source, kind
        if key not in self._suppressed and len(self._suppressed) >= _COUNTED:
            key = OTHERS, kind
        self._suppressed[key] += 1

    def collect(self) -> list[Suppressed]:
        """What was suppressed since the last call, the highest counts first."""
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
