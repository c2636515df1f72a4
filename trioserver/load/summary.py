"""Describes a plan and a result in words, for the report and the terminal."""

from __future__ import annotations

from typing import Final

from trioserver.load.histogram import PERCENTILES, name_of
from trioserver.load.plan import Plan
from trioserver.load.result import RunResult

COLUMNS: Final = (
    ("count", "count"),
    *((name_of(percentile), f"p{percentile:g}") for percentile in PERCENTILES),
    ("max_ms", "max"),
)
"""The keys of a latency's figures, and their column titles."""

_LATE_MS: Final = 10.0

_ADVICE: Final = {
    "rate_limited": "rate_limited: a client sent more than the server allows "
    "(limits.messages_per_second). Lower the rate, use more clients, or raise it for the test.",
    "http_429": "http_429: the server limits how fast one address connects, and all clients have "
    "the same address. Lower --connect-rate, or raise limits.handshakes_per_second for the test.",
    "server_busy": "server_busy: the server has reached its limit of connections (limits.*).",
    "superseded": "superseded: limits.max_connections_per_user was met. Give each client a "
    "user of its own: {client} in --subject, or --tokens-file.",
}
"""By code. With these errors the test measures a limit of the server, not its speed."""


def describe_plan(plan: Plan) -> str:
    """Describe a plan in a few sentences."""
    how = "all at once" if plan.connect_rate is None else f"{plan.connect_rate:g} a second"
    said = [f"{_many(plan.clients, 'client')} of {_many(plan.processes, 'process', 'es')}, {how}."]
    what = f"`{plan.type}`" if plan.topic is None else f"events for topic {plan.topic}"
    who = "All clients" if plan.topic is None else _many(plan.publishers, "publisher")
    who += " sends" if plan.topic is not None and plan.publishers == 1 else " send"
    match plan.loop:
        case "open":
            said.append(f"{who} {what}, {plan.rate:,g} a second in all.")
        case "closed":
            said.append(f"{who} {what}, with {plan.in_flight} in flight each.")
        case "none":
            said.append("No requests are sent.")
    if plan.duration:
        warmed = f" after {plan.warmup:g} s of warm-up" if plan.warmup else ""
        said.append(f"Measured for {plan.duration:g} s{warmed}.")
    if plan.storms:
        said.append(f"{_many(plan.storms, 'storm')} of reconnecting.")
    if plan.slow_readers:
        said.append(f"{_many(plan.slow_readers, 'client')} more that never read.")
    return " ".join(said)


def describe_counts(outcome: RunResult) -> list[tuple[str, str]]:
    """Names and values of the counts; those that are 0 are left out, except the first."""
    counts = outcome.counts
    rows: list[tuple[str, int | float]] = [
        ("clients ready at the end", counts.ready),
        ("clients that did not get ready", counts.not_ready),
        *_by_code("not ready", counts.failures),
        *_by_code("tried again after", counts.retries),
        ("clients lost", counts.lost),
        *_by_code("closed with", counts.closes),
        ("requests sent", counts.sent),
        ("answers", counts.answered),
        ("answers a second", round(outcome.requests_per_second, 1)),
        *_by_code("error", counts.errors),
        ("requests without an answer", counts.unanswered),
        ("requests that could not be sent", counts.not_sent),
        ("deliveries", counts.delivered),
        ("deliveries a second", round(outcome.deliveries_per_second, 1)),
        ("events missed", counts.missed),
        ("tokens refreshed", counts.refreshed),
        ("slow readers", counts.slow_readers),
        ("slow readers still connected", counts.slow_readers_open),
        *_by_code("slow reader closed with", counts.slow_closes),
    ]
    return [
        (name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
        for index, (name, value) in enumerate(rows)
        if value or index == 0
    ]


def advice(outcome: RunResult) -> list[str]:
    """Sentences about results that are caused by a limit, not by the speed of the server."""
    counts = outcome.counts
    every = (*counts.errors, *counts.failures, *counts.retries, *counts.closes)
    met = {code.rpartition(" ")[2] for code in every}
    said = [sentence for code, sentence in _ADVICE.items() if code in met]
    if outcome.figures.get("send_delay", {}).get("p99_ms", 0.0) > _LATE_MS:
        said.append(
            f"1% of the requests were sent more than {_LATE_MS:g} ms late (send_delay): the load "
            "tester had too little CPU time. Use more --processes, or run it on another machine."
        )
    if counts.not_sent and not counts.lost and counts.ready:
        said.append(
            "Some requests could not be sent: a client had 4,096 requests without an answer, or "
            "1 MiB that the server had not read."
        )
    return said


def _by_code(what: str, counts: dict[str, int]) -> list[tuple[str, float]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(f"{what} {code}", count) for code, count in ordered]


def _many(count: int, noun: str, ending: str = "s") -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{ending}"
