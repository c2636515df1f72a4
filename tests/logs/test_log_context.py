"""Whose a line in the log is: connection, user and request, wherever it is written."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.support.client import Client
from trioserver import (
    Application,
    Config,
    Connection,
    Credentials,
    HandlerConfig,
    Refusal,
    Request,
    Server,
    User,
    serve,
)
from trioserver.auth.fingerprint import fingerprint
from trioserver.logs.setup import set_up_logging

TOKEN = "alice-and-nobody-may-see-it"


class Log:
    """What was logged, as JSON lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        set_up_logging(format="json", level="debug", stream=self.stream)

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.stream.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]

    def line(self, event: str) -> dict[str, Any]:
        (line,) = self.lines(event)
        return line


@pytest.fixture
def log() -> Iterator[Log]:
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield Log()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def say(event: str) -> None:
    """As a library would, far from any connection."""
    structlog.get_logger().info(event)


async def authenticate(credentials: Credentials, request: Request) -> User:
    say("authenticating")
    token = credentials.token or ""
    if token.startswith("bad"):
        raise Refusal("token_invalid")
    return User(id=token.partition("-")[0], token_id=f"jti-of-{token.partition('-')[0]}")


async def owns(user: User, resource: Mapping[str, str]) -> bool:
    say("authorizing")
    return resource["id"] != "not-theirs"


def make_application() -> Application:
    app = Application(auth=authenticate)
    route = app.route("/ws/{id}", authorize=owns)

    @route.on("inline")
    def inline(connection: Connection) -> None:
        say("inline")
        connection.start_soon(task, "a task of inline")

    @route.on("loop")
    async def loop(connection: Connection) -> None:
        await trio.sleep(0.01)
        say("loop")
        connection.start_soon(task, "a task of loop")

    @route.on("stream")
    async def stream(connection: Connection) -> AsyncIterator[int]:
        say("stream")
        yield 1
        logging.getLogger("a.library").warning("stream, by logging")

    @route.on("fail")
    def fail(connection: Connection) -> None:
        raise RuntimeError

    @route.on("slow")
    def slow(connection: Connection) -> None:
        sum(range(20_000))

    async def task(event: str) -> None:
        await trio.sleep(0.01)
        say(event)

    @route.on_ready
    async def ready(connection: Connection) -> None:
        say("on_ready")

    @route.on_close
    def closed(connection: Connection) -> None:
        say("on_close")

    return app


async def connect(server: Server, token: str = TOKEN, path: str = "/ws/1") -> Client:
    address = server.addresses[0]
    client = Client(await trio.open_tcp_stream(address.host, address.port or 0))
    await client.open(path)
    await client.receive_until("hello")
    await client.send(type="auth", token=token)
    return client


@asynccontextmanager
async def talking(token: str = TOKEN, path: str = "/ws/1", **options: Any) -> AsyncIterator[Client]:
    """A client that has shown its token to a server of its own."""
    async with trio.open_nursery() as nursery:
        client = await connect(await start(nursery, **options), token, path)
        async with client.stream:
            yield client
        nursery.cancel_scope.cancel()


async def start(nursery: trio.Nursery, **options: Any) -> Server:
    config = Config(port=0, **options)
    server: Server = await nursery.start(partial(serve, make_application(), config))
    return server


async def test_every_kind_of_handler_and_hook_says_whose_line_it_is(log: Log) -> None:
    """Over a real socket, where `def` handlers run in a task that is nobody's."""
    async with trio.open_nursery() as nursery:
        server = await start(nursery)
        client = await connect(server)
        ready = await client.receive_until("ready")
        await client.request("inline", id="r1")
        await client.request("loop", id=2)
        await client.send(type="stream", id="r3")
        await client.receive_until("end")
        while not log.lines("a task of loop"):  # noqa: ASYNC110 -- there is no event for it
            await trio.sleep(0.005)
        await client.close()
        await client.stream.aclose()
        while not log.lines("on_close"):  # noqa: ASYNC110
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    whose = {"connection_id": ready["connection_id"], "user": "alice"}
    expected: dict[str, dict[str, Any]] = {
        "authenticating": {"connection_id": ready["connection_id"]},
        "authorizing": whose,
        "on_ready": whose,
        "inline": {**whose, "request_id": "r1"},
        "a task of inline": {**whose, "request_id": "r1"},
        "loop": {**whose, "request_id": 2},
        "a task of loop": {**whose, "request_id": 2},
        "stream": {**whose, "request_id": "r3"},
        "stream, by logging": {**whose, "request_id": "r3"},
        "on_close": whose,
    }
    for event, fields in expected.items():
        line = log.line(event)
        bound = {
            name: line[name] for name in ("connection_id", "user", "request_id") if name in line
        }
        assert bound == fields, event


async def test_lines_of_two_connections_are_not_mixed_up(log: Log) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery)
        clients = [await connect(server, token) for token in ("alice-1", "bob-1")]
        for client in clients:
            await client.receive_until("ready")
        for id in range(3):
            for client, name in zip(clients, ("alice", "bob"), strict=True):
                await client.request("inline", id=f"{name}-{id}")
        await clients[0].send(type="inline")  # a request without an id, after some that had one
        await clients[0].request("inline", id="last")
        for client in clients:
            await client.stream.aclose()
        nursery.cancel_scope.cancel()
    lines = log.lines("inline")
    assert [(line["user"], line.get("request_id")) for line in lines] == [
        *((name, f"{name}-{id}") for id in range(3) for name in ("alice", "bob")),
        ("alice", None),
        ("alice", "last"),
    ]
    assert len({(line["user"], line["connection_id"]) for line in lines}) == 2


async def test_serving_a_stream_leaves_nothing_in_the_callers_task(
    log: Log, autojump_clock: MockClock
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = Server(make_application(), Config(port=0))
    async with trio.open_nursery() as nursery:

        async def life() -> None:
            await server.serve_stream(theirs)
            say("afterwards")

        nursery.start_soon(life)
        client = Client(ours)
        await client.open("/ws/1")
        await client.authenticate(TOKEN)
        client.vanish()
    assert log.lines("connection_closed")
    assert not {"connection_id", "user", "request_id"} & log.line("afterwards").keys()


async def test_a_handlers_failure_names_its_request(log: Log) -> None:
    async with talking() as client:
        await client.receive_until("ready")
        await client.request("fail", id="f")
    assert log.line("handler_failed")["request_id"] == "f"


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("token", "path", "reason", "user"),
    [
        ("bad-token-of-somebody", "/ws/1", "token_invalid", None),
        (TOKEN, "/ws/not-theirs", "access_denied", "alice"),
    ],
)
async def test_a_refusal_is_one_line_that_says_why_and_who(
    token: str, path: str, reason: str, user: str | None, log: Log
) -> None:
    async with talking(token, path) as client:
        await client.receive_end()
    line = log.line("authentication_failed")
    assert line["reason"] == reason
    assert line["remote"].startswith("127.0.0.1:")
    assert (line["route"], line["path"]) == ("/ws/{id}", path)
    assert line["token"] == fingerprint(token)
    assert line.get("user") == user
    assert line["token_id"] == (None if user is None else f"jti-of-{user}")
    assert token not in log.stream.getvalue()


async def test_a_good_connection_is_no_refusal(log: Log) -> None:
    async with talking() as client:
        await client.receive_until("ready")
        await client.close()
    assert not log.lines("authentication_failed")


async def test_a_new_token_that_is_refused_is_a_line(log: Log) -> None:
    async with talking() as client:
        await client.receive_until("ready")
        await client.send(type="auth", token="bob-s")
        await client.receive_end()
    line = log.line("token_refresh_failed")
    assert (line["reason"], line["user"]) == ("access_denied", "alice")
    assert line["token"] == fingerprint("bob-s")


async def test_a_refused_request_is_a_line_with_a_short_path_without_tokens(log: Log) -> None:
    async with trio.open_nursery() as nursery:
        server = await start(nursery)
        address = server.addresses[0]
        stream = await trio.open_tcp_stream(address.host, address.port or 0)
        path = "/" + "a" * 5000
        head = f"GET {path}?token={TOKEN} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
        await stream.send_all(f"{head}Upgrade: websocket\r\n\r\n".encode())
        async with stream:
            while await stream.receive_some():
                pass
        nursery.cancel_scope.cancel()
    line = log.line("request_rejected")
    assert (line["status"], line["path"]) == (404, "/aaaa***")
    assert line["token"] == fingerprint(TOKEN)
    assert TOKEN not in log.stream.getvalue()


# ------------------------------------------------------------------------------ slow handlers


async def test_a_def_handler_that_holds_the_loop_is_named_once_a_minute(log: Log) -> None:
    async with talking(handlers=HandlerConfig(sync_handler_warn_after=0.0001)) as client:
        await client.receive_until("ready")
        for id in range(3):
            await client.request("slow", id=id)
    line = log.line("sync_handler_slow")
    assert line["level"] == "warning"
    assert (line["route"], line["type"]) == ("/ws/{id}", "slow")
    assert line["handler"].endswith("slow")
    assert line["held_ms"] >= 0.1
