"""A short hash of a token for logs: it identifies the token, and cannot be used in its place."""

from __future__ import annotations

import hashlib
from typing import Final

SHORT: Final = "***"
"""The fingerprint of tokens that are so short that they could be guessed from a hash."""

_SHORTEST: Final = 32
_DIGITS: Final = 12
_MAX_BYTES: Final = 16 * 1024


def fingerprint(token: object) -> str | None:
    """Return the start of a token's SHA-256, "sha256:0f1e2d3c4b5a", or None without a token.

    The same token always has the same fingerprint, which ``sha256sum`` computes too. Tokens below
    32 characters get `SHORT`, because they might be guessed from it.
    """
    if not isinstance(token, str) or not token:
        return None
    if len(token) < _SHORTEST:
        return SHORT
    data = token[:_MAX_BYTES].encode("utf-8", "surrogatepass")
    return f"sha256:{hashlib.sha256(data).hexdigest()[:_DIGITS]}"
