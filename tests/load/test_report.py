"""The page: well-formed, complete in itself, and true to the figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.load.plans import plan_for
from trioserver.load.counts import Counts, Second
from trioserver.load.curves import linear, logarithmic, number
from trioserver.load.histogram import LatencyHistogram
from trioserver.load.plan import Tokens
from trioserver.load.recorder import LATENCIES, ProcessResult
from trioserver.load.report import page
from trioserver.load.result import RunResult
from trioserver.load.summary import advice, describe_plan

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Raises where elements are not closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def outcome(**options: Any) -> RunResult:
    measures = {name: LatencyHistogram() for name in LATENCIES}
    measures["request"].recent += [n / 100_000 for n in range(1, 2001)]
    measures["ready"].recent += [0.5, 0.6, 0.7]
    result = ProcessResult(
        Counts(clients=20, ready=20, answered=2000, sent=2001, in_window=2000, unanswered=1,
               errors={"<b>rate_limited": 3}),
        {name: measure.encode() for name, measure in measures.items()},
        [
            Second(answered=n * 100, ready=20, wrong=n % 2, slowest_request_ms=n * 4.0)
            for n in range(6)
        ],
        measured=10.0,
    )  # fmt: skip
    plan = plan_for(1, loop="open", rate=200.0, **options)
    return RunResult.of(plan, [result], interrupted=False)


def checked(made: RunResult) -> Checker:
    checker = Checker()
    checker.feed(page(made, version="1.2.3", finished="2026-01-02 03:04 UTC"))
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_has_the_figures() -> None:
    made = outcome()
    text = checked(made).text
    assert f"{made.figures['request']['p99_ms']:,g}" in text
    assert "2,000" in text
    assert "<b>rate_limited" in text, "escaped: it came out of the parser as text"
    assert "At the end of each second." in text
    for label in ("99.9%", "a second", "percentile", "milliseconds"):
        assert label in text


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    text = page(outcome(), version="1", finished="now")
    assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|href=|url\(|@import|\bon\w+=", text)
    assert "http://" not in text
    assert "https://" not in text


def test_the_page_is_for_phones_for_the_dark_and_for_those_who_do_not_see_it() -> None:
    checker = checked(outcome())
    metas = [attrs for tag, attrs in checker.seen if tag == "meta"]
    assert any(attrs.get("name") == "viewport" for attrs in metas)
    assert "prefers-color-scheme:dark" in page(outcome(), version="1", finished="now")
    ids = {attrs["id"] for _, attrs in checker.seen if "id" in attrs}
    pictures = [attrs for tag, attrs in checker.seen if tag == "svg" and "role" in attrs]
    assert len(pictures) == 4
    for attrs in pictures:
        assert set((attrs["aria-labelledby"] or "").split()) <= ids
    assert {attrs.get("scope") for tag, attrs in checker.seen if tag == "th"} == {"row", "col"}


def test_a_url_is_escaped_and_its_query_and_the_tokens_are_left_out() -> None:
    made = outcome(
        url="ws://127.0.0.1:1/<i>?token=hush", tokens=Tokens(fixed="hush", secret="hush")
    )
    text = page(made, version="1", finished="now")
    assert "hush" not in text
    assert "<i>" not in text
    assert "hush" not in str(made.as_json())


def test_a_run_in_which_nothing_happened_has_a_page_too() -> None:
    empty = RunResult.of(plan_for(1), [], interrupted=True)
    text = checked(empty).text
    assert "Interrupted" in text
    assert "Nothing was measured" in text


def test_what_processes_found_is_put_together_second_by_second() -> None:
    results = [
        ProcessResult(
            Counts(answered=3),
            {},
            [Second(answered=1, slowest_request_ms=2.5), Second(answered=2)],
            measured=1.0,
        ),
        ProcessResult(
            Counts(answered=4), {}, [Second(answered=4, slowest_request_ms=1.5)], measured=2.0
        ),
    ]
    made = RunResult.of(plan_for(1), results, interrupted=False)
    assert made.counts.answered == 7
    assert [second.answered for second in made.seconds] == [5, 2]
    assert made.seconds[0].slowest_request_ms == 2.5
    assert made.measured == 2.0


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(errors={"rate_limited": 1}), "limits.messages_per_second"),
        (Counts(retries={"http_429": 1}), "--connect-rate"),
        (Counts(failures={"1013 server_busy": 1}), "limit of connections"),
        (Counts(closes={"4001 superseded": 1}), "--subject"),
        (Counts(ready=1, not_sent=1), "could not be sent"),
    ],
)
def test_who_meets_a_limit_is_told_which_and_what_to_do(counts: Counts, words: str) -> None:
    made = RunResult.of(plan_for(1), [ProcessResult(counts, {}, [])], interrupted=False)
    (sentence,) = advice(made)
    assert words in sentence
    assert words in checked(made).text


def test_a_load_tester_that_was_late_itself_says_so_and_one_that_was_not_does_not() -> None:
    for late, said in ((0.02, 1), (0.001, 0)):
        delays = LatencyHistogram()
        delays.recent += [late] * 100
        result = ProcessResult(Counts(), {"send_delay": delays.encode()}, [])
        made = RunResult.of(plan_for(1), [result], interrupted=False)
        assert len(advice(made)) == said


def test_what_was_done_is_said_in_sentences() -> None:
    plan = plan_for(1, clients=3, topic="news", loop="open", rate=5.0, warmup=1.0, duration=2.0)
    assert describe_plan(plan) == (
        "3 clients of 1 process, all at once. 1 publisher sends events for topic news, "
        "5 a second in all. Measured for 2 s after 1 s of warm-up."
    )


@pytest.mark.parametrize("highest", [0, 1, 3, 4.9, 99, 100, 101, 7_654_321])
def test_axes_have_a_few_round_numbers_up_to_the_highest_value(highest: float) -> None:
    axis = linear("many", highest)
    assert 2 <= len(axis.ticks) <= 7
    assert axis.ticks[-1][0] >= highest
    assert axis.position(highest) <= 1.0


def test_a_logarithmic_axis_spans_its_values_even_where_they_are_all_one() -> None:
    axis = logarithmic("ms", 0.13, 0.13)
    assert [text for _, text in axis.ticks] == ["0.1", "1"]
    assert 0 < axis.position(0.13) < 1
    assert number(25_000) == "25k"
