"""What the metrics say after things have happened, and whose words their labels are."""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from tests.support.app import Harness, World, make_application, serving, wall_clock
from tests.support.client import Client, Rejected
from trioserver import Config, Connection, LimitsConfig, Server
from trioserver.config import HandlerConfig
from trioserver.telemetry.metrics import CONTENT_TYPE, render_in_steps, render_metrics
from trioserver.telemetry.metrics.endpoint import MetricsEndpoint, metrics_endpoint

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: Server) -> Samples:
    text, content_type = render_metrics(server)
    assert content_type == CONTENT_TYPE
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(server: Server, name: str, **labels: str) -> float:
    return scrape(server).get((f"trioserver_{name}", tuple(sorted(labels.items()))), 0.0)


async def refused(harness: Harness, token: str, path: str = "/ws/1") -> None:
    client = await harness.connect(path)
    await client.send(type="auth", token=token)
    await client.receive_end()


async def test_connections_are_counted_by_phase(autojump_clock: MockClock) -> None:
    async with serving(world=World(verify_delay=1.0)) as harness:
        server = harness.server
        silent = harness.connect_raw()
        waiting = await harness.connect()
        verifying = await harness.connect()
        await verifying.send(type="auth", token="alice")
        await trio.sleep(0.1)
        for phase in ("handshake", "awaiting_auth", "authenticating"):
            assert value(server, "connections", phase=phase) == 1, phase
        await trio.sleep(1.0)
        assert value(server, "connections", phase="authenticating") == 0
        assert value(server, "connections", phase="ready") == 1
        assert value(server, "connections_ready_total") == 1
        assert value(server, "connections_accepted_total") == 3
        for client in (silent, waiting, verifying):
            client.vanish()
        await harness.assert_nothing_left()
        for phase in ("handshake", "awaiting_auth", "authenticating", "ready", "closing"):
            assert value(server, "connections", phase=phase) == 0, phase
        assert value(server, "connections_closed_total", reason="client_disconnected") == 2


async def test_refusals_are_counted_by_reason(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        for token in ("forged", "expired", "expired"):
            await refused(harness, token)
        await refused(harness, "alice", "/ws/2")
        with pytest.raises(Rejected):
            await harness.connect("/nowhere")
        server = harness.server
        assert value(server, "rejected_total", reason="token_invalid") == 1
        assert value(server, "rejected_total", reason="token_expired") == 2
        assert value(server, "rejected_total", reason="access_denied") == 1
        assert value(server, "rejected_total", reason="http_404") == 1
        assert value(server, "connections_closed_total", reason="token_expired") == 2


async def test_phases_are_measured(autojump_clock: MockClock) -> None:
    async with serving(world=World(verify_delay=0.2, owner_delay=2.0)) as harness:
        client = await harness.ready()
        await trio.sleep(20)
        client.vanish()
        await harness.assert_nothing_left()
        server = harness.server
        for phase, seconds in (("authenticating", 0.2), ("authorizing", 2.0), ("ready", 20.0)):
            assert value(
                server, "connection_phase_duration_seconds_sum", phase=phase
            ) == pytest.approx(seconds)
            assert value(server, "connection_phase_duration_seconds_count", phase=phase) == 1
        below = {
            bound: value(
                server, "connection_phase_duration_seconds_bucket", phase="authenticating", le=bound
            )
            for bound in ("0.1", "0.25", "10.0", "+Inf")
        }
        assert below == {"0.1": 0, "0.25": 1, "10.0": 1, "+Inf": 1}


async def test_traffic_goes_on_being_counted_when_connections_end(
    autojump_clock: MockClock,
) -> None:
    names = [
        f"{what}_{way}_total" for what in ("messages", "bytes") for way in ("received", "sent")
    ]
    async with serving() as harness:
        server = harness.server
        first, second = await harness.ready(), await harness.ready()
        before = {name: value(server, name) for name in names}
        assert before["messages_received_total"] == 2
        await first.request("echo", {"text": "x" * 1000})
        during = {name: value(server, name) for name in names}
        assert during["messages_received_total"] == 3
        assert during["bytes_received_total"] > before["bytes_received_total"] + 1000
        assert during["bytes_sent_total"] > before["bytes_sent_total"] + 1000
        for client in (first, second):
            client.vanish()
        await harness.assert_nothing_left()
        after = {name: value(server, name) for name in names}
        assert after == during


async def test_handlers_are_counted_by_type_and_outcome(autojump_clock: MockClock) -> None:
    config = Config(port=0, handlers=HandlerConfig(timeout=1.0))
    async with serving(config) as harness:
        client = await harness.ready()
        await client.request("echo", {"text": "x"})
        await client.request("echo", {"wrong": "x"})
        await client.request("fail_inline")
        await client.request("fail")
        await client.request("refuse")
        await client.request("slow", {"ms": 10})
        await client.request("slow", {"ms": 2000})
        await client.send(type="count", id="c", data={"to": 2})
        await client.receive_until("end")
        await client.send(type="stuck", id="s")
        await client.send(type="cancel", id="s")
        await client.receive_until("end")
        await client.send(type="subscribe", id="t", topics=["news"])
        await client.receive_until("ack")
        expected = {
            ("echo", "ok"): 1,
            ("echo", "refused"): 1,
            ("fail_inline", "failed"): 1,
            ("fail", "failed"): 1,
            ("refuse", "refused"): 1,
            ("slow", "ok"): 1,
            ("slow", "timeout"): 1,
            ("count", "ok"): 1,
            ("stuck", "cancelled"): 1,
            ("subscribe", "ok"): 1,
        }
        counted = {
            (dict(labels)["type"], dict(labels)["outcome"]): count
            for (name, labels), count in scrape(harness.server).items()
            if name == "trioserver_handler_duration_seconds_count"
        }
        assert counted == expected
        assert value(harness.server, "subscriptions") == 1
        assert value(harness.server, "topics") == 1


async def test_a_handler_that_the_end_cancels_is_counted(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        await client.send(type="slow", id=1, data={"ms": 5000})
        await trio.sleep(1)
        assert value(harness.server, "requests_in_flight") == 1
        client.vanish()
        await harness.assert_nothing_left()
        labels = {"route": "/ws/{id}", "type": "slow", "outcome": "cancelled"}
        assert value(harness.server, "handler_duration_seconds_count", **labels) == 1


async def test_a_def_handler_that_holds_the_loop_is_counted() -> None:
    app = make_application(World())

    @app.routes[0].on("busy")
    def busy(connection: Connection) -> None:
        end = perf_counter() + 0.002
        while perf_counter() < end:
            pass

    config = Config(port=0, handlers=HandlerConfig(sync_handler_warn_after=0.001))
    async with trio.open_nursery() as nursery:
        server = Server(app, config, clock=wall_clock)
        nursery.start_soon(_run, server)
        client = await _connect(server, nursery)
        for id in range(3):
            await client.request("busy", id=id)
        labels = {"route": "/ws/{id}", "type": "busy"}
        assert value(server, "slow_sync_handlers_total", **labels) == 3
        bucket = {**labels, "outcome": "ok", "le": "0.001"}
        assert value(server, "handler_duration_seconds_bucket", **bucket) == 0
        nursery.cancel_scope.cancel()


async def _run(server: Server) -> None:
    await server.run(handle_signals=False, task_status=trio.TASK_STATUS_IGNORED)


async def _connect(server: Server, nursery: trio.Nursery) -> Client:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(server.serve_stream, theirs)
    client = Client(ours)
    await client.open("/ws/1")
    await client.authenticate("alice")
    return client


async def test_send_queues_tell_how_full_and_how_old_they_are(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = harness.connect_raw(lockstep=True)
        await client.open("/ws/1")
        await client.authenticate()
        await trio.testing.wait_all_tasks_blocked()
        assert value(harness.server, "send_queue_connections") == 0
        await client.send(type="push", data={"to": 20})
        await trio.sleep(2)
        server = harness.server
        assert value(server, "send_queue_connections") == 1
        assert value(server, "send_queue_bytes") >= 200_000
        assert value(server, "send_queue_max_bytes") == value(server, "send_queue_bytes")
        assert value(server, "send_queue_oldest_seconds") == pytest.approx(2.0)
        client.vanish()
        await harness.assert_nothing_left()
        assert value(server, "send_queue_bytes") == 0


@pytest.mark.parametrize("mode", ["frame", "message"])
async def test_heartbeats_tell_the_round_trip(mode: str, autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready(heartbeat=mode)
        client.answer_ping = False
        await trio.sleep(30.0)
        if mode == "message":
            await client.receive_until("ping")
            await trio.sleep(0.5)
            await client.send(type="pong")
        else:
            client.answer_ping = True
            await trio.sleep(0.5)
            with trio.move_on_after(1):
                await client.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert value(harness.server, "heartbeat_round_trip_seconds_count") == 1
        assert value(harness.server, "heartbeat_round_trip_seconds_sum") == pytest.approx(0.5)


async def test_those_who_give_way_are_counted(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_unauthenticated=1))
    async with serving(config) as harness:
        silent = await harness.connect()
        other = await harness.connect()
        assert value(harness.server, "evictions_total") == 1
        assert (await silent.receive_end())[1].reason == "server_busy"
        assert value(harness.server, "rejected_total", reason="server_busy") == 1
        other.vanish()


async def test_draining_tells_how_far_it_is(autojump_clock: MockClock) -> None:
    async with serving() as harness, trio.open_nursery() as nursery:
        server = harness.server
        clients = [await harness.ready() for _ in range(4)]
        assert value(server, "draining") == 0
        for client in clients:
            nursery.start_soon(client.receive_end)
        nursery.start_soon(server.drain)
        await trio.sleep(6.0)
        assert value(server, "draining") == 1
        assert value(server, "drain_initial_connections") == 4
        assert value(server, "drain_remaining_connections") == 2


async def test_no_label_is_a_peers_choice(autojump_clock: MockClock) -> None:
    config = Config(port=0, limits=LimitsConfig(max_unauthenticated=100))
    async with serving(config) as harness:
        client = await harness.ready()
        for n in range(20):
            await client.request(f"chosen-{n}", id=f"chosen-{n}")
            await client.request("echo", {"text": "chosen"}, id=f"chosen-{n}")
        await client.close(code=4321)
        for path in ("/chosen", "/chosen/%00", "/ws/chosen?chosen=1"):
            other = harness.connect_raw()
            try:
                await other.open(path)
                await other.send(type="chosen", id="chosen")
                await other.receive_end()
            except Rejected:
                pass
        raw = harness.connect_raw()
        await raw.send_bytes(b"CHOSEN chosen HTTP/9.9\r\nchosen: chosen\r\n\r\n")
        await raw.stream.receive_some()
        await harness.assert_nothing_left()
        text = render_metrics(harness.server)[0].decode()
        assert "chosen" not in text.lower()
        assert "4321" not in text


async def test_codes_of_an_applications_own_are_one(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        client = await harness.ready()
        (connection,) = harness.server.connections
        connection.disconnect("made-of-anything")
        await client.receive_end()
        await harness.assert_nothing_left()
        assert value(harness.server, "connections_closed_total", reason="other") == 1
        assert b"made-of-anything" not in render_metrics(harness.server)[0]


async def test_looking_in_steps_gives_others_their_turn_and_says_the_same(
    autojump_clock: MockClock,
) -> None:
    async with serving() as harness:
        await harness.ready()
        assert await render_in_steps(harness.server) == render_metrics(harness.server)


async def test_the_endpoint_speaks_asgi(autojump_clock: MockClock) -> None:
    async with serving() as harness:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        endpoint = metrics_endpoint(harness.server)
        assert isinstance(endpoint, MetricsEndpoint)
        await endpoint({"type": "http"}, trio.sleep_forever, send)
        start, body = sent
        assert start["status"] == 200
        assert (b"content-type", CONTENT_TYPE.encode()) in start["headers"]
        assert body["body"] == render_metrics(harness.server)[0]


async def test_without_the_library_it_says_what_to_install(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with serving() as harness:
        with pytest.raises(ImportError, match=r"pip install 'trioserver\[metrics\]'"):
            render_metrics(harness.server)
