"""Which scenarios `trioserver check` runs, and the tokens that they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trioserver.auth import inspect_token, make_secret, make_token
from trioserver.cli.conformance.scenarios import Scenario
from trioserver.cli.parameters.keys import KeyMaterial, key_failure
from trioserver.client import WebSocketURL

_TIMES: Final = ("exp", "iat", "nbf", "jti", "sub")
"""Claims that a token made here does not copy from the valid one."""

_EXPIRED_AN_HOUR_AGO: Final = -3600.0
_UNKNOWN_USER: Final = "trioserver-check"


def plan(
    address: WebSocketURL,
    *,
    token: str | None,
    expired: str | None,
    key: KeyMaterial | None,
    user_id_claim: str = "sub",
    other: WebSocketURL | None,
) -> tuple[Scenario, ...]:
    """All scenarios, each with the reason if it cannot be run."""

    def scenario(name: str, expected: str, token: str | None, hint: str, **more: Any) -> Scenario:
        fields: dict[str, Any] = {"address": address, "first": {"type": "auth", "token": token}}
        fields |= more | {"skipped": hint if token is None else None}
        return Scenario(name=name, expected=expected, **fields)

    def make(subject: str, **more: Any) -> str:
        own = {} if user_id_claim == "sub" else {user_id_claim: subject}
        assert key is not None
        return _make(key, subject, claims | own, **more)

    subject, claims = _subject(token, user_id_claim)
    if expired is None and key is not None:
        expired = make(subject, lifetime=_EXPIRED_AN_HOUR_AGO)
    unknown_user = other is None and key is not None
    other_token = make(_UNKNOWN_USER) if unknown_user else token if other else None
    forged = make_token(make_secret(), subject=subject, claims=claims)
    return (
        scenario("valid", "ready", token, "give --token"),
        scenario("expired", "token_expired", expired, "give --expired, or the secret"),
        scenario("invalid", "token_invalid", forged, ""),
        scenario("missing", "token_missing", "", "", first={"type": "auth"}),
        scenario("silent", "auth_timeout", "", "", first=None),
        scenario("not auth", "auth_required", "", "", first={"type": "message", "id": 1}),
        scenario(
            "not authorized",
            "access_denied",
            other_token,
            "give --token with --other-url, or the secret",
            address=other or address,
            unknown_user=unknown_user,
        ),
    )


def _subject(token: str | None, user_id_claim: str) -> tuple[str, dict[str, Any]]:
    """The token's user, whom the server knows, and its other claims."""
    claims = (inspect_token(token).claims if token else None) or {}
    subject = claims.get(user_id_claim)
    more = {name: value for name, value in claims.items() if name not in _TIMES}
    return subject if isinstance(subject, str) and subject else _UNKNOWN_USER, more


def _make(
    key: KeyMaterial, subject: str, claims: Mapping[str, Any], lifetime: float = 600.0
) -> str:
    try:
        return make_token(key.text, subject=subject, lifetime=lifetime, claims=claims)
    except ValueError as error:
        raise key_failure(key, error) from None
