"""A token in the log: enough to tell it from others, nothing to use it by."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final

_KEY: Final = secrets.token_bytes(32)
_BYTES: Final = 5


def fingerprint(token: str | None) -> str | None:
    """Ten hexadecimal digits: the same for the same token, within this process. None for none.

    A keyed hash, cut to 40 bits, whose key is made at the start and never leaves the process.
    So no part of the token is shown, not even its first characters; and a short token, such as a
    number of six digits, cannot be found by hashing all of them, as it could be with a plain hash.
    The price is that a token at hand cannot be looked up in the log of a process that has ended:
    for that there are the user and, where the token has one, its ``jti``.
    """
    if not token:
        return None
    data = token.encode(errors="surrogatepass")
    return blake2b(data, digest_size=_BYTES, key=_KEY).hexdigest()
