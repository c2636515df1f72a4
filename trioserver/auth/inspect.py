"""Reads a token without trusting it: what it contains, and why it would be refused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import jwt

from protocol import Refusal
from trioserver.auth.jwt import JWTAuth
from trioserver.auth.keys import Key
from trioserver.auth.verify import is_instant


@attrs.frozen(kw_only=True)
class Inspection:
    """What a token contains. All of it may be forged unless ``verified`` is True.

    - ``header``, ``claims``: None if they cannot be read.
    - ``issued_at``, ``expires_at``: in seconds since the Unix epoch. ``expires_in``: in seconds
      from now, negative if the token has expired. None if the token has no such claim.
    - ``verified``: None if there was nothing to verify with. If False, ``refusal`` says why.
    """

    header: Mapping[str, Any] | None
    claims: Mapping[str, Any] | None = attrs.field(repr=False)
    issued_at: float | None
    expires_at: float | None
    expires_in: float | None
    verified: bool | None
    refusal: Refusal | None


def inspect_token(
    token: object,
    *,
    auth: JWTAuth | None = None,
    keys: Iterable[Key] = (),
    clock: Callable[[], float] = time.time,
) -> Inspection:
    """Read any token, and verify it with ``auth``, or with ``keys`` and the default rules.

    Without either, nothing is verified. ``clock`` returns the time in seconds since the Unix
    epoch; with ``auth``, that one's clock is used. ``revoked`` is not called, and no JWKS is
    fetched. Raises nothing, whatever the token is.
    """
    keys = tuple(keys)
    if auth is None and keys:
        auth = JWTAuth(keys=keys, clock=clock)
    now = clock() if auth is None else auth.clock()
    header, claims = _read(token)
    expires_at = _instant(claims, "exp")
    refusal = None
    if auth is not None:
        try:
            auth.check(token)
        except Refusal as error:
            refusal = error
    return Inspection(
        header=header,
        claims=claims,
        issued_at=_instant(claims, "iat"),
        expires_at=expires_at,
        expires_in=None if expires_at is None else expires_at - now,
        verified=None if auth is None else refusal is None,
        refusal=refusal,
    )


def _read(token: object) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    header = claims = None
    if isinstance(token, str):
        # Each part alone: one may be readable without the other. ValueError: text without UTF-8.
        with contextlib.suppress(jwt.PyJWTError, ValueError):
            header = jwt.get_unverified_header(token.partition(".")[0] + "..")
        with contextlib.suppress(jwt.PyJWTError, ValueError):
            claims = jwt.decode(token, options={"verify_signature": False})
    return header, claims


def _instant(claims: Mapping[str, Any] | None, name: str) -> float | None:
    value = None if claims is None else claims.get(name)
    return float(value) if value is not None and is_instant(value) else None
