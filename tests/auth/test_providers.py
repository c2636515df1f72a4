"""Tokens of the shapes that five identity providers issue, their keys found by discovery.

The provider is a real HTTP server on loopback. What makes each shape its own is in `PROVIDERS`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import attrs
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from protocol import Refusal
from trioserver.auth import JWKS, Credentials, JWTAuth, User
from trioserver.auth.fetching import FetchError
from trioserver.websocket.request import Request

NOW: Final = 1_900_000_000
REQUEST: Final = Request(path="/", query={}, headers={})
KEYS: Final = {kid: rsa.generate_private_key(65537, 2048) for kid in ("2025", "2026")}


def jwk_of(kid: str) -> dict[str, Any]:
    public = jwt.get_algorithm_by_name("RS256").to_jwk(KEYS[kid].public_key(), as_dict=True)
    assert isinstance(public, dict)
    return public | {"kid": kid, "use": "sig", "alg": "RS256"}


@attrs.define(slots=False)
class Provider:
    """An OpenID Connect provider. ``path``: of its issuer. ``agents``: who has asked."""

    path: str = ""
    kids: tuple[str, ...] = ("2025",)
    changes: dict[str, Any] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)
    agents: set[str | None] = attrs.field(factory=set)
    origin: str = ""

    @property
    def issuer(self) -> str:
        return self.origin + self.path

    def answer(self, path: str) -> Any:
        self.asked.append(path)
        if path == f"{self.path.rstrip('/')}/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{self.origin}/keys"} | self.changes
        return {"keys": [jwk_of(kid) for kid in self.kids]} if path == "/keys" else None

    def token(self, claims: dict[str, Any], kid: str = "2025", **header: Any) -> str:
        body = {"iss": self.issuer, "iat": NOW, "exp": NOW + 3600} | claims
        present = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(present, KEYS[kid], "RS256", headers={"kid": kid, **header})


@contextmanager
def running(provider: Provider) -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.agents.add(self.headers["User-Agent"])
            answer = provider.answer(self.path)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.origin = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()


@attrs.frozen(kw_only=True)
class Shape:
    """How a provider writes its tokens, and how `JWTAuth` is told.

    ``wrong``: what a token may have that is not for this server, and the advice that comes of it.
    """

    path: str = ""
    claims: dict[str, Any]
    header: dict[str, Any] = attrs.field(factory=dict)
    options: dict[str, Any]
    user: str
    role: tuple[str, str] | None = None
    scopes: set[str] = attrs.field(factory=set)
    wrong: tuple[tuple[dict[str, Any], str], ...] = ()


PROVIDERS: Final = {
    "auth0": Shape(
        path="/",
        claims={
            "sub": "auth0|64b1",
            "aud": ["https://chat.example", "https://t.auth0.com/userinfo"],
            "azp": "client-1",
            "scope": "openid read:notes",
            "https://chat.example/roles": ["admin"],
        },
        header={"typ": "at+jwt"},
        options={
            "audience": "https://chat.example",
            "typ": "at+jwt",
            "claim_values": {"azp": ["client-1", "client-2"]},
        },
        user="auth0|64b1",
        role=("https://chat.example/roles", "admin"),
        scopes={"openid", "read:notes"},
        wrong=(({"aud": "https://other.example"}, "audience"), ({"azp": "client-3"}, "azp")),
    ),
    "entra": Shape(
        path="/11111111-2222-3333-4444-555555555555/v2.0",
        claims={
            "sub": "pairwise",
            "oid": "9f0d1a52-0000-4000-8000-6b6e0c7e0a11",
            "tid": "11111111-2222-3333-4444-555555555555",
            "aud": "api://chat",
            "scp": "access_as_user Files.Read",
            "roles": ["Chat.Admin"],
            "nbf": NOW,
            "ver": "2.0",
        },
        options={
            "audience": "api://chat",
            "user_id_claim": "oid",
            "claim_values": {"scp": "access_as_user"},
        },
        user="9f0d1a52-0000-4000-8000-6b6e0c7e0a11",
        role=("roles", "Chat.Admin"),
        scopes={"access_as_user", "Files.Read"},
        wrong=(({"scp": "Files.Read"}, "scp"), ({"oid": None}, "oid")),
    ),
    "keycloak": Shape(
        path="/realms/staff",
        claims={
            "sub": "f:1:alice",
            "aud": "account",
            "typ": "Bearer",
            "azp": "chat-web",
            "sid": "session-1",
            "realm_access": {"roles": ["offline_access", "chat-admin"]},
            "scope": "profile email",
        },
        options={"audience": "account", "claim_values": {"azp": "chat-web", "typ": "Bearer"}},
        user="f:1:alice",
        role=("realm_access.roles", "chat-admin"),
        scopes={"profile", "email"},
        wrong=(({"typ": "Refresh"}, "typ"), ({"sub": None}, "sub")),
    ),
    "cognito": Shape(
        path="/eu-central-1_AbCdEf",
        claims={
            "sub": "aaaaaaaa-bbbb",
            "client_id": "7c1",
            "token_use": "access",
            "scope": "aws.cognito.signin.user.admin",
            "cognito:groups": ["admins"],
            "username": "alice",
        },
        options={"claim_values": {"client_id": "7c1", "token_use": "access"}},
        user="aaaaaaaa-bbbb",
        role=("cognito:groups", "admins"),
        scopes={"aws.cognito.signin.user.admin"},
        wrong=(({"client_id": "8d2"}, "client_id"), ({"token_use": "id"}, "token_use")),
    ),
    "firebase": Shape(
        path="/my-project",
        claims={
            "sub": "uid-1",
            "aud": "my-project",
            "auth_time": NOW - 60,
            "firebase": {"sign_in_provider": "password", "tenant": "staff"},
        },
        options={"audience": "my-project", "claim_values": {"firebase.tenant": "staff"}},
        user="uid-1",
        role=("firebase.tenant", "staff"),
        wrong=(({"firebase": {"tenant": "guests"}}, "firebase.tenant"), ({"aud": "x"}, "audience")),
    ),
}


@contextmanager
def provider_of(shape: Shape) -> Iterator[tuple[Provider, JWTAuth]]:
    with running(Provider(path=shape.path)) as provider:
        yield provider, auth_for(provider, **shape.options)


def auth_for(provider: Provider, **options: Any) -> JWTAuth:
    return JWTAuth.from_issuer(provider.issuer, clock=lambda: NOW + 1.0, **options)


async def verified(auth: JWTAuth, token: str) -> User:
    return await auth(Credentials(source="message", token=token), REQUEST)


async def refused(auth: JWTAuth, token: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await verified(auth, token)
    return caught.value


every_provider = pytest.mark.parametrize("name", PROVIDERS)


@every_provider
async def test_its_tokens_are_verified_and_say_who_it_is(name: str) -> None:
    shape = PROVIDERS[name]
    with provider_of(shape) as (provider, auth):
        async with trio.open_nursery() as nursery:
            with pytest.raises(FetchError, match="No keys"):
                await auth.check_health()
            await nursery.start(auth.run)
            await auth.check_health()
            user = await verified(auth, provider.token(shape.claims, **shape.header))
            nursery.cancel_scope.cancel()
        assert user.id == shape.user
        assert user.scopes == shape.scopes
        assert shape.role is None or user.has_role(shape.role[1], shape.role[0])
        assert not user.has_role("superuser", "no.such.claim")
        assert all(str(agent).startswith("trioserver") for agent in provider.agents)


@every_provider
async def test_its_tokens_are_verified_before_and_after_a_rotation(name: str) -> None:
    shape = PROVIDERS[name]
    with provider_of(shape) as (provider, auth):
        async with trio.open_nursery() as nursery:
            await nursery.start(auth.run)
            old = provider.token(shape.claims, **shape.header)
            assert (await verified(auth, old)).id == shape.user
            provider.kids = ("2025", "2026")
            new = provider.token(shape.claims, kid="2026", **shape.header)
            assert (await verified(auth, new)).id == shape.user
            assert (await verified(auth, old)).id == shape.user
            nursery.cancel_scope.cancel()


@every_provider
async def test_each_wrong_claim_is_refused_with_advice_that_names_it(name: str) -> None:
    shape = PROVIDERS[name]
    with provider_of(shape) as (provider, auth):
        async with trio.open_nursery() as nursery:
            await nursery.start(auth.run)
            wrong = [
                *shape.wrong,
                ({"iss": "https://other.example"}, "issuer"),
                ({"iss": None}, "iss"),
                ({"exp": None}, "exp"),
            ]
            for claims, advice in wrong:
                refusal = await refused(auth, provider.token(shape.claims | claims, **shape.header))
                assert refusal.code == "token_invalid"
                assert advice in refusal.message
            ended = shape.claims | {"exp": NOW - 3600}
            assert (
                await refused(auth, provider.token(ended, **shape.header))
            ).code == "token_expired"
            early = shape.claims | {"nbf": NOW + 600}
            assert (
                await refused(auth, provider.token(early, **shape.header))
            ).code == "token_not_yet_valid"
            nursery.cancel_scope.cancel()


async def test_a_typ_that_is_asked_for_is_compared_as_a_media_type() -> None:
    shape = PROVIDERS["auth0"]
    with provider_of(shape) as (provider, auth):
        async with trio.open_nursery() as nursery:
            await nursery.start(auth.run)
            for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
                assert (
                    await verified(auth, provider.token(shape.claims, typ=typ))
                ).id == shape.user
            for typ in ("JWT", "logout+jwt"):
                refusal = await refused(auth, provider.token(shape.claims, typ=typ))
                assert "typ" in refusal.message
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"issuer": "https://other.example"}, "another issuer"),
        ({"issuer": None}, "not an OpenID Connect configuration"),
        ({"jwks_uri": None}, "names no jwks_uri"),
        ({"jwks_uri": "http://keys.example/keys"}, "https://"),
        ({"jwks_uri": "file:///etc/passwd"}, "https://"),
    ],
)
async def test_a_configuration_that_cannot_be_right_gives_no_keys(
    changes: dict[str, Any], complaint: str
) -> None:
    with running(Provider(changes=changes)) as provider, capture_logs() as log:
        auth = auth_for(provider)
        async with trio.open_nursery() as nursery:
            await nursery.start(auth.run)
            with pytest.raises(FetchError, match="No keys"):
                await auth.check_health()
            nursery.cancel_scope.cancel()
    (line,) = (line for line in log if line["log_level"] == "warning")
    assert complaint in line["error"]
    assert FetchError.__name__ in line["error"]


@pytest.mark.parametrize(
    "issuer", ["", "login.example", "http://login.example", "ftp://login.example", "https://u@a.b"]
)
def test_an_issuer_that_cannot_be_asked_safely_is_refused(issuer: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        JWTAuth.from_issuer(issuer)


def test_plain_http_to_a_private_network_has_to_be_asked_for() -> None:
    with pytest.raises(ValueError, match="insecure_http"):
        JWKS("http://10.0.0.7/keys")
    JWKS("http://10.0.0.7/keys", insecure_http=True)
    JWTAuth.from_issuer("http://10.0.0.7/realms/staff", insecure_http=True)
    with pytest.raises(ValueError, match="https://"):
        JWKS("ftp://10.0.0.7/keys", insecure_http=True)


async def test_keys_that_nobody_fetches_are_an_error_in_the_log_once() -> None:
    shape = PROVIDERS["keycloak"]
    with provider_of(shape) as (provider, auth), capture_logs() as log:
        for _ in range(3):
            assert (await refused(auth, provider.token(shape.claims))).code == "unavailable"
    assert [line["event"] for line in log] == ["jwks_fetcher_not_running"]
    assert "Component" in log[0]["hint"]


async def test_a_login_can_be_revoked_by_another_claim_than_jti() -> None:
    shape = PROVIDERS["keycloak"]
    with running(Provider(path=shape.path)) as provider:
        asked = []

        def revoked(sid: str) -> bool:
            asked.append(sid)
            return sid == "session-1"

        auth = auth_for(provider, revoked=revoked, revoked_claim="sid", **shape.options)
        async with trio.open_nursery() as nursery:
            await nursery.start(auth.run)
            assert (await refused(auth, provider.token(shape.claims))).code == "token_revoked"
            other = shape.claims | {"sid": "session-2"}
            assert (await verified(auth, provider.token(other))).id == shape.user
            for odd in (None, 5):
                token = provider.token(shape.claims | {"sid": odd})
                assert "sid" in (await refused(auth, token)).message
            nursery.cancel_scope.cancel()
        assert asked == ["session-1", "session-2"]
