"""Verifies a JWT: a pure function of token, keys, rules and the time.

RFC 7519, section 7.2, with the advice of RFC 8725. PyJWT checks everything but the time, which it
would take from the system's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import attrs
import jwt

from protocol import Refusal
from trioserver.auth.claims import texts_at
from trioserver.auth.keys import ALGORITHMS, PUBLIC_KEY_ALGORITHMS, KeySet

_LAST_INSTANT: Final = 253_402_300_799
"""The end of the year 9999, the last that RFC 3339 can write. Milliseconds are beyond it."""

_NO_KEY: Final = "No configured key matches the token's kid and algorithm."
_BAD_SIGNATURE: Final = "The token's signature does not match any configured key."

_REASONS: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.InvalidAlgorithmError, "The token's algorithm is not accepted."),
    (jwt.InvalidSignatureError, _BAD_SIGNATURE),
    (jwt.InvalidAudienceError, "The token was issued for another audience."),
    (jwt.InvalidIssuerError, "The token was issued by another issuer."),
    (jwt.exceptions.InvalidSubjectError, "The token's sub claim is not a string."),
    (jwt.exceptions.InvalidJTIError, "The token's jti claim is not a string."),
    (jwt.DecodeError, "The token is not a JWT."),
)


class UnknownKey(Refusal):
    """No configured key is the token's; a newer set of public keys may contain it."""

    def __init__(
        self,
        code: str = "token_invalid",
        message: str = _NO_KEY,
    ) -> None:
        super().__init__(code, message)


@attrs.frozen(kw_only=True)
class Rules:
    """Requirements on a token's claims; `JWTAuth` explains each."""

    issuer: tuple[str, ...] | None = None
    audience: tuple[str, ...] | None = None
    leeway: float = 30.0
    required: tuple[str, ...] = ("exp", "sub")
    user_id_claim: str = "sub"
    max_token_bytes: int | None = None
    typ: tuple[str, ...] | None = None
    claim_values: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


def verify(token: object, keys: KeySet, rules: Rules, now: float) -> dict[str, Any]:
    """Return the claims of a token that is valid at ``now``, in seconds since the Unix epoch.

    Raises `Refusal` for any other token, and `UnknownKey` if another key might have verified it.
    ``token`` may be an object of any type.
    """
    if token is None or token == "":
        raise Refusal("token_missing")
    if not isinstance(token, str) or not token.isascii():
        raise _invalid("The token is not a JWT.")
    limit = rules.max_token_bytes
    if limit is not None and len(token) > limit:
        raise Refusal("token_too_big", f"The token is larger than {limit} bytes.")
    try:
        claims = _signed_claims(token, keys, rules, now)
    except jwt.PyJWTError as error:
        raise _refusal_for(error, rules) from None
    _check_times(claims, rules.leeway, now)
    _check_values(claims, rules.claim_values)
    _check_user_id(claims, rules.user_id_claim)
    return claims


def _invalid(message: str) -> Refusal:
    return Refusal("token_invalid", message)


def _signed_claims(token: str, keys: KeySet, rules: Rules, now: float) -> dict[str, Any]:
    algorithm, kid, typ = _header_of(token.partition(".")[0])
    if algorithm not in ALGORITHMS:
        raise jwt.InvalidAlgorithmError
    if rules.typ is not None and not (isinstance(typ, str) and media_type(typ) in rules.typ):
        raise _invalid("The token's typ is not accepted: is it an access token?")
    candidates = keys.candidates(kid, algorithm, now)
    for key in candidates:
        try:
            return jwt.decode(
                token,
                key.verifier(algorithm),
                algorithms=key.algorithms,
                issuer=rules.issuer,
                audience=rules.audience,
                options={
                    "require": [*rules.required],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidSignatureError:
            continue
    if kid is None or not keys.names(kid):
        message = _BAD_SIGNATURE if kid is None and candidates else _NO_KEY
        raise (
            UnknownKey(message=message) if algorithm in PUBLIC_KEY_ALGORITHMS else _invalid(message)
        )
    if not candidates:
        raise _invalid("The token's key is for another algorithm, or is no longer used.")
    raise jwt.InvalidSignatureError


@lru_cache(maxsize=64)
def _header_of(header: str) -> tuple[Any, Any, Any]:
    """``alg``, ``kid`` and ``typ`` of a token's first part, the same for all of an issuer.

    That part alone: PyJWT would decode the rest as well, and again to verify it.
    """
    fields = jwt.get_unverified_header(header + "..")
    return fields.get("alg"), fields.get("kid"), fields.get("typ")


def media_type(typ: str) -> str:
    """RFC 7515, section 4.1.9: case does not matter, and ``application/`` may be left out."""
    return typ.lower().removeprefix("application/")


def _refusal_for(error: jwt.PyJWTError, rules: Rules) -> Refusal:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return _invalid(f"The token has no {error.claim} claim.")
    if isinstance(error, jwt.InvalidAudienceError) and rules.audience is None:
        return _invalid("The token names an audience, but no audience is configured.")
    for kind, message in _REASONS:
        if isinstance(error, kind):
            return _invalid(message)
    # RFC 7515's crit
    return _invalid("The token has a header parameter that is not supported.")


def _check_times(claims: Mapping[str, Any], leeway: float, now: float) -> None:
    for name in ("exp", "nbf", "iat"):
        if name in claims and not is_instant(claims[name]):
            raise _invalid(f"The token's {name} claim is not a time in seconds since 1970.")
    if "exp" in claims and now >= claims["exp"] + leeway:
        raise Refusal("token_expired")
    if "nbf" in claims and now < claims["nbf"] - leeway:
        raise Refusal("token_not_yet_valid")
    if "iat" in claims and now < claims["iat"] - leeway:
        raise _invalid("The token was issued in the future: compare the clocks.")


def is_instant(value: object) -> bool:
    """A NumericDate (RFC 7519, section 2): no bool, NaN or infinity; arithmetic is safe."""
    return type(value) in (int, float) and 0 <= value <= _LAST_INSTANT  # type: ignore[operator]


def _check_values(claims: Mapping[str, Any], allowed: Mapping[str, tuple[str, ...]]) -> None:
    for name, values in allowed.items():
        if texts_at(claims, name).isdisjoint(values):
            raise _invalid(f"The value of the token's {name} claim is not accepted.")


def _check_user_id(claims: Mapping[str, Any], name: str) -> None:
    value = claims.get(name)
    # Some databases and encoders fail on other text (NUL, half of a surrogate pair).
    if not (isinstance(value, str) and value and value.isprintable()):
        raise _invalid(f"The token's {name} claim must be a user's id, a printable string.")
