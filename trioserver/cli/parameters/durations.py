"""Durations as people write and read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
_WHOLE: Final = re.compile(rf"-?(?:\d+(?:\.\d+)?|(?:{_PART.pattern})+)")

_LONGEST: Final = 100 * 365 * 86400.0
"""A century. What is longer is a slip, and soon no date at all."""


def parse_duration(text: str) -> float:
    """Seconds, from "90", "30m", "1h30m" or "2d"; "-5m" is the past. Raises `ValueError`."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no duration: write seconds, or 90s, 30m, 1h30m, 2d")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _PART.findall(digits)
    seconds = sum(float(n) * _UNITS[unit] for n, unit in parts) if parts else float(digits)
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than a century")
    return sign * seconds


class Parsed(click.ParamType[float]):
    """An option's type, for a function that raises `ValueError` with what to write instead."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click wants it: what is a number already passes."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = Parsed("duration", parse_duration)


def in_words(seconds: float) -> str:
    """A length of time, sign aside, in its one or two largest units: "3 min", "1 h 30 min"."""
    left = abs(seconds)
    if left < 1:
        return "less than a second"
    words = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            words.append(f"{int(number)} {unit}")
    return " ".join(words[:2])


def instant(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
