"""The three sources of options: the TOML file, the environment, the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from typed_settings.dict_utils import set_path
from typed_settings.loaders import EnvLoader
from typed_settings.types import LoadedSettings, LoaderMeta

from trioserver.cli.output.terminal import one_line
from trioserver.cli.settings.errors import SettingsError, unknown_key
from trioserver.cli.settings.options import (
    BUILTIN_LISTEN,
    LISTEN,
    OPTIONS,
    PREFIX,
    SECTION,
    TABLES,
    Option,
)
from trioserver.config import Config

_PATHS: Final = tuple(option.path for option in OPTIONS)


@attrs.frozen
class Source:
    """The values of one source, and what an option is called there."""

    loaded: LoadedSettings
    name_of: Callable[[Option], str]


def read_file(file: Path) -> dict[str, Any]:
    """The table [trioserver] of a TOML file, with known keys only. Raises `SettingsError`."""
    try:
        # utf-8-sig, because editors on Windows write a byte order mark, which TOML does not allow.
        document: Any = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not TOML
        what = error.strerror if isinstance(error, OSError) else one_line(error)
        raise SettingsError(f"cannot read {file}: {what}") from None
    table = document.get(SECTION, None if document else {})
    if not isinstance(table, dict):
        raise SettingsError(f"{file} has no table [{SECTION}]; write the options below [{SECTION}]")
    _check_keys(table, file)
    return dict(table)


def _check_keys(table: Mapping[str, Any], file: Path) -> None:
    for name, value in table.items():
        if name in TABLES:
            if not isinstance(value, dict):
                raise SettingsError(
                    f"{file}: {SECTION}.{name} is {value!r}; it must be a table: [{SECTION}.{name}]"
                )
            for inner in value:
                if f"{name}.{inner}" not in (*_PATHS, BUILTIN_LISTEN):
                    raise unknown_key(file, f"{name}.{inner}", _PATHS)
        elif name not in _PATHS and name != LISTEN:
            raise unknown_key(file, name, (*_PATHS, *TABLES, LISTEN))


def from_file(table: dict[str, Any], file: Path | None) -> Iterator[Source]:
    """The file's table as a source; nothing if there is no file."""
    if file is not None:
        meta = LoaderMeta("file", base_dir=file.absolute().parent)
        yield Source(LoadedSettings(table, meta), lambda option: f"{file}: {option.key}")


def from_environment() -> Source:
    """The TRIOSERVER_* environment variables."""
    loaded = EnvLoader(PREFIX)(Config, tuple(option.info for option in OPTIONS))
    return Source(loaded, lambda option: option.variable)


def from_command_line(arguments: Mapping[str, Any]) -> Source:
    """``arguments`` are values by option path; None means that an option was not given."""
    values: dict[str, Any] = {}
    for path, value in arguments.items():
        if value is not None:
            set_path(values, path, value)
    return Source(LoadedSettings(values, LoaderMeta("command line")), lambda option: option.flag)
