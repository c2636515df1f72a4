"""Attempts that are no WebSocket's: passwords, MPINs, bearer tokens, pages of other origins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.databases import eventually, sqlite
from tests.support.http import Site, site
from trioserver import (
    Application,
    AuditConfig,
    AuditQuery,
    Config,
    JWTAuth,
    OriginConfig,
    allow_any_user,
)
from trioserver.auth import make_secret, make_token
from trioserver.auth.fingerprint import fingerprint
from trioserver.http.api import EXCEPTION_HANDLERS, authenticate, record_attempt
from trioserver.storage import Database
from trioserver.telemetry.audit import AuditEntry, AuditStore

SECRET = make_secret()
HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}


async def log_in(request: Request) -> Response:
    good = request.query_params["password"] == "right"
    record_attempt(request, "password", code=None if good else "login_failed", user="alice")
    return JSONResponse({})


async def verify(request: Request) -> Response:
    await authenticate(request, admin="admin" in request.query_params)
    return JSONResponse({})


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[Site]:
    routes = [Route("/login", log_in), Route("/verify", verify)]
    web = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    application = Application(auth=JWTAuth(secret=SECRET), http=web)
    application.route("/ws", authorize=allow_any_user)
    audit = AuditConfig(database=url, flush_interval=0.01)
    origins = OriginConfig(allow=("https://good.test",))
    async with site(application, Config(port=0, audit=audit, origins=origins)) as place:
        yield place


async def entries(place: Site, count: int) -> list[AuditEntry]:
    """Oldest first."""
    audit = place.server.audit
    assert audit is not None
    await eventually(lambda: audit.statistics().written == count)
    return [*reversed((await audit.query(AuditQuery())).entries)]


async def ask(place: Site, path: str, token: str | None = None, **headers: str) -> int:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    http = await place.open()
    return (await http.request("GET", path, headers=headers)).status


async def test_an_application_records_what_it_verifies_itself_good_or_bad(
    database_url: str,
) -> None:
    async with recording(database_url) as place:
        await ask(place, "/login?password=wrong")
        await ask(place, "/login?password=right")
        bad, good = await entries(place, 2)
    assert (bad.kind, bad.method, bad.outcome) == ("attempt", "password", "refused")
    assert (bad.code, bad.user, bad.address, bad.route) == (
        "login_failed",
        "alice",
        "127.0.0.1",
        "/login",
    )
    assert (good.method, good.outcome, good.code) == ("password", "accepted", None)


async def test_each_bearer_token_is_an_attempt_good_or_bad(sqlite_url: str) -> None:
    good = make_token(SECRET, subject="alice", lifetime=60)
    old = make_token(SECRET, subject="alice", lifetime=-60)
    async with recording(sqlite_url) as place:
        assert await ask(place, "/verify", good) == 200
        assert await ask(place, "/verify", old) == 401
        assert await ask(place, "/verify") == 401
        assert await ask(place, "/verify?admin", good) == 403
        rows = await entries(place, 4)
    assert [(row.method, row.code, row.user) for row in rows] == [
        ("bearer", None, "alice"),
        ("bearer", "token_expired", None),
        ("bearer", "token_missing", None),
        ("bearer", "forbidden", "alice"),
    ]
    assert [row.token for row in rows] == [
        fingerprint(good),
        fingerprint(old),
        None,
        fingerprint(good),
    ]


async def test_the_administrations_tokens_are_attempts_too(sqlite_url: str) -> None:
    async with recording(sqlite_url) as place:
        assert await ask(place, "/api/v1/admin/statistics", "guess.guess.guess") == 401
        (row,) = await entries(place, 1)
    assert (row.method, row.code, row.route) == (
        "bearer",
        "token_invalid",
        "/api/v1/admin/statistics",
    )


async def test_a_page_that_may_not_connect_is_an_attempt_with_its_origin(sqlite_url: str) -> None:
    async with recording(sqlite_url) as place:
        assert await ask(place, "/ws", **HANDSHAKE, Origin="https://evil.test") == 403
        (row,) = await entries(place, 1)
    assert (row.kind, row.method, row.outcome, row.code) == (
        "attempt",
        "origin",
        "refused",
        "origin",
    )
    assert (row.address, row.route) == ("127.0.0.1", "/ws")
    assert row.target == '{"origin": "https://evil.test"}'


async def test_what_was_recorded_before_there_was_a_method_can_be_read_and_gets_the_column(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with recording(sqlite_url) as place:
        await ask(place, "/verify")
        await entries(place, 1)
    with sqlite(tmp_path / "test.db") as old:
        old.execute("ALTER TABLE trioserver_audit DROP COLUMN method")
        old.execute("UPDATE trioserver_schema SET version = 1 WHERE component = 'audit'")
    assert [entry.method for entry in await read(sqlite_url)] == [None]
    async with recording(sqlite_url) as place:
        await ask(place, "/verify")
        await entries(place, 1)
    assert [entry.method for entry in await read(sqlite_url)] == ["bearer", None]


async def read(url: str, **query: Any) -> list[AuditEntry]:
    """As `trioserver audit` does, which alters nothing."""
    async with Database(url) as database:
        with trio.fail_after(5):
            return [*(await AuditStore(database).query(AuditQuery(**query))).entries]
