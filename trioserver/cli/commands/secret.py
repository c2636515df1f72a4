"""`trioserver secret`: a fresh secret for signing tokens."""

from __future__ import annotations

import secrets
from typing import Final

import click

_LEAST: Final = 32
"""What HS256 needs, and `JWTAuth` insists on."""

_MOST: Final = 1024
"""Beyond 64 bytes HMAC hashes the secret down anyway (RFC 2104, section 3)."""

_DEFAULT: Final = 48
"""64 characters: enough for HS512 as well."""


@click.command("secret")
@click.option(
    "--bytes",
    "number",
    type=click.IntRange(_LEAST, _MOST),
    default=_DEFAULT,
    show_default=True,
    help="How many random bytes it has.",
)
def command(number: int) -> None:
    """Print a fresh secret for signing tokens, and nothing else.

    It is made of random bytes, in letters, digits, - and _.

    \b
    Examples:
      export TRIOSERVER_SECRET=$(trioserver secret)
      (umask 077; trioserver secret > secret.txt)
    """
    click.echo(secrets.token_urlsafe(number))
