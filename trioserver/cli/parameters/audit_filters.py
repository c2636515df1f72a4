"""The options that filter rows of the audit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from trioserver.cli.parameters.durations import Parsed, parse_duration
from trioserver.telemetry.audit import KINDS, MAX_ID, MAX_LIMIT, OUTCOMES

_Function = TypeVar("_Function", bound=Callable[..., Any])


def parse_moment(text: str) -> float:
    """Parse an RFC 3339 time, or a duration before now such as "1h", into Unix seconds.

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
        raise ValueError(
            f"{text!r} is not a time: write a duration before now, such as 1h, or an RFC 3339 "
            "time, such as 2026-01-31T12:00:00Z"
        ) from None


MOMENT: Final = Parsed("moment", parse_moment)


def filter_options(function: _Function) -> _Function:
    """Add the filters of the audit, with the names of the fields of `AuditQuery`."""
    options = (
        click.option(
            "--since",
            type=MOMENT,
            metavar="TIME",
            help="Only rows from this time on: 1h for one hour ago, or 2026-01-31T12:00:00Z.",
        ),
        click.option(
            "--until",
            type=MOMENT,
            metavar="TIME",
            help="Only rows before this time: 1h for one hour ago, or 2026-01-31T12:00:00Z.",
        ),
        click.option("--user", metavar="ID", help="Only rows of this user."),
        click.option(
            "--address", metavar="ADDRESS", help="Only rows of this IP address, without a port."
        ),
        click.option("--route", metavar="PATH", help="Only rows of this route, as registered."),
        click.option("--kind", type=click.Choice(KINDS), help="Only rows of this kind."),
        click.option(
            "--method",
            metavar="WORD",
            help="Only authentications by this method: websocket, password, bearer.",
        ),
        click.option("--outcome", type=click.Choice(OUTCOMES), help="Only rows with this outcome."),
        click.option(
            "--code", metavar="CODE", help="Only refusals with this error code: token_expired."
        ),
        click.option(
            "--before",
            type=click.IntRange(1, MAX_ID),
            metavar="ID",
            help="Only rows older than the row with this id: print the next page.",
        ),
        click.option(
            "--limit",
            type=click.IntRange(1, MAX_LIMIT),
            default=100,
            show_default=True,
            metavar="N",
            help="Maximum number of rows to print.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
