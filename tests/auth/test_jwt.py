"""The JWT authenticator: each fault has one code, and nothing but a refusal comes out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from protocol import Refusal
from trioserver.auth import (
    Credentials,
    JWTAuth,
    Key,
    User,
    WeakSecretError,
    make_secret,
    make_token,
)
from trioserver.auth.tokens import PrivateKey
from trioserver.websocket.request import Request

NOW = 1_000_000.0
SECRET = make_secret()
OTHER_SECRET = make_secret()
RSA = rsa.generate_private_key(65537, 2048)
REQUEST = Request(path="/")


def clock() -> float:
    return NOW


def virtual_clock() -> float:
    return NOW + trio.current_time() - START[0]


START = [0.0]


def auth_with(**options: Any) -> JWTAuth:
    defaults: dict[str, Any] = {"secret": SECRET, "clock": clock}
    return JWTAuth(**(defaults | options))


def token_with(_key: str = SECRET, **claims: Any) -> str:
    return make_token(_key, subject="alice", claims=claims, clock=clock)


def bare_token(claims: object, header: object = None, secret: str = SECRET) -> str:
    """Signed well, whatever it says."""
    parts = [{"alg": "HS256"} if header is None else header, claims]
    texts = [part if isinstance(part, str) else json.dumps(part) for part in parts]
    signed = b".".join(encode(text.encode()) for text in texts)
    return (signed + b"." + encode(sign(signed, secret.encode()))).decode()


def encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def sign(data: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, data, hashlib.sha256).digest()


async def answer(auth: JWTAuth, token: Any) -> User | Refusal:
    try:
        return await auth(Credentials(source="message", token=token), REQUEST)
    except Refusal as refusal:
        return refusal


async def code(auth: JWTAuth, token: Any) -> str:
    found = await answer(auth, token)
    if isinstance(found, User):
        return "ready"
    if isinstance(token, str) and token:
        assert token not in found.message
    return found.code


async def test_a_good_token_gives_its_user() -> None:
    auth = auth_with(public=["name", "missing"])
    user = await answer(auth, token_with(name="Alice", jti="one", role="admin"))
    assert isinstance(user, User)
    assert (user.id, user.expires_at, user.token_id) == ("alice", NOW + 1800.0, "one")
    assert user.public == {"name": "Alice"}
    assert user.claims["role"] == "admin"


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_missing(token: str | None) -> None:
    assert await code(auth_with(), token) == "token_missing"


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "..",
        "a.b.c",
        "null",
        "é.é.é",
        "\ud800",
        "\0",
        5,
        True,
        1.5,
        b"abc",
        ["a"],
        {"a": 1},
        token_with().encode(),
        "Bearer " + token_with(),
        token_with() + "==",
        token_with()[:-3],
        token_with().rpartition(".")[0] + ".",
        token_with(OTHER_SECRET),
        bare_token("not JSON"),
        bare_token([]),
        bare_token("[" * 3000),
        bare_token('{"a":' * 800 + "1" + "}" * 800),
        bare_token({"sub": "alice"}, "[" * 3000),
        bare_token({"sub": "alice"}, "null"),
        bare_token('{"sub": "alice", "exp": ' + "9" * 5000 + "}"),
    ],
)
async def test_what_is_no_jwt_of_this_server_is_invalid(token: object) -> None:
    assert await code(auth_with(), token) == "token_invalid"


GOOD: dict[str, Any] = {"sub": "alice", "exp": NOW + 60}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS1"},
        {"alg": "RS256"},
        {"alg": "RS512"},
        {"alg": ["HS256"]},
        {"alg": {}},
        {"alg": None},
        {"alg": 5},
        {"alg": "HS256", "kid": 5},
        {"alg": "HS256", "kid": None},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": "b64"},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
    ],
)
async def test_a_header_that_is_not_understood_is_invalid(header: dict[str, object]) -> None:
    assert await code(auth_with(), bare_token(GOOD)) == "ready"
    assert await code(auth_with(), bare_token(GOOD, header)) == "token_invalid"


async def test_an_unsigned_token_is_invalid() -> None:
    token = jwt.encode(GOOD, "", algorithm="none")
    assert await code(auth_with(), token) == "token_invalid"


@pytest.mark.parametrize("kid", [{}, {"kid": "rsa"}])
async def test_a_token_signed_with_the_public_key_as_secret_is_invalid(kid: dict[str, str]) -> None:
    """Algorithm confusion: RFC 8725, section 2.1."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = (
        encode(json.dumps({"alg": "HS256"} | kid).encode())
        + b"."
        + encode(json.dumps(GOOD).encode())
    )
    for secret in (pem, pem.strip()):
        token = (signed + b"." + encode(sign(signed, secret))).decode()
        for keys in ([Key.from_pem(pem)], [Key.from_pem(pem, kid="rsa"), Key.secret(SECRET)]):
            assert await code(JWTAuth(keys=keys, clock=clock), token) == "token_invalid"


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"sub": "alice"}, "no exp claim"),
        ({"exp": NOW + 60}, "no sub claim"),
        (GOOD | {"sub": None}, "no sub claim"),
        (GOOD | {"sub": ""}, "user's id"),
        (GOOD | {"sub": 5}, "sub claim is not a string"),
        (GOOD | {"sub": ["alice"]}, "sub claim is not a string"),
        (GOOD | {"sub": "a\0"}, "user's id"),
        (GOOD | {"sub": "\ud800"}, "user's id"),
        (GOOD | {"jti": 5}, "jti claim is not a string"),
        (GOOD | {"aud": "chat"}, "no audience is configured"),
        (GOOD | {"iat": NOW + 31}, "compare the clocks"),
        (GOOD | {"iat": "now"}, "iat claim is not a time"),
        (GOOD | {"nbf": None}, "nbf claim is not a time"),
        (GOOD | {"exp": None}, "no exp claim"),
        (GOOD | {"exp": True}, "exp claim is not a time"),
        (GOOD | {"exp": "1"}, "exp claim is not a time"),
        (GOOD | {"exp": []}, "exp claim is not a time"),
        (GOOD | {"exp": float("nan")}, "exp claim is not a time"),
        (GOOD | {"exp": float("inf")}, "exp claim is not a time"),
        (GOOD | {"exp": -1}, "exp claim is not a time"),
        (GOOD | {"exp": 1e300}, "exp claim is not a time"),
        (GOOD | {"exp": 10**4000}, "exp claim is not a time"),
        (GOOD | {"exp": NOW * 1e6}, "exp claim is not a time"),
    ],
)
async def test_claims_that_are_wrong_are_invalid_and_it_is_said_why(
    claims: dict[str, object], message: str
) -> None:
    refusal = await answer(auth_with(), bare_token(claims))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "token_invalid"
    assert message in refusal.message


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 29.9}, "ready"),
        ({"exp": NOW - 30}, "token_expired"),
        ({"exp": 0}, "token_expired"),
        ({"nbf": NOW + 30}, "ready"),
        ({"nbf": NOW + 30.1}, "token_not_yet_valid"),
        ({"iat": NOW + 30}, "ready"),
        ({"nbf": NOW + 60, "iat": NOW + 60}, "token_not_yet_valid"),
        ({"exp": NOW - 60, "nbf": NOW + 60}, "token_expired"),
    ],
)
async def test_times_are_judged_with_the_leeway(claims: dict[str, Any], expected: str) -> None:
    assert await code(auth_with(), token_with(**claims)) == expected


@pytest.mark.parametrize(("exp", "told"), [(NOW + 1, NOW + 1), (NOW - 50, NOW + 50)])
async def test_the_leeway_moves_the_expiry_only_of_a_token_that_it_lets_in(
    exp: float, told: float
) -> None:
    user = await answer(auth_with(leeway=100.0), token_with(exp=exp))
    assert isinstance(user, User)
    assert user.expires_at == told


async def test_a_token_expires_as_the_clock_goes_on(autojump_clock: trio.abc.Clock) -> None:
    START[0] = trio.current_time()
    auth = auth_with(clock=virtual_clock, leeway=0.0)
    token = token_with(exp=NOW + 60)
    await trio.sleep(59)
    assert await code(auth, token) == "ready"
    await trio.sleep(1)
    assert await code(auth, token) == "token_expired"


@pytest.mark.parametrize("claims", [{"exp": 5}, {"nbf": NOW + 500}, {"jti": "revoked"}])
async def test_a_forged_token_is_invalid_whatever_else_it_is(claims: dict[str, Any]) -> None:
    auth = auth_with(revoked=lambda token_id: True)
    assert await code(auth, token_with(OTHER_SECRET, **claims)) == "token_invalid"


@pytest.mark.parametrize("wanted", ["us", ["us", "them"], {"us"}])
async def test_the_issuer_has_to_be_one_of_those_named(wanted: Any) -> None:
    auth = auth_with(issuer=wanted)
    assert await code(auth, token_with(iss="us")) == "ready"
    for token in (token_with(), token_with(iss="u"), bare_token(GOOD | {"iss": ["us"]})):
        assert await code(auth, token) == "token_invalid"


@pytest.mark.parametrize("wanted", ["chat", ["chat", "mail"], ("chat",)])
async def test_the_audience_has_to_be_one_of_those_named(wanted: Any) -> None:
    auth = auth_with(audience=wanted)
    assert await code(auth, token_with(aud="chat")) == "ready"
    assert await code(auth, token_with(aud=["shop", "chat"])) == "ready"
    for aud in ("shop", "cha", [], "", 5, {"chat": 1}, [5], [["chat"]]):
        assert await code(auth, token_with(aud=aud)) == "token_invalid"
    assert await code(auth, token_with()) == "token_invalid"


async def test_more_claims_can_be_required_or_none() -> None:
    assert await code(auth_with(required=["exp", "role"]), token_with()) == "token_invalid"
    user = await answer(auth_with(required=[]), bare_token({"sub": "alice"}))
    assert isinstance(user, User)
    assert user.expires_at is None
    assert await code(auth_with(required=[]), bare_token({"x": 1})) == "token_invalid"
    assert (
        await code(auth_with(required=[]), bare_token({"sub": "a", "exp": None})) == "token_invalid"
    )


async def test_another_claim_can_be_the_users_id() -> None:
    user = await answer(auth_with(user_id_claim="uid"), token_with(uid="u-1"))
    assert isinstance(user, User)
    assert user.id == "u-1"
    for token in (token_with(), token_with(uid=1), token_with(uid="")):
        assert await code(auth_with(user_id_claim="uid"), token) == "token_invalid"


async def test_a_public_claim_that_json_cannot_carry_is_left_out() -> None:
    auth = auth_with(public=("name", "role"))
    user = await answer(auth, bare_token(GOOD | {"name": "Al\ud83d", "role": "admin"}))
    assert isinstance(user, User)
    assert user.public == {"role": "admin"}


def is_revoked(token_id: str) -> bool:
    return token_id == "stolen"


async def is_revoked_slowly(token_id: str) -> bool:
    await trio.sleep(1)
    return token_id == "stolen"


@pytest.mark.parametrize("revoked", [is_revoked, is_revoked_slowly])
async def test_a_revoked_token_is_refused(
    revoked: Callable[[str], bool], autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_with(revoked=revoked)
    assert await code(auth, token_with(jti="stolen")) == "token_revoked"
    assert await code(auth, token_with(jti="mine")) == "ready"
    assert await code(auth, bare_token(GOOD)) == "token_invalid"  # without jti it cannot be told


def fails(token_id: str) -> bool:
    raise KeyError(token_id)


async def fails_in_a_group(token_id: str) -> bool:
    raise ExceptionGroup("nursery", [OSError()])


async def hangs(token_id: str) -> bool:
    await trio.sleep_forever()
    return False


@pytest.mark.parametrize("revoked", [fails, fails_in_a_group, hangs])
async def test_revocation_that_cannot_be_told_admits_nobody(
    revoked: Callable[[str], bool], autojump_clock: trio.abc.Clock
) -> None:
    assert await code(auth_with(revoked=revoked), token_with()) == "unavailable"


async def test_cancelling_it_propagates(autojump_clock: trio.abc.Clock) -> None:
    auth = auth_with(revoked=hangs)
    with trio.move_on_after(1) as scope:
        await answer(auth, token_with())
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await answer(auth, token_with())
    assert scope.cancelled_caught


async def test_keys_are_picked_by_kid_and_end_at_valid_until(
    autojump_clock: trio.abc.Clock,
) -> None:
    START[0] = trio.current_time()
    old, new = make_secret(), make_secret()
    auth = JWTAuth(
        keys=[Key.secret(new, kid="2"), Key.secret(old, kid="1", valid_until=NOW + 60)],
        clock=virtual_clock,
    )

    def signed(secret: str, kid: str | None) -> str:
        return make_token(secret, subject="alice", key_id=kid, clock=clock)

    assert await code(auth, signed(new, "2")) == "ready"
    assert await code(auth, signed(old, "1")) == "ready"
    assert await code(auth, signed(old, None)) == "ready"
    assert await code(auth, signed(old, "2")) == "token_invalid"
    assert await code(auth, signed(new, "3")) == "token_invalid"
    await trio.sleep(60)
    refusal = await answer(auth, signed(old, "1"))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, "no longer used" in refusal.message) == ("token_invalid", True)
    assert await code(auth, signed(old, None)) == "token_invalid"
    assert await code(auth, signed(new, "2")) == "ready"


async def test_keys_without_kid_are_tried_in_turn() -> None:
    private: list[PrivateKey] = [RSA, ec.generate_private_key(ec.SECP256R1())]
    private.append(ed25519.Ed25519PrivateKey.generate())
    auth = JWTAuth(
        keys=[Key(material=key.public_key()) for key in private]
        + [Key.secret(SECRET), Key.secret(OTHER_SECRET)],
        clock=clock,
    )
    for key in (*private, SECRET, OTHER_SECRET):
        for kid in (None, "whatever"):
            assert (
                await code(auth, make_token(key, subject="a", key_id=kid, clock=clock)) == "ready"
            )
    assert await code(auth, token_with(make_secret())) == "token_invalid"


async def test_keys_are_replaced_without_a_restart() -> None:
    auth = auth_with()
    auth.rotate(secret=OTHER_SECRET)
    assert await code(auth, token_with()) == "token_invalid"
    assert await code(auth, token_with(OTHER_SECRET)) == "ready"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "JWTAuth has no key to verify tokens with"),
        ({"secret": "changeme"}, "The secret is a well-known placeholder"),
        ({"keys": ["x"]}, "make them with `Key.secret`"),
    ]
    for bad, said in wrong:
        with pytest.raises(ValueError, match=said):
            auth.rotate(**bad)
        assert await code(auth, token_with(OTHER_SECRET)) == "ready"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"secret": None}, "set secret"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": float("nan")}, "leeway"),
        ({"revoked_timeout": 0}, "revoked_timeout"),
        ({"revoked_timeout": float("inf")}, "revoked_timeout"),
        ({"issuer": ""}, "issuer"),
        ({"audience": []}, "audience"),
        ({"audience": [""]}, "audience"),
        ({"required": "exp"}, "not a string"),
        ({"public": "name"}, "not a string"),
        ({"jwks": "http://example.com/keys"}, "https"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auth_with(**options)


def test_a_weak_secret_is_refused() -> None:
    with pytest.raises(WeakSecretError):
        JWTAuth(secret="your-256-bit-secret")


async def test_run_without_a_jwks_has_nothing_to_do(nursery: trio.Nursery) -> None:
    await nursery.start(auth_with().run)


async def test_secrets_and_tokens_are_in_no_repr() -> None:
    auth, token = auth_with(), token_with(name="Alice")
    user = await answer(auth, token)
    credentials = Credentials(source="message", token=token, fields={"token": token})
    shown = f"{auth!r} {auth} {user!r} {user} {credentials!r} {credentials}"
    assert all(text not in shown for text in (SECRET, token, "Alice"))


def check(auth: JWTAuth, token: object) -> str:
    try:
        auth.check(token)
    except Refusal as refusal:
        return refusal.code
    return "ready"


CODES = {"token_missing", "token_invalid", "token_expired", "token_not_yet_valid"}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.text(st.characters()) | st.binary() | ANYTHING | st.from_regex(r"\A[\w-]+\.[\w-]*\.[\w-]*\Z")
)
def test_arbitrary_things_are_refused_and_raise_nothing_else(token: object) -> None:
    assert check(auth_with(), token) in CODES


@given(st.data())
def test_mutated_tokens_are_refused(data: st.DataObject) -> None:
    token = token_with()
    at = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.text(st.characters(), max_size=3))
    changed = token[:at] + put + token[at + 1 :]
    assert changed.rstrip("=") == token or check(auth_with(), changed) in CODES


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku"]), ANYTHING, max_size=4
    ),
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "jti", "iss", "aud", "name"]), ANYTHING
    ),
    st.booleans(),
)
def test_any_claims_and_headers_give_a_user_or_a_refusal(
    header: dict[str, object], claims: dict[str, object], usual: bool
) -> None:
    token = bare_token(
        (GOOD | claims) if usual else claims, {"alg": "HS256"} | (header if not usual else {})
    )
    auth = auth_with(issuer=None if usual else "us", public=("name", "aud"))
    assert check(auth, token) in CODES | {"ready"}
