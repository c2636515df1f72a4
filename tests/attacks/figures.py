"""Figures of attacks: a line for each to print, and a row for each in docs/operating.md."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.benchmarks.machine import describe

_DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "operating.md"
_BEGIN: Final = "<!-- attacks: made by `make attacks` -->\n"
_END: Final = "<!-- end of attacks -->\n"

_HEAD: Final = (
    "| attack | answers | p50, p99, longest (ms) | new clients, p99 (ms) "
    "| MiB before, most, after | recovered after (s) | what came of it |",
    "|---|---|---|---|---|---|---|",
)


@attrs.define(kw_only=True)
class Figures:
    """Of one attack. Times are in ms where not said otherwise, memory in MiB."""

    name: str
    answers: Sequence[float] = ()
    """To good clients, in ascending order."""
    quiet: Sequence[float] = ()
    """Answers before the attack began."""
    waits: Sequence[float] = ()
    """Of new clients, from connecting to `ready`, in ascending order."""
    rss_before: float = 0.0
    rss_most: float = 0.0
    rss_after: float = 0.0
    recovered: float = 0.0
    """Seconds from the end of the attack until nothing was left of it."""
    notes: list[str] = attrs.field(factory=list)

    def row(self) -> str:
        """As Markdown."""
        answers, waits = self.answers, self.waits
        cells = (
            self.name,
            f"{len(answers):,}",
            ", ".join(_number(percentile(answers, share)) for share in (0.5, 0.99, 1)),
            f"{len(waits):,}, {_number(percentile(waits, 0.99))}",
            ", ".join(f"{mib:.0f}" for mib in (self.rss_before, self.rss_most, self.rss_after)),
            f"{self.recovered:.1f}",
            "; ".join(self.notes),
        )
        return f"| {' | '.join(cells)} |"


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; not a number where there is none."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def table(rows: Sequence[str]) -> str:
    """As it stands in the document, with the machine."""
    machine = describe()
    about = ", ".join(f"{name}: {machine[name]}" for name in ("CPU", "cores", "kernel", "Python"))
    return "\n".join([f"Measured on: {about}.", "", *_HEAD, *rows, ""])


def write(figures: Sequence[Figures], document: Path = _DOCUMENT) -> None:
    """Put them into the document: a row takes the place of the one with its name, if any."""
    text = document.read_text()
    pattern = re.compile(re.escape(_BEGIN) + "(.*?)" + re.escape(_END), re.DOTALL)
    found = pattern.search(text)
    assert found, f"{document.name} has no place for it"
    old = [line for line in found[1].splitlines() if line.startswith("| ")]
    rows = {_name(row): row for row in old if row != _HEAD[0]}
    rows |= {each.name: each.row() for each in figures}
    document.write_text(pattern.sub(lambda _: _BEGIN + table([*rows.values()]) + _END, text))


def _name(row: str) -> str:
    return row.split("|")[1].strip()
