"""Whose fault an error is: the server's own failures use up no client's patience."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol import ERRORS, Refusal
from tests.support.app import World, make_application, wall_clock
from tests.support.client import Client, Closed
from trioserver import Config, Connection, HandlerConfig, Server, serve
from trioserver.storage import DatabaseUnavailableError

OWN_FAULTS: dict[str, Exception] = {
    "database": DatabaseUnavailableError("overload", "no space left"),
    "defect": RuntimeError("a defect"),
    "unavailable": Refusal("unavailable"),
    "busy": Refusal("no_model_free", retry="backoff"),
}


async def connected(server: Server, nursery: trio.Nursery) -> Client:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(server.serve_stream, theirs)
    client = Client(ours)
    await client.open("/ws/1")
    await client.authenticate()
    return client


@pytest.mark.parametrize("how", ["inline", "loop", "stream"])
@pytest.mark.parametrize("what", OWN_FAULTS)
async def test_a_client_outlives_any_number_of_the_servers_failures(
    what: str, how: str, autojump_clock: MockClock
) -> None:
    app = make_application(World())
    route = app.routes[0]

    @route.on("inline")
    def inline(connection: Connection) -> None:
        raise OWN_FAULTS[what]

    @route.on("loop")
    async def loop(connection: Connection) -> None:
        raise OWN_FAULTS[what]

    @route.on("stream")
    async def stream(connection: Connection) -> Any:
        raise OWN_FAULTS[what]
        yield

    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, app, Config(port=0))
        client = await connected(server, nursery)
        for id in range(200):
            answer = await client.request(how, id=id)
            assert (answer["type"], answer["fatal"]) == ("error", False)
            assert answer["retry"] == "backoff"
        assert (await client.request("note"))["type"] == "ack"
        nursery.cancel_scope.cancel()


async def test_a_client_outlives_handlers_that_are_too_slow(autojump_clock: MockClock) -> None:
    config = Config(port=0, handlers=HandlerConfig(timeout=0.1))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, make_application(World()), config)
        client = await connected(server, nursery)
        for id in range(100):
            await client.send(type="slow", id=id, data={"ms": 200})
        codes = {(await client.receive())["code"] for _ in range(100)}
        assert codes == {"unavailable"}
        assert (await client.request("note"))["type"] == "ack"
        nursery.cancel_scope.cancel()


async def test_a_refresh_that_cannot_be_verified_now_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, make_application(world), Config(port=0))
        client = await connected(server, nursery)
        world.authorizer_error = OSError("gone")
        for _ in range(100):
            await client.send(type="auth", token="alice")
            assert (await client.receive())["code"] == "unavailable"
        assert (await client.request("note"))["type"] == "ack"
        nursery.cancel_scope.cancel()


async def test_the_clients_own_errors_still_count(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, make_application(World()), Config(port=0))
        client = await connected(server, nursery)
        for _ in range(100):
            await client.send(type="refuse")  # `not_found`, which is not asked for that often
        _, closed = await client.receive_end()
        assert closed == Closed(1008, "too_many_errors")
        nursery.cancel_scope.cancel()


def test_the_table_says_of_each_error_whose_fault_it_is() -> None:
    own = {name for name, row in ERRORS.items() if not row.is_clients_fault}
    assert own == {
        "internal_error", "unavailable", "server_busy", "shutdown", "restart", "too_big_to_send"
    }  # fmt: skip


async def _serve(app: Any, config: Config, *, task_status: Any) -> None:
    await serve(app, config, clock=wall_clock, task_status=task_status)
