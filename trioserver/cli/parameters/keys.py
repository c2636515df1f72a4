"""The options for the key that signs or verifies a token."""

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
"""Maximum size of a file with a key or a token, so that a wrong file is not read whole."""


@attrs.frozen(kw_only=True)
class KeyMaterial:
    """A secret, or a key in PEM if ``pem``; ``origin`` names the option or file it comes from.

    ``others`` are the further secrets of a file, which are used for verification only.
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
    help="Token claim that contains the user's id; must be the same as on the server.",
)


def key_options(function: _Function) -> _Function:
    """Add ``--secret-file``, ``--secret`` and ``--key-file``, for `read_key`."""
    for option in (
        click.option(
            "--key-file",
            metavar="FILE",
            help="File with a key in PEM: a private key to sign, or a public key, certificate or "
            "JWK set to verify.",
        ),
        click.option(
            "--secret",
            metavar="TEXT",
            help="The secret itself. Other users of this machine can see it in the process list: "
            "use --secret-file instead.",
        ),
        click.option(
            "--secret-file",
            metavar="FILE",
            help="File that contains the secret; - reads it from stdin.  [default: the variable "
            f"{_VARIABLE}]",
        ),
    ):
        function = option(function)
    return function


def read_key(
    *, secret_file: str | None, secret: str | None, key_file: str | None
) -> KeyMaterial | None:
    """The key that an option names, else the secret in the environment, else None.

    Raises `Failure` if it cannot be read, and `click.UsageError` if more than one option is given.
    """
    if sum(option is not None for option in (secret_file, secret, key_file)) > 1:
        raise click.UsageError(
            "--secret-file, --secret and --key-file cannot be combined; give one of them"
        )
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


def key_failure(key: KeyMaterial, error: Exception) -> Failure:
    """The failure of a command whose key cannot be used, with the origin of the key."""
    return Failure(f"{one_line(error)} (the key is from {key.origin})", Exit.CONFIGURATION)


def _secrets_of(file: str) -> list[str]:
    try:
        return secrets_in(read_text(file))
    except ValueError as error:
        raise Failure(f"{file}: {one_line(error)}", Exit.CONFIGURATION) from None


def read_text(file: str) -> str:
    """Read a small file, or stdin for "-", and strip white space around it. Raises `Failure`."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise Failure(
                f"{file} is larger than {_MAX_BYTES // 1024} KiB, so it is not a key or a token",
                Exit.CONFIGURATION,
            )
        return data.decode("utf-8-sig").strip()
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", Exit.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise Failure(f"{file} is not text in UTF-8", Exit.CONFIGURATION) from None
