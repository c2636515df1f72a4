"""Keys out of files: secrets, public keys in PEM, JWK sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from trioserver.auth.keys import Key, WeakSecret


def read_keys(secret_file: Path | None, key_files: Iterable[Path]) -> tuple[Key, ...]:
    """All keys of these files. Raises `ValueError`, which names the file and no secret."""
    keys: list[Key] = []
    if secret_file is not None:
        keys += _in(secret_file, _secrets)
    for file in key_files:
        keys += _in(file, _public_keys)
    return tuple(keys)


def _in(file: Path, parse: Callable[[str], list[Key]]) -> list[Key]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text.") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _secrets(text: str) -> list[Key]:
    """One secret a line."""
    lines = [line.strip() for line in text.splitlines()]
    keys = [Key.secret(line) for line in lines if line]
    if not keys:
        raise WeakSecret("is empty")
    return keys


def _public_keys(text: str) -> list[Key]:
    """One public key in PEM, a JWK, or a JWK set."""
    if not text.lstrip().startswith("{"):
        return [Key.from_pem(text)]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("This is neither a key in PEM nor a JWK set.") from None
    jwks = document.get("keys", [document])
    if not (isinstance(jwks, list) and jwks and all(isinstance(jwk, dict) for jwk in jwks)):
        raise ValueError("This is no JWK set.")
    return [Key.from_jwk(jwk) for jwk in jwks]
