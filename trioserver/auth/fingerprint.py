"""What of a token may be written down: enough to recognise it, nothing to use it with."""

from __future__ import annotations

import hashlib
from typing import Final

SHORT: Final = "***"
"""In place of a token that is short enough to be found by trying out all there are."""

_SHORTEST: Final = 32
_DIGITS: Final = 12
_MAX_BYTES: Final = 16 * 1024


def fingerprint(token: object) -> str | None:
    """The start of a token's SHA-256, as "sha256:0f1e2d3c4b5a"; None where there is no token.

    Two attempts with the same token have the same; who has the token can make it again with
    ``sha256sum``. Tokens below 32 characters might be guessed from it: of them nothing is told.
    """
    if not isinstance(token, str) or not token:
        return None
    if len(token) < _SHORTEST:
        return SHORT
    data = token[:_MAX_BYTES].encode("utf-8", "surrogatepass")
    return f"sha256:{hashlib.sha256(data).hexdigest()[:_DIGITS]}"
