"""Fields of configuration classes: each has a unit, a default, bounds and a help text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

DAY: Final = 86400.0
MIB: Final = 1024 * 1024


def bounded(
    low: float, high: float, *, whole: bool, unit: str = ""
) -> Callable[[Any, Any, Any], None]:
    """A validator for ``low <= value <= high``; not-a-number is out of bounds."""
    kinds = int if whole else (int, float)
    allowed = f"a {'whole ' if whole else ''}number from {low} to {high} {unit}".rstrip()

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        good = isinstance(value, kinds) and not isinstance(value, bool)
        if not (good and low <= value <= high):
            raise ValueError(f"{attribute.name} is {value!r}; it must be {allowed}")

    return check


def _number(default: float, low: float, high: float, unit: str, help: str, whole: bool) -> Any:
    metadata = {"help": help, "unit": unit, "low": low, "high": high}
    validator = bounded(low, high, whole=whole, unit=unit)
    return attrs.field(default=default, validator=validator, metadata=metadata)


def seconds(default: float, low: float, high: float, help: str) -> Any:
    """A duration in seconds, from ``low`` to ``high``."""
    return _number(default, low, high, "s", help, whole=False)


def count(default: int, low: int, high: int, unit: str, help: str) -> Any:
    """A whole number of ``unit``."""
    return _number(default, low, high, unit, help, whole=True)


def in_bytes(default: int, low: int, high: int, help: str) -> Any:
    """A whole number of bytes."""
    return _number(default, low, high, "bytes", help, whole=True)


def flag(default: bool, help: str) -> Any:
    """True or false."""
    return attrs.field(default=default, validator=_is_flag, metadata={"help": help, "unit": ""})


def maybe_flag(help: str) -> Any:
    """True, false, or None, which is the default; ``help`` says what None does."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            _is_flag(instance, attribute, value)

    return attrs.field(default=None, validator=check, metadata={"help": help, "unit": ""})


def _is_flag(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} is {value!r}; it must be true or false")


def texts(help: str, parse: Callable[[tuple[str, ...]], Any], allowed: str) -> Any:
    """A list of texts. ``parse`` raises `ValueError` for a list that is not ``allowed``."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
        try:
            if not all(isinstance(text, str) for text in value):
                raise ValueError(f"{value!r} is not {allowed}")
            parse(value)
        except ValueError as error:
            raise ValueError(f"{attribute.name}: {error}") from None

    metadata = {"help": help, "unit": "", "allowed": allowed}
    return attrs.field(default=(), converter=_to_tuple, validator=check, metadata=metadata)


def _to_tuple(value: Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def text(default: str, help: str) -> Any:
    """A non-empty text."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{attribute.name} is {value!r}; it must be text that is not empty")

    return attrs.field(default=default, validator=check, metadata={"help": help})


def to_text(value: str | None) -> str | None:
    """Convert an empty text, which an environment variable may contain, to None."""
    return value or None


def choice(default: str, choices: tuple[str, ...], help: str) -> Any:
    """One of the words in ``choices``."""

    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise ValueError(f"{attribute.name} is {value!r}; it must be {alternatives(choices)}")

    metadata = {"help": help, "unit": "", "choices": choices}
    return attrs.field(default=default, validator=check, metadata=metadata)


def alternatives(words: Sequence[str]) -> str:
    """Join words for a message: "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def to_path(value: str | Path | None) -> Path | None:
    """Convert an empty text, which an environment variable may contain, to None."""
    return None if value is None or value == "" else Path(value)
