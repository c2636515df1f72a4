"""Keys: what is refused, and which key a token is tried with."""

from __future__ import annotations

import base64
import json
import re
import secrets
from datetime import UTC, datetime, timedelta

import attrs
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from trioserver.auth import Key, KeySet, WeakSecretError, make_secret, make_token
from trioserver.auth.keys import Material

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PUBLIC: dict[str, Material] = {
    "RS256": RSA.public_key(),
    "ES256": EC.public_key(),
    "ES384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "ES512": ec.generate_private_key(ec.SECP521R1()).public_key(),
    "EdDSA": ED.public_key(),
}


def pem_of(public: Material) -> bytes:
    assert not isinstance(public, bytes)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk_of(algorithm: str) -> dict[str, object]:
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(PUBLIC[algorithm], as_dict=True)
    assert isinstance(jwk, dict)
    return jwk


ABLE = {
    "RS256": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "ES256": ("ES256",),
    "ES384": ("ES384",),
    "ES512": ("ES512",),
    "EdDSA": ("EdDSA", "Ed25519"),
}


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_key_has_the_algorithms_of_its_type(algorithm: str) -> None:
    pem = pem_of(PUBLIC[algorithm])
    for key in (
        Key.from_pem(pem, kid="a", valid_until=5.0),
        Key.from_pem(pem.decode(), kid="a", valid_until=5.0),
        Key.from_jwk(jwk_of(algorithm) | {"use": "sig"}, kid="a", valid_until=5.0),
    ):
        assert key.algorithms == ABLE[algorithm]
        assert (key.kid, key.valid_until) == ("a", 5.0)


@pytest.mark.parametrize("alg", ABLE["RS256"])
def test_a_jwk_that_names_its_algorithm_is_for_that_alone(alg: str) -> None:
    assert Key.from_jwk(jwk_of("RS256") | {"alg": alg}).algorithms == (alg,)


@pytest.mark.parametrize("alg", ABLE["EdDSA"])
def test_the_two_names_of_ed25519_are_the_same_algorithm(alg: str) -> None:
    assert Key.from_jwk(jwk_of("EdDSA") | {"alg": alg}).algorithms == ABLE["EdDSA"]


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider.example")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, RSA.public_key(), 1)
    built = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=1))
    return built.sign(RSA, SHA256()).public_bytes(Encoding.PEM)


PEM = pem_of(RSA.public_key()).decode()


@pytest.mark.parametrize(
    "text",
    [
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\\r\\n"),
        PEM.replace("\n", " "),
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", "\n    "),
        f"\ufeff{PEM}",
        f'"{PEM}"',
        f"Key for 2026:\n{PEM}",
        RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode(),
        certificate().decode(),
        certificate().decode().replace("\n", "\\n"),
    ],
)
def test_pem_is_read_as_people_have_it(text: str) -> None:
    assert Key.from_pem(text) == Key(material=RSA.public_key())


def test_several_keys_in_one_text_are_read_one_after_the_other() -> None:
    text = PEM + certificate().decode() + pem_of(EC.public_key()).decode()
    keys = Key.all_from_pem(text)
    assert [key.algorithms[0] for key in keys] == ["RS256", "RS256", "ES256"]
    with pytest.raises(ValueError, match="more than one key"):
        Key.from_pem(text)


def test_a_jwk_may_have_its_key_in_a_certificate() -> None:
    (body,) = re.findall("-----([^-]+)-----END", certificate().decode())
    jwk = {"kty": "RSA", "kid": "k1", "use": "sig", "x5c": ["".join(body.split())]}
    assert Key.from_jwk(jwk).material == RSA.public_key()
    with pytest.raises(ValueError, match="malformed"):
        Key.from_jwk(jwk | {"x5c": []})


@pytest.mark.parametrize(
    ("length", "algorithms"),
    [
        (32, ("HS256",)),
        (47, ("HS256",)),
        (48, ("HS256", "HS384")),
        (64, ("HS256", "HS384", "HS512")),
    ],
)
def test_a_secret_has_the_algorithms_it_is_long_enough_for(
    length: int, algorithms: tuple[str, ...]
) -> None:
    secret = secrets.token_bytes(length)
    assert Key.secret(secret).algorithms == algorithms
    encoded = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    assert Key.from_jwk({"kty": "oct", "k": encoded, "kid": "k"}).algorithms == algorithms


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        (None, "is missing"),
        ("", "is empty"),
        (b"", "is empty"),
        ("   ", "placeholder"),
        ("correct horse", "is shorter"),
        ("secret", "placeholder"),
        ("changeme", "placeholder"),
        ("Change-Me!", "placeholder"),
        ("your-256-bit-secret", "placeholder"),
        ("your-secret-key-here-at-least-32-characters", "placeholder"),
        ("a-string-secret-at-least-256-bits-long", "placeholder"),
        (
            "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
            "placeholder",
        ),
        ("super-secret-key-please-change-me-in-production", "placeholder"),
        ("changeme" * 8, "placeholder"),
        ("your-256-bit-secret-your-256-bit-secret", "placeholder"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "placeholder"),
        ("x" * 40, "pattern"),
        (b"\0" * 64, "pattern"),
        ("0123456789abcdef" * 2, "placeholder"),
        ("f00dcafe" * 5, "pattern"),
        ("\ud800" * 40, "Unicode"),
    ],
)
def test_a_weak_secret_is_refused_in_one_sentence_that_says_what_to_do(
    secret: str | bytes | None, fault: str
) -> None:
    with pytest.raises(WeakSecretError, match=fault) as caught:
        Key.secret(secret)
    message = str(caught.value)
    assert "`trioserver secret`" in message
    assert "secrets.token_urlsafe(48)" in message
    assert message.count(". ") == 0
    if isinstance(secret, str) and len(secret.strip()) > 6:
        assert secret not in message
    assert caught.value.__cause__ is None


GOOD = make_secret()


@pytest.mark.parametrize(
    ("secret", "fault"),
    [
        (f"{GOOD}\n", "begins or ends with white space"),
        (f"{GOOD}\r\n".encode(), "begins or ends with white space"),
        (f" {GOOD}", "begins or ends with white space"),
        (f"\ufeff{GOOD}", "begins with a byte order mark"),
        (f'"{GOOD}"', "is in quotes"),
        (f"TRIOSERVER_SECRET={GOOD}", "looks like NAME=value"),
    ],
)
def test_what_stands_around_a_secret_is_not_silently_part_of_it(
    secret: str | bytes, fault: str
) -> None:
    with pytest.raises(WeakSecretError, match=f"^The secret {fault}") as caught:
        Key.secret(secret)
    assert GOOD not in str(caught.value)
    with pytest.raises(WeakSecretError, match=f"^The secret {fault}"):
        make_token(secret, subject="alice")


@pytest.mark.parametrize(
    "secret",
    [
        GOOD,
        base64.b64encode(bytes(range(7, 57))).decode(),  # ends with an equals sign
        "aB3=x9&kQ!7pL#2mW$8nR%4tY^6uI*0oZ",
        "correct horse battery staple, and a good deal of other words",
        bytes(range(10, 60)),  # begins with a newline, and is no text
    ],
)
def test_what_is_random_is_a_secret_whatever_it_looks_like(secret: str | bytes) -> None:
    assert "HS256" in Key.secret(secret).algorithms


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_key_in_any_form_is_not_taken_for_a_secret(algorithm: str) -> None:
    public = PUBLIC[algorithm]
    assert not isinstance(public, bytes)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for form in (
        pem_of(public),
        pem_of(public)[:60],  # cut off, so no PEM to a parser
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        base64.b64encode(der),  # as Keycloak shows it
        base64.encodebytes(der),
        json.dumps(jwk_of(algorithm)),
    ):
        with pytest.raises(WeakSecretError, match=r"Key\.from_pem"):
            Key.secret(form)


@given(st.binary(min_size=32, max_size=32).filter(lambda secret: len(set(secret)) > 20))
def test_random_bytes_are_a_good_secret(secret: bytes) -> None:
    Key.secret(secret)
    Key.secret(secret.hex())
    Key.secret(base64.b64encode(secret))


def test_a_made_secret_is_good_for_every_hmac_and_never_the_same() -> None:
    assert Key.secret(make_secret()).algorithms == ("HS256", "HS384", "HS512")
    assert make_secret() != make_secret()


@pytest.mark.parametrize(
    "material",
    [
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
    ],
)
def test_small_keys_and_other_curves_are_refused(material: Material) -> None:
    with pytest.raises(ValueError, match=r"2048 bits|P-521\) or Ed25519"):
        Key.from_pem(pem_of(material))


@pytest.mark.parametrize("private", [RSA, EC, ED])
def test_a_private_key_is_refused(
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="is a private key"):
        Key.from_pem(pem)
    with pytest.raises(ValueError, match="public key"):
        Key(material=private)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pem", ["", "x", b"\xff", "\ud800", make_secret(), pem_of(RSA.public_key())[:99]]
)
def test_what_is_not_pem_is_refused(pem: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        Key.from_pem(pem)


SECRET_JWK = {"kty": "oct", "k": "c2VjcmV0LXRleHQtdGhhdC1tdXN0LW5vdC1iZS1zaG93bi1pbi1lcnJvcnM"}


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": 5},
        {"kty": ["RSA"]},
        {"kty": "XYZ"},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 5, "e": []},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": "oct"},
        jwk_of("RS256") | {"use": "enc"},
        jwk_of("RS256") | {"key_ops": ["sign"]},
        jwk_of("RS256") | {"alg": "none"},
        jwk_of("RS256") | {"alg": "HS256"},
        jwk_of("RS256") | {"alg": "ES256"},
        jwk_of("ES256") | {"alg": "ES384"},
        jwk_of("EdDSA") | {"alg": "Ed448"},
        jwk_of("RS256") | {"alg": {}},
        jwk_of("RS256") | {"kid": 5},
        SECRET_JWK | {"alg": "RS256"},
        SECRET_JWK | {"k": "c2VjcmV0"},
    ],
)
def test_a_jwk_that_does_not_fit_is_refused_and_not_quoted(jwk: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(?:[Tt]he |algorithm )") as caught:
        Key.from_jwk(jwk)
    assert str(jwk.get("k", "nothing")) not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_secrets_are_in_no_repr() -> None:
    secret = make_secret()
    key = Key.secret(secret, kid="a")
    for text in (repr(key), str(key), repr(KeySet([key])), repr(attrs.evolve(key, kid="b"))):
        assert secret not in text


def test_keys_and_sets_do_not_change() -> None:
    key = Key.secret(make_secret())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        key.algorithms = ("none",)  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        KeySet([key]).keys = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        Key(material=b"x" * 32, algorithms=("none",))  # type: ignore[call-arg]


def test_a_set_of_anything_else_is_refused_and_not_quoted() -> None:
    secret = make_secret()
    with pytest.raises(ValueError, match=r"Key\.secret") as caught:
        KeySet([secret])  # type: ignore[list-item]
    assert secret not in str(caught.value)


A = Key.secret(make_secret(), kid="a")
B = Key.secret(make_secret(), kid="b", valid_until=100.0)
NAMELESS = Key.secret(make_secret())
NAMELESS_RSA = Key(material=RSA.public_key())
KEYS = KeySet([A, B, NAMELESS, NAMELESS_RSA])


@pytest.mark.parametrize(
    ("kid", "algorithm", "now", "keys"),
    [
        ("a", "HS256", 0.0, [A]),
        ("b", "HS256", 99.9, [B]),
        ("b", "HS256", 100.0, [NAMELESS]),
        ("unknown", "HS256", 0.0, [NAMELESS]),
        (None, "HS256", 0.0, [A, B, NAMELESS]),
        (None, "RS256", 0.0, [NAMELESS_RSA]),
        ("a", "RS256", 0.0, [NAMELESS_RSA]),
        ("a", "ES256", 0.0, []),
        ("a", "none", 0.0, []),
    ],
)
def test_a_kid_picks_keys_of_the_right_type_that_are_still_valid(
    kid: str | None, algorithm: str, now: float, keys: list[Key]
) -> None:
    assert KEYS.candidates(kid, algorithm, now) == keys


def test_an_ended_key_is_still_known_by_name() -> None:
    assert KEYS.names("b")
    assert not KEYS.names("unknown")
