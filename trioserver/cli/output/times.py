"""Shows durations and instants as text."""

from __future__ import annotations

from datetime import UTC, datetime


def in_words(seconds: float) -> str:
    """A duration without its sign, in its one or two largest units: "3 min", "1 h 30 min"."""
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
