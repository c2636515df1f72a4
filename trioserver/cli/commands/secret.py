"""`trioserver secret`: print a new secret for signing tokens."""

from __future__ import annotations

import secrets
from typing import Final

import click

_LEAST: Final = 32
"""The minimum for HS256, which `JWTAuth` enforces."""

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
    help="Number of random bytes in the secret. The default is enough for HS512.",
)
def command(number: int) -> None:
    """Print a new random secret for signing tokens.

    It consists of letters, digits, - and _, which encode random bytes.

    \b
    Examples:
      export TRIOSERVER_SECRET=$(trioserver secret)
      (umask 077; trioserver secret > secret.txt)
    """
    click.echo(secrets.token_urlsafe(number))
