"""Loads the server's `Config`, and records where each value comes from.

There are three sources, and a later one overrides the earlier ones: a TOML file, TRIOSERVER_*
environment variables, the command line. typed-settings reads and merges them. Values are converted
in `values`, one by one, because typed-settings' errors name its own classes instead of the option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import attrs
from typed_settings.dict_utils import merge_settings, set_path

from trioserver.cli.settings.errors import SettingsError
from trioserver.cli.settings.listeners import (
    LISTENER_OPTIONS,
    load_builtin_listener,
    load_listeners,
)
from trioserver.cli.settings.options import (
    BUILTIN_LISTEN,
    LISTEN,
    OPTIONS,
    PREFIX,
    SECTION,
    TABLES,
    Option,
)
from trioserver.cli.settings.sources import (
    Source,
    from_command_line,
    from_environment,
    from_file,
    read_file,
)
from trioserver.cli.settings.values import convert
from trioserver.config import Config, ListenConfig

OTHER_VARIABLES: Final = {
    "TRIOSERVER_ADMIN_TOKEN": True,
    "TRIOSERVER_ADMIN_URL": False,
    "TRIOSERVER_CONFIG": False,
    "TRIOSERVER_SECRET": True,
    "TRIOSERVER_TOKEN": True,
    "TRIOSERVER_TOKEN_LIFETIME": False,
}
"""Variables that the commands read, other than options; True if the value is a secret."""

_NAMES: Final = re.compile(r"\w+(?:\.\w+)*")
"""Words and names of options in an error message, without the punctuation around them."""


@attrs.frozen
class Setting:
    """The value of an option, and where it comes from; ``origin`` is None for the default."""

    option: Option
    value: Any = attrs.field(repr=False)
    origin: str | None


@attrs.frozen(kw_only=True)
class Settings:
    """All values. ``listen_origin`` is None if the file lists no listeners.

    ``notes`` are sentences about variables that have no effect, such as misspelt ones.
    """

    config: Config
    settings: tuple[Setting, ...]
    listen_origin: str | None
    notes: tuple[str, ...]


def load_settings(file: Path | None = None, arguments: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings of this process. Raises `SettingsError`.

    ``file``: a TOML file with a table [trioserver]; relative paths in it start at its directory.
    ``arguments``: values by option path; None means that an option was not given.
    """
    table = {} if file is None else read_file(file)
    listeners = load_listeners(table.pop(LISTEN, []), file)
    builtin = load_builtin_listener(table, file)
    sources = [*from_file(table, file), from_environment(), from_command_line(arguments or {})]
    settings = _merge(sources)
    listen_origin = f"{file}: {SECTION}.{LISTEN}" if listeners else None
    if listen_origin is not None:
        _check_no_other_listener(settings, listen_origin)
    return Settings(
        config=_build(settings, listeners, builtin),
        settings=settings,
        listen_origin=listen_origin,
        notes=tuple(_notes()),
    )


def _merge(sources: list[Source]) -> tuple[Setting, ...]:
    merged = merge_settings(
        tuple(option.info for option in OPTIONS), [source.loaded for source in sources]
    )
    names = {source.loaded.meta.name: source.name_of for source in sources}
    settings = []
    for option in OPTIONS:
        if option.path not in merged:
            settings.append(Setting(option, option.default, None))
            continue
        raw, meta = merged[option.path]
        name = names[meta.name](option)
        settings.append(Setting(option, convert(option, raw, name, meta.base_dir), name))
    return tuple(settings)


def _check_no_other_listener(settings: tuple[Setting, ...], listen_origin: str) -> None:
    for setting in settings:
        if setting.option.path in LISTENER_OPTIONS and setting.origin is not None:
            raise SettingsError(
                f"{setting.origin} cannot be combined with {listen_origin}, which lists all "
                "listeners; remove one of them"
            )


def _build(
    settings: tuple[Setting, ...],
    listeners: tuple[ListenConfig, ...],
    builtin: ListenConfig | None,
) -> Config:
    values: dict[str, Any] = {}
    for setting in settings:
        set_path(values, setting.option.path, setting.value)
    set_path(values, BUILTIN_LISTEN, builtin)
    for field in attrs.fields(Config):
        if field.name in TABLES:
            default: Any = field.default
            values[field.name] = type(default)(**values[field.name])
    try:
        return Config(**values, listen=listeners)
    except ValueError as error:  # options that cannot be combined; the message names them
        words = _NAMES.findall(str(error))
        named = [
            f"{setting.option.path} is from {setting.origin}"
            for setting in settings
            if setting.origin is not None and setting.option.path in words
        ]
        raise SettingsError(f"{error} ({', '.join(named)})") from None


def _notes() -> Iterator[str]:
    """Note unknown TRIOSERVER_* variables. They are not an error, because others may set them."""
    known = [option.variable for option in OPTIONS]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and name not in OTHER_VARIABLES:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"the environment variable {name} is not an option and has no effect{hint}"
