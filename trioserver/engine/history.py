"""How much of a topic's events is kept for subscribers that come back."""

from __future__ import annotations

from typing import Any, Final

import attrs

MAX_EVENTS: Final = 100_000
MAX_BYTES: Final = 64 * 1024 * 1024
MAX_SECONDS: Final = 7 * 86_400


KEY_SECONDS: Final = 600
"""How long the key of a publish is remembered."""


def _between(least: int, most: int) -> Any:
    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"History({field.name}={value!r}): it must be from {least} to {most}")

    return check


@attrs.frozen(kw_only=True)
class History:
    """The newest events of a topic are kept: at most ``events``, ``bytes`` of their data in all,
    and ``seconds`` after the last one. An event larger than ``bytes`` empties the history.

    Raises `ValueError` for a value out of its bounds.
    """

    events: int = attrs.field(default=100, validator=_between(1, MAX_EVENTS))
    bytes: int = attrs.field(default=1024 * 1024, validator=_between(1, MAX_BYTES))
    seconds: int = attrs.field(default=300, validator=_between(1, MAX_SECONDS))
