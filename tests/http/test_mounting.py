"""Which of several ASGI applications gets a request, and what it is given with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from structlog.testing import capture_logs

from tests.support.app import World, make_application
from tests.support.http import site
from trioserver import Application, Config, HttpConfig
from trioserver.http.lifespan import LifespanError


def starlette(name: str, *paths: str, methods: tuple[str, ...] = ("GET",)) -> Starlette:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(f"{name} {request.url.path}")

    return Starlette(routes=[Route(path, endpoint, methods=list(methods)) for path in paths])


def raw(name: str) -> Any:
    """As frameworks without routes that can be asked look like."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "knows nothing of lifespans"
        body = f"{name} {scope['path']} below {scope['root_path']}".encode()
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def joined(*applications: Application) -> Application:
    first, *others = applications
    for other in others:
        first.include(other)
    return first


async def test_five_applications_share_a_port_and_even_a_prefix() -> None:
    names = {
        "behaviour": ["/api/v1/mpin-login", "/api/v1/verify-mpin"],
        "dashboard": ["/api/v1/auth/verify", "/admin"],
        "conversations": ["/"],
        "agents": ["/agents/{id}"],
        "coach": ["/api/chat/upload"],
    }
    app = joined(*(Application(http=starlette(name, *paths)) for name, paths in names.items()))
    async with site(app) as place:
        http = await place.open()
        for name, paths in names.items():
            for path in paths:
                assert (await http.get(path)).text == f"{name} {path}"


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/both", 200, "get /both"),
        ("POST", "/both", 200, "post /both"),
        ("PUT", "/both", 405, "Method Not Allowed"),
        ("GET", "/opaque", 200, "root /opaque below "),
        ("GET", "/shop", 200, "shop /shop below /shop"),
        ("GET", "/shop/cart", 200, "shop /shop/cart below /shop"),
        ("GET", "/shopping", 200, "root /shopping below "),
        ("GET", "/mounted/a", 200, "mounted /mounted/a"),
        ("GET", "/ws/1", 200, "root /ws/1 below "),
        ("GET", "/healthz", 200, '{"status":"ok"}'),
    ],
)
async def test_a_request_goes_where_its_path_and_method_fit(
    method: str, path: str, status: int, body: str
) -> None:
    app = joined(
        Application(http=raw("root")),
        Application(http=raw("shop"), http_prefix="/shop"),
        Application(http=starlette("get", "/both")),
        Application(http=starlette("post", "/both", methods=("POST",))),
        Application(http=Starlette(routes=[Mount("/mounted", starlette("mounted", "/a"))])),
        make_application(World()),
    )
    async with site(app) as place:
        answer = await (await place.open()).request(method, path)
        assert (answer.status, answer.text) == (status, body)


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [("/ws/1", 426, "WebSocket"), ("/other", 404, "Not Found"), ("/page/", 307, "")],
)
async def test_what_no_application_has(path: str, status: int, word: str) -> None:
    app = joined(Application(http=starlette("pages", "/page")), make_application(World()))
    async with site(app) as place:
        answer = await (await place.open()).get(path)
        assert (answer.status, word in answer.text) == (status, True)


@pytest.mark.parametrize(("path", "status"), [("/ws/1", 426), ("/other", 404)])
@pytest.mark.parametrize("builtin", [True, False])
async def test_without_any_application_it_is_as_without_http(
    path: str, status: int, builtin: bool
) -> None:
    options: dict[str, Any] = dict.fromkeys(("health", "metrics", "admin", "protocol"), builtin)
    async with site(make_application(World()), Config(port=0, http=HttpConfig(**options))) as place:
        assert (await (await place.open()).get(path)).status == status


async def test_a_prefix_lies_below_a_starlette_application_too() -> None:
    app = Application(http=starlette("shop", "/cart"), http_prefix="/shop")
    async with site(app) as place:
        http = await place.open()
        assert (await http.get("/shop/cart")).text == "shop /shop/cart"
        assert (await http.get("/cart")).status == 404


@pytest.mark.parametrize("prefix", ["shop", "/shop/", "/"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="http_prefix"):
        Application(http_prefix=prefix)


async def test_handlers_reach_the_server_and_their_application() -> None:
    async def who(request: Request) -> Response:
        server, application = request.scope["trioserver"], request.scope["trioserver.application"]
        return JSONResponse([server.statistics().open, application.state["name"]])

    parts = []
    for name in ("a", "b"):
        parts.append(Application(http=Starlette(routes=[Route(f"/{name}", who)])))
        parts[-1].state["name"] = name
    async with site(joined(*parts)) as place:
        http = await place.open()
        assert (await http.get("/b")).json == [1, "b"]
        assert (await http.get("/a")).json == [1, "a"]


async def test_the_client_and_the_scheme_are_told() -> None:
    async def who(request: Request) -> Response:
        assert request.client is not None
        return JSONResponse([request.client.host, request.url.scheme])

    app = Application(http=Starlette(routes=[Route("/", who)]))
    async with site(app) as place:
        assert (await (await place.open()).get("/")).json == ["127.0.0.1", "http"]


async def test_a_lifespan_is_around_all_requests_and_its_state_is_in_them() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        seen.append("up")
        async with trio.open_nursery() as nursery:
            yield {"greeting": "hello"}
            nursery.cancel_scope.cancel()
        seen.append("down")

    async def greet(request: Request) -> Response:
        seen.append("request")
        return PlainTextResponse(request.state.greeting)

    app = Application(http=Starlette(routes=[Route("/", greet)], lifespan=lifespan))
    async with site(app) as place:
        assert (await (await place.open()).get("/")).text == "hello"
        await place.server.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["up", "request", "down"]


async def test_an_application_that_cannot_start_stops_the_server() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = Application(http=Starlette(lifespan=lifespan))
    with capture_logs(), pytest.raises(ExceptionGroup) as raised:
        async with site(app):
            raise AssertionError("it has started")
    assert raised.group_contains(LifespanError, match="no database")
