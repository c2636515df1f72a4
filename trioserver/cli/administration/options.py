"""The options and the arguments that several subcommands of `trioserver admin` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print the server's response as one JSON object."
)

limit_option: Final = click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    metavar="N",
    help="Maximum number of rows to print.",
)


def parse_resource(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """The path parameters in ``--resource NAME:VALUE``; None if there are none.

    Raises `click.UsageError` for a value of another form.
    """
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not (name and colon and value):
            raise click.UsageError(
                f"--resource is {pair!r}; it must be NAME:VALUE, for example room_id:7"
            )
    return dict(pair.split(":", 1) for pair in pairs) or None


def resource_in_words(resource: Mapping[str, str] | None) -> str:
    """Path parameters as `parse_resource` reads them."""
    return " ".join(f"{name}:{value}" for name, value in (resource or {}).items())
