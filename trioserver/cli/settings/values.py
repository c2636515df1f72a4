"""Converts values from a file, a variable or the command line to the types of their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from typed_settings.converters import TSConverter

from trioserver.cli.settings.errors import SettingsError
from trioserver.cli.settings.options import PREFIX, Option

_CONVERTER: Final = TSConverter(resolve_paths=False)


def convert(option: Option, raw: Any, name: str, base: Path) -> Any:
    """Convert ``raw`` to the option's type and check its bounds. Raises `SettingsError`.

    ``name``: what the option is called where the value comes from. ``base``: the directory that
    relative paths start from.
    """
    if raw == "" and option.optional:
        return None
    try:
        if not _fits(raw, option.kind):
            raise ValueError
        if option.kind is Path:
            return base / raw
        if option.kind is tuple:
            raw = _texts(raw)
        value: Any = raw if option.kind is tuple else _CONVERTER.structure(raw, option.kind)
        option.check(value)
    except (ValueError, TypeError, OverflowError) as error:
        if option.kind is tuple and str(error):
            raise SettingsError(f"{name}: {str(error).partition(': ')[2]}") from None
        shown = "not valid" if option.secret else repr(raw)
        hint = _service_hint(name, raw)
        raise SettingsError(f"{name} is {shown}; it must be {option.allowed}{hint}") from None
    return value


def _fits(raw: Any, kind: type) -> bool:
    """Whether ``raw`` may be converted to ``kind``; the converter would turn 3.7 into 3."""
    if isinstance(raw, str | Path):  # environment variables contain text only
        return kind in (Path, tuple) or str(raw) != ""
    if kind is tuple:
        return isinstance(raw, list) and all(isinstance(text, str) for text in raw)
    if isinstance(raw, bool) or kind is bool:
        return isinstance(raw, bool) and kind is bool
    if not isinstance(raw, int | float):
        return False
    return kind is float or (kind is int and raw == int(raw))


def _texts(raw: str | list[str]) -> tuple[str, ...]:
    """A list of a file, or the comma-separated list of an environment variable."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    return tuple(text.strip() for text in texts if text.strip())


def _service_hint(name: str, raw: Any) -> str:
    """A hint for variables that Kubernetes sets for a service that is named trioserver."""
    if name.startswith(PREFIX) and str(raw).startswith("tcp://"):
        return " (Kubernetes sets it for a service of this name; set enableServiceLinks to false)"
    return ""
