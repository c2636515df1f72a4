"""Prints tables on stdout. Control sequences in texts of clients are escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from trioserver.cli.output.terminal import stdout_console
from trioserver.logs.printable import printable


def print_table(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print ``rows`` below the headings ``names``; None is an empty cell."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    stdout_console().print(table)


def print_fields(values: Mapping[str, Any]) -> None:
    """Print one name and value per line."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(_cell(name), _cell(value))
    stdout_console().print(table)


def _cell(value: Any) -> Text:
    return Text("" if value is None else printable(str(value)))
