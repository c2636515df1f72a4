"""Shows a load test: its progress on stderr while it runs, the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trioserver.load.counts import Counts
from trioserver.load.result import RunResult
from trioserver.load.summary import COLUMNS, advice, describe_counts, describe_plan
from trioserver.logs.printable import printable

_PLAIN_EVERY: Final = 1.0
_LIVE_EVERY: Final = 0.25
_PHASES: Final = {
    "start": "starting",
    "connect": "connecting",
    "load": "running",
    "storm": "storm",
}


class Display:
    """Shows progress: on a terminal in place, otherwise as one line per second.

    A context manager.
    """

    def __init__(
        self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._clock = clock
        self._quiet = quiet
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._began = self._shown = clock()
        self._before = Counts()

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def update(self, phase: str, counts: Counts) -> None:
        """Show new counts; a `trioserver.load.coordinator.OnProgress`."""
        now = self._clock()
        live = self._live.is_started
        if self._quiet or now - self._shown < (_LIVE_EVERY if live else _PLAIN_EVERY):
            return
        rates = rates_of(self._before, counts, now - self._shown)
        self._shown = now
        self._before = counts
        line = progress_line(phase, now - self._began, counts, rates)
        if live:
            self._live.update(_panel(line, counts), refresh=True)
        else:
            self._console.print(Text(line), soft_wrap=True)


def rates_of(before: Counts, now: Counts, seconds: float) -> dict[str, float]:
    """Answers and deliveries per second between two counts."""
    return {
        "answers": (now.answered - before.answered) / seconds,
        "deliveries": (now.delivered - before.delivered) / seconds,
    }


def progress_line(phase: str, seconds: float, counts: Counts, rates: dict[str, float]) -> str:
    """The progress in one line."""
    parts = [
        f"{seconds:6.1f} s",
        _PHASES.get(phase, phase),
        f"{counts.ready:,} of {counts.clients:,} ready",
        *(f"{rate:,.0f} {name}/s" for name, rate in rates.items() if rate),
    ]
    wrong = counts.wrong
    if wrong:
        parts.append(f"{wrong:,} failed ({_codes(counts)})")
    return "  ".join(parts)


def _codes(counts: Counts) -> str:
    every: dict[str, int] = {}
    for by_code in (counts.errors, counts.closes, counts.failures):
        for code, count in by_code.items():
            every[code] = every.get(code, 0) + count
    largest = sorted(every.items(), key=lambda item: -item[1])[:3]
    return ", ".join(printable(f"{code} {count:,}") for code, count in largest) or "no answer"


def _panel(line: str, counts: Counts) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(line, "bold"))
    for what, by_code, style in (
        ("error", counts.errors, "red"),
        ("closed with", counts.closes, "red"),
        ("not ready", counts.failures, "red"),
        ("tried again after", counts.retries, "yellow"),
        ("slow reader closed with", counts.slow_closes, "green"),
    ):
        for code, count in sorted(by_code.items(), key=lambda item: -item[1])[:5]:
            table.add_row(Text(printable(f"  {what} {code}: {count:,}"), style))
    table.add_row(Text("Ctrl-C ends the test and prints the figures so far.", "dim"))
    return table


def print_outcome(console: Console, outcome: RunResult) -> None:
    """Print the figures."""
    if outcome.interrupted:
        console.print(Text("Interrupted: the figures cover the time until then.", "yellow"))
    console.print(Text(describe_plan(outcome.plan), "dim"))
    if outcome.figures:
        table = Table("ms", *(head for _, head in COLUMNS), box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, figures in outcome.figures.items():
            table.add_row(name, *(f"{figures[key]:,g}" for key, _ in COLUMNS))
        console.print(table)
    for name, value in describe_counts(outcome):
        console.print(Text(printable(f"{value:>12}  {name}")), soft_wrap=True)
    for sentence in advice(outcome):
        console.print(Text(sentence, "yellow"))
