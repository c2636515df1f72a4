"""Reads public keys from PEM text (RFC 7468): also certificates, escaped or in a single line."""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----([^-]*)-----END \1-----")
_WIDTH: Final = 64
"""RFC 7468, section 2: characters of a line."""

_WHITE_SPACE: Final = re.compile(r"\\r|\\n|\s")
"""Also as an environment variable or a JSON file spells it: a backslash and a letter."""


class NotAPublicKeyError(ValueError):
    """The text is not a public key or certificate in PEM. Its message never quotes the text."""


def public_keys_of(text: str) -> list[PublicKeyTypes]:
    """Return all public keys in ``text``, of which there is at least one.

    A certificate stands for the key in it; its dates, issuer and use are not looked at. Raises
    `NotAPublicKeyError` where any block cannot be used.
    """
    blocks = _BLOCK.findall(text)
    if not blocks or len(blocks) != text.count("-----BEGIN"):
        raise NotAPublicKeyError(
            "The text is not a public key in PEM ('BEGIN PUBLIC KEY' or 'BEGIN CERTIFICATE')."
        )
    return [_public_key(label, body) for label, body in blocks]


def _public_key(label: str, body: str) -> PublicKeyTypes:
    if "PRIVATE KEY" in label:
        raise NotAPublicKeyError(
            "The text is a private key; tokens are verified with the public key: "
            "`openssl pkey -pubout` prints it."
        )
    base64 = _WHITE_SPACE.sub("", body)
    lines = [base64[at : at + _WIDTH] for at in range(0, len(base64), _WIDTH)]
    pem = "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----\n")).encode()
    try:
        if label == "CERTIFICATE":
            return x509.load_pem_x509_certificate(pem).public_key()
        return load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise NotAPublicKeyError(
            f"The PEM block {label} holds no public key that can be read."
        ) from None
