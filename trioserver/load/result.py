"""`RunResult`: the merged results of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from msgspec import to_builtins

from trioserver.load.counts import Counts, Second
from trioserver.load.histogram import LatencyHistogram
from trioserver.load.plan import Plan
from trioserver.load.recorder import LATENCIES, ProcessResult


@attrs.frozen(kw_only=True)
class RunResult:
    """``measured`` is the time in seconds that the rates refer to."""

    plan: Plan
    counts: Counts
    latencies: dict[str, LatencyHistogram]
    seconds: list[Second]
    measured: float
    interrupted: bool

    @classmethod
    def of(cls, plan: Plan, results: Sequence[ProcessResult], *, interrupted: bool) -> RunResult:
        """Merge the results of the processes."""
        counts = Counts()
        latencies = {name: LatencyHistogram() for name in LATENCIES}
        seconds: list[Second] = []
        for result in results:
            counts.add(result.counts)
            for name, encoded in result.latencies.items():
                latencies[name].merge(encoded)
            for index, second in enumerate(result.seconds):
                if index == len(seconds):
                    seconds.append(Second())
                _add(seconds[index], second)
        measured = max((result.measured for result in results), default=0.0)
        return cls(
            plan=plan,
            counts=counts,
            latencies=latencies,
            seconds=seconds,
            measured=measured,
            interrupted=interrupted,
        )

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """The figures of each latency, by name."""
        found = {name: measure.figures() for name, measure in self.latencies.items()}
        return {name: figures for name, figures in found.items() if figures}

    @property
    def requests_per_second(self) -> float:
        """Answers per second, in the measured window."""
        return self.counts.in_window / self.measured if self.measured else 0.0

    @property
    def deliveries_per_second(self) -> float:
        """Events per second that all subscribers received together."""
        return self.counts.delivered_in_window / self.measured if self.measured else 0.0

    @property
    def target(self) -> str:
        """The URL without its query, which may contain a secret."""
        return self.plan.url.partition("?")[0]

    def as_json(self) -> dict[str, Any]:
        """For a program. Latencies are in milliseconds. It contains no secret."""
        plan = self.plan
        return {
            "url": self.target,
            "interrupted": self.interrupted,
            "wrong": self.counts.wrong,
            "measured_seconds": round(self.measured, 3),
            "requests_per_second": round(self.requests_per_second, 1),
            "deliveries_per_second": round(self.deliveries_per_second, 1),
            "latencies": self.figures,
            "counts": to_builtins(self.counts),
            "seconds": to_builtins(self.seconds),
            "plan": {
                "clients": plan.clients,
                "processes": plan.processes,
                "connect_rate": plan.connect_rate,
                "loop": plan.loop,
                "rate": plan.rate if plan.loop == "open" else None,
                "in_flight": plan.in_flight if plan.loop == "closed" else None,
                "type": plan.type if plan.topic is None else "publish",
                "topic": plan.topic,
                "duration": plan.duration,
                "warmup": plan.warmup,
                "storms": plan.storms,
                "slow_readers": plan.slow_readers,
            },
        }


def _add(mine: Second, theirs: Second) -> None:
    mine.answered += theirs.answered
    mine.delivered += theirs.delivered
    mine.wrong += theirs.wrong
    mine.ready += theirs.ready
    mine.slowest_request_ms = max(mine.slowest_request_ms, theirs.slowest_request_ms)
    mine.slowest_delivery_ms = max(mine.slowest_delivery_ms, theirs.slowest_delivery_ms)
