"""Loads the server's `Config`, and remembers where each value came from.

Three sources, the later ones win: a TOML file, TRIOSERVER_* environment variables, the command
line. typed-settings reads and merges them. What it would say of a wrong value names its own
classes, so values are converted here one by one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import attrs
from typed_settings.converters import TSConverter
from typed_settings.dict_utils import merge_settings, set_path
from typed_settings.loaders import EnvLoader
from typed_settings.types import LoadedSettings, LoaderMeta

from trioserver.cli.output.terminal import Exit, Failure, one_line
from trioserver.cli.settings.options import (
    BUILTIN_LISTEN,
    LISTEN_OPTIONS,
    OPTIONS,
    PREFIX,
    SECTION,
    Option,
)
from trioserver.config import Config, ListenConfig
from trioserver.config.fields import alternatives

OTHER_VARIABLES: Final = {
    "TRIOSERVER_ADMIN_TOKEN": True,
    "TRIOSERVER_ADMIN_URL": False,
    "TRIOSERVER_CONFIG": False,
    "TRIOSERVER_SECRET": True,
    "TRIOSERVER_TOKEN": True,
    "TRIOSERVER_TOKEN_LIFETIME": False,
}
"""Variables of the commands, not of the server; and whether the value is a secret."""

_LISTEN: Final = "listen"
_TABLES: Final = {option.path.rpartition(".")[0] for option in OPTIONS} - {""}
_BY_PATH: Final = {option.path: option for option in OPTIONS}
_LISTENER_BY_NAME: Final = {option.path: option for option in LISTEN_OPTIONS}
_CONVERTER: Final = TSConverter(resolve_paths=False)


class SettingsError(Failure):
    """An option is unknown or has a wrong value; the text says which, and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.CONFIGURATION)


@attrs.frozen
class Setting:
    """The value of an option, and its origin as the user wrote it; None is the default."""

    option: Option
    value: Any = attrs.field(repr=False)
    origin: str | None


@attrs.frozen(kw_only=True)
class Settings:
    """What is in force. ``listen_origin`` is None where the file lists no listeners.

    ``notes`` are sentences about what has no effect, such as misspelt environment variables.
    """

    config: Config
    settings: tuple[Setting, ...]
    listen_origin: str | None
    notes: tuple[str, ...]


@attrs.frozen
class _Source:
    """What one source holds, and what an option is called there."""

    loaded: LoadedSettings
    name_of: Callable[[Option], str]


def load_settings(file: Path | None = None, arguments: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. Raises `SettingsError`.

    ``file``: a TOML file with a table [trioserver]; relative paths in it start at its folder.
    ``arguments``: values by option path; None stands for an option that was not given.
    """
    table = {} if file is None else _read(file)
    listeners = _load_listeners(table.pop(_LISTEN, []), file)
    builtin = _load_builtin_listener(table, file)
    sources = [*_file_source(table, file), _environment(), _command_line(arguments or {})]
    settings = _merge(sources)
    listen_origin = f"{file}: {SECTION}.{_LISTEN}" if listeners else None
    if listen_origin is not None:
        _check_no_other_listener(settings, listen_origin)
    return Settings(
        config=_build(settings, listeners, builtin),
        settings=settings,
        listen_origin=listen_origin,
        notes=tuple(_notes()),
    )


# ------------------------------------------------------------------------------ the three sources


def _read(file: Path) -> dict[str, Any]:
    """The file's table, with keys that are known."""
    try:
        # A byte order mark, which editors of Windows put in front, is no part of TOML.
        document: Any = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not TOML
        what = error.strerror if isinstance(error, OSError) else one_line(error)
        raise SettingsError(f"cannot read {file}: {what}") from None
    table = document.get(SECTION, None if document else {})
    if not isinstance(table, dict):
        raise SettingsError(f"{file} has no table [{SECTION}]; options go below it")
    _check_keys(table, file)
    return dict(table)


def _check_keys(table: Mapping[str, Any], file: Path) -> None:
    for name, value in table.items():
        if name in _TABLES:
            if not isinstance(value, dict):
                raise SettingsError(
                    f"{file}: {SECTION}.{name} is {value!r}; it must be a table: [{SECTION}.{name}]"
                )
            for inner in value:
                if f"{name}.{inner}" not in (*_BY_PATH, BUILTIN_LISTEN):
                    raise _unknown_key(file, f"{name}.{inner}", _BY_PATH)
        elif name not in _BY_PATH and name != _LISTEN:
            raise _unknown_key(file, name, [*_BY_PATH, *_TABLES, _LISTEN])


def _unknown_key(
    file: Path, path: str, known: Mapping[str, Any] | list[str], prefix: str = ""
) -> SettingsError:
    """With the nearest that are known, by the whole path or by its last part; or all beside it."""
    table, _, last = path.replace("-", "_").rpartition(".")
    near = get_close_matches(path.replace("-", "_"), list(known), n=3)
    near += [name for name in known if name.rpartition(".")[2] == last and name not in near]
    beside = sorted(name for name in known if name.rpartition(".")[0] == table)
    hint = f"did you mean {alternatives(near[:3])}?" if near else f"known here: {', '.join(beside)}"
    return SettingsError(f"{file}: there is no option {SECTION}.{prefix}{path}; {hint}")


def _file_source(table: dict[str, Any], file: Path | None) -> Iterator[_Source]:
    if file is not None:
        meta = LoaderMeta("file", base_dir=file.absolute().parent)
        yield _Source(LoadedSettings(table, meta), lambda option: f"{file}: {option.key}")


def _environment() -> _Source:
    loaded = EnvLoader(PREFIX)(Config, tuple(option.info for option in OPTIONS))
    return _Source(loaded, lambda option: option.variable)


def _command_line(arguments: Mapping[str, Any]) -> _Source:
    values: dict[str, Any] = {}
    for path, value in arguments.items():
        if value is not None:
            set_path(values, path, value)
    return _Source(LoadedSettings(values, LoaderMeta("command line")), lambda option: option.flag)


# ------------------------------------------------------------------------------ values


def _merge(sources: list[_Source]) -> tuple[Setting, ...]:
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
        settings.append(Setting(option, _convert(option, raw, name, meta.base_dir), name))
    return tuple(settings)


def _convert(option: Option, raw: Any, name: str, base: Path) -> Any:
    """The value in the option's type, within its bounds. Raises `SettingsError`."""
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
        shown = "of no use" if option.secret else repr(raw)
        hint = _service_hint(name, raw)
        raise SettingsError(f"{name} is {shown}; it must be {option.allowed}{hint}") from None
    return value


def _fits(raw: Any, kind: type) -> bool:
    """Whether conversion may be tried: it would make 3 of 3.7, and 1 of true."""
    if isinstance(raw, str | Path):  # all that environment variables have
        return kind in (Path, tuple) or str(raw) != ""
    if kind is tuple:
        return isinstance(raw, list) and all(isinstance(text, str) for text in raw)
    if isinstance(raw, bool) or kind is bool:
        return isinstance(raw, bool) and kind is bool
    if not isinstance(raw, int | float):
        return False
    return kind is float or (kind is int and raw == int(raw))


def _texts(raw: str | list[str]) -> tuple[str, ...]:
    """A list as the file has it, or as environment variables have it: with commas."""
    texts = raw.split(",") if isinstance(raw, str) else raw
    return tuple(text.strip() for text in texts if text.strip())


def _service_hint(name: str, raw: Any) -> str:
    """Kubernetes sets NAME_PORT for each service of that name; it has stopped many a start."""
    if name.startswith(PREFIX) and str(raw).startswith("tcp://"):
        return " (Kubernetes sets it for a service of this name: turn enableServiceLinks off)"
    return ""


def _load_listeners(tables: Any, file: Path | None) -> tuple[ListenConfig, ...]:
    if file is None:
        return ()
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{file}: write listeners as [[{SECTION}.{_LISTEN}]] tables")
    return tuple(
        _load_listener(table, file, f"{_LISTEN}[{index}]") for index, table in enumerate(tables)
    )


def _load_builtin_listener(table: dict[str, Any], file: Path | None) -> ListenConfig | None:
    group, name = BUILTIN_LISTEN.split(".")
    if file is None or name not in table.get(group, {}):
        return None
    table[group] = dict(table[group])
    inner = table[group].pop(name)
    if not isinstance(inner, dict):
        raise SettingsError(f"{file}: write the listener as a table: [{SECTION}.{BUILTIN_LISTEN}]")
    return _load_listener(inner, file, BUILTIN_LISTEN)


def _load_listener(table: dict[str, Any], file: Path, where: str) -> ListenConfig:
    values = {}
    for name, raw in table.items():
        if name not in _LISTENER_BY_NAME:
            raise _unknown_key(file, name, _LISTENER_BY_NAME, f"{where}.")
        shown = f"{file}: {SECTION}.{where}.{name}"
        values[name] = _convert(_LISTENER_BY_NAME[name], raw, shown, file.absolute().parent)
    try:
        return ListenConfig(**values)
    except ValueError as error:
        raise SettingsError(f"{file}: {SECTION}.{where}: {error}") from None


def _check_no_other_listener(settings: tuple[Setting, ...], listen_origin: str) -> None:
    for setting in settings:
        if setting.option.path in _LISTENER_BY_NAME and setting.origin is not None:
            raise SettingsError(
                f"{setting.origin} would have no effect beside {listen_origin}, which lists all "
                "listeners; leave one of them out"
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
        if field.name in _TABLES:
            default: Any = field.default
            values[field.name] = type(default)(**values[field.name])
    try:
        return Config(**values, listen=listeners)
    except ValueError as error:  # options that do not go together; the text names them
        named = [
            f"{setting.option.path} is from {setting.origin}"
            for setting in settings
            if setting.origin is not None and setting.option.path in str(error).split()
        ]
        raise SettingsError(f"{error} ({', '.join(named)})") from None


def _notes() -> Iterator[str]:
    """Variables that look like options and are none. Others may set some, so no error."""
    known = [option.variable for option in OPTIONS]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and name not in OTHER_VARIABLES:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"the environment variable {name} is no option{hint}"
