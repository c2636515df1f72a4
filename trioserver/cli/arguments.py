"""Command-line options that several commands have: the server's, and those for logging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from trioserver.cli.options import LISTEN_OPTIONS
from trioserver.config import LOG_FORMATS, LOG_LEVELS

_Function = TypeVar("_Function", bound=Callable[..., Any])

_METAVARS: Final = {int: "NUMBER", str: "ADDRESS", Path: "FILE"}

config_option: Final = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="TRIOSERVER_CONFIG",
    show_envvar=True,
    help="TOML file with a table [trioserver].",
)


def listen_options(function: _Function) -> _Function:
    """``--host``, ``--port``, ``--unix-path``, ``--certificate`` and ``--key``, None by default.

    They arrive as keyword arguments of these names, fit for `load_settings`.
    """
    for option in reversed(LISTEN_OPTIONS):
        function = click.option(
            option.flag,
            type=click.Path(path_type=Path) if option.kind is Path else option.kind,
            metavar=_METAVARS[option.kind],
            default=None,
            help=option.help + ("" if option.default is None else f"  [default: {option.default}]"),
        )(function)
    return function


def logging_options(function: _Function) -> _Function:
    """``--log-format`` and ``--log-level``; as ``log_format``, ``log_level``, None by default.

    They go before what the configuration says.
    """
    level = click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default=None,
        help="What the server and the application log.  [default: info]",
    )
    format = click.option(
        "--log-format",
        type=click.Choice(LOG_FORMATS),
        default=None,
        help="auto is text on a terminal, and JSON lines elsewhere.  [default: auto]",
    )
    return format(level(function))
