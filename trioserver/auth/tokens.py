"""Makes tokens, for the command line, for examples and for tests."""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from trioserver.auth.keys import Key

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


def make_token(
    key: str | bytes | PrivateKey,
    *,
    subject: str,
    lifetime: float = 1800.0,
    claims: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    key_id: str | None = None,
    algorithm: str | None = None,
    issuer: str | None = None,
    audience: str | Iterable[str] | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Make a signed token (RFC 7519) with ``sub``, ``iat``, ``exp`` and a new ``jti``.

    - ``key``: an HMAC secret (UTF-8 where text), or a private key: RSA, EC or Ed25519, as
      unencrypted PEM, as a JWK or a JWK set that has one, or as an object of cryptography's.
    - ``subject``: the user's id.
    - ``lifetime``: seconds from now until it expires; zero or less makes an expired token.
    - ``claims``: more claims. They replace those made here.
    - ``key_id``: the header's ``kid``. None means that of the JWK, if the key is one that has it.
    - ``algorithm``: None means that of the JWK, or else the first of the key's type: HS256,
      RS256, ES256 (ES384, ES512 for larger curves) or EdDSA.
    - ``issuer``, ``audience``: the claims ``iss`` and ``aud``; None leaves them out.
    - ``clock``: returns the time in seconds since the Unix epoch.

    Raises `ValueError` for a key that `JWTAuth` would not verify with (`WeakSecretError` for a
    secret), an algorithm that does not fit it, an empty subject.
    """
    if not subject:
        raise ValueError("subject is empty: it must be the id of the token's user")
    material, public = _signing_key(key)
    algorithm, key_id = algorithm or public.algorithms[0], key_id or public.kid
    if algorithm not in public.algorithms:
        raise ValueError(
            f"algorithm {algorithm!r} does not fit this key: use {', '.join(public.algorithms)}"
        )
    now = clock()
    # Whole seconds wherever that is what was asked for: not every library reads fractions.
    exp = math.ceil(now + lifetime) if float(lifetime).is_integer() else now + lifetime
    body: dict[str, Any] = {"sub": subject, "iat": int(now), "exp": exp, "jti": uuid.uuid4().hex}
    if issuer is not None:
        body["iss"] = issuer
    if audience is not None:
        body["aud"] = audience if isinstance(audience, str) else [*audience]
    headers = None if key_id is None else {"kid": key_id}
    return jwt.encode(body | dict(claims), material, algorithm=algorithm, headers=headers)


def _signing_key(key: str | bytes | PrivateKey) -> tuple[bytes | PrivateKey, Key]:
    """What PyJWT signs with, and the key that verifies it, which refuses what it would there."""
    if isinstance(key, PrivateKey):
        return key, Key(material=key.public_key())
    text = key.encode() if isinstance(key, str) else key
    if text.lstrip().startswith(b"{"):
        return _of_jwk(text)
    if b"-----BEGIN" not in text:
        return text, Key.secret(text)
    try:
        private = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the key is not an unencrypted private key in PEM") from None
    if not isinstance(private, PrivateKey):
        raise ValueError("tokens are signed with an RSA, EC or Ed25519 key")
    return private, Key(material=private.public_key())


def _of_jwk(text: bytes) -> tuple[PrivateKey, Key]:
    """The first private key of a JWK or a JWK set."""
    with contextlib.suppress(ValueError, RecursionError, jwt.PyJWTError):
        document = json.loads(text)
        for jwk in document.get("keys", [document]):
            if isinstance(jwk, dict) and "d" in jwk:
                private = jwt.PyJWK({name: jwk[name] for name in jwk if name != "alg"}).key
                return private, Key(
                    material=private.public_key(), kid=jwk.get("kid"), algorithm=jwk.get("alg")
                )
    raise ValueError("the JWK set has no private key, which is needed to sign a token")
