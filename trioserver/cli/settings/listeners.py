"""Loads the listeners of a TOML file: `listen` and `http.builtin_listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from trioserver.cli.settings.errors import SettingsError, unknown_key
from trioserver.cli.settings.options import BUILTIN_LISTEN, LISTEN, LISTEN_OPTIONS, SECTION
from trioserver.cli.settings.values import convert
from trioserver.config import ListenConfig

LISTENER_OPTIONS: Final = {option.path: option for option in LISTEN_OPTIONS}
"""The options of a listener by their name."""


def load_listeners(tables: Any, file: Path | None) -> tuple[ListenConfig, ...]:
    """The listeners that the file lists; empty if it lists none. Raises `SettingsError`."""
    if file is None:
        return ()
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(
            f"{file}: {SECTION}.{LISTEN} must be a list of tables; write each as "
            f"[[{SECTION}.{LISTEN}]]"
        )
    return tuple(
        _load_listener(table, file, f"{LISTEN}[{index}]") for index, table in enumerate(tables)
    )


def load_builtin_listener(table: dict[str, Any], file: Path | None) -> ListenConfig | None:
    """Take the listener of the built-in routes out of ``table``; None if there is none.

    Raises `SettingsError`.
    """
    group, name = BUILTIN_LISTEN.split(".")
    if file is None or name not in table.get(group, {}):
        return None
    table[group] = dict(table[group])
    inner = table[group].pop(name)
    if not isinstance(inner, dict):
        raise SettingsError(
            f"{file}: {SECTION}.{BUILTIN_LISTEN} must be a table; write it as "
            f"[{SECTION}.{BUILTIN_LISTEN}]"
        )
    return _load_listener(inner, file, BUILTIN_LISTEN)


def _load_listener(table: dict[str, Any], file: Path, where: str) -> ListenConfig:
    values = {}
    for name, raw in table.items():
        if name not in LISTENER_OPTIONS:
            raise unknown_key(file, name, LISTENER_OPTIONS, f"{where}.")
        shown = f"{file}: {SECTION}.{where}.{name}"
        values[name] = convert(LISTENER_OPTIONS[name], raw, shown, file.absolute().parent)
    try:
        return ListenConfig(**values)
    except ValueError as error:
        raise SettingsError(f"{file}: {SECTION}.{where}: {error}") from None
