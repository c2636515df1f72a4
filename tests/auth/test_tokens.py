"""Making tokens: every token made is one that `JWTAuth` takes."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from trioserver.auth import JWTAuth, Key, WeakSecretError, make_secret, make_token
from trioserver.auth.tokens import PrivateKey

PRIVATE: dict[str, PrivateKey] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
SECRET = make_secret()


def claims_of(token: str) -> dict[str, object]:
    return jwt.decode(token, options={"verify_signature": False})


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_private_key_signs_what_its_public_key_verifies(algorithm: str) -> None:
    private = PRIVATE[algorithm]
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    auth = JWTAuth(keys=[Key(material=private.public_key(), kid="k")])
    for key in (private, pem, pem.decode()):
        token = make_token(key, subject="alice", key_id="k")
        assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k", "typ": "JWT"}
        assert auth.check(token).id == "alice"


@pytest.mark.parametrize("algorithm", [None, "HS256", "HS384", "HS512"])
def test_a_secret_signs_with_any_hmac_it_is_long_enough_for(algorithm: str | None) -> None:
    token = make_token(SECRET, subject="alice", algorithm=algorithm)
    assert jwt.get_unverified_header(token) == {"alg": algorithm or "HS256", "typ": "JWT"}
    assert JWTAuth(secret=SECRET).check(token).id == "alice"


def test_the_claims_are_as_asked_for() -> None:
    token = make_token(
        SECRET,
        subject="alice",
        lifetime=60,
        claims={"role": "admin"},
        issuer="us",
        audience=["chat", "mail"],
        clock=lambda: 1000.0,
    )
    claims = claims_of(token)
    token_id = claims.pop("jti")
    assert claims == {
        "sub": "alice",
        "iat": 1000,
        "exp": 1060,
        "iss": "us",
        "aud": ["chat", "mail"],
        "role": "admin",
    }
    assert isinstance(token_id, str)
    assert len(token_id) == 32
    assert token_id != claims_of(make_token(SECRET, subject="alice"))["jti"]


@pytest.mark.parametrize(
    ("now", "lifetime", "exp"),
    [(1000.25, 60.0, 1061), (1000.0, 0.5, 1000.5), (1000.0, -1.0, 999), (1000.0, 1800.0, 2800)],
)
def test_a_token_lives_as_long_as_asked_and_in_whole_seconds_if_they_were(
    now: float, lifetime: float, exp: float
) -> None:
    token = make_token(SECRET, subject="alice", lifetime=lifetime, clock=lambda: now)
    assert claims_of(token)["exp"] == exp
    assert claims_of(token)["iat"] == 1000


def test_more_claims_win() -> None:
    token = make_token(SECRET, subject="alice", claims=[("exp", 5), ("sub", 7)])
    assert (claims_of(token)["exp"], claims_of(token)["sub"]) == (5, 7)


@pytest.mark.parametrize(
    ("key", "algorithm"), [(SECRET, "none"), (SECRET, "RS256"), (SECRET[:40], "HS512")]
)
def test_an_algorithm_that_does_not_fit_the_key_is_refused(key: str, algorithm: str) -> None:
    with pytest.raises(ValueError, match="does not fit this key: use HS256"):
        make_token(key, subject="alice", algorithm=algorithm)


def test_a_weak_secret_signs_nothing() -> None:
    with pytest.raises(WeakSecretError):
        make_token("changeme", subject="alice")


def test_a_small_rsa_key_signs_nothing() -> None:
    with pytest.raises(ValueError, match="2048"):
        make_token(rsa.generate_private_key(65537, 1024), subject="alice")


@pytest.mark.parametrize(
    "pem",
    [
        "-----BEGIN PRIVATE KEY-----",
        PRIVATE["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        PRIVATE["RS256"].private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        ),
    ],
)
def test_what_is_no_private_key_signs_nothing(pem: str | bytes) -> None:
    with pytest.raises(ValueError, match="unencrypted private key"):
        make_token(pem, subject="alice")


def test_a_token_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="subject"):
        make_token(SECRET, subject="")
