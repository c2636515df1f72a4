"""What the server is meant to reach, as ratios to its peers in one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from tests.benchmarks.results import Results

OURS: Final = "trioserver"
ASYNC: Final = "trioserver-async"


@attrs.frozen(kw_only=True)
class Goal:
    """``at_least`` and ``aim``: peer and ratio. For ``lower`` ones they are the most there may be.
    The peer "" stands for the figure itself."""

    title: str
    row: str
    figure: str
    ours: str = OURS
    at_least: Mapping[str, float]
    aim: Mapping[str, float]
    lower: bool = False

    def reached(self, results: Results, peer: str) -> float | None:
        """The ratio, None where it was not measured."""
        if not peer:
            return results.median(self.row, self.ours, self.figure)
        return results.ratio(self.row, self.figure, self.ours, peer)

    def is_met(self, results: Results, wanted: Mapping[str, float]) -> bool | None:
        """None where a part of it was not measured and the rest is met."""
        verdicts = [self._verdict(self.reached(results, peer), wanted[peer]) for peer in wanted]
        if False in verdicts:
            return False
        return None if None in verdicts else True

    def _verdict(self, reached: float | None, wanted: float) -> bool | None:
        if reached is None:
            return None
        return reached <= wanted if self.lower else reached >= wanted


GOALS: Final = (
    Goal(
        title="request to ack, `def` handler, D=1",
        row="request",
        figure="d1.rate",
        at_least={"fastapi": 4.0, "aiohttp": 1.2, "node": 1.0},
        aim={"node": 1.3},
    ),
    Goal(
        title="request to ack, `def` handler, D=16",
        row="request",
        figure="d16.rate",
        at_least={"fastapi": 6.0, "aiohttp": 1.5, "node": 1.0},
        aim={"node": 1.5},
    ),
    Goal(
        title="request to ack, `async def` handler, D=1",
        row="request",
        figure="d1.rate",
        ours=ASYNC,
        at_least={"fastapi": 2.0},
        aim={"aiohttp": 1.0},
    ),
    Goal(
        title="request to ack, `async def` handler, D=16",
        row="request",
        figure="d16.rate",
        ours=ASYNC,
        at_least={"fastapi": 4.0},
        aim={"aiohttp": 1.0},
    ),
    Goal(
        title="an event to its subscribers",
        row="fanout",
        figure="rate",
        at_least={"fastapi": 3.0, "websockets": 1.0},
        aim={"node": 1.0},
    ),
    Goal(
        title="storm, connect to ready",
        row="storm",
        figure="rate",
        at_least={"fastapi": 1.5},
        aim={"aiohttp": 1.0},
    ),
    Goal(
        title="memory of an idle ready connection",
        row="memory",
        figure="kib",
        at_least={"fastapi": 0.7},
        aim={"fastapi": 0.5},
        lower=True,
    ),
    Goal(
        title="flood: quiet clients' p99, with it to without",
        row="flood",
        figure="ratio",
        at_least={"": 3.0},
        aim={"": 1.5},
        lower=True,
    ),
)
