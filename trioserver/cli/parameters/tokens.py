"""The options that say with which token to connect. None of them is ever printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from trioserver.cli.parameters.keys import read_text
from trioserver.client import WebSocketURL

_Function = TypeVar("_Function", bound=Callable[..., Any])

_VARIABLE: Final = "TRIOSERVER_TOKEN"


def token_options(function: _Function) -> _Function:
    """``--token`` and ``--token-file``, for `read_token`."""
    file = click.option("--token-file", metavar="FILE", help="A file with the token, - for stdin.")
    token = click.option(
        "--token",
        metavar="TEXT",
        help=f"The token; better, for the shell's history, in a file or the variable {_VARIABLE}.",
    )
    return token(file(function))


def read_token(token: str | None, token_file: str | None) -> str | None:
    """The token that was named, or the environment's, or None."""
    if token is not None and token_file is not None:
        raise click.UsageError("give one of --token and --token-file")
    if token_file is not None:
        return read_text(token_file)
    return token if token is not None else os.environ.get(_VARIABLE)


def parse_url(option: str, url: str) -> WebSocketURL:
    """Raises `click.UsageError`."""
    try:
        return WebSocketURL.parse(url)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
