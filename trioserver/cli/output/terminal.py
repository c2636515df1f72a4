"""What all commands share: the consoles, the exit codes, and how a failure is told."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import IO, Any

import click
from rich.console import Console

from trioserver.logs.printable import printable


class Exit(IntEnum):
    """What a program that runs a command can tell from its exit code; 0 is done."""

    FAILED = 1
    """What was asked for did not work out: a token is refused, a check fails."""
    USAGE = 2
    """The command line is wrong; click's own number."""
    CONFIGURATION = 3
    """An option of the server, or a secret, has a value that does not do."""
    APPLICATION = 4
    """The application cannot be imported, or is none."""
    CANNOT_LISTEN = 5
    """The address cannot be had, or the certificate cannot be used."""
    UNREACHABLE = 6
    """The server that was to be asked does not answer."""
    DENIED = 7
    """The token that was shown is refused, or lacks the role."""
    INTERRUPTED = 130
    """Ctrl-C; the shells' number for it: 128 and SIGINT."""


class Failure(click.ClickException):
    """Ends the command: one or two sentences on stderr that say what to do, and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, as click wants it."""
        print_error(self.message)


def stdout_console() -> Console:
    """Where results go. Made at each use: tests and pipes change what stdout is."""
    return Console(file=sys.stdout, highlight=False)


def stderr_console() -> Console:
    """Where everything goes that is not the result."""
    return Console(file=sys.stderr, highlight=False)


def print_error(message: str) -> None:
    """One line on stderr, however long: what looks for it need not put it together again."""
    console = stderr_console()
    console.print("trioserver:", style="bold red", end=" ")
    console.print(printable(message), markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One line of JSON on stdout. What JSON cannot express is its text."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
