"""Applications and routes: what can be registered, what is matched, what is refused, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from protocol import Refusal, codec
from protocol.messages import Message
from tests.support.app import World
from tests.support.client import Client
from trioserver import Application, Component, Config, Connection, Id, Server, allow_any_user, serve
from trioserver.app.functions import Kind, unwrap
from trioserver.app.handlers import make_handler


@attrs.frozen
class Note:
    text: str


class Point(msgspec.Struct):
    x: int


def inline(connection: Connection) -> None: ...


async def looped(connection: Connection, note: Note) -> None: ...


async def streamed(connection: Connection, point: Point) -> AsyncIterator[int]:
    yield point.x


@pytest.mark.parametrize(
    ("function", "kind"), [(inline, Kind.INLINE), (looped, Kind.LOOP), (streamed, Kind.STREAM)]
)
def test_the_kind_of_function_says_how_it_runs(function: Any, kind: Kind) -> None:
    assert make_handler("m", function).kind is kind


def test_payloads_are_decoded_into_the_annotated_type() -> None:
    message = Message(type="m", data=msgspec.Raw(b'{"text":"hi"}'))
    assert make_handler("m", looped).arguments(message) == (Note("hi"),)
    with pytest.raises(Refusal, match=r"\$\.text|`text`"):
        make_handler("m", looped).arguments(Message(type="m", data=msgspec.Raw(b"{}")))


def test_a_payload_without_an_annotation_is_plain_json() -> None:
    def handler(connection, payload):  # type: ignore[no-untyped-def]
        return payload

    message = Message(type="m", data=msgspec.Raw(b'{"a":[1,null]}'))
    assert make_handler("m", handler).arguments(message) == ({"a": [1, None]},)


def test_a_type_that_only_the_enclosing_function_knows_is_found() -> None:
    class Local(msgspec.Struct):
        n: int

    def handler(connection: Connection, payload: Local) -> Local:
        return Local(payload.n)

    message = Message(type="m", data=msgspec.Raw(b'{"n":1}'))
    assert make_handler("m", handler).arguments(message) == (Local(1),)


@pytest.mark.parametrize("name", ["", "Nope", "a b", "x" * 65, "auth", "ping", "ready", "é"])
def test_names_that_are_none_or_reserved_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"message type"):
        make_handler(name, inline)


def test_functions_that_do_not_fit_are_refused_by_name() -> None:
    def nothing() -> None: ...

    def too_much(a: Any, b: Any, c: Any, d: Any) -> None: ...

    def odd(connection: Connection, payload: Connection) -> None: ...

    def unknown(connection: Connection, payload: NoSuchType) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function in (nothing, too_much, odd, unknown):
        with pytest.raises(TypeError, match=function.__name__):
            make_handler("m", function)


def test_unwrap_opens_groups_of_one() -> None:
    inner = ValueError()
    assert unwrap(ExceptionGroup("", [ExceptionGroup("", [inner])])) is inner
    pair = ExceptionGroup("", [inner, inner])
    assert unwrap(pair) is pair


def application() -> Application:
    return Application(auth=World().authenticate)


def test_paths_match_whole_and_parameters_are_one_segment() -> None:
    app = application()
    app.route("/ws", authorize=allow_any_user)
    app.route("/ws/{a}/x.y/{b}", authorize=allow_any_user)
    match = app.match("/ws/1/x.y/é")
    assert match is not None
    assert match.path_params == {"a": "1", "b": "é"}
    for path in ("/", "/ws/", "/ws/1", "/ws/1/xzy/2", "/ws/1/x.y/2/3", "/ws/1/x.y/", "ws"):
        assert app.match(path) is None


@pytest.mark.parametrize("path", ["ws", "/{", "/{1}", "/{a}/{a}", "/{a-b}", "/a}"])
def test_paths_that_are_malformed_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|parameters"):
        application().route(path, authorize=allow_any_user)


def test_a_route_with_parameters_needs_an_authorizer_and_every_route_an_authenticator() -> None:
    with pytest.raises(ValueError, match="authorize"):
        application().route("/ws/{id}")
    with pytest.raises(ValueError, match="authenticator"):
        Application().route("/ws")


def test_what_is_there_already_is_refused() -> None:
    app, other = application(), application()
    route = app.route("/ws")
    route.on("m")(inline)
    with pytest.raises(ValueError, match="has a handler for 'm' already"):
        route.on("m")(inline)
    with pytest.raises(ValueError, match=r"^/ws: there is a route with this path already"):
        app.route("/ws")
    other.route("/ws")
    with pytest.raises(ValueError, match=r"^/ws: there is a route with this path already"):
        app.include(other)
    with pytest.raises(ValueError, match="auth_aliases"):
        app.route("/b", auth_aliases=["No Type"])


async def _serve(app: Application, *, task_status: trio.TaskStatus[Server]) -> None:
    await serve(app, Config(port=0), task_status=task_status)


async def test_an_included_application_keeps_its_services_and_its_topics(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    def part(name: str) -> Application:
        @asynccontextmanager
        async def lifespan(app: Application) -> AsyncIterator[None]:
            events.append(f"{name} opens")
            app.state["name"] = name
            try:
                yield
            finally:
                events.append(f"{name} closes")

        app = Application(auth=World().authenticate, lifespan=lifespan)
        route = app.route(f"/{name}")

        @route.on("who")
        def who(connection: Connection) -> Any:
            connection.subscribe("news")
            return connection.application.state["name"]

        return app

    outer, inner = part("outer"), part("inner")
    outer.include(inner)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, outer)
        for name in ("outer", "inner"):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve_stream, theirs)
            client = Client(ours)
            await client.open(f"/{name}")
            await client.send(type="auth", token="alice:1000000000")
            await client.receive_until("ready")
            assert (await client.request("who"))["data"] == name
            (outer if name == "inner" else inner).publish("news", "elsewhere")
            (outer if name == "outer" else inner).publish("news", "here")
            assert (await client.receive())["data"] == "here"
            assert events == ["outer opens", "inner opens"]
            await client.close()
        nursery.cancel_scope.cancel()
    assert events[2:] == ["inner closes", "outer closes"]


async def test_services_of_authenticators_and_authorizers_start_before_the_first_connection(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    class Service(World, Component):
        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            events.append("started")
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                events.append("stopped")

        async def __call__(self, credentials: Any, request: Any) -> Any:
            return await self.authenticate(credentials, request)

    service = Service()
    app = Application(auth=service)
    app.route("/a")
    app.route("/b")
    async with trio.open_nursery() as nursery:
        await nursery.start(_serve, app)
        assert events == ["started"]  # once, though two routes have it
        nursery.cancel_scope.cancel()
    assert events == ["started", "stopped"]


async def test_an_authenticator_may_refuse_the_address() -> None:
    class Careful(World, Component):
        def check_addresses(self, addresses: Sequence[str]) -> None:
            raise ValueError(f"not on {addresses[0].partition(':')[0]}")

        async def __call__(self, credentials: Any, request: Any) -> Any:
            return None

    app = Application(auth=Careful())
    app.route("/a")
    with pytest.raises(ValueError, match=r"not on 127\.0\.0\.1"):
        await serve(app, Config(port=0))


async def test_a_token_in_the_query_string_counts_only_where_the_route_says_so(
    autojump_clock: MockClock,
) -> None:
    app = Application(auth=World().authenticate)
    app.route("/open", allow_query_token=True)
    app.route("/closed")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, app)
        answers = {}
        for path in (
            "/open?token=alice:1000000000",
            "/open?token=forged",
            "/closed?token=alice",
        ):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve_stream, theirs)
            client = Client(ours)
            await client.open(path)
            await client.receive_until("hello")
            message = await client.receive()
            answers[path.partition(":")[0]] = message.get("code", message["type"])
        assert answers == {
            "/open?token=alice": "ready",
            "/open?token=forged": "token_invalid",
            "/closed?token=alice": "auth_timeout",
        }
        nursery.cancel_scope.cancel()


def test_the_type_names_of_the_protocol_are_type_names() -> None:
    from protocol.messages import RESERVED_TYPES

    assert all(codec.is_type_name(name) for name in RESERVED_TYPES)


async def test_a_lifespan_is_given_the_server_where_it_takes_one(autojump_clock: MockClock) -> None:
    given: list[Server] = []

    @asynccontextmanager
    async def lifespan(app: Application, server: Server) -> AsyncIterator[None]:
        given.append(server)
        yield

    app = Application(auth=World().authenticate, lifespan=lifespan)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, app)
        nursery.cancel_scope.cancel()
    assert given == [server]


def test_a_session_is_one_of_the_paths_parameters() -> None:
    application().route("/ws/{id}", authorize=allow_any_user, session_parameter="id")
    with pytest.raises(ValueError, match="'nothing'"):
        application().route("/ws/{id}", authorize=allow_any_user, session_parameter="nothing")


def test_a_handler_takes_the_id_after_the_payload() -> None:
    def handler(connection: Connection, payload: int, id: Id | None) -> None: ...

    message = Message(type="m", id="i", data=msgspec.Raw(b"1"))
    assert make_handler("m", handler).arguments(message) == (1, "i")
    assert make_handler("m", handler).arguments(Message(type="m", data=msgspec.Raw(b"1"))) == (
        1,
        None,
    )
