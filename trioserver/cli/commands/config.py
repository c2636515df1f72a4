"""`trioserver config`: show the server's options, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trioserver.cli.output.terminal import print_error, print_json, stdout_console
from trioserver.cli.parameters.server import config_option, listen_options
from trioserver.cli.settings.loading import (
    OTHER_VARIABLES,
    Setting,
    Settings,
    load_settings,
)
from trioserver.cli.settings.options import BUILTIN_LISTEN, LISTEN_OPTIONS, MASK
from trioserver.cli.settings.reference import configuration_markdown


@click.command("config")
@config_option
@listen_options
@click.option(
    "--explain", is_flag=True, help="Print the description of each option, and its allowed values."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, including the descriptions."
)
@click.option(
    "--markdown",
    is_flag=True,
    help="Print the reference of all options as Markdown, without their values.",
)
def command(
    config_file: Path | None,
    explain: bool,
    as_json: bool,
    markdown: bool,
    **listen: str | int | Path | None,
) -> None:
    """Show the values of the server's options, and where each comes from.

    An option on the command line overrides a TRIOSERVER_* environment variable, which overrides
    the TOML file. Secrets are masked.

    \b
    Examples:
      trioserver config --explain
      trioserver config --config server.toml --port 0
      trioserver config --json | jq '.options[] | select(.origin)'
    """
    if markdown:
        click.echo(configuration_markdown(), nl=False)
        return
    settings = load_settings(config_file, listen)
    if as_json:
        print_json(_as_json(settings))
    else:
        (_print_explanations if explain else _print_table)(settings)
    for note in settings.notes:
        print_error(note)


def _other_variables() -> dict[str, str]:
    """Variables of the other commands that are set."""
    return {
        name: MASK if secret else os.environ[name]
        for name, secret in OTHER_VARIABLES.items()
        if name in os.environ
    }


# ------------------------------------------------------------------------------ for machines


def _as_json(settings: Settings) -> dict[str, Any]:
    builtin = settings.config.http.builtin_listen
    return {
        "options": [_option_as_json(setting) for setting in settings.settings],
        "listen": [attrs.asdict(listener) for listener in settings.config.listen],
        "builtin_listen": builtin and attrs.asdict(builtin),
        "environment": _other_variables(),
        "notes": settings.notes,
    }


def _option_as_json(setting: Setting) -> dict[str, Any]:
    option = setting.option
    masked = option.secret and setting.value is not None
    return {
        "name": option.path,
        "value": MASK if masked else setting.value,
        "default": None if option.secret else option.default,
        "unit": option.unit or None,
        "low": option.low,
        "high": option.high,
        "origin": setting.origin,
        "key": option.key,
        "variable": option.variable,
        "help": option.help,
    }


# ------------------------------------------------------------------------------ for people


def _print_table(settings: Settings) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Option", no_wrap=True)
    table.add_column("Value", justify="right", overflow="fold")
    table.add_column("Unit", no_wrap=True)
    table.add_column("Set by", overflow="fold")
    for row in (*map(_row, settings.settings), *_listener_rows(settings)):
        table.add_row(*row)
    for name, value in _other_variables().items():
        table.add_row(name, Text(value), "", "the environment")
    stdout_console().print(table)


def _row(setting: Setting) -> tuple[Text, Text, str, Text]:
    option, origin = setting.option, setting.origin
    style = "" if origin is None else "bold green"
    by = f"{origin} (default {option.shown(option.default, unit=False)})" if origin else "default"
    value = option.shown(setting.value, unit=False)
    return Text(option.path, style), Text(value, style), option.unit, Text(by)


def _listener_rows(settings: Settings) -> Iterator[tuple[Text, Text, str, Text]]:
    listeners = {f"listen[{n}]": each for n, each in enumerate(settings.config.listen)}
    if settings.config.http.builtin_listen is not None:
        listeners[BUILTIN_LISTEN] = settings.config.http.builtin_listen
    for name, listener in listeners.items():
        for option in LISTEN_OPTIONS:
            value = option.shown(getattr(listener, option.path), unit=False)
            origin = settings.listen_origin if name != BUILTIN_LISTEN else "the file"
            yield Text(f"{name}.{option.path}"), Text(value), option.unit, Text(origin or "")


def _print_explanations(settings: Settings) -> None:
    console = stdout_console()
    for setting in settings.settings:
        option = setting.option
        bounds = f" {option.bounds.capitalize()}." if option.bounds else ""
        text = (
            f"{option.help}{bounds} Default: {option.shown(option.default)}. Set by "
            f"{setting.origin or 'default'}; {option.variable} sets it."
        )
        console.print(Text(f"{option.path} = {option.shown(setting.value)}", "bold"))
        console.print(Padding(Text(text), (0, 0, 0, 4)))
