"""Known secrets go through every path; none of them comes out in anything that is written.

Looked through: stdout and stderr, the log at its most talkative, metrics, the errors that peers
are told, exceptions, and reprs.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
import pytest
import structlog
import trio
import trio.lowlevel
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from protocol import codec
from tests.support.app import backend_of
from tests.support.client import Client, Ended, Rejected
from tests.support.patience import PATIENCE
from trioserver import (
    Application,
    AuditConfig,
    Config,
    Connection,
    Credentials,
    LimitsConfig,
    Request,
    Server,
    User,
    allow_any_user,
    serve,
)
from trioserver.auth import JWKS, JWTAuth, Key, SQLAuthorizer, make_secret, make_token
from trioserver.client.url import WebSocketURL
from trioserver.http.admin.views import connection_view
from trioserver.http.api import EXCEPTION_HANDLERS, authenticate
from trioserver.logs.setup import set_up_logging
from trioserver.server.inspection import report
from trioserver.storage import Database
from trioserver.telemetry.audit import AuditEntry, AuditQuery
from trioserver.telemetry.metrics import render_metrics

SIGNING: Final = make_secret()
PAYLOAD: Final = "payload-nobody-else-may-read"
PASSWORD: Final = "database-password-9f2c"
HEADER: Final = "Bearer-header-secret-77"
COOKIE: Final = "cookie-secret-31"
QUERY: Final = "jwks-query-secret-5"
OPAQUE: Final = "opaque-token-of-somebody-8d1e"
PRIVATE: Final = jwt.get_algorithm_by_name("ES256").to_jwk(
    ec.generate_private_key(ec.SECP256R1()), as_dict=True
)

GOOD: Final = make_token(SIGNING, subject="alice", claims={"card": "claim-secret-4111"})
OTHER: Final = make_token(SIGNING, subject="bob")
EXPIRED: Final = make_token(SIGNING, subject="alice", lifetime=-3600.0)
FORGED: Final = make_token(make_secret(), subject="alice")

HEADERS: Final = [
    (b"Authorization", HEADER.encode()),
    (b"Cookie", f"session={COOKIE}".encode()),
]

SECRETS: Final = {
    "signing secret": SIGNING,
    "payload": PAYLOAD,
    "password": PASSWORD,
    "header": HEADER,
    "cookie": COOKIE,
    "JWKS query": QUERY,
    "claim": "claim-secret-4111",
    "opaque token": OPAQUE,
    "private key": PRIVATE["d"],
    # A JWT's signature is what makes it one; the payload is no less nobody's business.
    **{
        f"{name} token's {part}": piece
        for name, token in {
            "good": GOOD,
            "other": OTHER,
            "expired": EXPIRED,
            "forged": FORGED,
        }.items()
        for part, piece in zip(("claims", "signature"), token.split(".")[1:], strict=True)
    },
}


class Note(msgspec.Struct):
    text: str
    stars: int = 0


async def crashing_authenticator(credentials: Credentials, request: Request) -> User:
    token = credentials.token
    raise RuntimeError(f"cannot make sense of {token!r}")


async def crashing_owner(user: User, resource: Mapping[str, str]) -> bool:
    raise LookupError(resource, user.claims)


async def private_keys(url: str) -> bytes:
    await trio.lowlevel.checkpoint()
    public = {name: value for name, value in PRIVATE.items() if name != "d"}
    return json.dumps({"keys": [public, PRIVATE, {"kty": "oct", "k": PRIVATE["d"]}]}).encode()


async def no_keys(url: str) -> bytes:
    await trio.lowlevel.checkpoint()
    return json.dumps({"keys": [{"kty": "EC", "d": PRIVATE["d"]}], "x": PRIVATE["d"]}).encode()


async def raising(request: HttpRequest) -> Response:
    raise RuntimeError(await request.body(), dict(request.headers))


async def judging(request: HttpRequest) -> Response:
    await authenticate(request)
    return Response()


def make_application() -> Application:
    app = Application(
        auth=JWTAuth(secret=SIGNING),
        http=Starlette(
            routes=[
                HttpRoute("/raising", raising, methods=["POST"]),
                HttpRoute("/raising/{id}", raising),
            ]
        ),
    )
    judged = Starlette(
        routes=[HttpRoute("/judging", judging, methods=["POST"])],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.include(Application(auth=crashing_authenticator, http=judged))
    jwks = "https://127.0.0.1:1/keys?key=" + QUERY
    database = f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere"
    app.route("/crash/authenticator", auth=crashing_authenticator)
    app.route("/crash/{owner}", authorize=crashing_owner)
    app.route("/database/{id}", authorize=SQLAuthorizer(database, table="things"))
    app.route("/jwks", auth=JWTAuth(jwks=JWKS(jwks, fetch=private_keys)))
    app.route("/no-jwks", auth=JWTAuth(jwks=JWKS(jwks, fetch=no_keys)))
    app.route("/jwks-down", auth=JWTAuth(jwks=JWKS(jwks)))
    route = app.route(
        "/ws/{id}", authorize=allow_any_user, auth_aliases=["initial"], allow_query_token=True
    )

    seen: list[str] = []
    app.state["seen"] = seen

    async def task(text: str) -> None:
        raise RuntimeError(f"a task crashed: {text}")

    @route.on("echo")
    def echo(connection: Connection, note: Note) -> Note:
        structlog.get_logger().info("echo")
        return note

    @route.on("crash_inline")
    def crash_inline(connection: Connection, note: Note) -> None:
        raise RuntimeError(f"it crashed: {note.text}")

    @route.on("crash")
    async def crash(connection: Connection, note: Note) -> None:
        await trio.lowlevel.checkpoint()
        try:
            int(note.text)
        except ValueError as error:
            error.add_note(note.text)
            raise ExceptionGroup(note.text, [error, KeyError(note.text)]) from OSError(note.text)

    @route.on("crash_stream")
    async def crash_stream(connection: Connection, note: Note) -> AsyncIterator[str]:
        yield "one"
        raise RuntimeError(note.text)

    @route.on("unencodable_inline")
    def unencodable_inline(connection: Connection, note: Note) -> Any:
        return {"password_hash": note.text, "card": object()}

    @route.on("unencodable")
    async def unencodable(connection: Connection, note: Note) -> Any:
        return {"password_hash": note.text, note: note}

    @route.on("unencodable_stream")
    async def unencodable_stream(connection: Connection, note: Note) -> AsyncIterator[Any]:
        yield {"password_hash": note.text + chr(0xD800)}

    @route.on("crash_task")
    def crash_task(connection: Connection, note: Note) -> None:
        connection.start_soon(task, note.text)

    @route.on("last")
    async def last(connection: Connection) -> None:
        """In order of arrival, so that all that came before has been dealt with."""

    @route.on("look")
    def look(connection: Connection, note: Note) -> None:
        seen.extend(map(repr, (connection, connection.request, connection.user, connection.route)))
        seen.append(repr(backend_of(connection).protocol.auth))
        seen.append(repr(connection_view(report(backend_of(connection)), tasks=True)))

    return app


class Stderr(io.StringIO):
    """Whatever stderr is at the moment: pytest exchanges it between setting up and testing."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)


@pytest.fixture(params=["json", "text", "as structlog comes"])
def talkative(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """All that is logged goes to stdout or stderr, at level debug, libraries included."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    if request.param == "as structlog comes":
        structlog.reset_defaults()
        logging.basicConfig(stream=Stderr(), force=True)
    else:
        set_up_logging(format=request.param, level="debug", stream=Stderr())
    root.setLevel(logging.DEBUG)
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


class Visitor:
    """Connects, and keeps the errors that it is told."""

    def __init__(self, server: Server) -> None:
        self._address = server.addresses[0]
        self.errors: list[str] = []

    async def visit(self, path: str, *texts: str | bytes, to_the_end: bool = False) -> None:
        """Send the texts, and read until all has been answered, or the server has closed."""
        stream = await trio.open_tcp_stream(self._address.host, self._address.port or 0)
        client = Client(stream)
        async with stream:
            try:
                with trio.fail_after(PATIENCE):
                    await self._talk(client, path, texts, to_the_end)
            except Rejected as rejected:
                self.errors.append(rejected.body.decode())
            except Ended as ended:
                self.errors.append(ended.closed.reason)

    async def _talk(
        self, client: Client, path: str, texts: tuple[str | bytes, ...], to_the_end: bool
    ) -> None:
        from wsproto.events import BytesMessage
        from wsproto.events import Request as Opening

        await client.send_event(
            Opening(host="server", target=path, extra_headers=HEADERS, subprotocols=[])
        )
        while not client._accepted:
            await client._receive_some()
        for text in texts:
            if isinstance(text, bytes):
                await client.send_event(BytesMessage(data=text))
            else:
                await client.send_text(text)
        if not to_the_end:
            await client.send(type="last", id="last")
        while True:
            message = await client.receive()
            if message["type"] == "error":
                self.errors.append(json.dumps(message))
            if message["type"] == "ack" and message["id"] == "last":
                return

    async def send_raw(self, data: bytes) -> None:
        stream = await trio.open_tcp_stream(self._address.host, self._address.port or 0)
        async with stream:
            await stream.send_all(data)
            with trio.fail_after(PATIENCE):
                while answer := await stream.receive_some():
                    self.errors.append(answer.decode("latin-1"))


def auth(token: Any, type: str = "auth", **more: Any) -> str:
    return json.dumps({"type": type, "token": token, **more})


def message(type: str, **data: Any) -> str:
    return json.dumps({"type": type, "id": type, "data": data})


async def visit_everything(visitor: Visitor) -> None:
    visit = visitor.visit
    good = auth(GOOD)
    note = partial(message, text=PAYLOAD)
    # Good ones, by each way in.
    await visit("/ws/1", good, note("echo"), note("look"))
    await visit("/ws/1", auth(GOOD, "initial", token_too=OPAQUE), note("echo"))
    await visit(f"/ws/1?token={GOOD}", note("echo"), note("look"))
    await visit("/ws/1", good, auth(GOOD), note("echo"))
    # Refused.
    for token in (EXPIRED, FORGED, OPAQUE, [OPAQUE], {"a": OPAQUE}, None):
        await visit("/ws/1", auth(token))
        await visit("/ws/1", auth(token, "initial"))
    await visit("/ws/1", good, auth(OTHER), to_the_end=True)
    await visit("/ws/1", good, auth(FORGED), to_the_end=True)
    await visit(f"/ws/1?token={FORGED}")
    await visit(f"/nowhere?token={GOOD}")
    # In the path, where no route looks for it and clients put it nevertheless.
    for token in (GOOD, FORGED, OPAQUE):
        await visit(f"/ws/{token}", good, note("look"))
        await visit(f"/ws/{token}", auth(FORGED))
        await visit(f"/crash/{token}", good)
        await visit(f"/nowhere/{token}")
        for path in (f"raising/{token}", f"nowhere/{token}", f"api/v1/admin/connections/{token}"):
            await visitor.send_raw(
                f"GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
            )
    await visit("/ws/1", note("echo"))
    for path in ("/jwks", "/no-jwks", "/jwks-down"):
        await visit(path, good)
    # The application's own code crashes.
    for token in (GOOD, OPAQUE):
        await visit("/crash/authenticator", auth(token))
    await visit("/crash/owner", good)
    await visit("/database/1", good)
    for type in (
        "crash_inline",
        "crash",
        "crash_stream",
        "crash_task",
        "unencodable_inline",
        "unencodable",
        "unencodable_stream",
    ):
        await visit("/ws/1", good, note(type))
    for path in ("raising", "judging"):
        await visitor.send_raw(
            f"POST /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            f"Authorization: Bearer {GOOD}\r\nContent-Length: {len(PAYLOAD)}\r\n\r\n"
            f"{PAYLOAD}".encode()
        )
    # Malformed.
    await visit("/ws/1", good[:-2])
    await visit("/ws/1", good.replace("{", "[", 1))
    await visit("/ws/1", GOOD)
    await visit("/ws/1", json.dumps([GOOD, OPAQUE]))
    await visit("/ws/1", good.encode())
    await visit("/ws/1", good, note("echo")[:-2])
    await visit("/ws/1", good, message("echo", text=[PAYLOAD]))
    await visit("/ws/1", good, message("echo", text=PAYLOAD, stars=PAYLOAD))
    await visit("/ws/1", good, message("nothing_like_it", text=PAYLOAD))
    await visit("/ws/1", good, json.dumps({"type": PAYLOAD.upper(), "data": PAYLOAD}))
    await visit("/ws/1", good, PAYLOAD.encode())
    # Oversized, before and after READY.
    await visit("/ws/1", auth(OPAQUE * 5000))
    await visit("/ws/1", good, message("echo", text=PAYLOAD * 5000))
    await visit("/ws/1", good, auth(OPAQUE * 5000))
    # Heads.
    secrets = f"Connection: close\r\nAuthorization: {HEADER}\r\nCookie: {COOKIE}\r\n".encode()
    await visitor.send_raw(b"GET /ws/1?token=" + OPAQUE.encode() + b" HTTP/1.1\r\n" + secrets * 900)
    await visitor.send_raw(b"GET /ws/1 HTTP/1.1\r\nHost: a\r\n" + secrets + b"\r\n")
    await visitor.send_raw(HEADER.encode() + b" \r\n\r\n")
    await visitor.send_raw(b"GET /\r\n" + secrets + b"\r\n")


async def audited(server: Server) -> list[AuditEntry]:
    assert server.audit is not None
    with trio.fail_after(10):
        while server.audit.statistics().queued:  # noqa: ASYNC110 -- there is no event for it
            await trio.sleep(0.01)
    return [*(await server.audit.query(AuditQuery(limit=1000))).entries]


def leaks(written: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in written]


async def test_no_secret_comes_out_of_a_server(
    talkative: None, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = Config(
        port=0,
        limits=LimitsConfig(max_message_bytes=64 * 1024, max_invalid_tokens=1000),
        audit=AuditConfig(database=str(tmp_path / "audit.db"), flush_interval=0.01),
    )
    app = make_application()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(partial(serve, app, config))
        visitor = Visitor(server)
        await visit_everything(visitor)
        metrics = render_metrics(server)[0].decode()
        recorded = await audited(server)
        assert {"websocket", "bearer"} <= {entry.method for entry in recorded}
        shown = [
            metrics,
            repr(recorded),
            repr(server.statistics()),
            *app.state["seen"],
            *visitor.errors,
        ]
        nursery.cancel_scope.cancel()
    out, err = capfd.readouterr()
    written = out + err
    # It has been everywhere: else the test would find nothing, whatever came out.
    for event in (
        "connection_closed",
        "authentication_failed",
        "token_refresh_failed",
        "request_rejected",
        "handler_failed",
        "authenticator_failed",
        "authorizer_failed",
        "connection_crashed",
        "http_application_failed",
        "crash_inline",
        "sub-exceptions)",
        "in crash_stream",
        "in task",
        "in crashing_owner",
        "in crashing_authenticator",
        "JSON cannot express this dict",
        "jwks_fetched",
        "jwks_fetch_failed",
    ):
        assert event in written, event
    codes = {json.loads(error).get("code") for error in visitor.errors if error.startswith("{")}
    expected = {
        "token_expired",
        "token_invalid",
        "access_denied",
        "unavailable",
        "internal_error",
        "bad_message",
        "invalid_payload",
        "unknown_type",
        "message_too_big",
        "auth_required",
        "binary_unsupported",
    }
    assert expected - codes == set()
    assert len(app.state["seen"]) == 30
    assert leaks(written) == []
    for text in shown:
        assert leaks(text) == [], text


@pytest.mark.parametrize(
    "make",
    [
        lambda: JWTAuth(secret=PASSWORD),
        lambda: JWTAuth(keys=[Key.from_pem(PASSWORD)]),
        lambda: JWKS(f"ftp://somebody:{PASSWORD}@127.0.0.1/?key={QUERY}"),
        lambda: Database(f"mysql://somebody:{PASSWORD}@127.0.0.1/x"),
        lambda: Database(f"postgresql://somebody:{PASSWORD}@127.0.0.1:{PASSWORD}/x"),
        lambda: codec.decode_client(auth([OPAQUE]).encode()),
    ],
    ids=["a weak secret", "no PEM", "a JWKS URL", "a database's kind", "a database's URL", "auth"],
)
def test_no_secret_is_in_what_a_wrong_value_raises(make: Any) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- whatever it is
        make()
    assert leaks(f"{raised.value} {raised.value!r}") == []


@pytest.mark.parametrize(
    "value",
    [
        JWTAuth(secret=SIGNING),
        Key.secret(SIGNING),
        Database(f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere"),
        JWKS(f"https://127.0.0.1/?key={QUERY}"),
        Credentials(source="message", token=GOOD, fields={"token": GOOD}),
        User(id="alice", claims={"card": "claim-secret-4111"}),
        Request(path="/", query={"token": GOOD}, headers={"cookie": COOKIE}),
        Request(path=f"/ws/{GOOD}", path_params={"id": GOOD}, subprotocols=("bearer", GOOD)),
        WebSocketURL.parse(f"ws://server/ws/{GOOD}?token={GOOD}"),
        codec.decode_client(auth(GOOD).encode()),
        codec.decode_client(message("echo", text=PAYLOAD).encode()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_is_in_a_repr(value: object) -> None:
    assert leaks(f"{value!r} {value!s}") == []


def test_the_secrets_are_what_they_are_taken_for() -> None:
    """Were one of them empty or cut, no leak of it would be found."""
    assert all(len(secret) >= 16 for secret in SECRETS.values())
    assert leaks(json.dumps({"x": [GOOD, PAYLOAD]})) == [
        "payload",
        "good token's claims",
        "good token's signature",
    ]
