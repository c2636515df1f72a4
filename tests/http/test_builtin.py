"""The routes that every server has."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import trio
from structlog.testing import capture_logs

from protocol import ERRORS
from protocol.generate.asyncapi import asyncapi_document
from tests.support.app import World, make_application, wall_clock
from tests.support.client import Client
from tests.support.http import site
from tests.support.patience import PATIENCE
from tests.support.postgresql import PostgreSQL
from trioserver import Application, Config, HttpConfig, ListenConfig, Server, ShutdownConfig
from trioserver.auth import SQLAuthorizer
from trioserver.http.builtin import builtin_routes


def http_config(**options: Any) -> HttpConfig:
    return HttpConfig(**options)


PATHS = ["/healthz", "/readyz", "/asyncapi.json", "/protocol"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_comes_with_headers_that_protect_it(path: str) -> None:
    async with site() as place:
        http = await place.open()
        answer = await http.get(path)
        assert answer.status == 200
        assert answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers
        head = await http.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.body))
        wrong = await http.request("POST", path, body=b"x")
        assert wrong.status == 405
        assert wrong.headers["x-content-type-options"] == "nosniff"
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_an_unknown_path_is_told_so_without_a_version() -> None:
    async with site() as place:
        answer = await (await place.open()).get("/nothing")
        assert answer.status == 404
        assert not re.search(r"hypercorn|starlette|python|\d\.\d", answer.text, re.IGNORECASE)
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_document_is_the_generated_one() -> None:
    async with site() as place:
        answer = await (await place.open()).get("/asyncapi.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == asyncapi_document()
        jsonschema.Draft202012Validator.check_schema(answer.json["components"]["schemas"]["Auth"])


async def test_the_page_has_every_error_and_nothing_from_elsewhere() -> None:
    async with site() as place:
        answer = await (await place.open()).get("/protocol")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        for name in ERRORS:
            assert f"<code>{name}</code>" in answer.text
        for word in ("`auth`", "| ---", "```", "undefined", "<script", "http://", "https://"):
            assert word not in answer.text
        assert 'name="viewport"' in answer.text
        assert "color-scheme:light dark" in answer.text


async def test_its_style_is_the_one_that_the_policy_allows() -> None:
    async with site() as place:
        answer = await (await place.open()).get("/protocol")
        (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("options", "gone"),
    [({"health": False}, PATHS[:2]), ({"protocol": False}, PATHS[2:])],
)
async def test_routes_can_be_turned_off(options: dict[str, bool], gone: list[str]) -> None:
    async with site(None, Config(port=0, http=http_config(**options))) as place:
        http = await place.open()
        for path in PATHS:
            assert (await http.get(path)).status == (404 if path in gone else 200)


async def test_metrics_and_administration_are_served_at_their_paths() -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    def paths(**options: bool) -> list[str]:
        config = Config(http=http_config(health=False, protocol=False, **options))
        server = Server(Application(), config)
        routes = builtin_routes(server, metrics=endpoint, admin=endpoint)
        return [route.path for route in routes]  # type: ignore[attr-defined]

    assert paths() == ["/metrics", "/api/v1/admin"]
    assert paths(metrics=False) == ["/api/v1/admin"]
    assert paths(admin=False) == ["/metrics"]


# ------------------------------------------------------------------------------ a second listener


def apart(**options: Any) -> Config:
    listen = ListenConfig(port=0)
    return Config(port=0, http=HttpConfig(builtin_listen=listen), **options)


async def test_the_routes_move_to_a_listener_of_their_own() -> None:
    async with site(make_application(World()), apart()) as place:
        main, builtin = await place.open(), await place.open(builtin=True)
        for path in PATHS:
            assert (await main.get(path)).status == 404
            assert (await builtin.get(path)).status == 200
        assert (await main.get("/ws/1")).status == 426
        assert (await builtin.get("/ws/1")).status == 404


async def test_there_is_no_websocket_on_the_second_listener() -> None:
    async with site(make_application(World()), apart()) as place:
        for earlier in (0, 1):
            http = await place.open(builtin=True)
            for _ in range(earlier):
                await http.get("/healthz")
            answer = await http.raw(
                b"GET /ws/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert answer.status == 404
            assert "no WebSocket" in answer.text


async def test_readyz_says_draining_on_the_second_listener_to_the_end() -> None:
    config = apart(shutdown=ShutdownConfig(drain_period=60.0))
    app = make_application(World())
    async with site(app, config, clock=wall_clock) as place, trio.open_nursery() as nursery:
        client = Client((await place.open()).stream)
        await client.open("/ws/1")
        await client.authenticate("alice")
        http = await place.open(builtin=True)
        assert (await http.get("/readyz")).json == {"status": "ready"}
        nursery.start_soon(place.server.drain)
        assert (await client.receive_until("goaway"))["reason"] == "shutdown"
        answer = await (await place.open(builtin=True)).get("/readyz")
        assert answer.status == 503
        assert answer.json == {"status": "unavailable", "failed": ["draining"]}
        assert await http.is_closed()
        with pytest.raises(OSError, match="connect"):
            await place.open()
        await trio.aclose_forcefully(client.stream)  # the last one has gone: so does the server


# ------------------------------------------------------------------------------ readiness


async def test_readyz_asks_the_database_behind_an_authorizer(postgresql: PostgreSQL) -> None:
    def app() -> Application:
        owner = SQLAuthorizer(
            postgresql.url, table="pg_class", id_column="oid", owner_column="relowner"
        )
        application = make_application(World())
        application.route("/ws/rooms/{id}", authorize=owner)
        return application

    async with site(app()) as place:
        assert (await (await place.open()).get("/readyz")).json == {"status": "ready"}
    with capture_logs() as logs, postgresql.down():
        async with site(app()) as place:
            http = await place.open()
            answer = await http.get("/readyz")
            assert answer.status == 503
            assert answer.json == {"status": "unavailable", "failed": ["authorization"]}
            assert "not_ready" in [entry["event"] for entry in logs]
            assert (await http.get("/healthz")).status == 200


async def check_false() -> bool:
    return False


async def check_raises() -> None:
    raise RuntimeError("secret detail")


async def check_hangs() -> None:
    await trio.sleep_forever()


async def check_good() -> None:
    pass


async def test_readyz_names_what_fails_and_tells_no_detail() -> None:
    app = Application()
    for name, check in {
        "false": check_false,
        "raises": check_raises,
        "hangs": check_hangs,
        "good": check_good,
    }.items():
        app.add_health_check(name, check)
    other = Application()
    other.add_health_check("false", check_false)
    app.include(other)
    with capture_logs():
        async with site(app, Config(port=0, http=HttpConfig(check_timeout=0.05))) as place:
            answer = await (await place.open()).get("/readyz")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json == {
        "status": "unavailable",
        "failed": ["false", "false-2", "hangs", "raises"],
    }


async def test_a_flood_of_probes_asks_once() -> None:
    asked = []

    async def check() -> None:
        asked.append(1)
        await trio.sleep(0.01)

    app = Application()
    app.add_health_check("slow", check)
    async with site(app) as place, trio.open_nursery() as nursery:

        async def probe() -> None:
            assert (await (await place.open()).get("/readyz")).status == 200

        for _ in range(20):
            nursery.start_soon(probe)
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["", "A", "a b", "x" * 65, "taken"])
def test_a_name_that_is_none_or_taken_is_refused(name: str) -> None:
    app = Application()
    app.add_health_check("taken", check_good)
    with pytest.raises(ValueError, match=r"invalid name|already"):
        app.add_health_check(name, check_good)


# ------------------------------------------------------------------------------ not installed

_WITHOUT = """
import sys
sys.modules["starlette"] = None
import trio
from trioserver import Application, Config, serve

async def main():
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, Application(), Config(port=0))
        stream = await trio.open_tcp_stream("127.0.0.1", server.addresses[0].port)
        await stream.send_all(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        print(bytes(await stream.receive_some())[:12])
        nursery.cancel_scope.cancel()
    try:
        await serve(Application(http=main), Config(port=0))
    except ImportError as error:
        print(error)

trio.run(main)
"""


_BROKEN = """
import sys
import starlette.routing
del starlette.routing.Mount  # what a rename in another version looks like
import trio
from trioserver import Application, Config, serve

trio.run(serve, Application(), Config(port=0))
"""

_OURS_IS_GONE = """
import sys
sys.modules["trioserver.http.service"] = None
import trio
from trioserver import Application, Config, serve

trio.run(serve, Application(), Config(port=0))
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [(_BROKEN, "cannot import name 'Mount'"), (_OURS_IS_GONE, "trioserver.http.service")],
    ids=["another version", "a module of ours"],
)
def test_what_is_installed_and_broken_stops_the_start_as_it_is(program: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "pip install" not in done.stdout + done.stderr


def test_without_the_extra_all_else_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "b'HTTP/1.1 404'" in done.stdout
    assert "HTTP needs Starlette: pip install 'trioserver[http]'" in done.stdout
