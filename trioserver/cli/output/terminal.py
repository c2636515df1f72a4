"""What all commands print with: consoles, exit codes, errors."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import IO, Any

import click
from rich.console import Console

from trioserver.logs.printable import printable


class Exit(IntEnum):
    """Exit codes of the commands; 0 is success. `check` and `connect` have further ones."""

    FAILED = 1
    """The operation failed: a token is refused, for example."""
    USAGE = 2
    """The command line is wrong; the code that click uses."""
    CONFIGURATION = 3
    """An option of the server, or a secret, has a value that cannot be used."""
    APPLICATION = 4
    """The application cannot be imported, or is not a `trioserver.Application`."""
    CANNOT_LISTEN = 5
    """The server cannot listen on the address, or cannot use the certificate."""
    UNREACHABLE = 6
    """The server cannot be reached."""
    DENIED = 7
    """The token is refused, or does not have the role."""
    INTERRUPTED = 130
    """Ctrl-C; the code of shells: 128 + SIGINT."""


class Failure(click.ClickException):
    """Ends the command with ``message`` on stderr, which says what to do, and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message; click calls this."""
        print_error(self.message)


def stdout_console() -> Console:
    """A console on stdout, for results. Made at each use, because tests replace stdout."""
    return Console(file=sys.stdout, highlight=False)


def stderr_console() -> Console:
    """A console on stderr, for everything that is not a result."""
    return Console(file=sys.stderr, highlight=False)


def print_error(message: str) -> None:
    """Print one line on stderr. It is never wrapped, so that programs can search for it."""
    console = stderr_console()
    console.print("trioserver:", style="bold red", end=" ")
    console.print(printable(message), markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout. A value that JSON does not have is printed as text."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
