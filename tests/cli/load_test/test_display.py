"""What people see of a load, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.load.plans import plan_for
from trioserver.cli.load_test.display import Display, print_outcome
from trioserver.load.counts import Counts
from trioserver.load.histogram import LatencyHistogram
from trioserver.load.recorder import ProcessResult
from trioserver.load.result import RunResult

BEFORE = Counts(clients=20, ready=20, answered=1000)
NOW = Counts(
    clients=20, ready=18, answered=1500, lost=2, unanswered=7,
    closes={"1012 restart": 2}, errors={"rate_limited\x1b[2J": 5}, retries={"http_503": 3},
)  # fmt: skip


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(*, terminal: bool = False, quiet: bool = False) -> str:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with Display(console, quiet=quiet, clock=clock) as display:
        clock.now += 2.0
        display.update("connect", BEFORE)
        clock.now += 0.01
        display.update("load", Counts(answered=999_999))  # too soon to be shown
        clock.now += 1.99
        display.update("load", NOW)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_elsewhere_than_on_a_terminal_there_is_a_line_now_and_then() -> None:
    first, second = shown().splitlines()
    assert first == "   2.0 s  connecting  20 of 20 ready  500 answers/s"
    assert second.startswith("   4.0 s  running  18 of 20 ready  250 answers/s  14 failed")
    assert r"rate_limited\x1b[2J 5" in second, "what a server says is no command"
    assert "1012 restart 2" in second


def test_on_a_terminal_errors_closes_and_retries_have_lines_of_their_own() -> None:
    text = shown(terminal=True)
    for words in (
        "closed with 1012 restart: 2",
        "tried again after http_503: 3",
        "Ctrl-C ends the test",
    ):
        assert words in text
    assert "\x1b[2J" not in text


def test_quiet_says_nothing() -> None:
    assert shown(quiet=True) == ""


def test_the_figures_are_a_table_and_what_was_counted_with_advice() -> None:
    measure = LatencyHistogram()
    measure.recent += [n / 1000 for n in range(1, 1001)]
    result = ProcessResult(NOW, {"request": measure.encode()}, [], measured=1.0)
    outcome = RunResult.of(plan_for(1, loop="closed"), [result], interrupted=True)
    console = Console(file=io.StringIO(), width=120)
    print_outcome(console, outcome)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    table = {words[0]: words[1:] for line in text.splitlines() if (words := line.split())}
    assert table["ms"] == ["count", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
    assert table["request"][0] == "1,000"
    assert float(table["request"][3].replace(",", "")) == pytest.approx(990, rel=0.002)
    assert "Interrupted" in text
    assert "2  closed with 1012 restart" in text
    assert "\x1b" not in text
