"""The options of `trioserver.config.Config`: names, types, bounds and help, for operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args, get_origin

import attrs
from typed_settings.cls_utils import deep_options
from typed_settings.types import OptionInfo

from trioserver.config import Config, ListenConfig
from trioserver.config.fields import alternatives

SECTION: Final = "trioserver"
"""The table of the TOML file that contains the options."""

PREFIX: Final = "TRIOSERVER_"
"""The prefix of the environment variables."""

MASK: Final = "***"

BUILTIN_LISTEN: Final = "http.builtin_listen"
"""A table of the file: the listener of the built-in routes."""

LISTEN: Final = "listen"
"""A list of tables of the file: the listeners."""

LISTENER_PATHS: Final = (LISTEN, BUILTIN_LISTEN)
"""What only the file can have, as tables with `LISTEN_OPTIONS`."""

_KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text that is not empty",
    Path: "a path",
    tuple: "a list of texts",
}


@attrs.frozen(kw_only=True)
class Option:
    """One option. ``path`` is "port" or "heartbeat.interval"; ``unit`` may be empty.

    ``low`` and ``high`` are None if the value is not a number. ``choices`` is empty if any text is
    allowed. ``choice`` describes what is allowed if neither says so. ``secret``: the value is never
    shown. ``info`` is the description that typed-settings has of the option.
    """

    path: str
    default: Any
    unit: str
    help: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    choice: str | None
    secret: bool
    info: OptionInfo

    @property
    def key(self) -> str:
        """The key in the TOML file, with its table."""
        return f"{SECTION}.{self.path}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.path.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """The command-line option, if the option is one of a listener or of logging."""
        return "--" + self.path.replace("_", "-").replace(".", "-")

    @property
    def kind(self) -> type:
        """The type: bool, int, float, str, Path, or tuple of texts. See `optional` for None."""
        if get_origin(self.info.cls) is tuple:
            return tuple
        kinds: set[type] = set(get_args(self.info.cls) or (self.info.cls,))
        (kind,) = kinds - {NoneType}
        assert kind in _KINDS, f"{self.path} has a type that a file cannot contain"
        return kind

    @property
    def optional(self) -> bool:
        """Whether the value may be None."""
        return NoneType in get_args(self.info.cls)

    @property
    def bounds(self) -> str:
        """The allowed values: "from 0.1 to 300 s", "a or b"; empty if any text is allowed."""
        if self.choices:
            return alternatives(self.choices)
        if self.kind is bool:
            return _KINDS[bool]
        if self.low is None or self.high is None:
            return self.choice or ""
        return f"from {_plain(self.low)} to {_plain(self.high)} {self.unit}".rstrip()

    @property
    def allowed(self) -> str:
        """The type and `bounds`: "a number from 0.1 to 300 s"."""
        if self.choices or self.kind is bool or (self.low is None and self.bounds):
            return self.bounds
        return f"{_KINDS[self.kind]} {self.bounds}".rstrip()

    def shown(self, value: Any, *, unit: bool = True) -> str:
        """A value as text, with its unit; a secret is masked."""
        if value is None or value == ():
            return "none"
        if self.secret:
            return MASK
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return ", ".join(value)
        if not isinstance(value, int | float):
            return str(value)
        return f"{_plain(value)} {self.unit if unit else ''}".rstrip()

    def check(self, value: Any) -> None:
        """Raise `ValueError` if a value of the right type is out of bounds."""
        field = attrs.fields_dict(self.info.parent_cls)[self.info.name]
        validator: Callable[[Any, Any, Any], Any] | None = field.validator
        if validator is not None:
            validator(None, field, value)


def _plain(number: float) -> str:
    """A number without the ".0" and the exponent that Python writes."""
    return str(int(number)) if number == int(number) else str(number)


def options_of(settings_class: type) -> tuple[Option, ...]:
    """All options of an attrs class and its nested classes, except lists of listeners."""
    return tuple(
        _describe(info)
        for info in deep_options(settings_class)
        if not info.nested_options and info.path not in LISTENER_PATHS
    )


def _describe(info: OptionInfo) -> Option:
    field = attrs.fields_dict(info.parent_cls)[info.name]
    return Option(
        path=info.path,
        default=info.default,
        unit=field.metadata.get("unit", ""),
        help=field.metadata.get("help", ""),
        low=field.metadata.get("low"),
        high=field.metadata.get("high"),
        choices=field.metadata.get("choices", ()),
        choice=field.metadata.get("allowed"),
        secret=info.is_secret or field.repr is False,
        info=info,
    )


OPTIONS: Final = options_of(Config)
"""All options, except those in `LISTENER_PATHS`."""

TABLES: Final = {option.path.rpartition(".")[0] for option in OPTIONS} - {""}
"""The tables of the file, such as "limits"."""

LISTEN_OPTIONS: Final = options_of(ListenConfig)
