"""Rows of the audit as a table, and the options that choose among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from trioserver.cli.output.tables import print_table
from trioserver.cli.parameters.durations import Parsed, parse_duration
from trioserver.telemetry.audit import KINDS, MAX_ID, MAX_LIMIT, OUTCOMES

_Function = TypeVar("_Function", bound=Callable[..., Any])


def parse_moment(text: str) -> float:
    """Seconds since the Unix epoch, from RFC 3339, or from a duration before now: "1h".

    Raises `ValueError`.
    """
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a duration (1h) nor 2026-01-31T12:00:00Z") from None


MOMENT: Final = Parsed("moment", parse_moment)


def filter_options(function: _Function) -> _Function:
    """The filters of the audit, with the names of `AuditQuery`."""
    options = (
        click.option("--since", type=MOMENT, metavar="TIME", help="From then on: 1h, or RFC 3339."),
        click.option("--until", type=MOMENT, metavar="TIME", help="Before then: 1h, or RFC 3339."),
        click.option("--user", metavar="ID", help="Of this user."),
        click.option("--address", metavar="ADDRESS", help="From this address, without a port."),
        click.option("--route", metavar="PATH", help="Of this route, as it was registered."),
        click.option("--kind", type=click.Choice(KINDS), help="What it is about."),
        click.option("--method", metavar="WORD", help="Tried so: websocket, password, bearer."),
        click.option("--outcome", type=click.Choice(OUTCOMES), help="How it ended."),
        click.option("--code", metavar="CODE", help="Refused with this code."),
        click.option(
            "--before", type=click.IntRange(1, MAX_ID), metavar="ID", help="Older than this."
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, MAX_LIMIT),
            default=100,
            show_default=True,
            help="No more rows than these.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def print_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """A table, newest first. ``entries`` are as `trioserver.telemetry.audit.as_json` makes them."""
    names = ("Id", "Time", "What", "Outcome", "User", "Address", "Route", "Token", "ms")
    print_table(names, map(_row, entries))


def _row(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    what = entry["kind"]
    if entry["act"]:
        what = f"{entry['act']} {_target(entry['target'])}".strip()
    elif entry.get("method") not in (None, "websocket"):
        what = f"{what}: {entry['method']} {_target(entry['target'])}".strip()
    outcome = entry["outcome"] if entry["code"] is None else f"{entry['outcome']}: {entry['code']}"
    if entry["affected"]:
        outcome += f" ({entry['affected']})"
    return (
        entry["id"],
        entry["at"],
        what,
        outcome,
        entry["user"],
        entry["address"],
        entry["route"],
        entry["token"],
        entry["duration_ms"],
    )


def _target(target: Any) -> str:
    if isinstance(target, Mapping):
        return " ".join(f"{name}={value}" for name, value in target.items())
    return str(target or "")
