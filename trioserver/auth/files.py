"""Reads keys from files: secrets, public keys in PEM, JWK sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from trioserver.auth.hmac_secrets import WeakSecretError
from trioserver.auth.keys import Key
from trioserver.config.private_files import warn_if_open


def read_keys(secret_file: Path | None, key_files: Iterable[Path]) -> tuple[Key, ...]:
    """Return all keys of these files. Raises `ValueError` with the file's name, and no secret."""
    keys: list[Key] = []
    if secret_file is not None:
        warn_if_open(secret_file)
        keys += _in(secret_file, _secrets)
    for file in key_files:
        keys += _in(file, public_keys)
    return tuple(keys)


def _in(file: Path, parse: Callable[[str], list[Key]]) -> list[Key]:
    try:
        # Editors of Windows put a byte order mark in front, which is no part of any key.
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _secrets(text: str) -> list[Key]:
    return [Key.secret(secret) for secret in secrets_in(text)]


def secrets_in(text: str) -> list[str]:
    """The secrets of a file's text, one a line, of which the first is to sign with.

    Empty lines, and white space around a secret, are left out. Raises `WeakSecretError` for
    whatever else is no secret: a comment, quotes or a name around it would be one that others can
    guess.
    """
    found: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        secret = line.strip()
        if not secret:
            continue
        if secret.startswith(("#", "//", ";")):
            raise WeakSecretError(
                f"of line {number} looks like a comment", "remove it, the file has secrets only"
            )
        Key.secret(secret)
        if secret.split() != [secret]:
            raise WeakSecretError(
                f"of line {number} has white space in it, as a sentence has",
                "the file has secrets only, one a line",
            )
        found.append(secret)
    if not found:
        raise WeakSecretError("is empty")
    return found


def public_keys(text: str) -> list[Key]:
    """Parse public keys and certificates in PEM, a JWK, or a JWK set."""
    if not text.lstrip().startswith("{"):
        return Key.all_from_pem(text)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it contains neither a key in PEM nor a JWK set") from None
    jwks = document.get("keys", [document])
    if not (isinstance(jwks, list) and jwks and all(isinstance(jwk, dict) for jwk in jwks)):
        raise ValueError("it is not a JWK set")
    return [Key.from_jwk(jwk) for jwk in jwks]
