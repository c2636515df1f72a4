"""A client that leaves is no error, whatever of the application was about to send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.support.app import World, serving
from tests.support.client import Client
from trioserver import (
    Application,
    Connection,
    ConnectionEnded,
    Mailbox,
    Presence,
    Route,
    User,
)

Register = Callable[[Route], None]


def leave_now(connection: Connection) -> None:
    """The client leaves at this very moment; nothing has been cancelled yet."""
    connection.disconnect()


def in_a_task(route: Route) -> None:
    async def send(connection: Connection) -> None:
        leave_now(connection)
        await connection.send("tick")

    @route.on("go")
    def go(connection: Connection) -> None:
        connection.start_soon(send, connection)


def in_two_tasks_of_a_nursery(route: Route) -> None:
    async def send(connection: Connection) -> None:
        connection.send_nowait("tick")

    async def send_twice(connection: Connection) -> None:
        leave_now(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, connection)
            nursery.start_soon(send, connection)

    @route.on("go")
    def go(connection: Connection) -> None:
        connection.start_soon(send_twice, connection)


def in_a_def_handler(route: Route) -> None:
    @route.on("go")
    def go(connection: Connection) -> None:
        leave_now(connection)
        connection.send_nowait("tick")


def in_an_async_handler(route: Route) -> None:
    @route.on("go")
    async def go(connection: Connection) -> None:
        leave_now(connection)
        await connection.send("tick")


def in_two_tasks_of_an_async_handler(route: Route) -> None:
    @route.on("go")
    async def go(connection: Connection) -> None:
        leave_now(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send, "tick")
            nursery.start_soon(connection.send, "tick")


def in_a_stream(route: Route) -> None:
    @route.on("go")
    async def go(connection: Connection) -> AsyncIterator[int]:
        yield 1
        leave_now(connection)
        await connection.send("tick")
        yield 2


def in_a_permission(route: Route) -> None:
    @route.allow_publish
    async def may(connection: Connection, topic: str) -> bool:
        leave_now(connection)
        await connection.send("tick")
        return True


def with_a_task_too_late(route: Route) -> None:
    @route.on("go")
    async def go(connection: Connection) -> None:
        leave_now(connection)
        connection.start_soon(connection.send, "tick")


ALL: list[Register] = [
    in_a_task,
    in_two_tasks_of_a_nursery,
    in_a_def_handler,
    in_an_async_handler,
    in_two_tasks_of_an_async_handler,
    in_a_stream,
    in_a_permission,
    with_a_task_too_late,
]


def bare(**options: Any) -> tuple[Application, Route]:
    """An application without any handler or hook, and its route."""
    app = Application(auth=World().authenticate, mailbox=options.pop("app_mailbox", None))
    return app, app.route("/ws/1", **options)


def complaints(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["log_level"] in ("warning", "error", "critical")]


@pytest.mark.parametrize("register", ALL)
async def test_sending_to_a_client_that_has_just_left_is_no_error(
    register: Register, autojump_clock: MockClock
) -> None:
    app, route = bare()
    async with serving(app=app) as harness:
        register(route)
        client = await harness.ready()
        with capture_logs() as lines:
            await client.send(type="go", id=1)
            await client.send(type="publish", topic="news", data=1, id=2)
            _, closed = await client.receive_end()
            assert closed.reason == "disconnected"
            await harness.assert_nothing_left()
        assert complaints(lines) == []
        assert [line["event"] for line in lines] == ["connection_closed"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_on_ready_may_send_to_a_client_that_has_just_left(
    is_async: bool, autojump_clock: MockClock
) -> None:
    app, route = bare()
    async with serving(app=app) as harness:

        async def send(connection: Connection) -> None:
            leave_now(connection)
            await connection.send("welcome")

        def send_nowait(connection: Connection) -> None:
            leave_now(connection)
            connection.send_nowait("welcome")

        route.on_ready(send if is_async else send_nowait)
        with capture_logs() as lines:
            client = await harness.connect()
            await client.send(type="auth", token="alice")
            await client.receive_end()
            await harness.assert_nothing_left()
        assert complaints(lines) == []


async def test_a_hundred_clients_that_leave_while_a_task_sends_are_a_hundred_normal_ends(
    autojump_clock: MockClock,
) -> None:
    app, route = bare()
    async with serving(app=app) as harness:

        async def tick(connection: Connection) -> None:
            while True:
                await trio.sleep(0.05)
                connection.send_nowait("tick")

        @route.on_ready
        def ready(connection: Connection) -> None:
            connection.start_soon(tick, connection)

        with capture_logs() as lines:
            for n in range(100):
                client = await harness.ready()
                await trio.sleep(n / 1000)
                await client.close()
            await harness.assert_nothing_left()
        assert complaints(lines) == []
        assert harness.server.statistics().closed == {"client_disconnected": 100}


async def test_on_close_that_sends_is_told_so_in_one_line(autojump_clock: MockClock) -> None:
    app, route = bare()
    async with serving(app=app) as harness:

        @route.on_close
        async def closed(connection: Connection) -> None:
            await connection.send("bye")

        client = await harness.ready()
        with capture_logs() as lines:
            await client.close()
            await harness.assert_nothing_left()
        (line,) = complaints(lines)
        assert line["event"] == "close_hook_stopped"
        assert "traceback" not in line


async def test_a_presence_hook_meets_only_those_who_are_still_there(
    autojump_clock: MockClock,
) -> None:
    presence = Presence()
    async with serving(presence=presence) as harness:
        harness.world.owners["2"] = "alice"
        kept: list[Connection] = []

        @presence.on_leave
        def tell(user: User, resource: Mapping[str, str]) -> None:
            for each in presence.connections():
                each.send_nowait("left")
            for each in harness.server.connections:
                each.send_nowait("left")

        first, second, third = [await harness.ready(f"/ws/{n}") for n in (1, 2, 2)]
        kept += harness.server.connections
        with capture_logs() as lines:
            for connection in kept:
                if connection.path_params["id"] == "2":
                    leave_now(connection)
            await second.receive_end()
            await third.receive_end()
            assert [(await first.receive())["type"] for _ in range(2)] == ["left", "left"]
        assert complaints(lines) == []


async def test_a_presence_hook_that_sends_to_one_that_has_left_is_told_so_in_one_line(
    autojump_clock: MockClock,
) -> None:
    presence = Presence()
    async with serving(presence=presence) as harness:
        client = await harness.ready()
        (connection,) = harness.server.connections

        @presence.on_leave
        def tell(user: User, resource: Mapping[str, str]) -> None:
            connection.send_nowait("left")

        with capture_logs() as lines:
            await client.close()
            await harness.assert_nothing_left()
        (line,) = complaints(lines)
        assert (line["event"], line["connection_id"]) == ("presence_hook_stopped", connection.id)
        assert "traceback" not in line


async def test_what_the_mailbox_was_about_to_deliver_is_no_error_and_is_kept(
    tmp_path: Path,
) -> None:
    mailbox = Mailbox(f"sqlite:///{tmp_path}/mail.db")
    app, _ = bare(app_mailbox=mailbox, mailbox=True)
    async with serving(app=app) as harness:
        with capture_logs() as lines:
            for _ in range(10):
                client = await harness.ready()
                (connection,) = harness.server.connections
                sending = mailbox.send("alice", "letter", {"n": 1})
                leave_now(connection)
                await sending
                await client.receive_end()
                await harness.assert_nothing_left()
        assert complaints(lines) == []
        assert await mailbox.waiting("alice") == 10


async def test_the_departure_of_another_connection_is_for_the_application_to_handle(
    autojump_clock: MockClock,
) -> None:
    """It names the connection, and the request of this one is answered all the same."""
    app, route = bare()
    async with serving(app=app) as harness:
        others: list[Connection] = []

        @route.on("tell")
        async def tell(connection: Connection) -> list[str]:
            gone = []
            for other in others:
                try:
                    await other.send("told")
                except ConnectionEnded as error:
                    gone.append(error.connection_id)
            return gone

        leaver = await harness.ready()
        others += harness.server.connections
        await leaver.close()
        await harness.assert_nothing_left()
        client: Client = await harness.ready()
        assert (await client.request("tell"))["data"] == [others[0].id]
        with pytest.raises(ConnectionEnded):
            others[0].start_soon(trio.sleep, 1)


async def test_any_other_error_of_a_task_still_ends_the_connection_with_a_traceback(
    autojump_clock: MockClock,
) -> None:
    app, route = bare()
    async with serving(app=app) as harness:

        async def fail(connection: Connection) -> None:
            leave_now(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.send, "tick")
                raise trio.ClosedResourceError("of something of the application's own")

        @route.on("go")
        def go(connection: Connection) -> None:
            connection.start_soon(fail, connection)

        client = await harness.ready()
        with capture_logs() as lines:
            await client.send(type="go")
            await client.receive_end()
            await harness.assert_nothing_left()
        (line,) = complaints(lines)
        assert line["event"] == "connection_crashed"
        assert "trio.ClosedResourceError" in line["traceback"]
        assert "ConnectionEnded" not in line["traceback"]
