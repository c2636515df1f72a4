"""Looking into tokens: everything is told, nothing raises."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.auth import JWTAuth, Key, inspect_token, make_secret, make_token

NOW = 1_000_000.0
SECRET = make_secret()
AUTH = JWTAuth(secret=SECRET, clock=lambda: NOW)


def token_with(secret: str = SECRET, lifetime: float = 60.0, **claims: object) -> str:
    return make_token(
        secret, subject="alice", lifetime=lifetime, claims=claims, clock=lambda: NOW, key_id="k"
    )


def test_a_good_token_is_read_and_verified() -> None:
    found = inspect_token(token_with(role="admin"), auth=AUTH)
    assert found.header == {"alg": "HS256", "kid": "k", "typ": "JWT"}
    assert found.claims is not None
    assert found.claims["role"] == "admin"
    assert (found.issued_at, found.expires_at, found.expires_in) == (NOW, NOW + 60.0, 60.0)
    assert (found.verified, found.refusal) == (True, None)


def test_keys_do_as_well() -> None:
    found = inspect_token(token_with(), keys=[Key.secret(SECRET)], clock=lambda: NOW)
    assert found.verified is True


def test_without_keys_nothing_is_verified() -> None:
    found = inspect_token(token_with(), clock=lambda: NOW + 100.0)
    assert (found.verified, found.refusal, found.expires_in) == (None, None, -40.0)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (token_with(make_secret()), "token_invalid"),
        (token_with(lifetime=-60.0), "token_expired"),
        (token_with(nbf=NOW + 60), "token_not_yet_valid"),
        (token_with(aud="chat"), "token_invalid"),
    ],
)
def test_a_token_that_is_refused_is_still_read(token: str, code: str) -> None:
    found = inspect_token(token, auth=AUTH)
    assert found.claims is not None
    assert found.claims["sub"] == "alice"
    assert found.verified is False
    assert found.refusal is not None
    assert found.refusal.code == code


def test_what_can_be_read_is_read() -> None:
    header, _, rest = token_with().partition(".")
    found = inspect_token(f"{header}.x.x", auth=AUTH)
    assert (found.header is None, found.claims) == (False, None)
    found = inspect_token(f"x.{rest}", auth=AUTH)
    assert (found.header, found.claims, found.expires_in) == (None, None, None)
    assert inspect_token(token_with(exp="soon"), auth=AUTH).expires_at is None


@given(st.none() | st.integers() | st.text(st.characters()) | st.binary() | st.lists(st.text()))
def test_garbage_is_refused_and_raises_nothing(token: object) -> None:
    found = inspect_token(token, auth=AUTH)
    assert (found.claims, found.verified) == (None, False)
    assert inspect_token(token).verified is None


def test_no_token_claim_or_secret_is_in_its_repr() -> None:
    token = token_with(email="alice@example.com")
    found = inspect_token(token, auth=AUTH)
    for text in (SECRET, token, token.rpartition(".")[2], "alice@example.com"):
        assert text not in f"{found!r} {found}"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.verified = True  # type: ignore[misc]
