"""The options for the token to connect with, which is never printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from trioserver.cli.parameters.keys import read_text

_Function = TypeVar("_Function", bound=Callable[..., Any])

_VARIABLE: Final = "TRIOSERVER_TOKEN"


def token_options(function: _Function) -> _Function:
    """Add ``--token`` and ``--token-file``, for `read_token`."""
    file = click.option(
        "--token-file", metavar="FILE", help="File that contains the token; - reads it from stdin."
    )
    token = click.option(
        "--token",
        metavar="TEXT",
        help="The token to connect with. It stays in the shell's history: use --token-file or the "
        f"variable {_VARIABLE} instead.",
    )
    return token(file(function))


def read_token(token: str | None, token_file: str | None, variable: str = _VARIABLE) -> str | None:
    """The token that an option names, else the one in the environment variable, else None.

    Raises `Failure` if it cannot be read, and `click.UsageError` if both options are given.
    """
    if token is not None and token_file is not None:
        raise click.UsageError("--token and --token-file cannot be combined; give one of them")
    if token_file is not None:
        return read_text(token_file)
    return token if token is not None else os.environ.get(variable)
