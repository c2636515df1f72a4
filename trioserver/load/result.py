"""What a run has found, of all processes together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from msgspec import to_builtins

from trioserver.load.histogram import Counts, Measure, Second
from trioserver.load.plan import Plan
from trioserver.load.recorder import MEASURES, Result


@attrs.frozen(kw_only=True)
class Outcome:
    """``measured``: seconds in which requests and deliveries were counted for the rates."""

    plan: Plan
    counts: Counts
    measures: dict[str, Measure]
    seconds: list[Second]
    measured: float
    interrupted: bool

    @classmethod
    def of(cls, plan: Plan, results: Sequence[Result], *, interrupted: bool) -> Outcome:
        """Put together what the processes found."""
        counts = Counts()
        measures = {name: Measure() for name in MEASURES}
        seconds: list[Second] = []
        for result in results:
            counts.add(result.counts)
            for name, encoded in result.measures.items():
                measures[name].merge(encoded)
            for index, second in enumerate(result.seconds):
                if index == len(seconds):
                    seconds.append(Second())
                _add(seconds[index], second)
        measured = max((result.measured for result in results), default=0.0)
        return cls(
            plan=plan,
            counts=counts,
            measures=measures,
            seconds=seconds,
            measured=measured,
            interrupted=interrupted,
        )

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Of each thing that was measured, by name."""
        found = {name: measure.figures() for name, measure in self.measures.items()}
        return {name: figures for name, figures in found.items() if figures}

    @property
    def requests_per_second(self) -> float:
        """Answers a second, in the window."""
        return self.counts.in_window / self.measured if self.measured else 0.0

    @property
    def deliveries_per_second(self) -> float:
        """Events a second that subscribers got, all of them together."""
        return self.counts.delivered_in_window / self.measured if self.measured else 0.0

    @property
    def target(self) -> str:
        """The URL without its query, which may hold a secret."""
        return self.plan.url.partition("?")[0]

    def as_json(self) -> dict[str, Any]:
        """For a program. Latencies are in milliseconds; there is no secret in it."""
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
