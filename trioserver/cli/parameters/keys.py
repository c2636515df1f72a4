"""The options that say which key a token is signed or verified with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import click

from trioserver.auth.files import secrets_in
from trioserver.cli.output.terminal import Exit, Failure, one_line

_Function = TypeVar("_Function", bound=Callable[..., Any])

_VARIABLE: Final = "TRIOSERVER_SECRET"
_MAX_BYTES: Final = 64 * 1024
"""No key and no token is larger; a wrong file may be."""


@attrs.frozen(kw_only=True)
class KeyMaterial:
    """A secret, or a key in PEM where ``pem``; ``origin`` says in words where it is from.

    ``others`` are the secrets behind the first of a file, good for verifying only.
    """

    text: str = attrs.field(repr=False)
    others: tuple[str, ...] = attrs.field(default=(), repr=False)
    pem: bool
    origin: str


user_id_option: Final = click.option(
    "--user-id-claim",
    default="sub",
    show_default=True,
    metavar="NAME",
    help="The claim with the user's id, as the server is configured.",
)


def key_options(function: _Function) -> _Function:
    """``--secret-file``, ``--secret`` and ``--key-file``, for `read_key`."""
    for option in (
        click.option(
            "--key-file",
            metavar="FILE",
            help="A key in PEM: private to sign; public, a certificate or a JWK set to verify.",
        ),
        click.option(
            "--secret",
            metavar="TEXT",
            help="The secret itself; others on this machine can see it in the list of processes.",
        ),
        click.option(
            "--secret-file",
            metavar="FILE",
            help=f"A file with the secret, - for stdin. Without: the variable {_VARIABLE}.",
        ),
    ):
        function = option(function)
    return function


def read_key(
    *, secret_file: str | None, secret: str | None, key_file: str | None
) -> KeyMaterial | None:
    """The key that was named, or the environment's secret, or None. Raises `Failure`.

    More than one on the command line is a `UsageError`; the environment's gives way to any.
    """
    if sum(option is not None for option in (secret_file, secret, key_file)) > 1:
        raise click.UsageError("give one of --secret-file, --secret and --key-file")
    if secret_file is not None:
        first, *others = _secrets_of(secret_file)
        return KeyMaterial(text=first, others=tuple(others), pem=False, origin=secret_file)
    if key_file is not None:
        return KeyMaterial(text=read_text(key_file), pem=True, origin=key_file)
    if secret is not None:
        return KeyMaterial(text=secret, pem=False, origin="--secret")
    if _VARIABLE in os.environ:
        return KeyMaterial(text=os.environ[_VARIABLE], pem=False, origin=_VARIABLE)
    return None


def _secrets_of(file: str) -> list[str]:
    try:
        return secrets_in(read_text(file))
    except ValueError as error:
        raise Failure(f"{file}: {one_line(error)}", Exit.CONFIGURATION) from None


def read_text(file: str) -> str:
    """A small file, or stdin for "-", without white space around it. Raises `Failure`."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise Failure(f"{file} is too large for a key or a token", Exit.CONFIGURATION)
        return data.decode("utf-8-sig").strip()
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", Exit.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is no text in UTF-8", Exit.CONFIGURATION) from None
