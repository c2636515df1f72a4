"""The options of the server that commands have: file, listener, logging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from trioserver.cli.settings.options import LISTEN_OPTIONS
from trioserver.config import LOG_FORMATS, LOG_LEVELS

_Function = TypeVar("_Function", bound=Callable[..., Any])

_METAVARS: Final = {"host": "ADDRESS", "port": "NUMBER", "systemd_socket": "NAME"}

config_option: Final = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="TRIOSERVER_CONFIG",
    show_envvar=True,
    help="TOML file with the server's options, in a table [trioserver].",
)


def listen_options(function: _Function) -> _Function:
    """Add the options of a listener: ``--host``, ``--port``, ``--certificate`` and so on.

    The keyword arguments have the names that `load_settings` expects; None if not given.
    """
    for option in reversed(LISTEN_OPTIONS):
        shown = option.default is not None and option.kind is not bool
        flag = option.flag if option.kind is not bool else f"{option.flag}/--no-{option.flag[2:]}"
        kind: Any = click.Path(path_type=Path) if option.kind is Path else option.kind
        function = click.option(
            flag,
            type=click.Choice(option.choices) if option.choices else kind,
            metavar="FILE" if option.kind is Path else _METAVARS.get(option.path),
            default=None,
            help=option.help + (f"  [default: {option.default}]" if shown else ""),
        )(function)
    return function


def logging_options(function: _Function) -> _Function:
    """Add ``--log-format`` and ``--log-level``, which override the configuration.

    The keyword arguments are ``log_format`` and ``log_level``; None if not given.
    """
    level = click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default=None,
        help="Lowest level that the server and the application log.  [default: info]",
    )
    format = click.option(
        "--log-format",
        type=click.Choice(LOG_FORMATS),
        default=None,
        help="Format of log lines; auto is text on a terminal and JSON otherwise.  [default: auto]",
    )
    return format(level(function))
