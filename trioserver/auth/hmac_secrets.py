"""Checks of HMAC secrets: length, placeholders, patterns, and what is not a secret at all."""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from jwt.algorithms import HMACAlgorithm

# RFC 7518, section 3.2: an HMAC key is at least as long as the hash.
HMAC_MIN_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
SECRET_MIN_BYTES: Final = HMAC_MIN_BYTES["HS256"]

# What placeholders are made of: "changeme", "your-256-bit-secret", jwt.io's
# "a-string-secret-at-least-256-bits-long", "super-secret-key-please-change-me-in-production".
# Random text of the least length loses a word or two to this list, never half of itself.
_PLACEHOLDER_WORDS: Final = (
    "abcdefghijklmnopqrstuvwxyz 0123456789 1234567890 123456789 12345678 qwertyuiop letmein "
    "access admin app at auth bit bits bytes cat change changed changeit character characters "
    "code default demo dev development django dont do ever example fixme flask for foo bar baz "
    "fake generate here hmac hs256 hs384 hs512 in insecure is it jwt key keyboard least length "
    "local long me minimum more must my not only or otherwise pass passphrase password phrase "
    "placeholder please prod production private random replace sample secret secure set should "
    "sign signing some something string strong super test testing that this to todo token top "
    "trioserver unsafe use valid value very which with your 16 32 48 64 128 256 384 512"
)
_PLACEHOLDER: Final = re.compile(
    "|".join(sorted(_PLACEHOLDER_WORDS.split(), key=len, reverse=True))
    + r"|[\s\-_.,:;!?/'\"<>{}()$]"
)

_DISTINCT_MIN_BYTES: Final = 6
"""Fewer different bytes are a pattern: 32 random decimal digits have fewer once in 10^7."""

_PERIOD_MAX_BYTES: Final = 64
"""The longest unit whose repetition is looked for."""


_ADVICE: Final = (
    f"set it to {SECRET_MIN_BYTES} or more random bytes, made with `trioserver secret` or "
    '`python -c "import secrets; print(secrets.token_urlsafe(48))"`'
)

_ASSIGNMENT: Final = re.compile(
    r"(export\s+)?([A-Z_][A-Z0-9_]{2,}|[\w.-]*(?i:secret|key|token|password)[\w.-]*)"
    r"\s*(=|:\s)\s*[^\s=]"
)
"""A line of a shell, a `.env` file, TOML or YAML. Base64 has its equals signs at the end, and a
random secret may have one anywhere, but behind no such name."""

_QUOTES: Final = "'\"`"


class WeakSecretError(ValueError):
    """An HMAC secret is missing, too short, a placeholder, or not a secret.

    The message says what is wrong and what to do, and never contains the secret.
    """

    def __init__(self, fault: str, advice: str | None = None) -> None:
        super().__init__(f"The secret {fault}: {advice or _ADVICE}.")


def make_secret() -> str:
    """Return a new secret: 48 random bytes as 64 characters, long enough for HS512 too."""
    return secrets.token_urlsafe(48)


def _is_public_key(secret: bytes) -> bool:
    """Whether it is a public key or a certificate, in PEM, SSH, DER, base64 or JWK."""
    if b"-----BEGIN" in secret:
        return True
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
        load_der_public_key(base64.b64decode(b"".join(secret.split()), validate=True))
    except jwt.InvalidKeyError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _check_edges(secret: bytes) -> None:
    """Raise `WeakSecretError` for text with something around the secret, such as quotes.

    It would silently become part of the key, and tokens signed with the secret alone would fail.
    """
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return  # random bytes
    if not text.lstrip("\ufeff").strip().isprintable():
        return  # these too
    if text.startswith("\ufeff"):
        raise WeakSecretError("begins with a byte order mark, U+FEFF", "remove it")
    if text != text.strip():
        raise WeakSecretError("begins or ends with white space", "remove it")
    if text[0] in _QUOTES and text[-1] == text[0]:
        raise WeakSecretError("is in quotes, which would be part of it", "remove them")
    if _ASSIGNMENT.match(text):
        raise WeakSecretError("looks like NAME=value", "give the value only")


def check_secret(secret: bytes) -> None:
    """Raise `WeakSecretError` for a secret that can be guessed, or that is not a secret."""
    text = secret.decode("latin-1").lower()
    periods = range(1, min(len(text) // 2, _PERIOD_MAX_BYTES) + 1)
    if not secret:
        raise WeakSecretError("is empty")
    if _is_public_key(secret):
        raise WeakSecretError("is a key or certificate for `Key.from_pem` or `Key.from_jwk`")
    if 2 * len(_PLACEHOLDER.sub("", text)) < min(SECRET_MIN_BYTES, len(text)):
        raise WeakSecretError("is a well-known placeholder")
    _check_edges(secret)
    if len(secret) < SECRET_MIN_BYTES:
        raise WeakSecretError(f"is shorter than {SECRET_MIN_BYTES} bytes")
    if len(set(secret)) < _DISTINCT_MIN_BYTES or any(text[n:] == text[:-n] for n in periods):
        raise WeakSecretError("is a repeated pattern")
