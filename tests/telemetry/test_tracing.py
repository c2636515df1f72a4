"""Spans, as OpenTelemetry's own SDK collects them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer, get_current_span
from trio.testing import MockClock

from tests.support.app import World, backend_of, make_application, wall_clock
from tests.support.client import Client
from trioserver import Application, Config, Connection, Server, TracingConfig

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A server in virtual time that is traced, and the spans that have ended."""

    def __init__(self, application: Application, nursery: trio.Nursery) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: Tracer = provider.get_tracer("test")
        self.nursery = nursery
        self.server = Server(application, Config(port=0), tracer=self.tracer, clock=wall_clock)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    async def connect(self, path: str = "/ws/1") -> Client:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.server.serve_stream, theirs)
        client = Client(ours)
        await client.open(path)
        return client


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {k.removeprefix("trioserver."): v for k, v in (span.attributes or {}).items()}


def context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


@pytest.fixture
def world() -> World:
    return World()


async def test_a_connection_opens_in_one_trace(autojump_clock: MockClock, world: World) -> None:
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect()
        ready = await client.authenticate("alice")
        client.vanish()
    connect = traced.span("connect")
    assert connect.parent is None
    assert attributes(connect) == {
        "connection_id": ready["connection_id"],
        "route": "/ws/{id}",
        "enduser.id": "alice",
        "outcome": "ready",
    }
    for name in ("handshake", "authentication", "authorization"):
        step = traced.span(name)
        assert step.parent is not None
        assert step.parent.span_id == context(connect).span_id
        assert attributes(step)["outcome"] == "ok"


@pytest.mark.parametrize(
    ("token", "path", "name", "code", "status"),
    [
        ("forged", "/ws/1", "authentication", "token_invalid", StatusCode.UNSET),
        ("broken", "/ws/1", "authentication", "internal_error", StatusCode.ERROR),
        ("alice", "/ws/2", "authorization", "access_denied", StatusCode.UNSET),
    ],
)
async def test_a_refusal_is_told_by_its_code(
    token: str,
    path: str,
    name: str,
    code: str,
    status: StatusCode,
    autojump_clock: MockClock,
    world: World,
) -> None:
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect(path)
        await client.send(type="auth", token=token)
        await client.receive_end()
    for span in (traced.span(name), traced.span("connect")):
        assert attributes(span)["outcome"] == code
        assert span.status.status_code is status
        assert not span.events


async def test_who_leaves_while_verified_ends_the_spans(
    autojump_clock: MockClock, world: World
) -> None:
    world.owner_delay = 3.0
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect()
        await client.send(type="auth", token="alice")
        await trio.sleep(1)
        client.vanish()
    assert attributes(traced.span("authorization"))["outcome"] == "cancelled"
    assert attributes(traced.span("connect"))["outcome"] == "client_disconnected"


@pytest.mark.parametrize("type", ["note", "slow", "count"])
async def test_each_kind_of_handler_continues_the_clients_trace(
    type: str, autojump_clock: MockClock, world: World
) -> None:
    data = {"note": None, "slow": {"ms": 5}, "count": {"to": 2}}[type]
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect()
        await client.authenticate()
        await client.send(type=type, id=1, data=data, traceparent=PARENT)
        await client.receive_until("end" if type == "count" else "ack")
        client.vanish()
    span = traced.span(f"handle {type}")
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.links[0].context.span_id == context(traced.span("connect")).span_id
    assert attributes(span)["message_type"] == type
    assert attributes(span)["outcome"] == "ok"


@pytest.mark.parametrize("traceparent", [None, 5, "00-nonsense", PARENT.replace("b7ad", "ZZZZ")])
async def test_without_a_good_traceparent_a_handler_begins_a_trace(
    traceparent: Any, autojump_clock: MockClock, world: World
) -> None:
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect()
        await client.authenticate()
        await client.send(type="note", id=1, traceparent=traceparent)
        assert (await client.receive())["type"] == "ack"
        client.vanish()
    span = traced.span("handle note")
    assert span.parent is None
    assert context(span).trace_id != context(traced.span("connect")).trace_id


@pytest.mark.parametrize("type", ["fail", "fail_inline", "broken_stream"])
async def test_a_failure_is_an_error_without_its_text(
    type: str, autojump_clock: MockClock, world: World
) -> None:
    async with trio.open_nursery() as nursery:
        traced = Traced(make_application(world), nursery)
        client = await traced.connect()
        await client.authenticate()
        await client.send(type=type, id=1)
        await client.receive_until("error")
        client.vanish()
    span = traced.span(f"handle {type}")
    assert attributes(span)["outcome"] == "failed"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "RuntimeError")
    assert "secret detail" not in span.to_json()


async def test_spans_of_an_application_are_below_those_of_its_handlers(
    autojump_clock: MockClock, world: World
) -> None:
    app = make_application(world)

    @app.routes[0].on("inner")
    def inner(connection: Connection) -> None:
        with traced.tracer.start_as_current_span("inner"):
            pass

    async with trio.open_nursery() as nursery:
        traced = Traced(app, nursery)
        client = await traced.connect()
        await client.authenticate()
        await client.request("inner")
        assert not get_current_span().get_span_context().is_valid
        client.vanish()
    inside = traced.span("inner")
    assert inside.parent is not None
    assert inside.parent.span_id == context(traced.span("handle inner")).span_id


async def test_off_is_off(autojump_clock: MockClock, world: World) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = Server(make_application(world), Config(port=0), clock=wall_clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        client = Client(ours)
        await client.open("/ws/1")
        await client.authenticate()
        assert (await client.request("note"))["type"] == "ack"
        (connection,) = server.connections
        assert backend_of(connection).tracing is None
        client.vanish()


def test_on_without_the_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    config = Config(port=0, tracing=TracingConfig(spans="on"))
    with pytest.raises(ImportError, match=r"pip install 'trioserver\[otel\]'"):
        Server(make_application(world), config)
