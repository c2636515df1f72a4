"""What an application's own endpoints are made with: bearers, bodies, and refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.http import Answer, Site, site
from trioserver import AdminConfig, Application, Config, Credentials, JWTAuth, Refusal, User
from trioserver import Request as ConnectionRequest
from trioserver.auth import make_secret, make_token
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, authenticate, read_json, refuse
from trioserver.storage import DatabaseUnavailableError

SECRET = make_secret()
OTHER = make_secret()


class Name(msgspec.Struct):
    name: str


async def whoami(request: Request) -> JSONResponse:
    return JSONResponse({"user": (await authenticate(request)).id})


async def other(request: Request) -> JSONResponse:
    user = await authenticate(request, auth=JWTAuth(secret=OTHER), admin=True)
    return JSONResponse({"user": user.id})


async def rename(request: Request) -> JSONResponse:
    wanted = await read_json(request, Name, max_bytes=1024)
    return JSONResponse({"name": wanted.name})


FAILURES: dict[str, Exception] = {
    "refusal": Refusal("not_found", "There is no such thing."),
    "api": ApiError(418, "teapot", "Short and stout."),
    "rate": Refusal("rate_limited", retry_after=2.5),
    "database": DatabaseUnavailableError("timeout", "The database did not answer within 5 s."),
}


async def fail(request: Request) -> JSONResponse:
    raise FAILURES[request.path_params["how"]]


async def no(request: Request) -> Any:
    return refuse(Refusal("token_expired"), valid=False)


@asynccontextmanager
async def serving(config: Config | None = None) -> AsyncIterator[Site]:
    web = Starlette(
        routes=[
            Route("/whoami", whoami),
            Route("/other", other),
            Route("/rename", rename, methods=["POST"]),
            Route("/fail/{how}", fail),
            Route("/no", no),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    async with site(Application(auth=JWTAuth(secret=SECRET), http=web), config) as place:
        yield place


async def get(place: Site, path: str, token: str | None = None) -> Answer:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await (await place.open()).request("GET", path, headers=headers)


async def test_a_bearer_is_who_a_websockets_user_would_be() -> None:
    async with serving() as place:
        answer = await get(place, "/whoami", make_token(SECRET, subject="alice"))
        assert (answer.status, answer.json) == (200, {"user": "alice"})
        for token, code in (
            (None, "token_missing"),
            ("x", "token_invalid"),
            ("two words", "token_invalid"),
            (make_token(OTHER, subject="alice"), "token_invalid"),
            (make_token(SECRET, subject="alice", lifetime=-60), "token_expired"),
        ):
            answer = await get(place, "/whoami", token)
            assert (answer.status, answer.json["error"]["code"]) == (401, code)
            assert answer.headers["www-authenticate"].startswith('Bearer realm="trioserver"')
            assert answer.headers["cache-control"] == "no-store"
            assert token is None or token not in answer.text


async def test_an_authenticator_sees_all_values_of_a_header_and_no_secret_of_the_request() -> None:
    seen: list[ConnectionRequest] = []

    async def auth(credentials: Credentials, request: ConnectionRequest) -> User:
        seen.append(request)
        return User(id="alice")

    web = Starlette(routes=[Route("/whoami", whoami)])
    async with site(Application(auth=auth, http=web)) as place:
        answer = await (await place.open()).raw(
            b"GET /whoami HTTP/1.1\r\nHost: x\r\nX-Tenant: a\r\nx-tenant: b\r\n"
            b"Cookie: secret\r\nAuthorization: Bearer secret\r\n\r\n"
        )
        assert answer.json == {"user": "alice"}
    headers = seen[0].headers
    assert headers["X-Tenant"] == "a"
    assert headers.getlist("x-Tenant") == ["a", "b"]
    assert "Cookie" not in headers
    assert "Authorization" not in headers


async def test_a_token_in_the_url_is_none() -> None:
    async with serving() as place:
        answer = await get(place, "/whoami?token=" + make_token(SECRET, subject="alice"))
        assert answer.json["error"]["code"] == "token_missing"


async def test_who_is_blocked_is_refused() -> None:
    async with serving() as place:
        await place.server.block(user="mallory")
        answer = await get(place, "/whoami", make_token(SECRET, subject="mallory"))
        assert (answer.status, answer.json["error"]["code"]) == (403, "session_blocked")


async def test_an_endpoint_may_have_an_authenticator_of_its_own_and_be_for_administrators() -> None:
    config = Config(port=0, admin=AdminConfig(role_claim="groups", role="ops"))
    async with serving(config) as place:
        for claims, status in (
            ({}, 403),
            ({"role": "admin"}, 403),
            ({"groups": "ops"}, 200),
            ({"groups": ["dev", "ops"]}, 200),
            ({"groups": [1, {}]}, 403),
        ):
            token = make_token(OTHER, subject="root", claims=claims)
            assert (await get(place, "/other", token)).status == status
        assert (await get(place, "/other", make_token(SECRET, subject="root"))).status == 401


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("refusal", 404, "not_found"),
        ("api", 418, "teapot"),
        ("rate", 429, "rate_limited"),
        ("database", 503, "unavailable"),
    ],
)
async def test_what_an_endpoint_raises_becomes_its_answer(how: str, status: int, code: str) -> None:
    async with serving() as place:
        answer = await get(place, f"/fail/{how}")
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
        assert "5 s" not in answer.text
        if how == "rate":
            assert answer.headers["retry-after"] == "3"


async def test_fields_stand_beside_the_error() -> None:
    async with serving() as place:
        answer = await get(place, "/no")
        assert answer.json["valid"] is False
        assert answer.json["error"]["code"] == "token_expired"


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b'{"name":"x"}', "application/json; charset=utf-8", 200),
        (b'{"name":"x"}', "text/plain", 415),
        (b'{"name":1}', "application/json", 400),
        (b"{}", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"name":"\xff"}', "application/json", 400),
        (b"[" * 1000, "application/json", 400),
        (json.dumps({"name": "x" * 1024}).encode(), "application/json", 413),
    ],
)
async def test_a_body_is_read_within_its_bound(body: bytes, media: str, status: int) -> None:
    async with serving() as place:
        http = await place.open()
        answer = await http.request("POST", "/rename", headers={"Content-Type": media}, body=body)
        assert answer.status == status
