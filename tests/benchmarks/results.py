"""What has been measured, and its medians."""

from __future__ import annotations

import statistics

import msgspec

from tests.benchmarks.generator import BUSY
from tests.benchmarks.loads import Figures


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Of one peer in one round. ``failure`` says why there are no figures."""

    row: str
    peer: str
    round: int
    figures: Figures = {}
    failure: str | None = None


class Results(msgspec.Struct, kw_only=True):
    """A run. ``missing`` has the reason for each peer that was left out."""

    quick: bool
    rounds: int
    machine: dict[str, str]
    versions: dict[str, str]
    missing: dict[str, str]
    measurements: list[Measurement]

    def median(self, row: str, peer: str, figure: str) -> float | None:
        """Over all rounds; None where there is nothing."""
        values = [
            measurement.figures[figure]
            for measurement in self._of(row, peer)
            if figure in measurement.figures
        ]
        return statistics.median(values) if values else None

    def ratio(self, row: str, figure: str, ours: str, peer: str) -> float | None:
        """Ours to the peer's."""
        mine, theirs = self.median(row, ours, figure), self.median(row, peer, figure)
        return mine / theirs if mine is not None and theirs else None

    def generator_bound(self, row: str, peer: str, load: str) -> bool:
        """Whether the generator had no time to spare and the server had."""
        prefix = f"{load}." if load else ""
        generator = self.median(row, peer, f"{prefix}generator_cpu") or 0.0
        server = self.median(row, peer, f"{prefix}server_cpu") or 0.0
        return generator > max(BUSY, server)

    def peers(self, row: str) -> list[str]:
        """Those of whom there is something, in the order of the first round."""
        return list(dict.fromkeys(m.peer for m in self.measurements if m.row == row))

    def failures(self, row: str) -> dict[str, str]:
        """The first of each peer's."""
        failures: dict[str, str] = {}
        for measurement in self.measurements:
            if measurement.row == row and measurement.failure is not None:
                failures.setdefault(measurement.peer, measurement.failure)
        return failures

    def figures(self, row: str) -> list[str]:
        """The names of all figures, in the order in which they came."""
        names = (name for m in self.measurements if m.row == row for name in m.figures)
        return list(dict.fromkeys(names))

    def _of(self, row: str, peer: str) -> list[Measurement]:
        return [m for m in self.measurements if m.row == row and m.peer == peer]
