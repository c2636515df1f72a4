"""Parses durations as operators write them: 90s, 1h30m, or a number of seconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(d|h|min|m|s)")
_WHOLE: Final = re.compile(rf"-?(?:\d+(?:\.\d+)?|(?:{_PART.pattern})+)")

_LONGEST: Final = 100 * 365 * 86400.0
"""A century, in seconds. A longer duration is a typing error, and exceeds what a date can hold."""


def parse_duration(text: str) -> float:
    """Parse "90", "30m", "1h30m", "2d" or "-5m" into seconds. Raises `ValueError`."""
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a duration; write 90s, 30m, 1h30m, 2d, or a number of seconds"
        )
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _PART.findall(digits)
    seconds = sum(float(n) * _UNITS[unit] for n, unit in parts) if parts else float(digits)
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is too long; the maximum is 100 years")
    return sign * seconds


class Parsed(click.ParamType[float]):
    """The type of an option that ``parse`` converts.

    ``parse`` raises `ValueError` with the value and what to write instead.
    """

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert an option's text; a default that is a number already is kept."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = Parsed("duration", parse_duration)
