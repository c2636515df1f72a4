"""The options of `trioserver.config.Config`, as an operator writes them and reads about them."""

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
"""The table of the TOML file."""

PREFIX: Final = "TRIOSERVER_"
"""Of the environment variables."""

MASK: Final = "***"

BUILTIN_LISTEN: Final = "http.builtin_listen"
"""A table of the file: one more listener."""

LISTENER_PATHS: Final = ("listen", BUILTIN_LISTEN)
"""What only the file has, as tables with `LISTEN_OPTIONS`."""

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

    ``low`` and ``high`` are None where the value is no number, ``choices`` is empty where it is not
    one of a few words; ``choice`` says what is allowed where it is neither. ``secret``: the value
    is shown to nobody. ``info`` is typed-settings' view of it.
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
        """As in the TOML file, with its table."""
        return f"{SECTION}.{self.path}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.path.upper().replace(".", "_")

    @property
    def flag(self) -> str:
        """The command-line option, for those that have one."""
        return "--" + self.path.replace("_", "-").replace(".", "-")

    @property
    def kind(self) -> type:
        """bool, int, float, str, Path, or tuple, of texts; `optional` says if None is allowed."""
        if get_origin(self.info.cls) is tuple:
            return tuple
        kinds: set[type] = set(get_args(self.info.cls) or (self.info.cls,))
        (kind,) = kinds - {NoneType}
        assert kind in _KINDS, f"{self.path} is of no kind that can be written"
        return kind

    @property
    def optional(self) -> bool:
        """Whether the value may be None."""
        return NoneType in get_args(self.info.cls)

    @property
    def bounds(self) -> str:
        """What is allowed: "from 0.1 to 300 s", "a or b"; empty where any text is."""
        if self.choices:
            return alternatives(self.choices)
        if self.kind is bool:
            return _KINDS[bool]
        if self.low is None or self.high is None:
            return self.choice or ""
        return f"from {_plain(self.low)} to {_plain(self.high)} {self.unit}".rstrip()

    @property
    def allowed(self) -> str:
        """`bounds` with the kind of value: "a number from 0.1 to 300 s"."""
        if self.choices or self.kind is bool or (self.low is None and self.bounds):
            return self.bounds
        return f"{_KINDS[self.kind]} {self.bounds}".rstrip()

    def shown(self, value: Any, *, unit: bool = True) -> str:
        """A value as text, with its unit; a secret's is masked."""
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
        """Raises `ValueError` for a value of the right type that is out of bounds."""
        field = attrs.fields_dict(self.info.parent_cls)[self.info.name]
        validator: Callable[[Any, Any, Any], Any] | None = field.validator
        if validator is not None:
            validator(None, field, value)


def _plain(number: float) -> str:
    """Without the ".0" and exponents that Python gives floats."""
    return str(int(number)) if number == int(number) else str(number)


def options_of(settings_class: type) -> tuple[Option, ...]:
    """All options of an attrs class and of those nested in it, listeners aside."""
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
"""All but `LISTENER_PATHS`."""

LISTEN_OPTIONS: Final = options_of(ListenConfig)
