"""Makes the report: one HTML page without scripts and other files, for screens and paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from trioserver.load.curves import Axis, Curve, draw, linear, logarithmic
from trioserver.load.recorder import LATENCIES
from trioserver.load.result import RunResult
from trioserver.load.summary import COLUMNS, advice, describe_counts, describe_plan

_TAIL: Final = ((50.0, "50%"), (90.0, "90%"), (99.0, "99%"), (99.9, "99.9%"), (99.99, "99.99%"))

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--faint:#d5dae1;--quiet:#57606a;
--c0:#0550ae;--c1:#a33b00;--c2:#116329;--c3:#8250df;--c4:#7a5c00;--c5:#bf3989}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--faint:#30363d;
--quiet:#9aa4ae;--c0:#79c0ff;--c1:#ffa657;--c2:#7ee787;--c3:#d2a8ff;--c4:#f2cc60;--c5:#ff9bce}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:60rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
figure{margin:1rem 0}figcaption{color:var(--quiet)}
figure>svg{display:block;width:100%;max-width:46rem;height:auto}
svg text{font:13px system-ui,sans-serif;fill:var(--ink)}
svg .grid{stroke:var(--faint)}svg polyline{fill:none;stroke-width:2.5}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.advice{border-left:.25rem solid var(--c1);padding-left:.75rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;padding:0;margin:.5rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet)}
th,td{padding:.3rem .75rem .3rem 0;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--faint)}
th[scope=row],thead th:first-child{text-align:left}
"""


def page(outcome: RunResult, *, version: str, finished: str) -> str:
    """The page as HTML. ``finished`` says when the test ended."""
    title = f"Load on {outcome.target}"
    ended = "Interrupted: the figures cover the time until then. " if outcome.interrupted else ""
    sections = (
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(ended)}{escape(describe_plan(outcome.plan))} "
        f"<br>trioserver {escape(version)}, {escape(finished)}.</p>",
        *(f'<p class="advice">{escape(sentence)}</p>' for sentence in advice(outcome)),
        "<h2>Latency</h2>",
        _latency_curves(outcome),
        _latency_table(outcome),
        "<h2>Over time</h2>",
        _throughput(outcome),
        _slowest(outcome),
        _clients(outcome),
        "<h2>Counts</h2>",
        _table("What was counted.", ("", "count"), describe_counts(outcome)),
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _latency_curves(outcome: RunResult) -> str:
    curves = [
        Curve(name, [(100.0 / (100.0 - p), ms) for p, ms in measure.curve() if p < 100.0])
        for name, measure in outcome.latencies.items()
    ]
    curves = [curve for curve in curves if len(curve.points) > 1]
    if not curves:
        return "<p>Nothing was measured.</p>"
    tail = max(curve.points[-1][0] for curve in curves)
    ticks = [(100.0 / (100.0 - p), text) for p, text in _TAIL]
    needed = next((n for n, (at, _) in enumerate(ticks) if at >= tail), len(ticks) - 1)
    x = Axis("percentile", [(1.0, "0%"), *ticks[: needed + 1]], log=True)
    every = [ms for curve in curves for _, ms in curve.points]
    y = logarithmic("milliseconds", min(every), max(every))
    return _figure(
        draw("latency", "Latency by percentile",
             "How many milliseconds the given share took at most; the table below has the figures.",
             x, y, curves),
        "Both axes are logarithmic, to give room to the slowest few.",
    )  # fmt: skip


def _latency_table(outcome: RunResult) -> str:
    rows = [
        (f"{name}", *(f"{figures[key]:,g}" for key, _ in COLUMNS))
        for name, figures in outcome.figures.items()
    ]
    explained = " ".join(f"{name}: {LATENCIES[name][0].lower()}{LATENCIES[name][1:]}."
                         for name in outcome.figures)  # fmt: skip
    heads = ("measured", *(head for _, head in COLUMNS))
    return _table("Milliseconds.", heads, rows) + f"<p>{escape(explained)}</p>"


def _throughput(outcome: RunResult) -> str:
    seconds = outcome.seconds
    curves = [
        Curve(name, points)
        for name, points in (
            ("answers", [(n + 1.0, float(s.answered)) for n, s in enumerate(seconds)]),
            ("deliveries", [(n + 1.0, float(s.delivered)) for n, s in enumerate(seconds)]),
            ("gone wrong", [(n + 1.0, float(s.wrong)) for n, s in enumerate(seconds)]),
        )
        if any(value for _, value in points)
    ]
    if not curves:
        return "<p>Nothing was asked and nothing delivered.</p>"
    highest = max(value for curve in curves for _, value in curve.points)
    return _figure(
        draw("throughput", "Throughput over time", "How many there were in each second.",
             linear("seconds", len(seconds)), linear("a second", highest), curves),
        "Each point is one second, warm-up and last answers included.",
    )  # fmt: skip


def _slowest(outcome: RunResult) -> str:
    seconds = outcome.seconds
    curves = [
        Curve(name, [(second, ms) for second, ms in points if ms])
        for name, points in (
            ("request", [(n + 1.0, s.slowest_request_ms) for n, s in enumerate(seconds)]),
            ("delivery", [(n + 1.0, s.slowest_delivery_ms) for n, s in enumerate(seconds)]),
        )
    ]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    every = [ms for curve in curves for _, ms in curve.points]
    return _figure(
        draw("slowest", "Slowest answer over time", "The longest latency of each second.",
             linear("seconds", len(seconds)),
             logarithmic("milliseconds", min(every), max(every)), curves),
        "The longest latency of each second in which something was measured.",
    )  # fmt: skip


def _clients(outcome: RunResult) -> str:
    points = [(n + 1.0, float(s.ready)) for n, s in enumerate(outcome.seconds)]
    if not points:
        return ""
    highest = max(value for _, value in points)
    return _figure(
        draw("clients", "Clients that are ready, over time", "How many there were each second.",
             linear("seconds", len(points)), linear("clients", highest), [Curve("ready", points)]),
        "At the end of each second.",
    )  # fmt: skip


def _figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(caption: str, heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows
    )
    # A region that scrolls must be reachable by keyboard.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
