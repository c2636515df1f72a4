"""Writes docs/benchmarks.md from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.benchmarks.goals import ASYNC, GOALS, OURS, Goal
from tests.benchmarks.results import Results
from tests.benchmarks.servers import BY_NAME

_TEXTS: Final = Path(__file__).with_name("texts")

_BOUND: Final = "\N{DAGGER}"
_NOTHING: Final = "-"


@attrs.frozen(kw_only=True)
class Column:
    """``figure``'s median; with ``ratios``, a column more for each of ours, to the peer's."""

    heading: str
    figure: str
    digits: int = 0
    ratios: tuple[str, ...] = ()

    @property
    def load(self) -> str:
        """The part of the figure's name that says of which load it is."""
        return self.figure.rpartition(".")[0]


_BOTH: Final = (OURS, ASYNC)
_ONE: Final = (OURS,)


def _p99(prefix: str, heading: str) -> Column:
    return Column(heading=heading, figure=f"{prefix}p99_ms", digits=2)


COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "request": (
        Column(heading="D=1, msg/s", figure="d1.rate", ratios=_BOTH),
        Column(heading="D=16, msg/s", figure="d16.rate", ratios=_BOTH),
    ),
    "fanout": (Column(heading="deliveries/s", figure="rate", ratios=_ONE),),
    "storm": (
        Column(heading="ready/s", figure="rate", ratios=_ONE),
        Column(heading="median, ms", figure="p50_ms"),
        Column(heading="p99, ms", figure="p99_ms"),
    ),
    "storm-inline": (Column(heading="ready/s", figure="rate", ratios=_ONE),),
    "memory": (
        Column(heading="KiB a connection", figure="kib", digits=1, ratios=_ONE),
        Column(heading="MiB before", figure="base_mib"),
    ),
    "latency": (
        Column(heading="msg/s", figure="rate"),
        Column(heading="p50, ms", figure="p50_ms", digits=2),
        _p99("", "p99, ms"),
        Column(heading="p99.9, ms", figure="p999_ms", digits=2),
        Column(heading="sent late, p99, ms", figure="late_ms", digits=2),
        Column(heading="lost", figure="lost"),
    ),
    "flood": (
        _p99("alone.", "p99 alone, ms"),
        _p99("flooded.", "p99 flooded, ms"),
        Column(heading="ratio", figure="ratio", digits=2),
        Column(heading="flood answered, msg/s", figure="flooded.flood_rate"),
    ),
    "tls": (
        Column(heading="D=1, msg/s", figure="tls.d1.rate", ratios=_BOTH),
        Column(heading="of plain", figure="d1.share", digits=2),
        Column(heading="D=16, msg/s", figure="tls.d16.rate", ratios=_BOTH),
        Column(heading="of plain", figure="d16.share", digits=2),
    ),
}


def markdown(results: Results, plot: str | None) -> str:
    """The whole page. ``plot`` is the file of the picture, None where there is none."""
    parts = [_text("head")]
    if results.quick:
        parts.append("**This was a quick run: less load, one round. Its figures say little.**")
    parts += ["## Goals", _goals(results)]
    if plot is not None:
        parts.append(f"![The medians as bars and curves]({plot})")
    for row in dict.fromkeys(m.row for m in results.measurements):
        parts += [_text(row), _table_of(results, row), *_notes(results, row)]
    parts += [_text("machine"), _machine(results), _text("method")]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _text(name: str) -> str:
    return (_TEXTS / f"{name}.md").read_text()


def _label(peer: str) -> str:
    return BY_NAME[peer].label


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *lines))


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def _table_of(results: Results, row: str) -> str:
    columns = COLUMNS.get(row) or _growth(results, row)
    headings = ["server"]
    for column in columns:
        headings += [column.heading, *(_ratio_heading(ours, column) for ours in column.ratios)]
    lines = []
    order = [name for name in BY_NAME if name in results.peers(row)]
    for peer in order:
        line = [_label(peer)]
        for column in columns:
            line += [_cell(results, row, peer, column), *_ratios(results, row, peer, column)]
        lines.append(line)
    return _table(headings, lines)


def _growth(results: Results, row: str) -> tuple[Column, ...]:
    """A column for each count or size that was measured."""
    unit = {"connections": "", "sizes": " B"}[row]
    loads = [name.removesuffix(".rate") for name in results.figures(row) if name.endswith(".rate")]
    return tuple(Column(heading=f"{int(load):,}{unit}", figure=f"{load}.rate") for load in loads)


def _ratio_heading(ours: str, column: Column) -> str:
    handler = "`async def`" if ours == ASYNC else "ours"
    return f"{handler} / it"


def _cell(results: Results, row: str, peer: str, column: Column) -> str:
    text = _number(results.median(row, peer, column.figure), column.digits)
    closed = column.figure.endswith("rate") and row not in ("latency", "flood")
    bound = closed and results.generator_bound(row, peer, column.load)
    return text + _BOUND if bound else text


def _ratios(results: Results, row: str, peer: str, column: Column) -> list[str]:
    return [_number(results.ratio(row, column.figure, ours, peer), 2) for ours in column.ratios]


def _notes(results: Results, row: str) -> list[str]:
    notes = [
        f"- {_label(peer)} failed: {' '.join(failure.split())[-200:]}"
        for peer, failure in results.failures(row).items()
    ]
    if _BOUND in _table_of(results, row):
        notes.append(f"- {_BOUND} The generator was the limit: the server can do more.")
    return ["\n".join(notes)] if notes else []


# ------------------------------------------------------------------------------ goals


def _goals(results: Results) -> str:
    headings = ["measured", "at least", "", "aim", "", "reached"]
    lines = []
    for goal in GOALS:
        reached = {peer: goal.reached(results, peer) for peer in (*goal.at_least, *goal.aim)}
        lines.append(
            [
                goal.title,
                _wanted(goal, goal.at_least),
                _verdict(goal.is_met(results, goal.at_least)),
                _wanted(goal, goal.aim),
                _verdict(goal.is_met(results, goal.aim)),
                ", ".join(
                    f"{value:.2f}x {_name(peer)}".strip()
                    for peer, value in reached.items()
                    if value is not None
                ),
            ]
        )
    return _table(headings, lines)


def _wanted(goal: Goal, wanted: Mapping[str, float]) -> str:
    parts = ", ".join(f"{ratio:g}x {_name(peer)}".strip() for peer, ratio in wanted.items())
    return f"at most {parts}" if goal.lower else parts


def _name(peer: str) -> str:
    return _label(peer) if peer else ""


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "**not met**", None: "not measured"}[met]


# ------------------------------------------------------------------------------ machine


def _machine(results: Results) -> str:
    machine = [[name, value] for name, value in results.machine.items()]
    versions = [[_label(peer), text] for peer, text in results.versions.items() if peer != ASYNC]
    missing = [[_label(peer), f"left out: {why}"] for peer, why in results.missing.items()]
    rounds = [["rounds", str(results.rounds)]]
    parts = [_table(["machine", ""], machine + rounds), _table(["server", ""], versions + missing)]
    return "\n\n".join(parts).replace("---:", "---")
